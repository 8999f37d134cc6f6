"""The part of the table that is SGLang's forward pass: operations that states are taken from."""

from __future__ import annotations

from sglang_marconi.seams.seam import Kind, Seam

_OPS = "sglang.kernels.ops"
_LINEAR = "sglang.srt.layers.attention.linear"
_CONVOLVE = "where windows are taken"
_EXTEND = "q, k, v, g, beta, ssm_states, cache_indices, query_start_loc, ..."

LAYER_STATES = Seam(
    "sglang.srt.mem_cache.memory_pool.HybridReqToTokenPool.mamba2_layer_cache",
    "self, layer_id",
    Kind.AFTER,
    "which layer is being computed",
)
CAN_RUN_GRAPH = Seam(
    "sglang.srt.model_executor.runner.prefill_cuda_graph_runner.PrefillCudaGraphRunner."
    "can_run_graph",
    "self, forward_batch",
    Kind.AROUND,
    "a pass that leaves states runs without a graph",
)
CONVOLVE = Seam(
    "sglang.srt.layers.attention.mamba.causal_conv1d.causal_conv1d_fn",
    "x, weight, bias, query_start_loc, cache_indices, has_initial_state, conv_states, ...",
    Kind.AROUND,
    _CONVOLVE,
)
CONVOLVE_TRITON = Seam(
    f"{_OPS}.mamba.causal_conv1d_triton.causal_conv1d_fn",
    "x, weight, bias, conv_states, query_start_loc, seq_lens_cpu, cache_indices, ...",
    Kind.AROUND,
    _CONVOLVE,
)
SCAN = Seam(
    f"{_OPS}.mamba.triton_ops.ssd_combined.mamba_chunk_scan_combined",
    "x, dt, A, B, C, chunk_size, D, z, dt_bias, initial_states, seq_idx, chunk_indices, "
    "chunk_offsets, cu_seqlens, dt_softplus, dt_limit, out, return_final_states, "
    "return_varlen_states, return_intermediate_states, state_dtype, return_track_states, "
    "track_seq_idx, track_end_locs",
    Kind.AROUND,
    "Mamba2: where recurrent states are taken",
)
SCAN_STATES = Seam(
    f"{_OPS}.mamba.triton_ops.ssd_combined._track_states_at",
    "B, x, dt, dA_cumsum, states, cu_seqlens, initial_states, track_seq_idx, track_end_locs",
    Kind.AROUND,
    "Mamba2: several states of a sequence, without a read in front of the inputs",
)

CONVOLVE_GATED = Seam(
    f"{_OPS}.mamba.lfm_short_conv.fused_lfm_short_conv_prefill",
    "b, c, x, weight, state, query_start_loc, cache_indices, ...",
    Kind.BEFORE,
    "LFM2: where windows are taken",
)
CONVOLVE_CCA = Seam(
    "sglang.srt.models.zaya.cca_extend",
    "qk, hidden_states, conv_qk, conv_state, prev_hs_state, slot_ids, ...",
    Kind.BEFORE,
    "Zaya: where both windows are taken",
)
CONVOLVE_EMBEDDINGS = Seam(
    "sglang.srt.models.qwen4_exp.Qwen4ExpPLELayer._short_conv",
    "self, x, forward_batch, batch",
    Kind.BEFORE,
    "Qwen4-Exp: where windows of per-layer embeddings are taken",
)
COMMIT_NGRAMS = Seam(
    "sglang.srt.models.qwen4_exp._commit_ple_batch",
    "batch, forward_batch",
    Kind.BEFORE,
    "Qwen4-Exp: where tokens of n-grams are taken",
)
EXTEND_GDN = Seam(
    f"{_LINEAR}.gdn_backend.GDNKernelDispatcher.extend",
    f"self, {_EXTEND}",
    Kind.AROUND,
    "GDN: where recurrent states are taken",
)
EXTEND_KDA = Seam(
    f"{_LINEAR}.kda_backend.KDAKernelDispatcher.extend",
    f"self, {_EXTEND}",
    Kind.AROUND,
    "KDA: where recurrent states are taken",
)
CHECKPOINTS_GDN = Seam(
    f"{_LINEAR}.gdn_backend.GDNKernelDispatcher.extend_uses_state_checkpoints",
    None,
    Kind.READ,
    "whether its kernel is to be asked for states on a grid",
)
KERNEL_KDA = Seam(
    f"{_LINEAR}.kda_backend.KDAKernelDispatcher.effective_extend_kernel",
    "self, lower_bound, num_tokens, num_seqs",
    Kind.CALL,
    "whether its kernel returns states on a grid",
)
LIGHTNING = Seam(
    f"{_OPS}.attention.linear.seg_la.seg_la_fwd",
    "q, k, v, s, decay_scales, meta, caches, cache_indices, track_lens, track_state_indices, "
    "softmax_scale",
    Kind.AROUND,
    "lightning attention: where recurrent states are taken",
)
JET_WINDOWS = Seam(
    "sglang.srt.models.jet_nemotron.DynamicShortConvolution.forward",
    "self, x, conv_state, generator_input, seq_lens",
    Kind.AROUND,
    _CONVOLVE,
)
JET = Seam(
    f"{_OPS}.attention.fla.fused_recurrent.fused_recurrent_gated_delta_rule_update",
    "q, k, v, g, beta, scale, initial_state_source, initial_state_indices, cu_seqlens, ...",
    Kind.AROUND,
    "JetBlock: where recurrent states are taken",
)

FORWARD_SEAMS = (
    LAYER_STATES,
    CAN_RUN_GRAPH,
    CONVOLVE,
    CONVOLVE_TRITON,
    SCAN,
    SCAN_STATES,
    CONVOLVE_GATED,
    CONVOLVE_CCA,
    CONVOLVE_EMBEDDINGS,
    COMMIT_NGRAMS,
    EXTEND_GDN,
    EXTEND_KDA,
    CHECKPOINTS_GDN,
    KERNEL_KDA,
    LIGHTNING,
    JET_WINDOWS,
    JET,
)
