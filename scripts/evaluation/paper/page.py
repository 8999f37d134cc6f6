"""Writes the page that sets the paper's numbers beside those of the runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from io import BytesIO
from pathlib import Path

from matplotlib.figure import Figure
from sglang_marconi import units
from sglang_marconi.records import RunRecord, read_records
from sglang_marconi.report import markup
from sglang_marconi.report.template import PAGE

from evaluation.paper import claims, figures, tables
from evaluation.paper.claims import Claim
from evaluation.paper.differences import differences
from evaluation.paper.figures import Strip
from evaluation.paper.gains import (
    Spread,
    Trials,
    by_workload,
    of_base_model,
    ratios,
    trials,
    ttft_cuts,
    without_cache,
)
from evaluation.paper.plan import BASELINES, OURS
from evaluation.paper.sweeps import AXES, sweep

_DOTS = "A dot is a trial, a large mark the median of its row."
_TITLE = "The Marconi paper's evaluation, run again"


def draw_paper(folder: Path) -> Path:
    """Write ``paper.html`` from the ``runs.jsonl`` of a folder alone; returns its path.

    Raises ``FileNotFoundError`` without that file, ``ValueError`` where it has no runs of the
    evaluation, ``msgspec.ValidationError`` for a line that is no record.
    """
    runs = read_records(folder / "runs.jsonl", RunRecord)
    base = of_base_model(trials(runs))
    if not base:
        raise ValueError(f"{folder / 'runs.jsonl'} has no runs of the paper's evaluation")
    page = folder / "paper.html"
    body = "\n".join(_body(runs, base))
    page.write_text(PAGE.substitute(title=escape(_TITLE), body=body), encoding="utf-8")
    return page


def _body(runs: Sequence[RunRecord], base: Trials) -> Iterator[str]:
    yield f"<h1>{escape(_TITLE)}</h1>"
    yield markup.paragraph(_summary(runs))
    for sentence in _findings(base):
        yield markup.paragraph(sentence)
    yield markup.heading("What was replayed")
    yield markup.paragraph(
        "A trial is one trace at one cache size, under each policy. A small share of what an "
        "unbounded cache fills means that the cache is under pressure."
    )
    yield markup.table(tables.pressure(runs, base), "What was replayed")
    yield from _hit_rates(base)
    for axis in AXES:
        yield markup.heading(axis.title)
        yield from _claims(axis.claims)
        found = sweep(axis, trials(runs))
        if found is None:
            yield markup.paragraph("Left out: the runs have fewer than two points of it.")
            continue
        caption = f"The paper: {axis.paper.source}. Here: {found.setting}."
        yield _figure(figures.beside(found), axis.title, caption)
        yield markup.table(tables.beside(found), axis.title)
    yield from _latency(runs, base)
    yield markup.heading("What differs from the paper")
    yield markup.bullets(differences(runs))
    yield markup.heading("Where the paper's numbers were read")
    yield markup.definitions(_sources())
    yield markup.heading("What the numbers mean")
    yield markup.definitions(_TERMS)


_TERMS = {
    "Token hit rate": "Prompt tokens that a cache saved from prefill, over all prompt tokens.",
    "vllm+": "The paper's vLLM+: a state for every block of 32 tokens, least recently used first.",
    "sglang+": "The paper's SGLang+: marconi's states, the least recently used leaf first.",
    "marconi": "The paper's policy, its alpha tuned once on a window of requests.",
    "auto": "This project's default.",
    "Over vllm+ (×)": "A token hit rate divided by that of vllm+ in the same trial.",
    "Over sglang+ (%)": "The same with sglang+, less 1: how much more it hits.",
    "Least, median, mean, best": "Over the trials of a workload.",
    "P50, P95": "The time to first token that 50 or 95 % of a run's requests do not exceed.",
    "Lower or below": "The baseline's percentile less the policy's, over that without a cache, as "
    "in the artifact's plotting/ttft.py; in percent of the latter.",
    "GB": "10⁹ bytes.",
}


def _summary(runs: Sequence[RunRecord]) -> str:
    replayed = units.count(sum(run.requests for run in runs))
    distinct = units.count(sum({run.trace: run.requests for run in runs}.values()))
    return (
        "Marconi: Prefix Caching for the Era of Hybrid LLMs, MLSys 2025, arXiv 2411.19379. "
        f"Here its policies run on a simulator: {units.count(len(runs))} runs over "
        f"{len({run.trace for run in runs})} traces of {distinct} requests, {replayed} requests "
        "replayed in all. No model is run."
    )


def _findings(base: Trials) -> Iterator[str]:
    for policy in OURS:
        over_vllm = ratios(base, policy, "vllm+")
        over_sglang = ratios(base, policy, "sglang+")
        if over_vllm and over_sglang:
            yield (
                f"{policy}: up to {tables.times(over_vllm.best)} the token hit rate of vllm+ "
                f"(median {tables.times(over_vllm.median)}; the paper: up to 34.4×), and up to "
                f"{tables.more(over_sglang.best)} over sglang+ (median "
                f"{tables.more(over_sglang.median)}, least {tables.more(over_sglang.least)}; the "
                "paper, second hand: 19.0 % to 219.7 %, by workload)."
            )


def _hit_rates(base: Trials) -> Iterator[str]:
    yield markup.heading("Token hit rate")
    yield from _claims(claims.HIT_RATE)
    groups = by_workload(base)

    def spreads(baseline: str) -> Mapping[str, Mapping[str, Spread]]:
        return {
            workload: _known({policy: ratios(cells, policy, baseline) for policy in OURS})
            for workload, cells in groups.items()
        }

    gains = {
        workload: {
            policy: Spread([ratio - 1 for ratio in found.values]) for policy, found in of.items()
        }
        for workload, of in spreads("sglang+").items()
    }
    drawn = figures.strips(
        [
            Strip(
                "over vllm+",
                "times its token hit rate",
                spreads("vllm+"),
                claims.AVERAGE_OVER_VLLM,
                neutral=1.0,
                times=True,
            ),
            Strip("over sglang+", "gain in token hit rate", gains, {}, neutral=0.0),
        ],
        "the paper's mean",
    )
    caption = (
        f"{_DOTS} Base model, {len(base)} trials. The paper's means: {claims.SECOND_HAND}. "
        "Those over SGLang+ were not found by workload."
    )
    yield _figure(drawn, "Token hit rate over both baselines, by workload", caption)
    yield markup.table(tables.hit_rates(base), "Token hit rate")


def _latency(runs: Sequence[RunRecord], base: Trials) -> Iterator[str]:
    yield markup.heading("Time to first token")
    yield from _claims(claims.TTFT)
    uncached = without_cache(runs)
    panels = [
        Strip(
            f"P95, below {baseline}",
            "lower, of the P95 without a cache",
            {
                workload: _known(
                    {
                        policy: ttft_cuts(cells, uncached, policy, baseline, "ttft_p95")
                        for policy in OURS
                    }
                )
                for workload, cells in by_workload(base).items()
            },
            claims.TTFT_P95_MOST[baseline],
            neutral=0.0,
        )
        for baseline in BASELINES
    ]
    drawn = figures.strips(panels, "the paper's best")
    caption = f"{_DOTS} Base model, {len(base)} trials. The paper's best: {claims.SECOND_HAND}."
    yield _figure(drawn, "P95 of time to first token below both baselines, by workload", caption)
    yield markup.table(tables.times_to_first_token(runs, base), "Time to first token")


def _known(spreads: Mapping[str, Spread | None]) -> Mapping[str, Spread]:
    return {policy: spread for policy, spread in spreads.items() if spread is not None}


def _claims(of: Sequence[Claim]) -> Iterator[str]:
    if of:
        yield markup.paragraph("The paper says:")
        yield markup.bullets(f"{claim.text} ({claim.source})" for claim in of)


def _sources() -> Mapping[str, str]:
    """Each source, and the sections that have numbers from it."""
    sections: dict[str, list[str]] = {}
    for title, of in (("Token hit rate", claims.HIT_RATE), ("Time to first token", claims.TTFT)):
        for claim in of:
            sections.setdefault(claim.source, []).append(title)
    for axis in AXES:
        for source in (axis.paper.source, *(claim.source for claim in axis.claims)):
            sections.setdefault(source, []).append(axis.title)
    return {source: ", ".join(dict.fromkeys(titles)) for source, titles in sections.items()}


def _figure(drawn: Figure, alt: str, caption: str) -> str:
    image = BytesIO()
    drawn.savefig(image, format="png")
    return markup.figure(image.getvalue(), alt, caption)
