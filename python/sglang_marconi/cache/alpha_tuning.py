"""The paper's alpha, tuned while serving; every rank takes a new one over at the same request."""

from __future__ import annotations

import logging
from array import array
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist

from sglang_marconi.events import AlphaChanged, AlphaTuned, Observer
from sglang_marconi.tuning import TuningClient

if TYPE_CHECKING:
    from sglang_marconi.policy.utility import PaperUtility
    from sglang_marconi.tuning.messages import Setup, Tuned

logger = logging.getLogger(__name__)

AGREE_EVERY = 32
"""Finished requests between two times that several ranks agree on alpha."""


class AlphaTuning:
    """Reports finished requests to the tuner and gives what it finds to the policy.

    Each rank evicts from a tree of its own, so alpha may change only where all ranks have
    finished the same requests. The first rank of ``group`` has the tuner; the others learn of
    its alpha by a broadcast at fixed counts of finished requests. ``None``: there is one rank.

    ``adopts``: whether what is found is given to the policy; not while somebody has set alpha.
    """

    def __init__(
        self,
        utility: PaperUtility,
        setup: Setup,
        group: dist.ProcessGroup | None,
        observer: Observer | None = None,
    ) -> None:
        self._utility = utility
        self._group = group if group is not None and dist.get_world_size(group) > 1 else None
        self._observer = observer
        self._tuned: Tuned | None = None
        self.adopts = True
        self._finished = 0
        self._found = setup.alpha
        leads = self._group is None or dist.get_rank(self._group) == 0
        self.client = TuningClient(setup) if leads else None

    def finished(self, prompt_length: int, tokens: array[int]) -> None:
        """A request has ended: ``tokens`` are its prompt and its reply."""
        self._finished += 1
        if self.client is not None:
            self.client.record(prompt_length, tokens)
            alpha = self.client.poll()
            if alpha is not None:
                self._found = alpha
            if self._observer is not None:
                self._report_tuning(self._observer, self.client.last_tuned)
        if self._group is not None:
            if self._finished % AGREE_EVERY:
                return
            self._agree(self._group)
        if self.adopts and self._found != self._utility.alpha:
            logger.info("Marconi: alpha %s, was %s", self._found, self._utility.alpha)
            self._utility.alpha = self._found
            if self._observer is not None:
                self._observer.emit(AlphaChanged(self._found))

    def _report_tuning(self, observer: Observer, tuned: Tuned | None) -> None:
        if tuned is not None and tuned is not self._tuned:
            observer.emit(AlphaTuned(tuned.hit_rates, tuned.seconds))
        self._tuned = tuned

    def _agree(self, group: dist.ProcessGroup) -> None:
        found = torch.tensor([self._found], dtype=torch.float64)
        dist.broadcast(found, src=dist.get_global_rank(group, 0), group=group)
        self._found = found.item()
