"""Several states of a row from SGLang's scan in Triton, against ours in torch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from sglang.kernels.ops.mamba.triton_ops import ssd_combined
from sglang_marconi.cpu.mamba2 import mamba_chunk_scan_combined
from sglang_marconi.forward import scan
from sglang_marconi.forward.plan import Place, Row
from support.passes import SomePass, assert_close
from support.scans import Layer, taken
from torch import Tensor
from triton.runtime.autotuner import Autotuner


@pytest.fixture(autouse=True)
def lengths(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """With the rounds hooked in; collects lengths of what states are computed over."""
    # They enter their device, and time their configurations.
    monkeypatch.setattr(torch.cpu, "device", lambda _index: nullcontext(), raising=False)
    monkeypatch.setattr(Autotuner, "prune_configs", lambda tuner, _given: tuner.configs[:1])
    seen: list[int] = []
    theirs, rounds = ssd_combined.chunk_state_varlen, ssd_combined._track_states_at

    def watched(B: Any, x: Any, dt: Any, dA: Any, bounds: Tensor, *rest: Any, **named: Any) -> Any:
        seen.extend(bounds.diff().tolist())
        return theirs(B, x, dt, dA, bounds, *rest, **named)

    monkeypatch.setattr(ssd_combined, "chunk_state_varlen", watched)
    monkeypatch.setattr(
        ssd_combined, "_track_states_at", lambda *given: scan.take_in_rounds(rounds, *given)
    )
    yield seen


PASSES = {
    "one row": SomePass.of([Row(35, False)], [Place(0, at) for at in (1, 16, 31, 34)]),
    "several": SomePass.of(
        [Row(20, False), Row(3, True), Row(19, False), Row(1, True)],
        [Place(0, 1), Place(0, 17), Place(0, 19), Place(1, 2), Place(2, 5), Place(2, 18)],
    ),
    "several anew": SomePass.of(
        [Row(7, False), Row(18, False)],
        [Place(0, 5), Place(0, 6), Place(1, 1), Place(1, 12), Place(1, 17)],
    ),
}


@pytest.mark.parametrize("name", PASSES)
@pytest.mark.parametrize("tracked", [False, True])
def test_states_are_those_of_ours(name: str, tracked: bool, lengths: list[int]) -> None:
    some = PASSES[name]
    layer = Layer.of(some, 3)
    # One of a row, as SGLang asks itself.
    rows = [row for row, count in enumerate(some.lengths) if count > 16] if tracked else []
    asked: dict[str, Any] = {
        "chunk_size": 16,
        "track_seq_idx": torch.tensor(rows, dtype=torch.int32),
        "track_end_locs": some.bounds[rows] + 16,
    }
    found, pool = taken(ssd_combined.mamba_chunk_scan_combined, some, layer, **asked)
    assert min(lengths) >= 0
    wanted, ours = taken(mamba_chunk_scan_combined, some, layer, **asked)
    assert_close(found.out, wanted.out)
    assert_close(found.last, wanted.last)
    for slot in some.taken:
        assert_close(pool[slot], ours[slot])
    if tracked:
        assert found.tracked is not None and wanted.tracked is not None
        assert_close(found.tracked, wanted.tracked)
