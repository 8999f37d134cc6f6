"""The eviction policy that a server's settings ask for, and what tunes it."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from sglang_marconi.cache.alpha_tuning import AlphaTuning
from sglang_marconi.cache.pricing import checkpoint_bytes
from sglang_marconi.events import AlphaChanged
from sglang_marconi.policy.eviction import EvictionPolicy
from sglang_marconi.policy.prediction import PredictedReuse
from sglang_marconi.policy.utility import PaperUtility
from sglang_marconi.tuning.messages import Setup

if TYPE_CHECKING:
    from sglang.srt.mem_cache.cache_init_params import CacheInitParams

    from sglang_marconi.cache.checkpoint_pool import CheckpointPool
    from sglang_marconi.cost import ModelCost
    from sglang_marconi.events import Observer
    from sglang_marconi.settings.schema import Settings

logger = logging.getLogger(__name__)

_UNTUNED = 0.0
"""As in the paper: LRU until tuned."""


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
        self._utility = PaperUtility(_UNTUNED if settings.alpha is None else settings.alpha)
        self._prediction = PredictedReuse()
        self._observer = observer
        chosen = self._prediction if settings.policy == "auto" else self._utility
        self.eviction = EvictionPolicy(cost, chosen, forms)
        self.tuning: AlphaTuning | None = None
        if settings.policy == "marconi" and settings.alpha is None:
            setup = Setup(
                cost=cost,
                state_bytes=checkpoint_bytes(params, cost),
                kv_bytes=params.token_to_kv_pool_allocator.size * cost.kv_bytes_per_token,
                alpha=self._utility.alpha,
                forms=forms,
            )
            self.tuning = AlphaTuning(self._utility, setup, params.tp_cache_group, observer)

    def use_prediction(self) -> None:
        """Predict reuse from now on, learning anew."""
        if self.eviction.valuation is not self._prediction:
            self.eviction.revalue(self._prediction)
            logger.info("Marconi: policy auto")
            self._report(None)

    def use_utility(self, alpha: float | None) -> None:
        """The paper's policy from now on, with ``alpha``, or without one as it was, or tuned."""
        if self.tuning is not None:
            self.tuning.adopts = alpha is None
        if alpha is not None:
            self._utility.alpha = alpha
        if self.eviction.valuation is not self._utility:
            self.eviction.revalue(self._utility)
        logger.info("Marconi: policy marconi, alpha %s", self._utility.alpha)
        self._report(self._utility.alpha)

    def _report(self, alpha: float | None) -> None:
        if self._observer is not None:
            self._observer.emit(AlphaChanged(alpha))
