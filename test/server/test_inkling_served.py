"""Inkling under SGLang's own cache, as ours does not go with sliding windows.

Its operations on a CPU are tested one by one elsewhere; here they make a model, whose answers
depend neither on what is reused nor on where a prompt is cut.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import pytest
from families import DUMMY_WEIGHTS, Family
from families.build import build_model
from support.client import Reply, flush, generate, generate_batch
from support.forked_server import ForkedServer
from support.prompts import tokens
from support.reference import assert_same

pytestmark = pytest.mark.server

WINDOW = 64
DECODED = 24
SHARED = 257
# SGLang tracks the states of Inkling's convolutions at multiples of this many tokens.
GRID = 64

INKLING = Family(
    "Inkling",
    {
        "architectures": ["InklingForConditionalGeneration"],
        "model_type": "inkling_mm_model",
        "text_config": {
            "model_type": "inkling_model",
            "hidden_size": 64,
            "intermediate_size": 64,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "use_sconv": True,
            "local_layer_ids": [0, 2],
            "sliding_window_size": WINDOW,
            "rel_extent": WINDOW,
            # Queries of full attention grow from here on.
            "log_scaling_n_floor": 100,
            "n_routed_experts": 4,
            "num_experts_per_tok": 2,
            "n_shared_experts": 1,
            "shared_expert_sink": True,
            "num_nextn_predict_layers": 0,
        },
    },
    # SGLang compares the tokenizer with the one of the published model.
    arguments=("--skip-tokenizer-init",),
)


# So few places for layers with windows that some are given away anew; until then, a token has the
# same place there as in the other layers.
POOLS = (
    *("--max-total-tokens", "16384", "--swa-full-tokens-ratio", "0.04"),
    *("--max-mamba-cache-size", "64"),
)

PREFIX = tokens(SHARED, seed=1)
BRANCHING = [[*PREFIX, 1001 + i, *tokens(40, seed=100 + i)] for i in range(3)]
PROMPTS = [*BRANCHING, tokens(7, seed=8), tokens(150, seed=9)]


class Answers(NamedTuple):
    """Of one server: to prompts that share their beginning, to all at once, to each alone."""

    warm: list[Reply]
    batched: list[Reply]
    cold: list[Reply]


def answers(model: Path, *arguments: str) -> Answers:
    own = (*DUMMY_WEIGHTS, *INKLING.arguments, "--enable-cache-report", *POOLS)
    with ForkedServer(model, *own, *arguments, log_path=model / "server.log") as server:

        def cold(prompt: list[int]) -> Reply:
            flush(server.url)
            return generate(server.url, prompt, DECODED)

        return Answers(
            [generate(server.url, prompt, DECODED) for prompt in BRANCHING],
            generate_batch(server.url, PROMPTS, DECODED),
            [cold(prompt) for prompt in PROMPTS],
        )


def test_neither_reuse_nor_chunks_change_an_answer(tmp_path: Path) -> None:
    model = build_model(tmp_path, INKLING)
    whole = answers(model)
    chunked = answers(model, "--chunked-prefill-size", "128")
    resumed = SHARED // GRID * GRID
    for served in (whole, chunked):
        assert [reply.cached_tokens for reply in served.warm] == [0, resumed, resumed]
        assert all(reply.cached_tokens == 0 for reply in served.cold)
        assert all(reply.cached_tokens > 0 for reply in served.batched[: len(BRANCHING)])
        # SGLang serves Inkling with a cache only, so the reference is one that was emptied.
        for replies in served:
            for reply, expected in zip(replies, whole.cold, strict=False):
                assert_same(reply, expected)
