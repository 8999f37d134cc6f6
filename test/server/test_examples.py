"""The examples run against a real server and reuse what they say they reuse."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import pytest
from local_server import LocalServer
from support.client import flush
from support.forked import run_python

pytestmark = [
    pytest.mark.server,
    pytest.mark.parametrize("marconi", ["extra_buffer"], indirect=True),
]

EXAMPLES = Path(__file__).parents[2] / "scripts" / "examples"
LINE = re.compile(r"(?P<what>.+): (?P<cached>\d+) of (?P<prompt>\d+) prompt tokens reused")


class Reuse(NamedTuple):
    cached: int
    prompt: int


def run_example(server: LocalServer, name: str) -> dict[str, Reuse]:
    """What an example prints, on an empty cache."""
    flush(server.url)
    run = run_python(str(EXAMPLES / name), "--url", server.url)
    assert run.returncode == 0, run.stderr[-3000:]
    lines = [LINE.fullmatch(line) for line in run.stdout.splitlines()]
    return {
        line["what"]: Reuse(int(line["cached"]), int(line["prompt"]))
        for line in lines
        if line is not None
    }


def test_each_turn_of_a_chat_resumes_after_the_last_reply(marconi: LocalServer) -> None:
    turns = list(run_example(marconi, "chat.py").values())
    assert len(turns) == 4
    assert turns[0].cached == 0
    for before, turn in pairwise(turns):
        assert turn.cached >= before.prompt


def test_few_shot_examples_are_reused_from_the_third_question_on(marconi: LocalServer) -> None:
    questions = list(run_example(marconi, "few_shot.py").values())
    assert [question.cached for question in questions[:2]] == [0, 0]
    assert len({question.cached for question in questions[2:]}) == 1
    assert all(question.cached > 0.9 * question.prompt for question in questions[2:])


def test_documents_are_reused_from_the_third_question_on_or_once_sent_alone(
    marconi: LocalServer,
) -> None:
    found = run_example(marconi, "documents.py")
    assert [found[f"notice, question {number}"].cached for number in (1, 2)] == [0, 0]
    later = {name: reuse for name, reuse in found.items() if not name.endswith((" 1", " 2"))}
    contract = [reuse for name, reuse in found.items() if name.startswith("contract")]
    assert len(found) == 8
    assert len({reuse.cached for reuse in contract}) == 1
    assert all(reuse.cached > 0.9 * reuse.prompt for reuse in [*later.values(), *contract])


def test_forks_resume_where_a_gen_before_them_ended(marconi: LocalServer) -> None:
    found = run_example(marconi, "program.py")
    for number in (1, 2, 3):
        gist = found[f"essay {number}, gist"]
        for part in ("clarity", "argument", "style", "in all"):
            assert found[f"essay {number}, {part}"].cached >= gist.prompt
    gists = [found[f"essay {number}, gist"].cached for number in (1, 2, 3)]
    assert gists[:2] == [0, 0]
    assert gists[2] > 200


def test_agents_resume_at_each_step_and_share_instructions(marconi: LocalServer) -> None:
    found = run_example(marconi, "agent.py")
    for city in ("Oslo", "Porto", "Riga"):
        steps = [found[f"{city}, step {number}"] for number in (1, 2, 3, 4)]
        for before, step in pairwise(steps):
            assert step.cached >= before.prompt
    assert found["Oslo, step 1"].cached == found["Porto, step 1"].cached == 0
    assert found["Riga, step 1"].cached > 200
