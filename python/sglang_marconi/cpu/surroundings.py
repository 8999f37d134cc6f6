"""What SGLang takes for granted of a machine, and what is so instead where it has no accelerator.

The functions are in ``environment``.
"""

from sglang_marconi.seams import Kind, Seam

from . import dummy_weights, environment, experts, inkling
from .replacement import Replacement, same

_MHC = "sglang.kernels.ops.layernorm.mhc"
_ROTARY = "sglang.srt.layers.rotary_embedding"
_ATTENTION = "sglang.srt.layers.attention.torch_native_backend.TorchNativeAttnBackend"

SURROUNDINGS: tuple[Replacement, ...] = (
    same(
        "sglang.srt.arg_groups.mamba_hook._platform_supports_mamba_cache_extra_buffer",
        environment.supports_extra_buffer,
        "its list of platforms leaves the CPU out, for want of the kernels",
    ),
    same(
        "sglang.srt.distributed.device_communicators.pynccl_wrapper.find_nccl_library",
        environment.find_no_library,
        "torch's CUDA build brings NCCL along, which has no device to work on; where there is "
        "none, SGLang's tensor-parallel groups go on over gloo",
    ),
    same(
        "sglang.srt.utils.common.get_device",
        environment.get_device,
        "it looks for accelerators and for SGLang's CPU engine, and gives up; rotary embeddings "
        "with a scaling ask it",
    ),
    same(
        f"{_ROTARY}.factory.get_rope_cpu",
        environment.rotary_embedding,
        "it knows one kind of scaling, that of the kernel of SGLang's CPU engine",
    ),
    same(
        f"{_ROTARY}.base.RotaryEmbedding.forward_cuda",
        environment.rotate,
        "latent attention calls it on any device that SGLang does not know",
    ),
    same(
        f"{_MHC}._use_tilelang_mhc_pre",
        environment.without_tilelang,
        "hyper-connections in torch instead of tilelang",
    ),
    same(f"{_MHC}._use_tilelang_mhc_post", environment.without_tilelang, "the same"),
    same(
        "sglang.srt.models.deepseek_common.amd.deepseek_v4_fused_mhc."
        "_is_fused_mhc_post_pre_enabled",
        environment.without_tilelang,
        "the same, across two layers",
    ),
    same(
        "sglang.srt.model_loader.weight_utils.initialize_dummy_weights",
        dummy_weights.initialize_dummy_weights,
        "SGLang's, within 1e-3 of zero, make answers that hardly depend on a state",
    ),
    Replacement(
        Seam(
            "sglang.srt.models.bailing_mm_v3.BailingMoeV3VLForConditionalGeneration.__init__",
            "self, config, ...",
            Kind.AFTER,
            "without weights on disk, its latent attention never gets its absorbed form",
        ),
        dummy_weights.finish_language_model,
    ),
    Replacement(
        Seam(
            "sglang.srt.configs.model_config.ModelConfig.__init__",
            "self, model_path, ...",
            Kind.AFTER,
            "convolution states are bfloat16 unless `SGLANG_MAMBA_CONV_DTYPE` says otherwise; "
            "that loses digits of a float32 model, and storing tracked ones fails",
        ),
        environment.set_conv_dtype,
    ),
    Replacement(
        Seam(
            "sglang.srt.configs.inkling.InklingStateDType.__init__",
            "self, conv, temporal",
            Kind.AROUND,
            "Inkling's are bfloat16 whatever the variable says, which a float32 model loses "
            "digits by at every step",
        ),
        environment.keep_inkling_in_conv_dtype,
    ),
    same(
        "sglang.srt.models.inkling_common.attn.serving_attention_backend",
        inkling.serving_attention_backend,
        "Inkling serves on two kinds of attention, neither for a CPU",
    ),
    Replacement(
        Seam(
            f"{_ATTENTION}.forward_extend",
            "self, q, k, v, layer, forward_batch, save_kv_cache",
            Kind.AROUND,
            "it knows no bias, which Inkling has, and looks for keys of sliding windows in places "
            "of the other layers' pool",
        ),
        inkling.attend_extend,
    ),
    Replacement(
        Seam(
            f"{_ATTENTION}.forward_decode",
            "self, q, k, v, layer, forward_batch, save_kv_cache",
            Kind.AROUND,
            "the same",
        ),
        inkling.attend_decode,
    ),
    Replacement(
        Seam(
            "sglang.srt.layers.hyperconnection.GatedResidual.__init__",
            "self, config, ...",
            Kind.AFTER,
            "Qwen4-Exp has them in bfloat16, which a float32 model cannot be multiplied with",
        ),
        environment.mix_in_model_dtype,
    ),
    Replacement(
        Seam(
            "sglang.srt.models.qwen4_exp.Qwen4ExpNGramEmbedding.__init__",
            "self, config, ...",
            Kind.AFTER,
            "the same",
        ),
        environment.embed_in_model_dtype,
    ),
    Replacement(
        Seam(
            "sglang.srt.models.bailing_moe_v3.BailingMoeV3ForCausalLM.__init__",
            "self, config, ...",
            Kind.AFTER,
            "Ling 3's output head is bfloat16 in a float32 model, too: its logits lose digits",
        ),
        environment.score_in_model_dtype,
    ),
    Replacement(
        Seam(
            "sglang.srt.models.deepseek_v2.DeepseekV2MoE.__init__",
            "self, config, ...",
            Kind.AFTER,
            "it scales what experts give itself where there is no CUDA, and our experts do so, "
            "as SGLang's do on a GPU",
        ),
        experts.leave_scale_to_model,
    ),
    Replacement(
        Seam(
            "torch.get_device_module",
            "device",
            Kind.AROUND,
            "torch's CUDA build answers with CUDA where no device is named",
        ),
        environment.device_module,
    ),
    Replacement(
        Seam("torch.mm", None, Kind.AROUND, "it takes `out_dtype` on CUDA only"),
        environment.multiply,
    ),
    Replacement(
        Seam("torch.cuda.Stream", None, Kind.REPLACE, "Kimi K3 makes some wherever it runs"),
        environment.NoStream,
    ),
    Replacement(
        Seam(
            "torch.Tensor.pin_memory",
            None,  # torch does not tell.
            Kind.REPLACE,
            "it asks for a driver; SGLang guards most of its calls, but not that of "
            "`ScheduleBatch.prepare_for_decode`",
        ),
        environment.stay_pageable,
    ),
)
