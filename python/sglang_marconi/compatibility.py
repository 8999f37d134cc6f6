"""What ``--radix-cache-backend marconi`` fits and what it cannot serve, said before a load."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import version
from typing import Any, NamedTuple

from packaging.specifiers import SpecifierSet

from sglang_marconi.seams import IncompatibleSGLang

BACKEND = "marconi"
SUPPORTED_SGLANG = SpecifierSet(">=0.5.23,<0.5.24")


class UnsupportedConfiguration(ValueError):
    """The server was asked for something that the backend cannot honour."""


class Refusal(NamedTuple):
    """What cannot be combined with the backend: an option, an environment variable, a model.

    ``applies`` sees SGLang's resolved arguments; ``option`` and ``reason`` make the message.
    ``remedy``: what to do instead of omitting the option.
    """

    option: str
    applies: Callable[[Any], bool]
    reason: str
    remedy: str = ""

    def __str__(self) -> str:
        return f"--radix-cache-backend marconi does not go with {self.option}: {self.reason}."


def _is_set(name: str) -> bool:
    """Whether one of SGLang's switches is on in the environment."""
    from sglang.srt.environ import envs

    return bool(getattr(envs, name).get())


def _model_config(args: Any) -> Any:
    """SGLang's config of the model; None if it has none, as what is wrong its loading says."""
    from sglang.srt.arg_groups.model_override_base import model_config_of

    try:
        return model_config_of(args)
    except Exception:
        return None


def _has_windows(args: Any) -> bool:
    """Whether SGLang keeps KV of sliding windows apart; of recurrent models Inkling has some."""
    return bool(getattr(_model_config(args), "is_hybrid_swa", False))


def _lacks_one_token_pages(args: Any) -> bool:
    """As Zaya's on Blackwell, where SGLang's choices do not fit each other."""
    return args.mamba_radix_cache_strategy == "no_buffer" and (args.page_size or 1) > 1


def cuts_prefills(config: Any) -> bool:
    """Whether prefills are cut at branch points, as no states can be had inside their passes.

    ``config``: the model's, as SGLang has it. It is so with Ling's ``linear_backend: minimax``,
    which has a kernel of its own for each prompt of a pass.
    """
    return getattr(config, "linear_backend", None) == "minimax"


def _cuts_prefills(args: Any) -> bool:
    return cuts_prefills(getattr(_model_config(args), "hf_config", None))


def _tracks_wrong_states(args: Any) -> bool:
    """Whether SGLang files the state of a chunk's end under an earlier token.

    With KV pages of one token it tracks none.
    """
    tracks = args.mamba_radix_cache_strategy != "no_buffer" and (args.page_size or 1) > 1
    return tracks and _cuts_prefills(args)


def check_version() -> None:
    """Check the version of the installed SGLang.

    Raises:
        IncompatibleSGLang: names both versions.
    """
    found = version("sglang")
    if not SUPPORTED_SGLANG.contains(found, prereleases=True):
        raise IncompatibleSGLang(
            f"--radix-cache-backend marconi: this sglang-marconi fits SGLang {SUPPORTED_SGLANG}, "
            f"but {found} is installed"
        )


def attention_ranks(args: Any) -> int:
    """Over how many ranks heads and channels are divided.

    ``args``: SGLang's arguments, before or after their resolution, which turns ``--dp-size N
    --enable-dp-attention`` into ``--attn-dp-size N``.
    """
    from sglang.srt.runtime_context import derive_attn_tp_size

    replicas = args.attn_dp_size
    if args.enable_dp_attention and replicas == 1:
        replicas = args.dp_size
    ranks: int = derive_attn_tp_size(
        tp_size=args.tp_size, attn_cp_size=args.attn_cp_size, attn_dp_size=replicas
    )
    return ranks


REFUSALS = (
    Refusal(
        "--disable-radix-cache",
        lambda args: bool(args.disable_radix_cache),
        "it switches off the cache that the backend is (SGLang itself sets it for a model that it "
        "does not cache, such as MiniCPM-SALA: there, omit --radix-cache-backend)",
    ),
    Refusal(
        "--radix-eviction-policy",
        lambda args: args.radix_eviction_policy != "lru",
        "the backend has an eviction policy of its own",
    ),
    Refusal(
        "--speculative-algorithm",
        lambda args: args.speculative_algorithm is not None,
        "the state after an accepted draft is not tracked yet",
    ),
    Refusal(
        "--disaggregation-mode",
        lambda args: args.disaggregation_mode != "null",
        "prefill and decode servers each see half of a request",
    ),
    Refusal(
        "--enable-hierarchical-cache",
        lambda args: bool(args.enable_hierarchical_cache),
        "a state that moved to the host is not followed yet",
    ),
    Refusal(
        "--enable-lmcache",
        lambda args: bool(args.enable_lmcache),
        "it is a cache backend itself",
    ),
    Refusal(
        "--enable-flexkv",
        lambda args: bool(args.enable_flexkv),
        "it is a cache backend itself",
    ),
    Refusal(
        "--enable-unified-cache-external-linker",
        lambda args: bool(args.enable_unified_cache_external_linker),
        "a state that comes from outside is not followed yet",
    ),
    Refusal(
        "--enable-unified-memory",
        lambda args: bool(args.enable_unified_memory),
        "KV gives way to states inside its one buffer, which the eviction policy does not see",
    ),
    Refusal(
        "--enable-hisparse",
        lambda args: bool(args.enable_hisparse),
        "KV that moved to the host is not followed yet",
    ),
    Refusal(
        "--enable-pdmux",
        lambda args: bool(args.enable_pdmux),
        "a state is copied on one stream, and requests compute on two",
    ),
    Refusal(
        "--enable-two-batch-overlap",
        lambda args: bool(args.enable_two_batch_overlap),
        "a batch that is split in two does not say which states it tracks",
    ),
    Refusal(
        "--dllm-algorithm",
        lambda args: args.dllm_algorithm is not None,
        "diffusion models revisit tokens whose state is already taken",
    ),
    Refusal(
        "--enable-deterministic-inference",
        lambda args: bool(args.enable_deterministic_inference) and _cuts_prefills(args),
        "with a model's linear_backend minimax prefills are cut at branch points, off its tiles",
    ),
    Refusal(
        "--pp-size",
        lambda args: args.pp_size > 1,
        "that all stages keep and evict alike is not made sure of yet",
    ),
    Refusal(
        "SGLANG_ENABLE_POST_CAPTURE_KV_SIZING",
        lambda _: _is_set("SGLANG_ENABLE_POST_CAPTURE_KV_SIZING"),
        "the pool of KV then says more bytes than it takes, by which the eviction policy goes",
        "unset it",
    ),
    Refusal(
        "a model with sliding windows",
        _has_windows,
        "KV that is out of a window goes when SGLang decides, which the eviction policy does not "
        "see",
        "omit --radix-cache-backend: SGLang's own cache serves it",
    ),
    Refusal(
        "--page-size",
        _lacks_one_token_pages,
        "with --mamba-radix-cache-strategy no_buffer SGLang's cache has pages of one token only",
        "choose an --attention-backend that takes such pages, such as triton",
    ),
    Refusal(
        "a model with linear_backend minimax and --page-size above 1",
        _tracks_wrong_states,
        "SGLang's backend of that name files states under tokens that they do not belong to",
        "pass --page-size 1",
    ),
)


def check_arguments(args: Any) -> None:
    """Refuse what the backend cannot serve.

    ``args``: SGLang's arguments after their resolution (``resolving_view``).

    Raises:
        UnsupportedConfiguration: the message names the option and the reason.
    """
    for refusal in REFUSALS:
        if refusal.applies(args):
            raise UnsupportedConfiguration(str(refusal))
    if not args.uses_mamba_radix_cache:
        raise UnsupportedConfiguration(
            f"--radix-cache-backend marconi needs a model with recurrent layers (Mamba, gated "
            f"delta net, KDA, short convolution, ...); {args.model_path} has none that SGLang "
            "caches. Omit the option: SGLang's own cache serves attention-only models."
        )
