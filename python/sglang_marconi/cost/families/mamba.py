"""Families built on Mamba and Mamba2."""

from __future__ import annotations

from sglang_marconi.cost.config_view import ConfigView
from sglang_marconi.cost.errors import UnknownLayerError
from sglang_marconi.cost.families.common import attention, experts, mlp
from sglang_marconi.cost.feedforward import MLP, MixtureOfExperts
from sglang_marconi.cost.layer import LayerCost
from sglang_marconi.cost.mamba import Mamba1, Mamba2

_NEMOTRON_PATTERN = {"M": "mamba", "*": "attention", "-": "mlp", "E": "moe"}
# Newer transformers renames the layer types of older configs.
_MAMBA_TYPES = ("mamba", "linear_attention")
_ATTENTION_TYPES = ("attention", "full_attention")


def nemotron_h(config: ConfigView) -> list[LayerCost]:
    """Nemotron-H, Nemotron Nano v2, Nemotron 3: one mixer or feed-forward per layer."""
    types = config.strings("layers_block_type", "layer_types")
    if types is None:
        pattern = config.get("hybrid_override_pattern")
        if not isinstance(pattern, str):
            raise config.error("hybrid_override_pattern", "a string", pattern)
        types = [_NEMOTRON_PATTERN.get(letter, letter) for letter in pattern]
    return [_nemotron_layer(config, layer_type) for layer_type in types]


def nemotron_h_puzzle(config: ConfigView) -> list[LayerCost]:
    """A Nemotron-H compressed layer by layer (Puzzle, arXiv 2411.19146).

    Each block names its type and the fields that differ from the rest of the config.
    """
    blocks = config.sections("block_configs")
    return [_nemotron_layer(block, str(block.get("block_type"))) for block in blocks]


def falcon_h1(config: ConfigView) -> list[LayerCost]:
    """Falcon-H1: attention and Mamba2 side by side in every layer, then an MLP."""
    layer: list[LayerCost] = [attention(config), _mamba2(config), mlp(config)]
    return layer * config.integer("num_hidden_layers")


def granite_hybrid(config: ConfigView) -> list[LayerCost]:
    """Granite 4.0-H: Mamba2 or attention, then experts with a shared MLP, or that MLP alone."""
    shared = config.integer("shared_intermediate_size")
    feedforward: LayerCost
    if config.integer("num_local_experts", default=0) > 0:
        feedforward = experts(
            config, intermediate=config.integer("intermediate_size"), shared=shared
        )
    else:
        feedforward = MLP(config.integer("hidden_size"), shared)
    types = config.strings("layer_types", "layers_block_type")
    if types is None:
        raise config.error("layer_types", "a list", types)
    layers: list[LayerCost] = []
    for layer_type in types:
        layers += [_mamba2_or_attention(config, layer_type), feedforward]
    return layers


def bamba(config: ConfigView) -> list[LayerCost]:
    """Bamba: Mamba2, attention at the listed layers, an MLP after each."""
    at = config.integers("attn_layer_indices") or []
    layers: list[LayerCost] = []
    for layer in range(config.integer("num_hidden_layers")):
        mixer: LayerCost = attention(config) if layer in at else _mamba2(config)
        layers += [mixer, mlp(config)]
    return layers


def jamba(config: ConfigView) -> list[LayerCost]:
    """Jamba: Mamba, attention at a stride, experts at another, an MLP elsewhere."""
    count = config.integer("num_experts", "num_local_experts")
    layers: list[LayerCost] = []
    for layer in range(config.integer("num_hidden_layers")):
        if _at_stride(config, "attn_layer", layer):
            layers.append(attention(config))
        else:
            layers.append(_jamba_mamba(config))
        if count > 1 and _at_stride(config, "expert_layer", layer):
            layers.append(experts(config, intermediate=config.integer("intermediate_size")))
        else:
            layers.append(mlp(config))
    return layers


def mamba1(config: ConfigView) -> list[LayerCost]:
    """Mamba and Falcon-Mamba: nothing but Mamba layers."""
    hidden = config.integer("hidden_size")
    inner = config.integer(
        "intermediate_size", default=config.integer("expand", default=2) * hidden
    )
    layer = Mamba1(
        hidden=hidden,
        inner=inner,
        state_dim=config.integer("state_size"),
        conv_kernel=config.integer("conv_kernel"),
        dt_rank=_dt_rank(config, "time_step_rank"),
    )
    return [layer] * config.integer("num_hidden_layers")


def mamba2(config: ConfigView) -> list[LayerCost]:
    """Mamba2 (as Codestral Mamba): nothing but Mamba2 layers."""
    layer = Mamba2(
        hidden=config.integer("hidden_size"),
        heads=config.integer("num_heads"),
        head_dim=config.integer("head_dim"),
        groups=config.integer("n_groups"),
        state_dim=config.integer("state_size"),
        conv_kernel=config.integer("conv_kernel"),
    )
    return [layer] * config.integer("num_hidden_layers")


def _nemotron_layer(config: ConfigView, layer_type: str) -> LayerCost:
    hidden = config.integer("hidden_size")
    if layer_type in _MAMBA_TYPES:
        return Mamba2(
            hidden=hidden,
            heads=config.integer("mamba_num_heads"),
            head_dim=config.integer("mamba_head_dim"),
            groups=config.integer("n_groups", "mamba_n_groups"),
            state_dim=config.integer("ssm_state_size"),
            conv_kernel=config.integer("conv_kernel", "mamba_d_conv"),
        )
    if layer_type in _ATTENTION_TYPES:
        return attention(config)
    if layer_type == "mlp":
        return MLP(hidden, config.integer("intermediate_size"), gated=False)
    if layer_type == "moe":
        latent = config.get("moe_latent_size")
        shared = config.integer("moe_shared_expert_intermediate_size")
        return MixtureOfExperts(
            hidden=hidden,
            intermediate=config.integer("moe_intermediate_size"),
            experts=config.integer("n_routed_experts"),
            active=config.integer("num_experts_per_tok"),
            shared_intermediate=shared * config.integer("n_shared_experts", default=0),
            gated=False,
            latent=None if latent is None else config.integer("moe_latent_size"),
        )
    raise UnknownLayerError(layer_type, config.model_type)


def _mamba2_or_attention(config: ConfigView, layer_type: str) -> LayerCost:
    if layer_type in _MAMBA_TYPES:
        return _mamba2(config)
    if layer_type in _ATTENTION_TYPES:
        return attention(config)
    raise UnknownLayerError(layer_type, config.model_type)


def _mamba2(config: ConfigView) -> Mamba2:
    """Mamba2 with the ``mamba_*`` names of Bamba, Granite and Falcon-H1."""
    hidden = config.integer("hidden_size")
    inner = config.integer(
        "mamba_d_ssm", default=config.integer("mamba_expand", default=2) * hidden
    )
    heads = config.integer("mamba_n_heads")
    return Mamba2(
        hidden=hidden,
        heads=heads,
        head_dim=inner // heads,
        groups=config.integer("mamba_n_groups"),
        state_dim=config.integer("mamba_d_state"),
        conv_kernel=config.integer("mamba_d_conv"),
    )


def _jamba_mamba(config: ConfigView) -> Mamba1:
    hidden = config.integer("hidden_size")
    return Mamba1(
        hidden=hidden,
        inner=config.integer("mamba_expand") * hidden,
        state_dim=config.integer("mamba_d_state"),
        conv_kernel=config.integer("mamba_d_conv"),
        dt_rank=_dt_rank(config, "mamba_dt_rank"),
    )


def _dt_rank(config: ConfigView, name: str) -> int:
    if config.get(name) in (None, "auto"):
        return -(-config.integer("hidden_size") // 16)
    return config.integer(name)


def _at_stride(config: ConfigView, prefix: str, layer: int) -> bool:
    period = config.integer(f"{prefix}_period")
    return layer % period == config.integer(f"{prefix}_offset")
