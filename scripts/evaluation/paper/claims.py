"""What the Marconi paper reports, each number with where it was read.

The paper is arXiv 2411.19379; its artifact is github.com/ruipeterpan/marconi. The artifact's
plotting scripts carry the numbers of some figures, the rest is from the abstract, or second hand.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

ABSTRACT = "abstract of arXiv 2411.19379v3"
SECOND_HAND = "second hand, from a reader's public notes on the full text; not verified"


class Claim(NamedTuple):
    """A sentence, the numbers of which are the paper's, and where they were read."""

    text: str
    source: str


class Series(NamedTuple):
    """A figure's token hit rates, from 0 to 1, by policy.

    ``points`` are what is on its horizontal axis.
    """

    points: tuple[str, ...]
    rates: Mapping[str, tuple[float, ...]]
    source: str


def _percent(*rates: float) -> tuple[float, ...]:
    return tuple(rate / 100 for rate in rates)


HIT_RATE = (
    Claim("Up to 34.4× the token hit rate of the systems compared with.", ABSTRACT),
    Claim(
        "Over vLLM+, on average: 4.5× on LMSys, 7.3× on ShareGPT, 34.4× on SWE-bench.",
        SECOND_HAND,
    ),
    Claim(
        "Over SGLang+, 19.0 % to 219.7 % more, by workload; which is which was not found.",
        SECOND_HAND,
    ),
)

AVERAGE_OVER_VLLM = {"lmsys": 4.5, "sharegpt": 7.3, "swebench": 34.4}
"""Times the token hit rate of vLLM+, on average over the grid; `SECOND_HAND`."""

MIX = Series(
    ("1:2", "1:4", "1:6", "1:8"),
    {
        "vllm+": _percent(5.02, 5.01, 5.01, 5.01),
        "sglang+": _percent(5.38, 6.62, 8.51, 11.31),
        "marconi": _percent(5.69, 8.35, 12.3, 18.06),
    },
    "figure 12a; numbers written into the artifact's plotting/microbenchmark_layer_composition.py",
)
MIX_CLAIMS = (
    Claim("With attention layers only, all three come to 5.0 %.", MIX.source),
    Claim(
        "From 1:2 to 1:8 the improvement over vLLM+ goes from 13.5 % to 2.6×. The figure's "
        "numbers give 13.3 % and 260 %.",
        SECOND_HAND,
    ),
)

STATE_DIM = Series(
    ("16", "32", "64", "128"),
    {
        "vllm+": _percent(5.17, 3.14, 1.5, 0.89),
        "sglang+": _percent(18.37, 18.00, 17.39, 16.39),
        "marconi": _percent(29.36, 30.19, 29.88, 31.55),
    },
    "figure 12b; numbers written into the artifact's plotting/microbenchmark_dstate.py",
)
STATE_DIM_CLAIMS = (
    Claim(
        "From 16 to 128 the improvement over vLLM+ goes from 5.7× to 35.4×; the figure's "
        "numbers agree.",
        SECOND_HAND,
    ),
)

CONTENTION = Series(
    ("60", "80", "100", "120", "140"),
    {
        "sglang+": _percent(7.72, 15.01, 25.57, 36.90, 43.89),
        "marconi": _percent(9.59, 22.74, 43.03, 47.92, 48.21),
    },
    "figure 11; numbers written into the artifact's plotting/microbenchmark_contention.py: "
    "SWE-bench, 5 sessions/s, 10 s between turns",
)
CONTENTION_CLAIMS = (
    Claim(
        "From 60 to 140 GB the gain over SGLang+ is between 10 % and 68.3 %, largest in the "
        "middle; the figure's numbers agree.",
        SECOND_HAND,
    ),
)

RATE = Series(
    ("0.5", "1", "2"),
    {
        "sglang+": _percent(35.18, 29.27, 26.36),
        "marconi": _percent(48.70, 44.92, 43.02),
    },
    "figure 13; numbers written into the artifact's plotting/microbenchmark_arrivalrate.py: "
    "SWE-bench, 100 GB, 7.5 s between turns",
)

GAP = Series(
    ("5", "7.5", "10"),
    {
        "sglang+": _percent(18.83, 16.60, 15.49),
        "marconi": _percent(25.90, 24.25, 24.08),
    },
    "figure 13; numbers written into the artifact's plotting/microbenchmark_arrivalrate.py, "
    "which says that their origin is unsure",
)

TTFT = (
    Claim(
        "Time to first token up to 71.1 %, or 617 ms, lower than that of the systems compared "
        "with. By the second-hand notes the two numbers are of different workloads.",
        ABSTRACT,
    ),
    Claim(
        "P95, at most: 36.1 % lower than vLLM+ on LMSys, 71.1 % on ShareGPT, 46.8 % on SWE-bench.",
        SECOND_HAND,
    ),
    Claim(
        "P95, at most: 17.2 % lower than SGLang+ on LMSys, 12.8 % on ShareGPT, 24.7 % on "
        "SWE-bench.",
        SECOND_HAND,
    ),
)

TTFT_P95_MOST = {
    "vllm+": {"lmsys": 0.361, "sharegpt": 0.711, "swebench": 0.468},
    "sglang+": {"lmsys": 0.172, "sharegpt": 0.128, "swebench": 0.247},
}
"""How much lower the P95 is at most, as a share of that without a cache; `SECOND_HAND`."""
