"""Makes a server answer wrong, for the test of what is to find that.

Which mistake, the file says that the environment variable names; it may change while serving.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from local_server import Process
from sglang_marconi.cache.mamba_component import MarconiMambaComponent

from support.forked_server import ForkedServer

FILE = "PLANTED_MISTAKE"
MISTAKES = ("wrong prefix", "token ahead", "nothing copied", "cut not copied", "shared slot")

# In place of SGLang's module: plants them, and goes on as that does.
_LAUNCH = """
import runpy, sys
from support.planted_mistakes import plant
plant()
sys.argv[0] = "sglang.launch_server"
runpy.run_module("sglang.launch_server", run_name="__main__", alter_sys=True)
"""


class SpoiltServer(ForkedServer):
    """Answers wrong once the file ``mistake`` names how; empty for not."""

    def __init__(self, *arguments: Any, mistake: Path, log_path: Path) -> None:
        super().__init__(*arguments, log_path=log_path, env={FILE: str(mistake)})

    def _start(self, command: list[str]) -> Process:
        launched = command.index("sglang.launch_server")
        return super()._start([command[0], "-c", _LAUNCH, *command[launched + 1 :]])


def plant() -> None:
    """In the process that schedulers are forked from."""
    plants = {
        "prepare_for_caching_req": _prepare,
        "finalize_match_result_in_cache": _match,
        "cleanup_after_caching_req": _cleanup,
    }
    for name, planted in plants.items():
        original = getattr(MarconiMambaComponent, name)
        setattr(MarconiMambaComponent, name, _around(original, planted))


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
