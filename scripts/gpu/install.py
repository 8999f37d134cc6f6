"""Step: installs a bundle's wheels into a folder that the later steps import from.

python -m gpu.install BUNDLE TARGET
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from gpu.findings import leave


def wheels_in(bundle: Path) -> list[Path]:
    """The wheels of the folder and of the parts in it."""
    return sorted(bundle.rglob("*.whl"))


def pip_command(wheels: list[Path], target: Path) -> list[str]:
    """Nothing is fetched, compiled or replaced outside `target`."""
    options = ("--quiet", "--no-index", "--no-deps", "--no-compile", "--no-cache-dir")
    where = ("--disable-pip-version-check", "--target", str(target))
    return [sys.executable, "-m", "pip", "install", *options, *where, *map(str, wheels)]


def main() -> None:
    """Exit status 1 if there are no wheels, pip's own otherwise."""
    bundle, target = (Path(argument) for argument in sys.argv[1:])
    wheels = wheels_in(bundle)
    if not wheels:
        sys.exit(f"no wheels in {bundle}")
    shutil.rmtree(target, ignore_errors=True)
    done = subprocess.run(pip_command(wheels, target), check=False)
    size = sum(wheel.stat().st_size for wheel in wheels)
    leave([f"{len(wheels)} wheels, {size / 1e6:.0f} MB"], {"wheels": [w.name for w in wheels]})
    sys.exit(done.returncode)


if __name__ == "__main__":
    main()
