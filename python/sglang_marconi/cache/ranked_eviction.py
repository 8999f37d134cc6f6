"""One step of an eviction in SGLang's tree, in the order of the eviction policy."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, NamedTuple

from sglang_marconi.events import Decision, Evicted, What, timed

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch
    from sglang.srt.mem_cache.unified_cache.cache_action import CacheAction, ComponentAction
    from sglang.srt.mem_cache.unified_cache.components import ComponentType

    from sglang_marconi.cache.tree_core import MarconiTreeCore
    from sglang_marconi.policy.ledger import PrefixNode
    from sglang_marconi.policy.ranking import Standing


class EvictionStep(NamedTuple):
    """What SGLang hands a component for one step, to note in it what the step did.

    ``tracker`` counts what was freed, by component; the lists say what SGLang has to free, and to
    do, once the step is over.
    """

    tracker: dict[ComponentType, int]
    device_frees: dict[ComponentType, list[torch.Tensor]]
    host_frees: dict[ComponentType, list[torch.Tensor]]
    cache_actions: list[CacheAction | ComponentAction]


class RankedEviction(ABC):
    """For a component of SGLang's tree: what goes is what the policy names.

    To stand before SGLang's component among the bases.
    """

    tree_core: MarconiTreeCore
    component_type: ComponentType

    def _evict_device_start(self, request_cnt: int) -> None:
        self._evict_device_request_cnt = request_cnt

    def _evict_device_next_node(
        self,
        tracker: dict[ComponentType, int],
        device_frees: dict[ComponentType, list[torch.Tensor]],
        host_frees: dict[ComponentType, list[torch.Tensor]],
        cache_actions: list[CacheAction | ComponentAction],
    ) -> int | None:
        """Take one step to more room, after which SGLang looks again."""
        if tracker[self.component_type] >= self._evict_device_request_cnt:
            return None
        victim = timed(self.tree_core.observer, Decision.EVICTION, self._least_useful)
        if victim is None:
            return None
        step = EvictionStep(tracker, device_frees, host_frees, cache_actions)
        return self._give_way(victim, step)

    def _evict_device_end(self) -> None:  # noqa: B027
        """Nothing to clear: the policy holds the order."""

    @abstractmethod
    def _least_useful(self) -> PrefixNode | None:
        """What goes first; ``None`` without any that may."""

    @abstractmethod
    def _give_way(self, victim: PrefixNode, step: EvictionStep) -> int | None:
        """Make room at the cost of ``victim``; the id of a leaf that SGLang is to evict, if any."""

    def _report_eviction(
        self, victim: PrefixNode, what: What, standing: Callable[[PrefixNode], Standing | None]
    ) -> None:
        if self.tree_core.observer is not None:
            self.tree_core.observer.emit(Evicted(victim, what, standing(victim)))
