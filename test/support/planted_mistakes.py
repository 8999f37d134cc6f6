"""Makes a server answer wrong, for the test of what is to find that: a plugin of SGLang.

Which mistake, the file says that the environment variable names; it may change while serving.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

FILE = "PLANTED_MISTAKE"
MISTAKES = ("wrong prefix", "token ahead", "nothing copied", "cut not copied", "shared slot")

_METADATA = "Metadata-Version: 2.1\nName: planted\nVersion: 0\n"
_ENTRY_POINTS = "[sglang.srt.plugins]\nplanted = planted_mistakes:register\n"


def install(folder: Path, mistake: Path) -> dict[str, str]:
    """Make the plugin one that SGLang finds; the environment that its server needs.

    ``mistake`` is the file that names the mistake; empty for none.
    """
    info = folder / "planted-0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(_METADATA)
    (info / "entry_points.txt").write_text(_ENTRY_POINTS)
    mistake.write_text("")
    paths = [str(folder), str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
    return {FILE: str(mistake), "PYTHONPATH": os.pathsep.join(filter(None, paths))}


def register() -> None:
    from sglang.srt.plugins.hook_registry import HookRegistry, HookType

    target = "sglang.srt.mem_cache.registry.create_unified_radix_cache"
    HookRegistry.register(target, _plant, HookType.AROUND)


def _plant(original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    from sglang_marconi.cache.mamba_component import MarconiMambaComponent

    plants = {
        "prepare_for_caching_req": _prepare,
        "finalize_match_result_in_cache": _match,
        "cleanup_after_caching_req": _cleanup,
    }
    for name, plant in plants.items():
        setattr(MarconiMambaComponent, name, _around(getattr(MarconiMambaComponent, name), plant))
    return original(*args, **kwargs)


def _around(original: Callable[..., Any], plant: Callable[..., Any]) -> Callable[..., Any]:
    def planted(*args: Any, **kwargs: Any) -> Any:
        return plant(Path(os.environ[FILE]).read_text(), original, *args, **kwargs)

    return planted


_filed_before: list[torch.Tensor] = []


def _prepare(
    mistake: str,
    original: Callable[..., Any],
    self: Any,
    req: Any,
    insert_params: Any,
    token_ids_len: int,
    is_finished: bool,
) -> int | None:
    length: int | None = original(self, req, insert_params, token_ids_len, is_finished)
    if insert_params.mamba_value is None:
        return length
    tensors = _tensors(self)
    slot = int(insert_params.mamba_value[0])
    if mistake == "wrong prefix":
        states = [tensor[:, slot].clone() for tensor in tensors]
        for tensor, state in zip(tensors, _filed_before or states, strict=True):
            tensor[:, slot] = state
        _filed_before[:] = states
    elif mistake == "token ahead" and is_finished and length is not None:
        return length - 1
    elif mistake == "shared slot" and is_finished and (shared := getattr(req, "planted", None)):
        # The request went on in the slot that the tree had taken at its branch.
        for tensor in tensors:
            tensor[:, shared] = tensor[:, slot]
    return length


def _match(mistake: str, original: Callable[..., Any], self: Any, params: Any, result: Any) -> Any:
    result = original(self, params, result)
    if mistake == "nothing copied" and params.req is not None and params.cow_mamba:
        params.req.kv.mamba_cow_src_index = None
    return result


def _cleanup(
    mistake: str,
    original: Callable[..., Any],
    self: Any,
    req: Any,
    is_finished: bool,
    insert_result: Any = None,
    insert_params: Any = None,
) -> None:
    original(self, req, is_finished, insert_result, insert_params)
    source = req.kv.mamba_cow_src_index
    if is_finished or source is None:
        return
    if mistake == "cut not copied":
        req.kv.mamba_cow_src_index = None
    elif mistake == "shared slot":
        req.planted = int(source[0])


def _tensors(component: Any) -> list[torch.Tensor]:
    states = component.cache.req_to_token_pool.mamba_pool.mamba_cache
    return [tensor for tensor in (*states.conv, states.temporal) if tensor.numel()]
