"""What observing costs the scheduler: a request's time in the cache, and a snapshot for the page.

    python scripts/bench_observed.py --checkpoints 1000 10000

The same requests go to a cache that nobody observes, one with metrics, and one with metrics and the
page, in turns; all evict. Metrics go to files, as a server's do.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import tempfile
import time
from array import array

# Before the client library is imported, which looks at it then.
_FOLDER = tempfile.TemporaryDirectory()
os.environ["PROMETHEUS_MULTIPROC_DIR"] = _FOLDER.name

from bench_eviction import Contender, set_up  # noqa: E402
from prometheus_client import CollectorRegistry  # noqa: E402
from rich.console import Console  # noqa: E402
from rich.table import Table  # noqa: E402
from sglang_marconi.cache import TREE_CORE  # noqa: E402
from sglang_marconi.cost import preset  # noqa: E402
from sglang_marconi.events import Observer, Prompted  # noqa: E402
from sglang_marconi.observe.held import Held, Memory  # noqa: E402
from sglang_marconi.observe.inspection.snapshot import Inspector  # noqa: E402
from sglang_marconi.observe.metrics import Metrics  # noqa: E402

PROMPT_TOKENS = 2000
LABELS = {"model_name": "m", "engine_type": "unified", "tp_rank": 0, "pp_rank": 0}


class Watched:
    """A cache with as many checkpoints as fit, and what listens to it."""

    def __init__(self, checkpoints: int, *, metrics: bool, inspect: bool) -> None:
        self.observer = Observer() if metrics else None
        self.inspector: Inspector | None = None
        tokens = checkpoints * PROMPT_TOKENS
        self.contender = Contender(TREE_CORE, checkpoints, tokens, PROMPT_TOKENS, self.observer)
        if self.observer is None:
            return
        tree, cost = self.contender.cache.tree_core, preset("paper-7b")
        held, memory = Held(self.observer, tree.policy.forms), Memory({}, cost.state_bytes)
        Metrics(self.observer, LABELS, cost, held, memory, CollectorRegistry())
        if inspect:
            self.inspector = Inspector(self.observer, tree, held, memory)

    def request(self, tokens: array[int]) -> None:
        """One request, and what SGLang's admission would report of it."""
        self.contender.request(tokens)
        start = time.perf_counter()
        if self.observer is not None:
            self.observer.emit(Prompted(len(tokens), 0, 0, None))
        self.contender.times[-1] += time.perf_counter() - start


def main() -> None:
    """Prints medians, and what each adds to the unobserved cache's."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--checkpoints", type=int, nargs="+", default=[1000, 10000])
    parser.add_argument("--requests", type=int, default=2000)
    args = parser.parse_args()
    set_up()
    table = Table("checkpoints", "observed by", "median", "adds", "snapshot: median, worst")
    for checkpoints in args.checkpoints:
        contenders = {
            "nobody": Watched(checkpoints, metrics=False, inspect=False),
            "metrics": Watched(checkpoints, metrics=True, inspect=False),
            "metrics and page": Watched(checkpoints, metrics=True, inspect=True),
        }
        chooser, numbers = random.Random(0), random.Random(1)
        snapshots = []
        for done in range(checkpoints + args.requests):
            prompt = array("q", numbers.randbytes(8 * PROMPT_TOKENS))
            order = list(contenders.values())
            chooser.shuffle(order)
            for watched in order:
                if done == checkpoints:
                    watched.contender.times.clear()
                watched.request(prompt)
                if watched.inspector is not None and done >= checkpoints and done % 50 == 0:
                    start = time.perf_counter()
                    watched.inspector.state()
                    snapshots.append(time.perf_counter() - start)
        alone = statistics.median(contenders["nobody"].contender.times)
        for name, watched in contenders.items():
            middle = statistics.median(watched.contender.times)
            taken = f"{1e3 * statistics.median(snapshots):.1f} ms, {1e3 * max(snapshots):.1f} ms"
            table.add_row(
                *(str(checkpoints), name, f"{1e6 * middle:.0f} µs"),
                "" if name == "nobody" else f"{1e6 * (middle - alone):.0f} µs",
                taken if watched.inspector is not None else "",
            )
    Console().print(table)


if __name__ == "__main__":
    main()
