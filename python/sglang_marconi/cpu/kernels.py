"""SGLang's Triton kernels that have a version in torch here, one line for each."""

from . import (
    attention_residual,
    conv1d,
    experts,
    gates,
    gdn,
    inkling,
    kda,
    lightning,
    mamba2,
    norms,
    rotary,
    sconv,
    tracking,
)
from .replacement import Replacement, same

_OPS = "sglang.kernels.ops"
CONVOLUTION = f"{_OPS}.mamba.causal_conv1d_triton"
_SCATTER = f"{_OPS}.mamba.mamba_state_scatter_triton"
_FLA = f"{_OPS}.attention.fla"
_LINEAR = f"{_OPS}.attention.linear"
_PROJECTION = f"{_OPS}.attention.triton_gdn_fused_proj"
_ELEMENTWISE = f"{_OPS}.elementwise"
_INKLING = "sglang.srt.models.inkling_common"
_SCONV = f"{_INKLING}.kernels.sconv"

_TRITON = "a Triton kernel"

_PLAIN = (
    (f"{CONVOLUTION}.causal_conv1d_update", conv1d.causal_conv1d_update),
    (
        f"{_OPS}.mamba.triton_ops.ssd_combined.mamba_chunk_scan_combined",
        mamba2.mamba_chunk_scan_combined,
    ),
    (f"{_SCATTER}.track_mamba_states_if_needed", tracking.track_mamba_states_if_needed),
    (f"{_SCATTER}.track_mamba_states_all_layers", tracking.track_mamba_states_all_layers),
    (
        f"{_OPS}.attention.rotary_triton.triton_ernie45_rope_fused_inplace",
        rotary.triton_ernie45_rope_fused_inplace,
    ),
    (f"{_FLA}.chunk.chunk_gated_delta_rule", gdn.chunk_gated_delta_rule),
    (
        f"{_FLA}.fused_recurrent.fused_recurrent_gated_delta_rule_packed_decode",
        gdn.fused_recurrent_gated_delta_rule_packed_decode,
    ),
    (
        f"{_FLA}.fused_recurrent.fused_recurrent_gated_delta_rule_update",
        gdn.fused_recurrent_gated_delta_rule_update,
    ),
    (f"{_LINEAR}.fused_gdn_gating.fused_gdn_gating", gdn.fused_gdn_gating),
    (f"{_PROJECTION}.fused_qkvzba_split_reshape_cat", gdn.fused_qkvzba_split_reshape_cat),
    (
        f"{_PROJECTION}.fused_qkvzba_split_reshape_cat_contiguous",
        gdn.fused_qkvzba_split_reshape_cat_contiguous,
    ),
    (f"{_FLA}.kda.chunk_kda", kda.chunk_kda),
    (
        f"{_FLA}.fused_recurrent.fused_recurrent_kda_packed_decode",
        kda.fused_recurrent_kda_packed_decode,
    ),
    (
        f"{_LINEAR}.fused_sigmoid_gating_recurrent.fused_sigmoid_gating_delta_rule_update",
        kda.fused_sigmoid_gating_delta_rule_update,
    ),
    (f"{_LINEAR}.seg_la.seg_la_fwd", lightning.seg_la_fwd),
    (f"{_LINEAR}.lightning_attn.lightning_attention", lightning.lightning_attention),
    (
        f"{_LINEAR}.lightning_attn.linear_decode_forward_triton",
        lightning.linear_decode_forward_triton,
    ),
    (f"{_FLA}.layernorm_gated.layernorm_fn", norms.layernorm_fn),
    (f"{_FLA}.fused_norm_gate.rms_norm_gated", norms.rms_norm_gated),
    (f"{_ELEMENTWISE}.elementwise.fused_sigmoid_mul", gates.fused_sigmoid_mul),
    (
        f"{_ELEMENTWISE}.elementwise._launch_fused_gate_sigmoid_mul",
        gates.launch_fused_gate_sigmoid_mul,
    ),
    ("sglang.srt.layers.attn_residual._mix_fused", attention_residual.mix_fused),
    (f"{_SCONV}.fused_decode_sconv_metadata", sconv.fused_decode_sconv_metadata),
    (f"{_SCONV}.causal_conv1d", sconv.causal_conv1d),
    (f"{_SCONV}.update_sconv_cache", sconv.update_sconv_cache),
    (f"{_SCONV}.fused_causal_conv1d_update_decode", sconv.fused_causal_conv1d_update_decode),
    (
        f"{_INKLING}.sconv.fused_gather_scatter_to_sconv_cache",
        sconv.fused_gather_scatter_to_sconv_cache,
    ),
    (
        f"{_OPS}.mamba.mamba_state_indices_triton.fused_replay_state_indices",
        sconv.fused_replay_state_indices,
    ),
    (f"{_OPS}.moe.gate_topk.gate_topk", inkling.gate_topk),
    (f"{_OPS}.moe.inkling_moe.silu_and_mul", inkling.silu_and_mul),
    (f"{_OPS}.moe.inkling_moe.silu_and_mul_triton", inkling.silu_and_mul_triton),
    (f"{_ELEMENTWISE}.row_scale.apply_log_scaling_tau", inkling.apply_log_scaling_tau),
    (f"{_INKLING}.moe.moe_tp_forward", inkling.moe_tp_forward),
)

KERNELS: tuple[Replacement, ...] = (
    same(
        f"{CONVOLUTION}.causal_conv1d_fn",
        conv1d.causal_conv1d_fn,
        f"{_TRITON}; SGLang's `causal_conv1d` and `mamba` call it, too",
    ),
    same(
        f"{_OPS}.mamba.triton_ops.mamba_ssm.selective_state_update",
        mamba2.selective_state_update,
        f"{_TRITON}; SGLang's dispatcher stays in charge and takes ours for its Triton backend",
    ),
    *(same(target, ours, _TRITON) for target, ours in _PLAIN),
    same(
        "sglang.srt.layers.moe.fused_moe_native.moe_forward_native",
        experts.moe_forward_native,
        "SGLang's computes experts with a gate only",
    ),
)
