"""The GPU steps' models: transformers, which knows nothing of them, loads and runs them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from gpu.models import build_gdn, build_mamba2, build_nemotron_h_8b
from sglang_marconi.cost import preset
from sglang_marconi.cost.load import load_cost
from transformers import AutoModelForCausalLM

LENGTH, CHANGED = 64, 8


@pytest.mark.parametrize("build", [build_mamba2, build_gdn])
def test_an_early_token_still_matters_later(build: Callable[[Path], Path], tmp_path: Path) -> None:
    model, loaded = AutoModelForCausalLM.from_pretrained(
        build(tmp_path), dtype=torch.float32, output_loading_info=True
    )
    assert not any(loaded.values()), loaded
    prompt = torch.randint(5, 900, (2, LENGTH), generator=torch.Generator().manual_seed(0))
    prompt[1] = prompt[0]
    prompt[1, CHANGED] += 1
    with torch.no_grad():
        logits = model(prompt).logits.log_softmax(-1)
    assert logits.isfinite().all()
    # A reply is no loop, and its tokens are no toss-up.
    assert logits[0].argmax(-1).unique().numel() > LENGTH // 2
    best = logits[0].topk(2).values
    assert (best[:, 0] - best[:, 1]).median() > 0.2
    # What a state forgets, no wrong state can show.
    shift = (logits[0] - logits[1]).abs().amax(-1)
    assert torch.equal(shift[:CHANGED], torch.zeros(CHANGED))
    assert shift[-1] > 0.05


def test_the_large_one_has_the_size_of_nemotron_h_8b(tmp_path: Path) -> None:
    path = build_nemotron_h_8b(tmp_path)
    cost, wanted = load_cost(str(path)), preset("nemotron-h-8b")
    assert cost.state_bytes == wanted.state_bytes
    assert cost.kv_bytes_per_token == wanted.kv_bytes_per_token
    assert cost.prefill_flops(0, 1000) == wanted.prefill_flops(0, 1000)
    assert json.loads((path / "config.json").read_text())["vocab_size"] == 131072
