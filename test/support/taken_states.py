"""A server that leaves states wherever a test asks for them, and writes each to a file."""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import asked_places
import torch
from local_server import Process
from sglang_marconi.cache.mamba_component import MarconiMambaComponent
from sglang_marconi.cache.slot_states import active_tensors

from support.forked_server import ForkedServer

_FOLDER = "TAKEN_STATES"


class TakingServer(ForkedServer):
    """Keeps states at the places of ``ask_for``, and what it keeps is had from ``state``.

    Checkpoints share the slots of requests.
    """

    def __init__(self, *arguments: Any, folder: Path, log_path: Path) -> None:
        self._folder = folder
        folder.mkdir()
        self.ask_for([])
        env = {_FOLDER: str(folder), asked_places.FILE: str(self._asked)}
        super().__init__(*arguments, log_path=log_path, env=env)

    @property
    def _asked(self) -> Path:
        return self._folder / "places.json"

    def _start(self, command: list[str]) -> Process:
        return super()._start(asked_places.command_with("support.taken_states", command))

    def ask_for(self, places: Sequence[int]) -> None:
        """From now on each prompt is to leave states after so many tokens, as far as it goes."""
        self._asked.write_text(json.dumps(sorted(places)))

    def state(self, tokens: Sequence[int]) -> list[torch.Tensor]:
        """What was kept last of a prefix: ``[layers, ...]`` each; the file goes."""
        file = self._folder / _name(tokens)
        state: list[torch.Tensor] = torch.load(file)
        file.unlink()
        return state


def plant() -> None:
    """In the process that schedulers are forked from."""
    asked_places.plant()
    commit = MarconiMambaComponent.commit_insert_component_data

    def commit_and_write(
        self: Any, node: Any, is_new_leaf: bool, params: Any, result: Any, **given: Any
    ) -> None:
        commit(self, node, is_new_leaf, params, result, **given)
        if params.mamba_value is None or result.mamba_exist:
            return
        tensors = active_tensors(self.cache.req_to_token_pool.mamba_pool)
        state = [tensor[:, int(params.mamba_value)].clone() for tensor in tensors]
        torch.save(state, Path(os.environ[_FOLDER]) / _name(_prefix(self.tree_core, node)))

    MarconiMambaComponent.commit_insert_component_data = commit_and_write  # type: ignore[method-assign]


def _prefix(tree: Any, node: Any) -> list[int]:
    tokens: list[int] = []
    while node is not tree.root_node:
        tokens = [*node.key.raw_token_ids(), *tokens]
        node = node.parent
    return tokens


def _name(tokens: Sequence[int]) -> str:
    return f"{len(tokens)}-{zlib.crc32(json.dumps(list(tokens)).encode())}.pt"
