"""What the compiler makes of the kernels, on any machine: it needs no GPU."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import triton
import triton.language as tl
from marconi_kernels import Encoding, StateLayout, StatePart
from marconi_kernels.device.tables import tables_of
from marconi_kernels.launch import BLOCK_BYTES, FLAGS, INTERPRETED
from marconi_kernels.ops.clear import _clear_kernel
from marconi_kernels.ops.load import _load_kernel
from marconi_kernels.ops.reencode import _reencode_kernel
from marconi_kernels.ops.store import _store_kernel
from triton.backends.compiler import GPUTarget

POINTERS = {
    "pages": "*u8",
    "slots": "*i64",
    "runs": "*i64",
    "tiles": "*i64",
    "rows": "*i32",
    "source_rows": "*i32",
    "target_rows": "*i32",
    "encodings": "*i32",
}
# As for a state of NemotronH: heads of 64 x 128 float32.
LAYOUT = StateLayout(1, [StatePart((128, 64, 128), torch.float32, True)], 1 << 18)
STATE = tables_of(LAYOUT, None, torch.device("cpu")).constants

pytestmark = pytest.mark.skipif(
    INTERPRETED or torch.version.hip is not None, reason="compiles for NVIDIA"
)


def ptx(kernel: Any, constants: Mapping[str, Any], capability: int) -> str:
    names: list[str] = kernel.arg_names
    signature = {
        name: "constexpr" if name in constants else POINTERS.get(name, "i32") for name in names
    }
    aligned = [name for name in ("pages", "runs", "tiles") if name in names]
    source = triton.compiler.ASTSource(
        kernel,
        signature,
        constexprs={(names.index(name),): value for name, value in constants.items()},
        attrs={(names.index(name),): [["tt.divisibility", 16]] for name in aligned},
    )
    compiled = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=FLAGS)
    return str(compiled.asm["ptx"])


def accesses(code: str) -> set[str]:
    """The widths of loads and stores, as in `ld.v4.b32`."""
    found = re.findall(r"\b(ld|st)\.global(?:\.\w+)*?((?:\.v\d)?\.b\d+)", code)
    return {kind + width for kind, width in found}


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path) -> Iterator[None]:
    """Compiled here and now."""
    with triton.knobs.cache.scope():
        triton.knobs.cache.dir = str(tmp_path)
        yield


@pytest.mark.parametrize("capability", [80, 90])
@pytest.mark.parametrize("encoding", Encoding)
def test_store(encoding: Encoding, capability: int) -> None:
    code = ptx(_store_kernel, STATE | {"ENCODING": int(encoding)}, capability)
    # Runs of bytes move in 16 bytes a thread; so are tiles read, and written in the fewer bytes
    # that 4 elements take.
    assert {"ld.v2.b64", "st.v2.b64"} <= accesses(code)
    if encoding != Encoding.EXACT:
        written = "st.v2.b32" if encoding == Encoding.BF16 else "st.b32"
        assert {"ld.v4.b32", written} <= accesses(code)
    assert_rounds_as_written(code)


@pytest.mark.parametrize("capability", [80, 90])
def test_load(capability: int) -> None:
    code = ptx(_load_kernel, STATE | {"BF16_IS_EXACT": False}, capability)
    assert {"ld.v2.b64", "st.v2.b64", "ld.v2.b32", "ld.b32", "st.v4.b32"} <= accesses(code)
    assert "st.b32" not in accesses(code)
    assert_rounds_as_written(code)


def test_reencode_and_clear() -> None:
    encodings = {"SOURCE": int(Encoding.EXACT), "TARGET": int(Encoding.INT8)}
    code = ptx(_reencode_kernel, STATE | encodings, 90)
    assert {"ld.v4.b32", "st.b32"} <= accesses(code)
    assert_rounds_as_written(code)
    assert "st.v2.b64" in accesses(ptx(_clear_kernel, {"BLOCK": BLOCK_BYTES}, 90))


@pytest.mark.parametrize("element", [tl.uint16, tl.float16])
def test_states_of_two_bytes_an_element(element: Any) -> None:
    constants = STATE | {"ELEMENT": element, "VECTOR": 8, "ENCODING": int(Encoding.INT8)}
    assert {"ld.v4.b32", "st.v2.b32"} <= accesses(ptx(_store_kernel, constants, 90))


def test_states_that_allow_no_vectors() -> None:
    for encoding in Encoding:
        ptx(_store_kernel, STATE | {"VECTOR": 1, "ENCODING": int(encoding)}, 90)


def assert_rounds_as_written(code: str) -> None:
    """No multiplication fused with an addition, no denormal flushed, no approximate division."""
    assert not re.search(r"\bfma\.|\.ftz|\.approx|div\.full", code)
