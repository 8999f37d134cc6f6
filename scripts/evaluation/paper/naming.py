"""What the names in the records of the evaluation say: all that the page knows of a run."""

from __future__ import annotations

import re
from typing import NamedTuple

GENERATED = "_generated"
_NAME = re.compile(r"(?P<workload>[a-z]+)_sps=(?P<rate>[\d.]+)(_art=(?P<gap>[\d.]+))?_nums=\d+")
_MODEL = re.compile(r"attn=(\d+)_ssm=(\d+)_mlp=(\d+)_state=(\d+)_ttft=(flops|profile)")


class TraceName(NamedTuple):
    """A trace named as the files of the paper's artifact, `swebench_sps=5_art=10_nums=100`.

    ``rate``: sessions a second. ``gap``: mean seconds between turns, where the name says it.
    Other names are workloads of their own.
    """

    workload: str
    rate: float | None
    gap: float | None
    generated: bool

    @classmethod
    def parse(cls, name: str) -> TraceName:
        found = _NAME.fullmatch(name.removesuffix(GENERATED))
        if found is None:
            return cls(name, None, None, False)
        gap = found["gap"]
        return cls(
            found["workload"],
            float(found["rate"]),
            None if gap is None else float(gap),
            name.endswith(GENERATED),
        )


def trace_name(workload: str, rate: float, gap: float | None, sessions: int) -> str:
    """How a generated trace is called."""
    turns = "" if gap is None else f"_art={gap:g}"
    return f"{workload}_sps={rate:g}{turns}_nums={sessions}{GENERATED}"


class Model(NamedTuple):
    """A hybrid of the paper: its layers and the dimension of its SSM states."""

    attention: int
    ssm: int
    mlp: int
    state_dim: int

    @classmethod
    def parse(cls, name: str) -> Model:
        """Raises `ValueError` for a name that `model_name` does not give."""
        found = _MODEL.fullmatch(name)
        if found is None:
            raise ValueError(f"{name!r} is no model of the paper's evaluation")
        attention, ssm, mlp, state_dim = map(int, found.groups()[:4])
        return cls(attention, ssm, mlp, state_dim)


def model_name(model: Model, *, profile: bool) -> str:
    """How records call a model; ``profile``: its times come from a latency profile."""
    timed = "profile" if profile else "flops"
    layers = f"attn={model.attention}_ssm={model.ssm}_mlp={model.mlp}"
    return f"{layers}_state={model.state_dim}_ttft={timed}"


def has_profile(name: str) -> bool:
    """Whether the times of a model of this name come from a latency profile."""
    return name.endswith("_ttft=profile")
