"""Makes a server answer wrong, for the test of what is to find that.

Which mistake, the file says that the environment variable names; it may change while serving.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from asked_places import command_with
from local_server import Process
from sglang_marconi.cache.mamba_component import MarconiMambaComponent
from sglang_marconi.forward.plan import PassPlan

from support.forked_server import ForkedServer

FILE = "PLANTED_MISTAKE"
MISTAKES = ("wrong prefix", "token ahead", "nothing copied", "token early", "layer left out")


class SpoiltServer(ForkedServer):
    """Answers wrong once the file ``mistake`` names how; empty for not."""

    def __init__(self, *arguments: Any, mistake: Path, log_path: Path) -> None:
        super().__init__(*arguments, log_path=log_path, env={FILE: str(mistake)})

    def _start(self, command: list[str]) -> Process:
        return super()._start(command_with("support.planted_mistakes", command))


def plant() -> None:
    """In the process that schedulers are forked from."""
    for owner, name, planted in (
        (MarconiMambaComponent, "prepare_for_caching_req", _prepare),
        (MarconiMambaComponent, "finalize_match_result_in_cache", _match),
        (PassPlan, "__init__", _plan),
        (PassPlan, "put", _put),
    ):
        setattr(owner, name, _around(getattr(owner, name), planted))


def _around(original: Callable[..., Any], plant: Callable[..., Any]) -> Callable[..., Any]:
    def planted(*args: Any, **kwargs: Any) -> Any:
        return plant(Path(os.environ[FILE]).read_text(), original, *args, **kwargs)

    return planted


_filed_before: list[torch.Tensor] = []
_first_layer: list[int | None] = []


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
    return length


def _match(mistake: str, original: Callable[..., Any], self: Any, params: Any, result: Any) -> Any:
    result = original(self, params, result)
    if mistake == "nothing copied" and params.req is not None and params.cow_mamba:
        params.req.kv.mamba_cow_src_index = None
    return result


def _plan(
    mistake: str, original: Callable[..., Any], self: Any, rows: Any, places: Any, slots: Any
) -> None:
    if mistake == "token early":
        # Filed under the token that was asked for.
        places = [place._replace(tokens=max(1, place.tokens - 1)) for place in places]
    original(self, rows, places, slots)


def _put(
    mistake: str,
    original: Callable[..., Any],
    self: Any,
    part: str,
    layer_id: int | None,
    values: torch.Tensor,
    into: torch.Tensor,
) -> None:
    if not _first_layer:
        _first_layer.append(layer_id)
    if mistake == "layer left out" and layer_id == _first_layer[0]:
        values = into[self.slots].clone()
    original(self, part, layer_id, values, into)


def _tensors(component: Any) -> list[torch.Tensor]:
    states = component.cache.req_to_token_pool.mamba_pool.mamba_cache
    return [tensor for tensor in (*states.conv, states.temporal) if tensor.numel()]
