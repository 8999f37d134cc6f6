"""What sets this evaluation apart from the paper's, in sentences."""

from __future__ import annotations

from collections.abc import Sequence

from sglang_marconi.records import RunRecord

from evaluation.paper.naming import TraceName, has_profile
from evaluation.paper.plan import FLOPS_PER_SECOND

_WORKLOADS = (
    "The workloads are generated in the shapes of the data sets, not taken from them: the paper "
    "replays LMSYS-Chat-1M, ShareGPT and SWE-agent trajectories. Means of lengths are published "
    "ones, spreads are assumptions.",
    "Conversations of LMSys and ShareGPT have ten turns or more, as in the artifact; how many "
    "more is drawn from a geometric distribution.",
    "Sessions of SWE-bench share no system prompt: the paper's figure 12b has vLLM+ at a token "
    "hit rate of 0.9 %, which leaves no room for one. The lengths of its messages (2,000 tokens "
    "on average) and its turns (30 on average) are assumptions, made so that 60 to 140 GB are too "
    "little for 100 sessions, as in the paper's figure 11, where 60 GB are scarcer still.",
    "Sessions start at random at a mean rate, and gaps between turns are exponential. In the "
    "artifact sessions start at even intervals; chats wait as long as the message takes to type "
    "at 90 words a minute, agents for a Poisson number of seconds.",
)
_GIVEN = "The traces are given ones. Whether they are the paper's, their owner knows."
_GRID = (
    "The full grid has the artifact's cache sizes but for 40 GB on SWE-bench, and its rates but "
    "for 0.25 and 10 sessions/s. The artifact crosses all rates with all gaps on SWE-bench; here "
    "either the gap is 7.5 s or the rate 5 sessions/s. The quick grid is about a tenth of it.",
    "Of the layer mixes, (0, 36) is left out: without states there is nothing for these policies "
    "to weigh. The trace and cache size of the paper's figures 12a and 12b were not found, and "
    "neither was the number of MLP layers of figure 12a: here it is 28.",
)
_POLICIES = (
    "The state of a finished request stands one token earlier than the paper's: before the last "
    "decoded token, which the model has not read.",
    "Recency is the time of last use, scaled from the least to the most recent candidate. The "
    "artifact scales the inverse of the age instead, which sets only the newest apart.",
    "Leaves without a state go before all others, in marconi, auto and sglang+ alike; the "
    "artifact has states at all nodes of its tree.",
    "A hit counts as a use of the state it resumes at, in sglang+ too; in the artifact's SGLang+ "
    "of all nodes above it as well.",
    "marconi chooses one alpha, once, of nine from 0 to 2 (the artifact: of 21). Its window ends "
    "after six times the requests that came before the first eviction; the artifact's after five "
    "times, on LMSys after fifteen.",
    "auto has a fixed alpha of 1 and gives up states that their own conversation has grown past "
    "before all others; the paper has no such rule.",
    "vllm+ finds blocks of 32 tokens by their prefix, as vLLM does; the artifact's is a tree of "
    "its own.",
)
_PROFILE = (
    "Times to first token come from the given latency profile, by the number of tokens to "
    "compute alone. The paper's profile is of Jamba-1.5-Mini on A100 GPUs.",
)
_ASSUMED = (
    "An assumption: the time to first token is the FLOPs of prefill, by the paper's formulas, at "
    f"{FLOPS_PER_SECOND / 1e12:g} TFLOP/s, and nothing else. Tokens to compute are taken to "
    "follow an empty context, so that attention to reused tokens costs nothing. Shares do not "
    "depend on the rate. The paper profiles Jamba-1.5-Mini on A100 GPUs.",
)
_QUEUES = "Requests are served one at a time and never wait for each other."


def differences(runs: Sequence[RunRecord]) -> Sequence[str]:
    """Those that hold for these runs."""
    generated = any(TraceName.parse(run.trace).generated for run in runs)
    profiled = any(has_profile(run.model) for run in runs)
    return [
        *(_WORKLOADS if generated else (_GIVEN,)),
        *_GRID,
        *_POLICIES,
        *(_PROFILE if profiled else _ASSUMED),
        _QUEUES,
    ]
