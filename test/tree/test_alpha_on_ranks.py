"""Alpha tuned on one rank: all take it over at the same request, and evict the same."""

from __future__ import annotations

import json
import sys
from array import array
from pathlib import Path

import torch.distributed as dist
from sglang_marconi.cache import alpha_tuning
from sglang_marconi.cache.alpha_tuning import AGREE_EVERY, AlphaTuning
from sglang_marconi.cost import preset
from sglang_marconi.policy.eviction import EvictionPolicy
from sglang_marconi.policy.utility import PaperUtility
from sglang_marconi.tuning.messages import Setup
from support.forked import run_pythons
from support.tree_serving import SINGLE_TOKENS, Serving, with_free_passes
from support.tree_work import work

_COST = with_free_passes(preset("paper-7b"))
_SETUP = Setup(cost=_COST, state_bytes=1, kv_bytes=1, alpha=0.0)


class _Finds:
    """A tuner that has found an alpha when so many requests were recorded."""

    def __init__(self, at: dict[int, float]) -> None:
        self._at = at
        self._recorded = 0

    def record(self, _prompt_length: int, _tokens: object) -> None:
        self._recorded += 1

    def poll(self) -> float | None:
        return self._at.get(self._recorded)


def run_rank(rank: int, store: str, found: dict[int, float]) -> None:
    """Prints what this rank evicted, and its alpha after each request."""
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    alpha_tuning.TuningClient = lambda _setup: _Finds(found)
    utility = PaperUtility(0.0)
    tuning = AlphaTuning(utility, _SETUP, dist.group.WORLD)
    # What only the first rank hears must not matter to the others.
    assert (tuning.client is None) == (rank == 1)
    serving = Serving(SINGLE_TOKENS, EvictionPolicy(_COST, utility))
    alphas = []
    for _ in work(serving, seed=3):
        tuning.finished(1, array("q", [1, 2]))
        alphas.append(utility.alpha)
    dist.barrier()
    print(json.dumps({"alphas": alphas, "evicted": serving.tree.evicted}))


def ranks(tmp_path: Path, found: dict[int, float]) -> list[dict[str, list[object]]]:
    command = (__file__, str(tmp_path / "store"), json.dumps(list(found.items())))
    ended = run_pythons(*((*command, str(rank)) for rank in range(2)))
    assert [process.returncode for process in ended] == [0, 0], ended
    return [json.loads(process.stdout.splitlines()[-1]) for process in ended]


def test_an_alpha_is_taken_over_by_all_ranks_at_the_same_request(tmp_path: Path) -> None:
    """However many requests after the last agreement the first rank hears of it."""
    changed_at = []
    for case, heard in enumerate((AGREE_EVERY - 1, AGREE_EVERY + 1)):
        folder = tmp_path / str(case)
        folder.mkdir()
        first, second = ranks(folder, {heard: 2.0, heard + 70: 0.5})
        assert first == second
        alphas = first["alphas"]
        assert set(alphas) == {0.0, 2.0, 0.5}
        changed_at.append((alphas.index(2.0) + 1, alphas.index(0.5) + 1))
        assert len(first["evicted"]) > 40
    assert changed_at == [(32, 128), (64, 128)]


if __name__ == "__main__":
    store, found, rank = sys.argv[1:]
    run_rank(int(rank), store, dict(json.loads(found)))
