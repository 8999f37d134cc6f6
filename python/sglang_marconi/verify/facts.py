"""What a server says of itself, as far as workloads depend on it. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

_LONGEST_CHUNK = 32_768


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """Of a server's ``/server_info``; lengths in tokens.

    ``chunk``: the longest prefill of one pass, ``None`` where prefills are not chunked or the
    server does not say. ``longest``: of a prompt and its reply. ``state_slots``: of recurrent
    states, ``None`` for a model without. ``replicas``: of data parallelism, each of which has a
    cache of its own.
    """

    version: str = "unknown"
    model: str = "unknown"
    backend: str = "SGLang's own"
    strategy: str | None = None
    dtype: str = "auto"
    page: int = 1
    chunk: int | None = None
    mixes: bool = False
    longest: int = 2048
    kv_tokens: int | None = None
    state_slots: int | None = None
    running: int = 8
    replicas: int = 1


def facts_of(info: Mapping[str, Any]) -> Facts:
    """Of the decoded answer, in which a field may be missing."""
    states = info.get("internal_states") or [{}]
    # The first rank's arguments are as they ended up; sizes are known there only.
    values = {**info, **{key: value for key, value in states[0].items() if value is not None}}
    chunk = values.get("chunked_prefill_size") or 0
    recurrent = bool(values.get("uses_mamba_radix_cache"))
    running = values.get("effective_max_running_requests_per_dp")
    return Facts(
        version=str(values.get("version") or "unknown"),
        model=str(values.get("served_model_name") or values.get("model_path") or "unknown"),
        backend=_backend(values),
        strategy=values.get("mamba_radix_cache_strategy") if recurrent else None,
        dtype=str(values.get("dtype") or "auto"),
        page=int(values.get("page_size") or 1),
        chunk=int(chunk) if 0 < chunk <= _LONGEST_CHUNK else None,
        mixes=bool(values.get("enable_mixed_chunk")),
        longest=int(values.get("max_req_input_len") or 2048),
        kv_tokens=values.get("max_total_num_tokens"),
        state_slots=values.get("max_mamba_cache_size") if recurrent else None,
        running=int(running or values.get("max_running_requests") or 8),
        replicas=int(values.get("dp_size") or 1),
    )


def _backend(values: Mapping[str, Any]) -> str:
    if values.get("disable_radix_cache"):
        return "none"
    return str(values.get("radix_cache_backend") or "SGLang's own")
