"""Layers that several families describe with the same fields."""

from __future__ import annotations

from sglang_marconi.cost.attention import Attention, LatentAttention
from sglang_marconi.cost.config_view import ConfigView
from sglang_marconi.cost.delta import GatedDeltaNet
from sglang_marconi.cost.feedforward import MLP, MixtureOfExperts


def attention(
    config: ConfigView,
    *,
    window: int | None = None,
    gated: bool = False,
    selected: int | None = None,
) -> Attention:
    """Softmax attention; head size and key/value heads default as in transformers."""
    hidden = config.integer("hidden_size")
    heads = config.integer("num_attention_heads")
    return Attention(
        hidden=hidden,
        heads=heads,
        kv_heads=config.integer("num_key_value_heads", default=heads),
        head_dim=config.integer("head_dim", "attention_head_dim", default=hidden // heads),
        window=window,
        gated=gated,
        selected=selected,
    )


def latent_attention(
    config: ConfigView, *, gate_dim: int = 0, selected: int | None = None
) -> LatentAttention:
    """MLA with DeepSeek's field names."""
    q_rank = config.get("q_lora_rank")
    return LatentAttention(
        hidden=config.integer("hidden_size"),
        heads=config.integer("num_attention_heads"),
        q_rank=None if q_rank is None else config.integer("q_lora_rank"),
        kv_rank=config.integer("kv_lora_rank"),
        nope_dim=config.integer("qk_nope_head_dim"),
        rope_dim=config.integer("qk_rope_head_dim"),
        v_dim=config.integer("v_head_dim"),
        gate_dim=gate_dim,
        selected=selected,
    )


def gated_delta_net(config: ConfigView) -> GatedDeltaNet:
    """GDN with Qwen3-Next's field names."""
    return GatedDeltaNet(
        hidden=config.integer("hidden_size"),
        key_heads=config.integer("linear_num_key_heads"),
        value_heads=config.integer("linear_num_value_heads"),
        key_dim=config.integer("linear_key_head_dim"),
        value_dim=config.integer("linear_value_head_dim"),
        conv_kernel=config.integer("linear_conv_kernel_dim"),
    )


def mlp(config: ConfigView) -> MLP:
    """A gated MLP of ``intermediate_size``."""
    return MLP(config.integer("hidden_size"), config.integer("intermediate_size"))


def experts(
    config: ConfigView, *, intermediate: int, shared: int = 0, latent: int | None = None
) -> MixtureOfExperts:
    """Gated experts, whatever the family calls their number."""
    return MixtureOfExperts(
        hidden=config.integer("hidden_size"),
        intermediate=intermediate,
        experts=config.integer("num_experts", "num_local_experts", "n_routed_experts"),
        active=config.integer("num_experts_per_tok", "num_experts_per_token", "experts_per_token"),
        shared_intermediate=shared,
        latent=latent,
    )


def is_sparse(config: ConfigView, layer: int, *, dense_first: int = 0) -> bool:
    """DeepSeek's rule for which layers have experts: after the first few, at a stride.

    ``dense_first`` is how many the first few are where the config does not say.
    """
    return (
        layer >= config.integer("first_k_dense_replace", default=dense_first)
        and layer % config.integer("moe_layer_freq", default=1) == 0
    )
