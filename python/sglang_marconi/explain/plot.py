"""Plots of what prefixes take and of what a budget holds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from sglang_marconi import units
from sglang_marconi.cost import ModelCost
from sglang_marconi.explain.facts import Explanation
from sglang_marconi.report import canvas
from sglang_marconi.report.looks import KV_COLOUR, STATES_COLOUR

_POINTS = 257
_HEIGHT = 3.2


def write_plot(path: Path, explanation: Explanation, cost: ModelCost) -> None:
    """Write both plots into one image; its format is what the file's name ends in."""
    draw(explanation, cost).savefig(path)


def draw(explanation: Explanation, cost: ModelCost) -> Figure:
    """The memory of a prefix by its length, and the checkpoints and contexts that fit."""
    figure, (memory, fitting) = canvas.panels(2, height=_HEIGHT, sharey=False)
    canvas.heading(figure, explanation.model)
    shown = _memory(memory, explanation, cost)
    shown |= _fitting(fitting, explanation, cost)
    canvas.legend(figure, shown.values(), shown)
    return figure


def _memory(axes: Any, explanation: Explanation, cost: ModelCost) -> dict[str, Any]:
    tokens = np.linspace(0, explanation.context_tokens, _POINTS)
    kv = np.array([cost.kv_bytes(int(length)) for length in tokens])
    states = np.full(_POINTS, explanation.state_bytes)
    size, unit = units.byte_unit(float(states[-1] + kv[-1]))
    areas = axes.stackplot(tokens, states / size, kv / size, colors=(STATES_COLOUR, KV_COLOUR))
    shown = dict(zip(("one checkpoint", "KV of the prefix"), areas, strict=True))
    if explanation.break_even_tokens is not None:
        style = {"color": "black", "linestyle": "--", "linewidth": 1.2}
        name = f"both alike at {units.count(explanation.break_even_tokens)} tokens"
        shown[name] = axes.axvline(explanation.break_even_tokens, **style)
    canvas.title(axes, "memory of a prefix")
    axes.margins(x=0)
    axes.set_xlabel("prefix (tokens)")
    axes.set_ylabel(f"held ({unit})")
    _whole_numbers(axes.xaxis)
    return shown


def _fitting(axes: Any, explanation: Explanation, cost: ModelCost) -> dict[str, Any]:
    """Checkpoints against contexts; without KV any number of contexts fits."""
    fit = explanation.fit
    canvas.title(axes, f"in {units.byte_size(explanation.budget_bytes)}")
    axes.set_xlabel("checkpoints")
    axes.set_ylabel(f"contexts of {units.count(explanation.context_tokens)} tokens")
    shown = {}
    kv_of_context = cost.kv_bytes(explanation.context_tokens)
    if kv_of_context:
        most = explanation.budget_bytes / kv_of_context
        (line,) = axes.plot([0, fit.checkpoints], [most, 0], color="#444444", linewidth=1.8)
        shown["what fits together"] = line
        style = {"linestyle": "none", "markersize": 8, "clip_on": False}
        (one,) = axes.plot(fit.contexts, fit.contexts, marker="o", color="#0072B2", **style)
        shown["a checkpoint for each context"] = one
        pooled = (fit.pool_kv_tokens or 0) / explanation.context_tokens
        (pools,) = axes.plot(fit.pool_checkpoints, pooled, marker="D", color="#CC79A7", **style)
        shown["SGLang's two pools"] = pools
    axes.set_xlim(left=0)
    axes.set_ylim(bottom=0)
    _whole_numbers(axes.xaxis)
    _whole_numbers(axes.yaxis)
    return shown


def _whole_numbers(axis: Any) -> None:
    axis.get_major_locator().set_params(integer=True, nbins=5)
    axis.set_major_formatter(lambda number, _: f"{number:,.0f}")
