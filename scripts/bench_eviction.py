"""Time of a request in the prefix cache: this backend's tree beside SGLang's Python and Rust trees.

    python scripts/bench_eviction.py --checkpoints 100 1000 10000
    python scripts/bench_eviction.py --checkpoints 1000 --prompt-tokens 2000 100000 --new-tokens 500

Each request matches a prompt, makes room for what is new in it, and inserts it with a state; the
pools are full, so each evicts. With this backend it is learned from, too, at its arrival and at its
end. Prompts have nothing in common, or all but so many tokens, after which there is a checkpoint.
The trees take turns, a few requests at a time, on the same prompts. No model runs: the pools hold
a few bytes a token.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from array import array
from itertools import product
from typing import NamedTuple

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from sglang.srt.configs.mamba_utils import Mamba2CacheParams, Mamba2StateShape
from sglang.srt.mem_cache.allocator import TokenToKVPoolAllocator
from sglang.srt.mem_cache.base_prefix_cache import (
    EvictParams,
    InsertParams,
    MatchPrefixParams,
    MatchResult,
)
from sglang.srt.mem_cache.cache_init_params import CacheInitParams
from sglang.srt.mem_cache.memory_pool import HybridLinearKVPool, HybridReqToTokenPool
from sglang.srt.mem_cache.radix_cache import RadixKey
from sglang.srt.mem_cache.unified_cache.components import ComponentType
from sglang.srt.mem_cache.unified_cache.tree_core_registry import register_tree_core_backend
from sglang.srt.mem_cache.unified_radix_cache import UnifiedRadixCache
from sglang.srt.server_args import ServerArgs, set_global_server_args_for_scheduler
from sglang_marconi.cache import TREE_CORE
from sglang_marconi.cache.radix_cache import MarconiRadixCache, choose_components
from sglang_marconi.cost import preset
from sglang_marconi.events import Observer
from sglang_marconi.plugin import build_tree_core
from sglang_marconi.policy.eviction import EvictionPolicy
from sglang_marconi.policy.prediction import PredictedReuse
from sglang_marconi.policy.prospects import Ids, Prospects

_TURN = 10
_STATE = Mamba2StateShape.create(
    tp_world_size=1,
    intermediate_size=2,
    n_groups=1,
    num_heads=1,
    head_dim=2,
    state_size=2,
    conv_kernel=4,
)


class Prompts(NamedTuple):
    """What prompts look like: ``tokens`` of them, the last ``new`` of which no other has."""

    tokens: int
    new: int


class Contender:
    """A cache with pools of its own, and the times of its requests in seconds."""

    def __init__(
        self,
        core: str,
        states: int,
        tokens: int,
        prompt_tokens: int,
        observer: Observer | None = None,
    ) -> None:
        pool = HybridReqToTokenPool(
            size=1,
            mamba_size=states,
            mamba_spec_state_size=1,
            max_context_len=prompt_tokens,
            device="cpu",
            enable_memory_saver=False,
            cache_params=Mamba2CacheParams(shape=_STATE, layers=[1]),
            mamba_layer_ids=[1],
            enable_mamba_extra_buffer=False,
        )
        kv_pool = HybridLinearKVPool(
            size=tokens,
            dtype=torch.bfloat16,
            page_size=1,
            head_num=1,
            head_dim=2,
            full_attention_layer_ids=[0],
            device="cpu",
            enable_memory_saver=False,
            mamba_pool=pool.mamba_pool,
        )
        self.kv = TokenToKVPoolAllocator(
            size=tokens, dtype=torch.bfloat16, device="cpu", kvcache=kv_pool, need_sort=False
        )
        self.states = pool.mamba_allocator
        params = CacheInitParams(
            req_to_token_pool=pool,
            token_to_kv_pool_allocator=self.kv,
            page_size=1,
            disable=False,
            tree_components=(ComponentType.FULL, ComponentType.MAMBA),
            tree_core_backend=core,
        )
        if core == TREE_CORE:
            policy = EvictionPolicy(preset("paper-7b"), PredictedReuse())
            choose_components(params, policy, observer=observer)
            self.cache = MarconiRadixCache(params)
        else:
            self.cache = UnifiedRadixCache(params)
        self.prospects = Prospects()
        self.times: list[float] = []

    def request(self, tokens: array[int]) -> None:
        """What the scheduler asks of the cache for one prompt."""
        start = time.perf_counter()
        key = RadixKey(tokens)
        match = self.cache.match_prefix(MatchPrefixParams(key=key))
        if isinstance(self.cache, MarconiRadixCache):
            self._arrived(np.frombuffer(tokens, np.int64), match)
        lock = self.cache.lock(match.last_device_node)
        reused = self.cache.path_device_indices(match.last_device_node)
        count = len(tokens) - len(reused)
        missing = max(0, count - self.kv.available_size())
        states = int(self.states.available_size() == 0)
        if missing or states:
            self.cache.evict_for_alloc(EvictParams(num_tokens=missing, mamba_num=states))
        held = torch.cat((reused, self.kv.alloc(count)))
        if isinstance(self.cache, MarconiRadixCache):
            trail = self.cache.tree_core.policy.trail
            self.prospects.ended(trail, np.frombuffer(tokens, np.int64), len(tokens))
        state = self.states.alloc(1)
        self.cache.insert(
            InsertParams(key=key, value=held, mamba_value=state, prev_prefix_len=len(reused))
        )
        self.cache.unlock(lock)
        self.times.append(time.perf_counter() - start)

    def _arrived(self, tokens: Ids, match: MatchResult) -> None:
        """What this backend does when a request is admitted."""
        tree = self.cache.tree_core
        self.cache.components[ComponentType.MAMBA].used(match.last_device_node)
        visited = match.last_visited_node_id
        left = None if visited is None else tree.prefix(tree.node_by_id(visited)).trail
        shared, resumed = match.full_kv_hit_length, match.device_prefix_len
        tree.policy.trail, _ = self.prospects.arrived(tokens, shared, resumed, left)


def set_up() -> None:
    """What SGLang's caches need of a server."""
    # Its threads have more to do with each other than with a prompt's tokens.
    torch.set_num_threads(1)
    arguments = ServerArgs(model_path="dummy", page_size=1)
    # SGLang would read it from the model's config.
    arguments._mamba_cache_chunk_size = 64
    set_global_server_args_for_scheduler(arguments)
    register_tree_core_backend(TREE_CORE, build_tree_core)


def measure(checkpoints: int, requests: int, prompts: Prompts) -> dict[str, list[float]]:
    """Seconds of each request of each tree, with this many checkpoints alive."""
    shared = prompts.tokens - prompts.new
    # One state more for what all share.
    states, tokens = checkpoints + (shared > 0), checkpoints * prompts.new + shared
    contenders = {
        core: Contender(core, states, tokens, prompts.tokens)
        for core in ("python", "rust", TREE_CORE)
    }
    chooser = random.Random(checkpoints)
    common = _draw(chooser, shared)
    if common:
        for contender in contenders.values():
            contender.request(common)
    total = checkpoints + requests
    for done in track(range(0, total, _TURN), f"{checkpoints} checkpoints, {prompts}"):
        turn = [common + _draw(chooser, prompts.new) for _ in range(_TURN)]
        order = list(contenders.values())
        chooser.shuffle(order)
        for contender in order:
            if done < checkpoints:
                contender.times.clear()
            for prompt in turn:
                contender.request(prompt)
    return {core: contender.times for core, contender in contenders.items()}


def _draw(chooser: random.Random, count: int) -> array[int]:
    return array("q", (chooser.randrange(1 << 17) for _ in range(count)))


def main() -> None:
    """Prints medians, quartiles and the ratio of medians to each of SGLang's trees."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoints", type=int, nargs="+", default=[100, 1000, 10000])
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--prompt-tokens", type=int, nargs="+", default=[2000])
    parser.add_argument("--new-tokens", type=int, help="that prompts do not share; all by default")
    args = parser.parse_args()
    set_up()
    table = Table("checkpoints", "prompt", "new", "tree", "median", "quartiles", "marconi / it")
    for checkpoints, length in product(args.checkpoints, args.prompt_tokens):
        prompts = Prompts(length, args.new_tokens or length)
        times = measure(checkpoints, args.requests, prompts)
        ours = statistics.median(times[TREE_CORE])
        for core, measured in times.items():
            low, middle, high = statistics.quantiles(measured, n=4)
            table.add_row(
                *(str(checkpoints), str(prompts.tokens), str(prompts.new), core),
                f"{1e3 * middle:.3f} ms",
                f"{1e3 * low:.3f} to {1e3 * high:.3f}",
                "" if core == TREE_CORE else f"{ours / middle:.2f}",
            )
    Console().print(table)


if __name__ == "__main__":
    main()
