"""Models with random weights whose layers have the sizes that GPU kernels are made for.

SGLang's dummy weights lie within 0.001 of 0: every state is then about as good as another, and a
wrong one changes no answer. These spread as a trained model's do.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tiny_tokenizer
import torch
from safetensors.torch import save_file
from torch import Tensor

CONTEXT = 32768


class Draw:
    """Random weights in bfloat16, the same for the same seed."""

    def __init__(self, seed: int) -> None:
        self._random = torch.Generator().manual_seed(seed)

    def linear(self, outputs: int, inputs: int, scale: float = 1.0) -> Tensor:
        """A matrix that keeps its input's size."""
        return self.normal(outputs, inputs, scale=scale / math.sqrt(inputs))

    def normal(self, *shape: int, scale: float = 1.0) -> Tensor:
        """Normal numbers."""
        return (torch.randn(*shape, generator=self._random) * scale).bfloat16()

    def decays(self, heads: int) -> dict[str, Tensor]:
        """From heads that remember a few tokens to heads that remember hundreds."""
        steps = torch.empty(heads).uniform_(math.log(1e-3), math.log(1e-1), generator=self._random)
        decay = torch.empty(heads).uniform_(1, 16, generator=self._random)
        # The inverse of softplus, which the models apply to it.
        return {"A_log": decay.log(), "dt_bias": steps.exp().expm1().log()}


def build_mamba2(path: Path, seed: int = 0) -> Path:
    """A NemotronH of 17 million parameters: Mamba2, attention, MLP."""
    hidden, heads, kv, head_dim, mlp = 512, 8, 2, 64, 1024
    mamba_heads, mamba_head_dim, groups, state, conv = 16, 64, 8, 128, 4
    inner = mamba_heads * mamba_head_dim
    channels = inner + 2 * groups * state
    pattern = "M-M*-M-M*-"
    config = {
        "architectures": ["NemotronHForCausalLM"],
        "model_type": "nemotron_h",
        "hidden_size": hidden,
        "num_hidden_layers": len(pattern),
        "hybrid_override_pattern": pattern,
        "intermediate_size": mlp,
        "mlp_hidden_act": "relu2",
        "num_attention_heads": heads,
        "num_key_value_heads": kv,
        "head_dim": head_dim,
        "mamba_num_heads": mamba_heads,
        "mamba_head_dim": mamba_head_dim,
        "n_groups": groups,
        "mamba_n_groups": groups,
        "ssm_state_size": state,
        "conv_kernel": conv,
        "expand": inner // hidden,
        "chunk_size": 128,
        "layer_norm_epsilon": 1e-5,
        "tie_word_embeddings": False,
    }
    draw = Draw(seed)
    ones = torch.ones(hidden).bfloat16()

    def mixer(kind: str) -> dict[str, Tensor]:
        if kind == "-":
            return {
                "up_proj.weight": draw.linear(mlp, hidden),
                "down_proj.weight": draw.linear(hidden, mlp),
            }
        if kind == "*":
            return attention(draw, hidden, heads * head_dim, kv * head_dim)
        return {
            "in_proj.weight": draw.linear(inner + channels + mamba_heads, hidden),
            "conv1d.weight": draw.normal(channels, 1, conv, scale=1 / math.sqrt(conv)),
            "conv1d.bias": torch.zeros(channels).bfloat16(),
            "D": torch.ones(mamba_heads),
            "norm.weight": torch.ones(inner).bfloat16(),
            "out_proj.weight": draw.linear(hidden, inner),
            **draw.decays(mamba_heads),
        }

    weights = {}
    for index, kind in enumerate(pattern):
        layer = f"backbone.layers.{index}"
        weights[f"{layer}.norm.weight"] = ones.clone()
        weights |= {f"{layer}.mixer.{name}": value for name, value in mixer(kind).items()}
    weights["backbone.norm_f.weight"] = ones
    return write(path, config, weights, "backbone.embeddings.weight", draw)


def build_gdn(path: Path, seed: int = 0) -> Path:
    """A Qwen3-Next of 23 million parameters: gated delta nets, attention, experts."""
    hidden, layers, interval = 512, 4, 4
    heads, kv, head_dim = 4, 2, 256
    key_heads, value_heads, linear_dim, conv = 4, 8, 128, 4
    experts, expert_size = 16, 128
    keys, values = key_heads * linear_dim, value_heads * linear_dim
    config = {
        "architectures": ["Qwen3NextForCausalLM"],
        "model_type": "qwen3_next",
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "full_attention_interval": interval,
        "num_attention_heads": heads,
        "num_key_value_heads": kv,
        "head_dim": head_dim,
        "partial_rotary_factor": 0.25,
        "rope_theta": 10000.0,
        "intermediate_size": 2 * hidden,
        "hidden_act": "silu",
        "linear_conv_kernel_dim": conv,
        "linear_key_head_dim": linear_dim,
        "linear_value_head_dim": linear_dim,
        "linear_num_key_heads": key_heads,
        "linear_num_value_heads": value_heads,
        "num_experts": experts,
        "num_experts_per_tok": 4,
        "moe_intermediate_size": expert_size,
        "shared_expert_intermediate_size": expert_size,
        "decoder_sparse_step": 1,
        "norm_topk_prob": True,
        "mlp_only_layers": [],
        "rms_norm_eps": 1e-6,
        "tie_word_embeddings": False,
    }
    draw = Draw(seed)
    # These norms' weights are what they exceed 1 by.
    zeros = torch.zeros(hidden).bfloat16()

    def expert() -> dict[str, Tensor]:
        return {
            "gate_proj.weight": draw.linear(expert_size, hidden),
            "up_proj.weight": draw.linear(expert_size, hidden),
            "down_proj.weight": draw.linear(hidden, expert_size),
        }

    def delta() -> dict[str, Tensor]:
        channels = 2 * keys + values
        return {
            "in_proj_qkvz.weight": draw.linear(2 * keys + 2 * values, hidden),
            "in_proj_ba.weight": draw.linear(2 * value_heads, hidden),
            "conv1d.weight": draw.normal(channels, 1, conv, scale=1 / math.sqrt(conv)),
            "norm.weight": torch.ones(linear_dim).bfloat16(),
            "out_proj.weight": draw.linear(hidden, values),
            **draw.decays(value_heads),
        }

    def gated_attention() -> dict[str, Tensor]:
        made = attention(draw, hidden, heads * head_dim, kv * head_dim)
        # Queries and, beside each head's, the gate of its output.
        made["q_proj.weight"] = draw.linear(2 * heads * head_dim, hidden)
        norms = {f"{name}_norm.weight": torch.zeros(head_dim).bfloat16() for name in "qk"}
        return made | norms

    weights: dict[str, Tensor] = {}
    for index in range(layers):
        parts = {"input_layernorm.weight": zeros.clone()}
        parts["post_attention_layernorm.weight"] = zeros.clone()
        full = (index + 1) % interval == 0
        name, made = ("self_attn", gated_attention()) if full else ("linear_attn", delta())
        parts |= {f"{name}.{part}": value for part, value in made.items()}
        parts["mlp.gate.weight"] = draw.linear(experts, hidden)
        parts["mlp.shared_expert_gate.weight"] = draw.linear(1, hidden)
        for place in ("shared_expert", *(f"experts.{number}" for number in range(experts))):
            parts |= {f"mlp.{place}.{part}": value for part, value in expert().items()}
        weights |= {f"model.layers.{index}.{part}": value for part, value in parts.items()}
    weights["model.norm.weight"] = zeros
    return write(path, config, weights, "model.embed_tokens.weight", draw)


def attention(draw: Draw, hidden: int, queries: int, keys: int) -> dict[str, Tensor]:
    """The four projections; `queries` and `keys` are all heads' channels."""
    return {
        "q_proj.weight": draw.linear(queries, hidden),
        "k_proj.weight": draw.linear(keys, hidden),
        "v_proj.weight": draw.linear(keys, hidden),
        "o_proj.weight": draw.linear(hidden, queries),
    }


def build_nemotron_h_8b(path: Path) -> Path:
    """The config of nvidia/Nemotron-H-8B-Base-8K and no weights, for SGLang's dummy ones."""
    config = {
        "architectures": ["NemotronHForCausalLM"],
        "model_type": "nemotron_h",
        "hidden_size": 4096,
        "num_hidden_layers": 52,
        "hybrid_override_pattern": "M-M-M-M*-M-M-M-M-M*-M-M-M-M-M*-M-M-M-M-M*-M-M-M-M-M-",
        "intermediate_size": 21504,
        "mlp_hidden_act": "relu2",
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "mamba_num_heads": 128,
        "mamba_head_dim": 64,
        "n_groups": 8,
        "mamba_n_groups": 8,
        "ssm_state_size": 128,
        "conv_kernel": 4,
        "expand": 2,
        "chunk_size": 128,
        "layer_norm_epsilon": 1e-5,
        "tie_word_embeddings": False,
    }
    return write(path, config | {"vocab_size": 131072}, None, "", Draw(0))


def write(
    path: Path,
    config: Mapping[str, Any],
    weights: dict[str, Tensor] | None,
    embeddings: str,
    draw: Draw,
) -> Path:
    """Write a model's folder, with the small tokenizer, anew; return it."""
    path.mkdir(parents=True, exist_ok=True)
    tokenizer = tiny_tokenizer.build_tokenizer()
    tiny_tokenizer.save_tokenizer(tokenizer, path, CONTEXT)
    vocabulary = tokenizer.get_vocab_size()
    ids = {
        "pad_token_id": tokenizer.token_to_id(tiny_tokenizer.PAD),
        "bos_token_id": tokenizer.token_to_id(tiny_tokenizer.BOS),
        "eos_token_id": tokenizer.token_to_id(tiny_tokenizer.EOS),
    }
    rest = {"vocab_size": vocabulary, "dtype": "bfloat16", "max_position_embeddings": CONTEXT}
    (path / "config.json").write_text(json.dumps({**rest, **ids, **config}, indent=1) + "\n")
    if weights is not None:
        hidden = config["hidden_size"]
        weights[embeddings] = draw.normal(vocabulary, hidden)
        # The factor keeps the best token well ahead of the second.
        weights["lm_head.weight"] = draw.linear(vocabulary, hidden, scale=2.0)
        save_file(weights, path / "model.safetensors", metadata={"format": "pt"})
    return path
