"""Bundles of wheels: what is fetched, what is taken out, parts of limited size, installing."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from gpu.install import pip_command, wheels_in
from offline_bundle import (
    ROOT,
    BundleError,
    names_in,
    pins_in,
    shrink,
    split,
    wanted,
    write_parts,
)

KERNEL = {
    "sgl_kernel/__init__.py": "import sgl_kernel.load_utils\n",
    "sgl_kernel/load_utils.py": "",
    "sgl_kernel/sm90/common_ops.abi3.so": "Hopper",
    "sgl_kernel/sm100/common_ops.abi3.so": "Blackwell",
    "sgl_kernel/flash_ops.abi3.so": "a gigabyte",
    "sgl_kernel/infllm_ops.cpython-310-x86_64-linux-gnu.so": "",
    "triton_kernels/__init__.py": "",
}
SGLANG = {
    "sglang/__init__.py": "",
    "sglang/version.py": "",
    "sglang/srt/rust_extensions/__init__.py": "",
    "sglang/srt/rust_extensions/_server.cpython-312-x86_64-linux-gnu.so": "",
    "sglang/srt/mem_cache/rust_tree_core/mem_cache.cpython-312-x86_64-linux-gnu.so": "",
    "sglang/srt/managers/scheduler.py": "",
    "sglang/multimodal_gen/__init__.py": "",
    "sglang/test/kits/cache_hit_kit.py": "",
    "sglang/benchmark/one_batch.py": "",
}


def make_wheel(folder: Path, name: str, version: str, files: dict[str, str]) -> Path:
    """A wheel that pip installs."""
    stem = f"{name}-{version}"
    info = f"{stem}.dist-info"
    described = {
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    path = folder / f"{stem}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as wheel:
        for file, text in {**files, **described}.items():
            wheel.writestr(file, text)
        rows = "".join(f"{file},,\n" for file in [*files, *described])
        wheel.writestr(f"{info}/RECORD", f"{rows}{info}/RECORD,,\n")
    return path


def names_of(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as opened:
        return {name for name in opened.namelist() if ".dist-info" not in name}


def test_of_the_kernels_only_hoppers_common_ones_stay(tmp_path: Path) -> None:
    wheel = make_wheel(tmp_path, "sglang_kernel", "0.4.5", KERNEL)
    shrink(wheel)
    assert names_of(wheel) == {
        "sgl_kernel/__init__.py",
        "sgl_kernel/load_utils.py",
        "sgl_kernel/sm90/common_ops.abi3.so",
    }


def test_of_sglang_what_serves_no_text_goes(tmp_path: Path) -> None:
    wheel = make_wheel(tmp_path, "sglang", "0.5.23", SGLANG)
    shrink(wheel)
    assert set(SGLANG) - names_of(wheel) == {
        "sglang/srt/rust_extensions/_server.cpython-312-x86_64-linux-gnu.so",
        "sglang/multimodal_gen/__init__.py",
        "sglang/test/kits/cache_hit_kit.py",
    }


def test_other_wheels_stay_as_they_are(tmp_path: Path) -> None:
    wheel = make_wheel(tmp_path, "sglang_marconi", "0.1.0", {"sglang/test/x.py": ""})
    before = wheel.read_bytes()
    shrink(wheel)
    assert wheel.read_bytes() == before


def test_a_repacked_wheel_installs_without_an_index(tmp_path: Path) -> None:
    bundle, target = tmp_path / "bundle", tmp_path / "site"
    for part, (name, files) in enumerate({"sglang_kernel": KERNEL, "sglang": SGLANG}.items()):
        folder = bundle / f"part-{part}"
        folder.mkdir(parents=True)
        shrink(make_wheel(folder, name, "1.0", files))
    wheels = wheels_in(bundle)
    assert len(wheels) == 2
    subprocess.run(pip_command(wheels, target), check=True)
    assert (target / "sgl_kernel/sm90/common_ops.abi3.so").read_text() == "Hopper"
    assert not (target / "sglang/test").exists()
    code = "from importlib.metadata import version; print(version('sglang-kernel'))"
    found = subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONPATH": str(target)},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    assert found.stdout == "1.0\n"
    # Pip checks an installed file against the RECORD where it takes it away again.
    record = (target / "sglang-1.0.dist-info/RECORD").read_text()
    assert "sglang/version.py,sha256=" in record
    assert "sglang/test" not in record


def test_parts_hold_everything_and_are_no_larger_than_they_may_be() -> None:
    sizes = {"a": 50, "b": 30, "c": 30, "d": 30, "e": 10, "f": 10}
    parts = split(sizes, limit=60)
    assert sorted(name for part in parts for name in part) == sorted(sizes)
    assert all(sum(sizes[name] for name in part) <= 60 for part in parts)
    assert len(parts) == 3
    assert split({"a": 60}, limit=60) == [["a"]]
    with pytest.raises(BundleError, match="b has 61 bytes"):
        split({"a": 1, "b": 61}, limit=60)


def test_new_parts_replace_old_ones(tmp_path: Path) -> None:
    out = tmp_path / "out"
    for run, count in enumerate((3, 1)):
        folder = tmp_path / f"wheels-{run}"
        folder.mkdir()
        for number in range(count):
            (folder / f"{run}{number}.whl").write_bytes(b"x" * 40)
        parts = write_parts(folder, out, limit=60)
        assert [part.name for part in parts] == [f"part-{i + 1}" for i in range(count)]
    assert [wheel.name for wheel in wheels_in(out)] == ["10.whl"]


def test_what_is_present_is_left_out_and_the_rest_is_pinned() -> None:
    pins = pins_in("pyzmq==27.3.0\nnumpy==2.3.5\nsglang-kernel==0.4.10\nsglang==0.5.23\n")
    needed = names_in("# comment\nPyZMQ\nnumpy\nsglang_kernel  # older\nsglang\n")
    present = names_in("NumPy==2.5.2\ntyping.extensions @ file:///x\n")
    assert wanted(needed, present, pins) == [
        "pyzmq==27.3.0",
        "sglang-kernel==0.4.5",
        "sglang==0.5.23",
    ]
    with pytest.raises(BundleError, match="no version of numpy"):
        wanted(["numpy"], [], {})


def test_the_lists_fit_the_constraints() -> None:
    lists = ROOT / "scripts" / "gpu"
    needed = names_in((lists / "needed.txt").read_text())
    present = names_in((lists / "present.txt").read_text())
    assert set(present) <= set(needed)
    assert wanted(needed, [], pins_in((ROOT / "constraints.txt").read_text()))
