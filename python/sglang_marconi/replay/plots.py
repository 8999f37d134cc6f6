"""Plots of runs, drawn from their records alone."""

from collections.abc import Mapping, Sequence
from itertools import accumulate
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from sglang_marconi.replay.records import Record


def plot_hit_rate(runs: Mapping[str, Sequence[Record]], path: Path) -> None:
    """Writes a PNG: for each run, the token hit rate of the requests sent so far."""
    figure = Figure(figsize=(8, 4.5), dpi=150, layout="constrained")
    axes = figure.subplots()
    for name, records in runs.items():
        in_order = sorted(records, key=lambda record: record.sent)
        cached = accumulate(record.cached_tokens for record in in_order)
        prompt = accumulate(record.prompt_tokens for record in in_order)
        rates = [hit / total for hit, total in zip(cached, prompt, strict=True)]
        axes.plot(range(1, len(rates) + 1), rates, label=f"{name}: {rates[-1]:.1%}", linewidth=2)
    axes.set_xlabel("requests sent")
    axes.set_ylabel("token hit rate so far")
    axes.set_ylim(0, 1)
    axes.set_xlim(left=1)
    axes.yaxis.set_major_formatter(PercentFormatter(xmax=1))
    axes.grid(axis="y", alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="upper left")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
