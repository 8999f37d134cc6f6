"""The store of checkpoints as SGLang's request pool knows one (its ``mamba_ckpt_pool``).

Where the request pool has one, SGLang restores states through ``load_to_active``, frees them
through ``free``, leaves the slots of the state pool to running requests alone, and checks that
store pages free and cached add up. A checkpoint is a number in a CPU tensor, so that freeing or
loading it never waits for the device.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from sglang_marconi.cache.slot_states import active_tensors, check_layout

if TYPE_CHECKING:
    from sglang_marconi.pool import CheckpointStore


# Slot 0 of SGLang's state pool is written by the padding of batches alone.
_SPARE_SLOT = 0


class CheckpointPool:
    """SGLang's interface to a ``CheckpointStore``; ``alloc``, ``free`` and loads take numbers.

    What SGLang counts in slots is counted in store pages here: a node of the tree holds as many as
    its checkpoint fills.
    """

    def __init__(self, store: CheckpointStore) -> None:
        self.store = store

    def attach(self, states: Any, stream: torch.cuda.Stream | None) -> None:
        """Get ready to serve the requests whose states are in the slots of a ``MambaPool``.

        ``stream``: the one that they compute on, ``None`` where that is the current one in every
        call that follows.

        Raises:
            UnsupportedConfiguration: a slot holds more than a checkpoint would.
        """
        check_layout(self.store.layout, states)
        self.store.serve_on(stream)
        self.store.warm_up(active_tensors(states), _SPARE_SLOT)

    def release(self, *_: Any) -> None:
        """SGLang is about to take the store's memory away, and to flush what it holds."""
        self.store.finish()

    @property
    def num_slots(self) -> int:
        """Pages in all."""
        return self.store.pages

    def available_size(self) -> int:
        """Free pages."""
        return self.store.available_pages

    def alloc(self, count: int = 1) -> torch.Tensor | None:
        """A new checkpoint, int64 ``[1]``; ``None`` where pages lack."""
        assert count == 1, "SGLang allocates one checkpoint at a time"
        number = self.store.allocate()
        return None if number is None else torch.tensor([number], dtype=torch.int64)

    def free(self, checkpoints: torch.Tensor) -> None:
        for number in checkpoints.tolist():
            self.store.free(number)

    def clear(self) -> None:
        self.store.clear()

    def store_from_active(
        self, states: Any, active_slots: torch.Tensor, checkpoints: torch.Tensor
    ) -> None:
        """Copy the state in a slot of SGLang's ``MambaPool`` into a new checkpoint."""
        self.store.store(int(checkpoints), active_tensors(states), active_slots)

    def load_to_active(
        self, states: Any, checkpoints: torch.Tensor, active_slots: torch.Tensor
    ) -> None:
        """Copy checkpoints into slots of SGLang's ``MambaPool``.

        SGLang calls it on the stream that requests compute on, where it copies slots itself.
        """
        self.store.load(checkpoints.tolist(), active_tensors(states), active_slots)
        if states.replayssm_write_pos is not None:
            # Tokens that the slot's state lags behind; a loaded state lags behind none.
            states.replayssm_write_pos.index_fill_(0, active_slots, 0)
