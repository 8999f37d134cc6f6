"""Draws the panels of the Grafana dashboard without Grafana or Prometheus.

    python scripts/draw_dashboard.py OUT.png [SECONDS]

serves the small model under chats for so many seconds, scrapes `/metrics`, and evaluates the
dashboard's own queries on what it got.
"""

import json
import math
import random
import re
import sys
import tempfile
import time
import urllib.request
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import matplotlib as mpl
from local_server import LocalServer
from matplotlib import pyplot as plt
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families
from tiny_model import build_tiny_model

DASHBOARD = Path(__file__).parents[1] / "docs" / "grafana" / "marconi.json"
SERVER = (
    *("--radix-cache-backend", "marconi", "--enable-metrics"),
    *("--max-total-tokens", "12000", "--max-mamba-cache-size", "40"),
    *("--max-running-requests", "4", "--served-model-name", "small"),
    "--radix-eviction-policy-config",
    '{"policy": "marconi", "encoding": "int8", "host_memory": "1MB"}',
)
SCRAPE_EVERY = 1.0
WINDOW = 8
"""Scrapes that a rate is taken over."""
COLUMNS = 3

# The labels of a series that a query groups by, in the order it names them.
Key = tuple[str, ...]
Sample = dict[str, list[tuple[dict[str, str], float]]]
# The value of a query, by group, from the latest scrapes.
Query = Callable[[list[Sample]], dict[Key, float]]

_SUM = re.compile(
    r"(?:sum|max)(?: by \((?P<by>[^)]*)\))? "
    r"\((?P<rate>rate\()?(?P<name>sglang:\w+)\{[^}]*\}(?:\[[^]]*\]\))?\)"
)
_QUANTILE = re.compile(r"histogram_quantile\((?P<share>[\d.]+), (?P<sum>.*)\)")


def labels_of(expression: str) -> list[str]:
    """The labels that a query groups by, without `le`."""
    found = re.search(r"by \(([^)]*)\)", expression)
    labels = found[1].split(", ") if found else []
    return [label for label in labels if label != "le"]


def compiled(expression: str) -> Query:
    """The few forms that the dashboard uses; another one raises `ValueError`."""
    if " / " in expression:
        above, below = map(compiled, expression.split(" / "))
        return lambda scrapes: _divided(above(scrapes), below(scrapes))
    if quantile := _QUANTILE.fullmatch(expression):
        share, buckets = float(quantile["share"]), compiled(quantile["sum"])
        return lambda scrapes: _quantiles(share, buckets(scrapes))
    if not (parts := _SUM.fullmatch(expression)):
        raise ValueError(f"no rule for {expression}")
    name, by = parts["name"], parts["by"].split(", ") if parts["by"] else []
    if not parts["rate"]:
        return lambda scrapes: _sums(scrapes[-1], name, by)
    return lambda scrapes: _rates(scrapes, name, by)


def _sums(sample: Sample, name: str, by: list[str]) -> dict[Key, float]:
    sums: dict[Key, float] = defaultdict(float)
    for labels, value in sample.get(name, []):
        sums[tuple(labels[label] for label in by)] += value
    return sums


def _rates(scrapes: list[Sample], name: str, by: list[str]) -> dict[Key, float]:
    before, now = _sums(scrapes[0], name, by), _sums(scrapes[-1], name, by)
    seconds = max((len(scrapes) - 1) * SCRAPE_EVERY, SCRAPE_EVERY)
    return {key: (now[key] - before.get(key, 0.0)) / seconds for key in now}


def _divided(above: dict[Key, float], below: dict[Key, float]) -> dict[Key, float]:
    return {key: value / below[key] for key, value in above.items() if below.get(key)}


def _quantiles(share: float, buckets: dict[Key, float]) -> dict[Key, float]:
    by_group: dict[Key, list[tuple[float, float]]] = defaultdict(list)
    for (bound, *group), rate in buckets.items():
        by_group[tuple(group)].append((float(bound), rate))
    return {group: _quantile(share, sorted(counts)) for group, counts in by_group.items()}


def _quantile(share: float, counts: list[tuple[float, float]]) -> float:
    """As Prometheus does it: linear within a bucket."""
    wanted, low, below = share * counts[-1][1], 0.0, 0.0
    if not wanted:
        return math.nan
    for bound, count in counts:
        if count >= wanted:
            inside = (wanted - below) / (count - below)
            return low + inside * (bound - low) if math.isfinite(bound) else low
        low, below = bound, count
    return math.nan


def scrape(url: str) -> Sample:
    """What `/metrics` says of the cache."""
    with urllib.request.urlopen(f"{url}/metrics", timeout=30) as answer:
        text = answer.read().decode()
    sample: Sample = defaultdict(list)
    for family in text_string_to_metric_families(text):
        for each in family.samples:
            if "marconi" in each.name:
                sample[each.name].append((each.labels, each.value))
    return sample


class Chats:
    """Turns of conversations over shared system prompts, one after the other."""

    def __init__(self, url: str, seed: int) -> None:
        self._url = url
        self._chooser = random.Random(seed)
        shared = random.Random(0)
        self._systems = [self._tokens(shared, 80 + 60 * i) for i in range(5)]
        self._histories: dict[int, list[int]] = {}

    def turn(self) -> None:
        chooser = self._chooser
        chat = chooser.randrange(8)
        history = self._histories.get(chat, [])
        if not history or len(history) > 1200:
            history = chooser.choice(self._systems)
        prompt = [*history, *self._tokens(chooser, chooser.randrange(20, 120))]
        body = {
            "input_ids": prompt,
            "sampling_params": {"max_new_tokens": chooser.randrange(4, 20), "ignore_eos": True},
        }
        request = urllib.request.Request(
            f"{self._url}/generate", json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=300) as answer:
            self._histories[chat] = prompt + json.load(answer)["output_ids"]

    @staticmethod
    def _tokens(chooser: random.Random, count: int) -> list[int]:
        return [chooser.randrange(300, 1000) for _ in range(count)]


def measure(seconds: float) -> list[Sample]:
    """Scrapes of a server at work."""
    with tempfile.TemporaryDirectory() as folder:
        model = build_tiny_model(Path(folder) / "model")
        with (
            LocalServer(model, *SERVER, log_path=Path(folder) / "log") as server,
            ThreadPoolExecutor(3) as clients,
        ):
            end = time.monotonic() + seconds

            def chat(seed: int) -> None:
                chats = Chats(server.url, seed)
                while time.monotonic() < end:
                    chats.turn()

            running = [clients.submit(chat, seed) for seed in range(3)]
            scrapes, next_scrape = [], time.monotonic()
            while time.monotonic() < end:
                scrapes.append(scrape(server.url))
                next_scrape += SCRAPE_EVERY
                time.sleep(max(next_scrape - time.monotonic(), 0))
            for client in running:
                client.result()
    return scrapes


def draw(dashboard: dict[str, Any], scrapes: list[Sample], out: Path) -> None:
    """One plot a panel, in the dashboard's order."""
    mpl.use("Agg")
    panels = dashboard["panels"]
    rows = math.ceil(len(panels) / COLUMNS)
    figure, axes = plt.subplots(rows, COLUMNS, figsize=(12, 2.5 * rows), layout="constrained")
    for panel, plot in zip(panels, axes.flat, strict=False):
        draw_panel(panel, scrapes, plot)
    for plot in axes.flat[len(panels) :]:
        plot.axis("off")
    figure.supxlabel("seconds", fontsize=8)
    figure.savefig(out, dpi=80)
    # A few colours do, in a fraction of the bytes.
    Image.open(out).convert("RGB").quantize(64).save(out, optimize=True)


def draw_panel(panel: dict[str, Any], scrapes: list[Sample], plot: Any) -> None:
    """The lines of one panel."""
    for target in panel["targets"]:
        query = compiled(target["expr"])
        values = [query(scrapes[max(0, at - WINDOW) : at + 1]) for at in range(1, len(scrapes))]
        for key in sorted({key for value in values for key in value}):
            legend = target["legendFormat"]
            for label, part in zip(labels_of(target["expr"]), key, strict=True):
                legend = legend.replace("{{" + label + "}}", part)
            plot.plot([value.get(key, math.nan) for value in values], label=legend, linewidth=1.2)
    plot.set_title(panel["title"], fontsize=10, loc="left")
    plot.tick_params(labelsize=7)
    plot.grid(alpha=0.3)
    plot.set_ylim(bottom=0)
    if panel["fieldConfig"]["defaults"]["unit"] == "percentunit":
        plot.yaxis.set_major_formatter(mpl.ticker.PercentFormatter(1.0))
    elif panel["fieldConfig"]["defaults"]["unit"] == "s":
        plot.yaxis.set_major_formatter(mpl.ticker.EngFormatter("s"))
    handles, _ = plot.get_legend_handles_labels()
    if handles:
        plot.legend(fontsize=6, ncols=2 if len(handles) > 4 else 1, loc="best")


def main() -> None:
    """See the module."""
    if len(sys.argv) < 2:
        sys.exit("usage: draw_dashboard.py OUT.png [SECONDS]")
    seconds = float(sys.argv[2]) if len(sys.argv) > 2 else 90.0
    draw(json.loads(DASHBOARD.read_text()), measure(seconds), Path(sys.argv[1]))


if __name__ == "__main__":
    main()
