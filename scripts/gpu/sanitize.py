"""Step: compute-sanitizer's memcheck over a few of the kernels' tests.

python -m gpu.sanitize /path/to/compute-sanitizer
"""

from __future__ import annotations

import os
import subprocess
import sys

from gpu.findings import CANNOT, leave

# One case of each kernel: rows and columns that fill no tile, and a state of several pages. Under
# the sanitizer each takes seconds, and the first run has compiled them.
TESTS = "test_stores and odd or test_loads and odd or test_clears or test_loads_of_several"
_ERRORS_FOUND = 99
_NO_DEVICE = "Device not supported"


def command(sanitizer: str) -> list[str]:
    """What runs the tests under the sanitizer."""
    return [
        sanitizer,
        *("--tool", "memcheck", "--target-processes", "all"),
        *("--error-exitcode", str(_ERRORS_FOUND)),
        *(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist"),
        *("test/kernels/test_kernels_agree.py", "-k", TESTS),
    ]


def main() -> None:
    """Exit status 99 if the sanitizer found an error, the tests' own if one failed."""
    # Torch's allocator would hand out parts of one large allocation, in which an access out of
    # bounds stays unseen.
    environment = {**os.environ, "PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    run = subprocess.run(
        command(sys.argv[1]),
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    print(run.stdout, flush=True)
    if _NO_DEVICE in run.stdout:
        leave([f"compute-sanitizer says: {_NO_DEVICE}"], {})
        sys.exit(CANNOT)
    said = [line.strip("= ") for line in run.stdout.splitlines() if "ERROR SUMMARY" in line]
    passed = [line.strip("= ") for line in run.stdout.splitlines() if " passed" in line]
    leave([*said, *passed], {"exit": run.returncode})
    sys.exit(run.returncode)


if __name__ == "__main__":
    main()
