"""Traces of short runs of few numbers, so that prefixes meet, in the middle of runs too."""

from __future__ import annotations

from hypothesis import strategies as st
from sglang_marconi.traces.requests import TraceRequest
from sglang_marconi.traces.tokens import Tokens


def sequences() -> st.SearchStrategy[Tokens]:
    def joined(runs: list[tuple[int, int]]) -> Tokens:
        whole = Tokens.plain([])
        for number, length in runs:
            whole += Tokens.blocks([number], length, length)
        return whole

    run = st.tuples(st.integers(0, 2), st.integers(1, 40))
    return st.lists(run, min_size=1, max_size=5).map(joined)


traces = st.lists(
    st.builds(TraceRequest, st.just("0"), st.just(0), st.just(0.0), sequences(), sequences()),
    min_size=1,
    max_size=25,
)
