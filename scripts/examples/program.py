"""A program in SGLang's frontend language: one essay, judged from several sides at once.

    make serve
    python scripts/examples/program.py [--url http://127.0.0.1:30000]

``fork`` copies the prompt so far and goes on with each copy. Forks run together, so none of them
can find a state that another one leaves. The ``gen`` before the fork leaves one: its last token
is where all of them, and the summary after them, resume. The essays share the instructions, which
are reused from the third one on.
"""

from __future__ import annotations

from typing import Any

import sglang as sgl
from reuse import report, server_url

INSTRUCTIONS = "You are an editor. Judge the essay by what it says, not by whose it is. " * 8
ESSAYS = (
    "The harbour is quiet in winter, and that is when it should be repaired. " * 8,
    "A good map leaves out most of what is there. " * 12,
    "Our river was cleaner before the mill, and it can be again. " * 10,
)
SIDES = ("clarity", "argument", "style")


@sgl.function  # type: ignore[untyped-decorator]
def judge(s: Any, essay: str) -> None:
    """A judgement from each side, in parallel, and one in all."""
    s += f"{INSTRUCTIONS}\nEssay: {essay}\nIts gist:"
    s += sgl.gen("gist", max_tokens=8, temperature=0)
    forks = s.fork(len(SIDES))
    for i, side in enumerate(SIDES):
        forks[i] += f" Its {side}:" + sgl.gen("judgement", max_tokens=8, temperature=0)
    forks.join()
    for fork, side in zip(forks, SIDES, strict=True):
        s += f" {side}: {fork['judgement']}"
        s.set_var(side, fork.get_meta_info("judgement"))
    s += " In all:" + sgl.gen("in all", max_tokens=8, temperature=0)


def main() -> None:
    """Judge the essays."""
    sgl.set_default_backend(sgl.RuntimeEndpoint(server_url(__doc__)))
    for number, essay in enumerate(ESSAYS, 1):
        state = judge.run(essay=essay)
        state.sync()
        gist, summary = state.get_meta_info("gist"), state.get_meta_info("in all")
        parts = {"gist": gist} | {side: state[side] for side in SIDES} | {"in all": summary}
        for name, found in parts.items():
            report(f"essay {number}, {name}", found["cached_tokens"], found["prompt_tokens"])


if __name__ == "__main__":
    main()
