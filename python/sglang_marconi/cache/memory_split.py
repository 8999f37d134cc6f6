"""What of the memory for recurrent states goes to running requests, and what to checkpoints.

SGLang gives states one pool of slots, so many for each request that may run at a time. With a
store for checkpoints the pool keeps the slots that those requests compute in, and the bytes of
the others go to the store: in total it is the same. Three hooks make it so, in this order:

- ``split`` around ``KVCacheConfigurator._handle_max_mamba_cache``, which sizes the pool;
- ``slots_of_a_request`` around ``KVCacheConfigurator._calculate_mamba_ratio``, by which SGLang
  limits how many requests run; without a store it is here, too;
- ``build_pool`` after ``HybridReqToTokenPool._init_mamba_pool``, which builds the slots.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from math import ceil, prod
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from marconi_kernels import Encoding, StateLayout
from sglang.srt.constants import GPU_MEMORY_TYPE_KV_CACHE
from sglang.srt.mem_cache.allocation_sizing import get_mamba_tracking_slots
from sglang.srt.runtime_context import get_context, get_exec, get_schedule
from sglang.srt.utils.torch_memory_saver_adapter import TorchMemorySaverAdapter

from sglang_marconi.cache.checkpoint_pool import CheckpointPool
from sglang_marconi.cache.slot_states import state_layout
from sglang_marconi.compatibility import UnsupportedConfiguration
from sglang_marconi.pool import CheckpointStore, StoreSizeError, store_size
from sglang_marconi.units import parse_bytes

if TYPE_CHECKING:
    from sglang.srt.mem_cache.kv_cache_configurator import KVCacheConfigurator

    from sglang_marconi.settings.schema import Settings

logger = logging.getLogger(__name__)

_GIB = 1 << 30

_IN_PASSING = 4
"""Slots that a pass has for states inside its prompts when all requests run that may. When fewer
run it has theirs, too. One is also for a request that is looked up and then has to wait."""


class MemorySplit(NamedTuple):
    """``active_slots`` slots stay with running requests, ``store_bytes`` go to checkpoints."""

    active_slots: int
    store_bytes: int


class SlotUse(NamedTuple):
    """``total`` slots of ``slot_bytes``; at most ``requests`` requests take ``each`` at a time."""

    total: int
    slot_bytes: int
    requests: int
    each: int

    @property
    def needed(self) -> int:
        """Slots for all of them, and some that the passes write states inside prompts to."""
        return self.requests * self.each + self.in_passing

    @property
    def in_passing(self) -> int:
        """Those that passes write to; in a small pool fewer, so that one is left for a store."""
        return max(1, min(_IN_PASSING, self.total - self.requests * self.each - 1))


def divide(use: SlotUse, checkpoint_memory: float | str | None) -> MemorySplit:
    """Divide the slots; bytes are rounded up to whole ones.

    Raises:
        UnsupportedConfiguration: not one request could run; the message has the numbers.
    """
    if checkpoint_memory is None:
        given = use.total - use.needed
    elif isinstance(checkpoint_memory, str):
        given = ceil(parse_bytes(checkpoint_memory) / use.slot_bytes)
    else:
        given = ceil(checkpoint_memory * use.total)
    active = use.total - given
    if given <= 0 or active < use.each + 1:
        raise UnsupportedConfiguration(
            f"--radix-cache-backend marconi: a store of {max(given, 0) * use.slot_bytes:,} bytes "
            f"for checkpoints (checkpoint_memory = {checkpoint_memory!r}) does not fit into the "
            f"{use.total * use.slot_bytes:,} bytes for recurrent states ({use.total} slots of "
            f"{use.slot_bytes:,}): a request takes {use.each} slots, {use.in_passing} more are "
            f"kept free, and {use.requests} requests may run at a time. Change checkpoint_memory, "
            "--max-running-requests, --mamba-full-memory-ratio or --max-mamba-cache-size."
        )
    return MemorySplit(active, given * use.slot_bytes)


class StoreBuilder:
    """The three hooks, and what they tell each other; one for each process."""

    def __init__(self, settings: Settings, spared: int) -> None:
        """``spared``: `spared_slots`."""
        self._settings = settings
        self._shared = SlotsOfRequests(spared)
        self._split: MemorySplit | None = None
        # Of the store, those that SGLang counted when it sized the pool.
        self._budgeted_bytes = 0

    def split(
        self,
        original: Callable[[KVCacheConfigurator, float], float],
        configurator: KVCacheConfigurator,
        memory_gib: float,
    ) -> float:
        """Reduce the pool that SGLang has just sized; returns the GiB that are left for KV."""
        left: float = original(configurator, memory_gib)
        total: int = get_schedule().max_mamba_cache_size
        if self._split is None:
            use = _slot_use(configurator, total)
            self._split = divide(use, self._settings.checkpoint_memory)
            logger.info(
                "Marconi: %d of %d state slots stay with running requests, %s bytes go to "
                "checkpoints",
                self._split.active_slots,
                total,
                f"{self._split.store_bytes:,}",
            )
            get_context().override(
                "marconi.memory_split",
                max_mamba_cache_size=self._split.active_slots,
                max_running_requests=use.requests * configurator.attn_dp_size,
            )
            per_slot = configurator.mambaish_config.mamba2_cache_params.mamba_cache_per_req
            self._budgeted_bytes = (total - self._split.active_slots) * int(per_slot)
        else:
            # SGLang sizes its pools again, and takes our number for the user's.
            left -= self._budgeted_bytes / _GIB
        return left

    def slots_of_a_request(
        self, original: Callable[[KVCacheConfigurator], int], configurator: KVCacheConfigurator
    ) -> int:
        """Once the pool is split, its slots are there for nothing but running requests."""
        if self._split is None:
            return self._shared.count(original, configurator)
        return _slots_each()

    def build_pool(self, _result: None, pool: Any, **_: Any) -> None:
        """Give a request pool, whose slots have just been built, our store.

        SGLang's own would be asked for too early: before anything is attached to the slots.
        """
        assert self._split is not None, "the pool is built after it was sized"
        settings = self._settings
        layout = state_layout(pool.mamba_pool, settings.page_bytes)
        lossy = _lossy(settings.encoding, layout)
        try:
            size = store_size(
                layout, self._split.store_bytes, lossy=lossy, host_bytes=settings.host_bytes
            )
        except StoreSizeError as error:
            raise UnsupportedConfiguration(f"--radix-cache-backend marconi: {error}") from error
        # As SGLang has its own states, to be released and taken back with them.
        saver = TorchMemorySaverAdapter.create(enable=get_exec().features.enable_memory_saver)
        with saver.region(GPU_MEMORY_TYPE_KV_CACHE):
            store = CheckpointStore(
                layout, size, lossy=lossy, device=torch.device(pool.mamba_pool.device)
            )
        logger.info(
            "Marconi: a store of %d pages of %d bytes; a checkpoint takes %s",
            store.pages,
            layout.page_bytes,
            ", ".join(
                f"{form.device_bytes // layout.page_bytes} ({form.name})"
                for form in store.forms
                if form.device_bytes
            ),
        )
        pool.mamba_ckpt_pool = CheckpointPool(store)


class SlotsOfRequests:
    """The hook ``slots_of_a_request`` where checkpoints share the slots of requests.

    Those that a request does not need for tracking are for checkpoints, not for more requests;
    unless more were asked for. ``spared``: `spared_slots`.
    """

    def __init__(self, spared: int) -> None:
        self._spared = spared

    def count(
        self, original: Callable[[KVCacheConfigurator], int], configurator: KVCacheConfigurator
    ) -> int:
        """How many slots SGLang counts for each request that may run at a time."""
        asked = get_schedule().max_running_requests
        return original(configurator) + (self._spared if asked is None else 0)


def spared_slots(asked: str, *, tracks: bool, overlap: bool) -> int:
    """Slots that SGLang would have given a running request to track states in, and we do not.

    ``asked``: the strategy that was asked for, ``auto`` included; ``tracks``: whether the one that
    came of it tracks all the same.
    """
    # Where it chooses itself, SGLang tracks if it overlaps.
    never = asked == "no_buffer" or (asked == "auto" and not overlap)
    slots = get_mamba_tracking_slots(
        extra_buffer=not (tracks or never), overlap=overlap, lazy=asked == "extra_buffer_lazy"
    )
    return int(slots)


def _slots_each() -> int:
    mamba = get_exec().mamba
    tracking = get_mamba_tracking_slots(
        # A lazy request takes its second tracking slot while it decodes.
        extra_buffer=mamba.enable_mamba_extra_buffer,
        overlap=not get_schedule().disable_overlap_schedule,
    )
    return 1 + int(tracking)


def _slot_use(configurator: KVCacheConfigurator, total: int) -> SlotUse:
    requests = total // configurator._calculate_mamba_ratio()
    wanted = get_schedule().max_running_requests
    if wanted is not None:
        requests = min(requests, max(1, wanted // configurator.attn_dp_size))
    params = configurator.mambaish_config.mamba2_cache_params
    slot_bytes = int(params.mamba_cache_per_req) + _attached_bytes(configurator)
    return SlotUse(total, slot_bytes, max(requests, 1), _slots_each())


def _attached_bytes(configurator: KVCacheConfigurator) -> int:
    """Bytes of a slot that SGLang allocates with it and leaves out where it sizes the pool."""
    ple = configurator._get_ple_req_pool_kwargs()
    if not ple.get("short_conv_layer_ids"):
        return 0
    windows = len(ple["short_conv_layer_ids"]) * prod(ple["short_conv_state_shape"])
    dtypes = configurator.mambaish_config.mamba2_cache_params.dtype
    tokens: int = ple["ngram_context_len"] * torch.long.itemsize
    return int(windows * dtypes.conv.itemsize + tokens)


def _lossy(name: str, layout: StateLayout) -> Encoding | None:
    """The encoding of that name, if it takes less room than the state as it is."""
    encoding = Encoding[name.upper()]
    if encoding is Encoding.EXACT:
        return None
    if layout.pages(encoding) >= layout.pages(Encoding.EXACT):
        logger.warning(
            "Marconi: encoding %s saves nothing for this model's states, so checkpoints stay exact",
            name,
        )
        return None
    return encoding
