"""Gathers the wheels that `make gpu` needs on a machine without a network.

    python scripts/offline_bundle.py OUT [--present FILE]

For Python 3.12 on x86-64 Linux with torch 2.11 and a Hopper GPU, whatever this machine is; it needs
a package registry. OUT gets folders `part-1`, `part-2` and so on of at most 60 MiB each, for
machines that take files of a limited size only; `make gpu BUNDLE=OUT` installs them all.
"""

from __future__ import annotations

import argparse
import base64
import csv
import hashlib
import io
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]
PART_BYTES = 60 << 20
PYTHON = "3.12"
# The last one whose library resolves its symbols against torch 2.11. SGLang asks for a newer one,
# which has no operation that this one lacks and these models call.
OLDER = {"sglang-kernel": "0.4.5"}
# Without a GPU server's parts: FlashAttention and kernels of other GPUs, a gigabyte; extensions in
# Rust for another server, benchmarks and images; image generation; SGLang's own tests.
DROPPED = {
    "sglang-kernel": r"triton_kernels/|sgl_kernel/(?!sm90/common_ops)[^.]*\.\S*so$",
    "sglang": r"sglang/(srt/rust_extensions/\S*\.so$|multimodal_gen/|test/)",
}
# pip takes each of these literally.
PLATFORMS = (
    *(f"manylinux_2_{minor}_x86_64" for minor in range(5, 40)),
    *("manylinux2014_x86_64", "manylinux2010_x86_64", "manylinux1_x86_64", "linux_x86_64"),
)


class BundleError(RuntimeError):
    """The message says which wheel is the matter."""


def names_in(text: str) -> list[str]:
    """The packages of a list: a name a line, perhaps with a version, in their normal form."""
    lines = (line.partition("#")[0].strip() for line in text.splitlines())
    return [normal(re.split(r"[=<>!~@;\s\[]", line, maxsplit=1)[0]) for line in lines if line]


def normal(name: str) -> str:
    """A package's name as registries compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def pins_in(text: str) -> dict[str, str]:
    """The versions of a constraints file, by normal name."""
    return {
        normal(name): version
        for name, version in re.findall(r"^([\w.-]+)==(\S+)$", text, flags=re.MULTILINE)
    }


def wanted(needed: Iterable[str], present: Iterable[str], pins: Mapping[str, str]) -> list[str]:
    """What to fetch, as `NAME==VERSION`.

    Raises:
        BundleError: nothing pins the version of a package.
    """
    here = set(present)
    chosen = {name: OLDER.get(name) or pins.get(name) for name in needed if name not in here}
    for name, version in chosen.items():
        if version is None:
            raise BundleError(f"constraints.txt has no version of {name}")
    return [f"{name}=={version}" for name, version in chosen.items()]


def download(requirements: Sequence[str], folder: Path) -> None:
    """Fetch the wheels of Python 3.12 on x86-64 Linux, without what they depend on."""
    platforms = [option for platform in PLATFORMS for option in ("--platform", platform)]
    target = ("--python-version", PYTHON, "--implementation", "cp", *platforms)
    options = ("--quiet", "--no-deps", "--only-binary=:all:", "--dest", str(folder))
    pip = (sys.executable, "-m", "pip", "download", "--disable-pip-version-check")
    subprocess.run([*pip, *options, *target, *requirements], check=True)


def build_ours(folder: Path) -> None:
    """Our own wheel, for the entry points in it; the code comes from the checkout."""
    pip = (sys.executable, "-m", "pip", "wheel", "--disable-pip-version-check")
    subprocess.run(
        [*pip, "--quiet", "--no-deps", "--wheel-dir", str(folder), str(ROOT)], check=True
    )


def shrink(wheel: Path) -> None:
    """Take out of a wheel what `DROPPED` says, in place."""
    pattern = DROPPED.get(normal(wheel.name.partition("-")[0]))
    if pattern is not None:
        repack(wheel, lambda name: re.match(pattern, name) is None)


def repack(wheel: Path, keep: Callable[[str], bool]) -> None:
    """Write the wheel anew with the files to keep and a RECORD of these."""
    scratch = wheel.with_suffix(".new")
    with (
        zipfile.ZipFile(wheel) as source,
        zipfile.ZipFile(scratch, "w", zipfile.ZIP_DEFLATED) as target,
    ):
        record = next(n for n in source.namelist() if re.fullmatch(r"[^/]+\.dist-info/RECORD", n))
        rows = []
        for entry in source.infolist():
            if entry.filename == record or entry.is_dir() or not keep(entry.filename):
                continue
            content = source.read(entry)
            target.writestr(entry, content, zipfile.ZIP_DEFLATED)
            rows.append([entry.filename, _digest(content), str(len(content))])
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([*rows, [record, "", ""]])
        target.writestr(record, text.getvalue())
    scratch.replace(wheel)


def _digest(content: bytes) -> str:
    digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest())
    return "sha256=" + digest.rstrip(b"=").decode()


def split(sizes: Mapping[str, int], limit: int) -> list[list[str]]:
    """Names in as few groups as first fit makes of them, none larger than `limit` in sum.

    Raises:
        BundleError: one alone is larger.
    """
    groups: list[list[str]] = []
    left: list[int] = []
    for name, size in sorted(sizes.items(), key=lambda item: (-item[1], item[0])):
        if size > limit:
            raise BundleError(f"{name} has {size:,} bytes, more than a part may have: {limit:,}")
        place = next((i for i, room in enumerate(left) if size <= room), len(left))
        if place == len(left):
            groups.append([])
            left.append(limit)
        groups[place].append(name)
        left[place] -= size
    return groups


def write_parts(wheels: Path, out: Path, limit: int = PART_BYTES) -> list[Path]:
    """Move the wheels into the parts of `out`; earlier parts there are replaced."""
    for old in out.glob("part-*"):
        shutil.rmtree(old)
    sizes = {wheel.name: wheel.stat().st_size for wheel in wheels.glob("*.whl")}
    parts = []
    for number, names in enumerate(split(sizes, limit), start=1):
        part = out / f"part-{number}"
        part.mkdir(parents=True)
        for name in names:
            shutil.move(wheels / name, part / name)
        parts.append(part)
    return parts


def main() -> None:
    """Reads the command line, and reports what can go wrong as one line."""
    parser = argparse.ArgumentParser(description="Gather wheels for make gpu without a network.")
    parser.add_argument("out", type=Path, help="folder for the parts")
    lists = ROOT / "scripts" / "gpu"
    parser.add_argument(
        "--present",
        type=Path,
        default=lists / "present.txt",
        help="list of the packages to leave out, a name a line (default: scripts/gpu/present.txt)",
    )
    arguments = parser.parse_args()
    try:
        requirements = wanted(
            names_in((lists / "needed.txt").read_text()),
            names_in(arguments.present.read_text()),
            pins_in((ROOT / "constraints.txt").read_text()),
        )
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch)
            download(requirements, folder)
            build_ours(folder)
            for wheel in folder.glob("*.whl"):
                shrink(wheel)
            parts = write_parts(folder, arguments.out)
    except (BundleError, OSError, subprocess.CalledProcessError) as error:
        sys.exit(f"offline_bundle: {error}")
    for part in parts:
        sizes = [wheel.stat().st_size for wheel in part.iterdir()]
        print(f"{part}: {len(sizes)} wheels, {sum(sizes) / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
