"""The eviction policy that a server's settings ask for, and what tunes it."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from sglang_marconi.cache.alpha_tuning import AlphaTuning
from sglang_marconi.cache.pricing import checkpoint_bytes
from sglang_marconi.events import AlphaChanged
from sglang_marconi.policy.eviction import EvictionPolicy
from sglang_marconi.policy.registry import SERVED, TUNED, make_valuation
from sglang_marconi.simulate.tuner import UNTUNED
from sglang_marconi.tuning.messages import Setup

if TYPE_CHECKING:
    from sglang.srt.mem_cache.cache_init_params import CacheInitParams

    from sglang_marconi.cache.checkpoint_pool import CheckpointPool
    from sglang_marconi.cost import ModelCost
    from sglang_marconi.events import Observer
    from sglang_marconi.settings.schema import Settings

logger = logging.getLogger(__name__)


class LivePolicy:
    """The eviction policy of a server, which may be changed while it runs.

    On several ranks a change has to come between the same two requests on all of them, as each
    decides for itself.

    Attributes:
        eviction: what the cache reports to and asks.
        tuning: what changes alpha while serving, if the settings ask for that.
    """

    def __init__(
        self,
        settings: Settings,
        cost: ModelCost,
        params: CacheInitParams,
        observer: Observer | None = None,
    ) -> None:
        """``cost`` has the bytes of the pools in ``params``; ``observer`` hears of alpha.

        A policy to be tuned starts a tuner process on the first rank.
        """
        pool: CheckpointPool | None = params.req_to_token_pool.mamba_ckpt_pool
        forms = () if pool is None else pool.store.forms
        # One that is chosen again goes on with its alpha.
        self._valuations = {name: make_valuation(name) for name in SERVED}
        self._observer = observer
        if settings.alpha is not None:
            self._valuations[TUNED].alpha = settings.alpha
        self.eviction = EvictionPolicy(cost, self._valuations[settings.policy], forms)
        self.tuning: AlphaTuning | None = None
        if settings.policy == TUNED and settings.alpha is None:
            setup = Setup(
                cost=cost,
                state_bytes=checkpoint_bytes(params, cost),
                kv_bytes=params.token_to_kv_pool_allocator.size * cost.kv_bytes_per_token,
                alpha=UNTUNED,
                forms=forms,
            )
            tuned = self._valuations[TUNED]
            self.tuning = AlphaTuning(tuned, setup, params.tp_cache_group, observer)

    def use(self, policy: str, alpha: float | None = None) -> None:
        """Evict by ``policy`` from now on; one that learns begins anew, as it was not told since.

        ``alpha``, of a policy that has one; without it it goes on as it was, or is tuned.
        """
        valuation = self._valuations[policy]
        if policy == TUNED and self.tuning is not None:
            self.tuning.adopts = alpha is None
        if alpha is not None:
            valuation.alpha = alpha
        if self.eviction.valuation is not valuation:
            self.eviction.revalue(valuation)
        logger.info("Marconi: policy %s, alpha %s", policy, valuation.alpha)
        if self._observer is not None:
            self._observer.emit(AlphaChanged(valuation.alpha))
