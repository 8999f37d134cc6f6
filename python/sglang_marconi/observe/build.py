"""Who observes a server's cache, by its settings."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sglang_marconi.cache.pricing import checkpoint_bytes
from sglang_marconi.events import AlphaChanged, Observer
from sglang_marconi.observe.held import Held, Memory
from sglang_marconi.observe.inspection.snapshot import Inspector
from sglang_marconi.observe.metrics import Metrics
from sglang_marconi.observe.routers import CheckpointEvents
from sglang_marconi.policy.utility import PaperUtility

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sglang.srt.mem_cache.cache_init_params import CacheInitParams

    from sglang_marconi.cache.radix_cache import MarconiRadixCache
    from sglang_marconi.cost import ModelCost
    from sglang_marconi.settings.schema import Settings


class Listeners:
    """What observes the cache of this scheduler; with none of them, ``observer`` is ``None``.

    Of the ranks that hold the same, the first one shows and publishes.
    """

    def __init__(self, settings: Settings, params: CacheInitParams) -> None:
        from sglang.srt.runtime_context import get_observability, get_parallel

        parallel, observability = get_parallel(), get_observability()
        leads = parallel.attn_tp_rank == 0 and parallel.attn_cp_rank == 0
        self._metrics = observability.enable_metrics and (
            leads or observability.enable_metrics_for_all_schedulers
        )
        self._inspect = settings.inspect and leads
        self._routers = params.enable_kv_cache_events
        self.observer = Observer() if self._metrics or self._inspect or self._routers else None

    def attach(self, cache: MarconiRadixCache, cost: ModelCost, params: CacheInitParams) -> None:
        """Begin to listen to a cache that was built with ``observer`` and is empty still."""
        if self.observer is None:
            return
        tree = cache.tree_core
        held = Held(self.observer, tree.policy.forms)
        memory = memory_of(params, cost)
        if self._metrics:
            Metrics(self.observer, scheduler_labels(), cost, held, memory)
        if self._routers:
            CheckpointEvents(self.observer, tree, tree.policy.forms)
        if self._inspect:
            cache.snapshot = Inspector(self.observer, tree, held, memory).snapshot
        if isinstance(tree.policy.valuation, PaperUtility):
            self.observer.emit(AlphaChanged(tree.policy.valuation.alpha))


def memory_of(params: CacheInitParams, cost: ModelCost) -> Memory:
    """What checkpoints may fill; without a store of theirs, slots that requests compute in."""
    capacity = {"device": checkpoint_bytes(params, cost)}
    pool = params.req_to_token_pool.mamba_ckpt_pool
    if pool is None:
        return Memory(capacity, cost.state_bytes)
    page = pool.store.layout.page_bytes
    if pool.store.forms[-1].host_bytes:
        capacity["host"] = pool.store.host_pages * page
    return Memory(capacity, page)


def scheduler_labels() -> Mapping[str, Any]:
    """The labels of SGLang's scheduler metrics (``SchedulerMetricsCollector.init_new``)."""
    from sglang.srt.disaggregation.utils import DisaggregationMode
    from sglang.srt.runtime_context import (
        get_disagg,
        get_observability,
        get_parallel,
        get_schedule,
        get_serving,
    )

    parallel = get_parallel()
    labels: dict[str, Any] = {
        "model_name": get_serving().served_model_name,
        "engine_type": DisaggregationMode.to_engine_type(get_disagg().disaggregation_mode),
        "tp_rank": parallel.tp_rank,
        "pp_rank": parallel.pp_rank,
        "moe_ep_rank": parallel.moe_ep_rank,
    }
    if get_schedule().enable_priority_scheduling:
        labels["priority"] = ""
    if parallel.dp_rank is not None:
        labels["dp_rank"] = parallel.dp_rank
    return labels | dict(get_observability().extra_metric_labels or {})
