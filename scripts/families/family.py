"""What a family is here: a config of its smallest model, and how SGLang serves it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

Config = Mapping[str, Any]

DUMMY_WEIGHTS = ("--load-format", "dummy")
"""Arguments of SGLang for a model without weights on disk."""

WIDTH = 64
"""Of the hidden states in most of the models."""

DENSE: Config = {
    "hidden_size": WIDTH,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 128,
    "tie_word_embeddings": False,
    "rms_norm_eps": 1e-6,
    "hidden_act": "silu",
    "rope_theta": 10000.0,
}
LATENT: Config = {
    "kv_lora_rank": 32,
    "q_lora_rank": None,
    "qk_nope_head_dim": 16,
    "qk_rope_head_dim": 8,
    "v_head_dim": 16,
}
"""Multi-head latent attention."""


@dataclass(frozen=True)
class Family:
    """A model small enough for a CPU, of an architecture that SGLang serves.

    Attributes:
        name: as people call it.
        config: its ``config.json``, but for what the tokenizer decides.
        like: the family whose layers it has, if only what is around them is its own.
        strategies: those of SGLang's ways to keep recurrent states that it has.
        pages: sizes of KV pages that SGLang gives it on some GPU, in tokens, beside pages of one.
        arguments: what a server of it needs beyond the usual.
        recurrent: whether it has states beside convolution windows.
        vision: whether its files have to name an image processor.
    """

    name: str
    config: Config
    like: str | None = None
    strategies: tuple[str, ...] = ("no_buffer", "extra_buffer")
    pages: tuple[int, ...] = ()
    arguments: tuple[str, ...] = ()
    recurrent: bool = True
    vision: bool = False

    @property
    def serving(self) -> tuple[str, ...]:
        """All arguments that a server of it needs."""
        return (*DUMMY_WEIGHTS, *self.arguments)
