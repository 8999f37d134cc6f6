"""What the comparison with a reference lets pass where two tokens are as probable as each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
from support import reference as module
from support.client import Reply
from support.reference import Reference

PROMPT = [7, 8]
# The second token is a tie of 11 and 21; what follows differs.
ANSWERS = {
    (7, 8): Reply([10, 11, 12], [-1.0, -2.0, -3.0], 0, [(20, -4.0), (21, -2.00005), (22, -4.0)]),
    (7, 8, 10, 21): Reply([13], [-5.0], 0, [(23, -6.0)]),
    (9,): Reply([10], [-1.0], 0, [(20, -1.00005)]),
}
OTHER_WAY = Reply([10, 21, 13], [-1.0, -2.00005, -5.0], 0)


@pytest.fixture
def reference(monkeypatch: pytest.MonkeyPatch) -> Reference:
    def answers(
        _url: str, prompts: Sequence[tuple[int, ...]], counts: Sequence[int], *, seconds: bool
    ) -> list[Reply]:
        replies = [ANSWERS[prompt] for prompt in prompts]
        assert seconds and [len(reply.output_ids) for reply in replies] == list(counts)
        return replies

    monkeypatch.setattr(module, "generate_batch", answers)
    return Reference("")


def test_either_of_two_as_probable(reference: Reference) -> None:
    for reply in (ANSWERS[7, 8], OTHER_WAY, replace(OTHER_WAY, logprobs=[])):
        reference.check([(PROMPT, 3)], [reply])


def test_no_more_than_was_asked_for(reference: Reference) -> None:
    reference.check([([9], 1)], [Reply([20], [-1.00005], 0)])
    with pytest.raises(AssertionError):
        reference.check([([9], 1)], [Reply([20, 13], [-1.00005, -1.0], 0)])


@pytest.mark.parametrize(
    "wrong",
    [
        # Neither of the two, the second one where it is none as probable, and one token less.
        replace(OTHER_WAY, output_ids=[10, 22, 13]),
        replace(OTHER_WAY, output_ids=[20, 21, 13]),
        replace(OTHER_WAY, output_ids=[10, 21]),
        # What follows the second one is not the answer to it.
        replace(OTHER_WAY, output_ids=[10, 21, 12]),
        # Other probabilities before the tie, at it, and after it.
        *(
            replace(OTHER_WAY, logprobs=[*scores[:at], scores[at] + 1, *scores[at + 1 :]])
            for at, scores in enumerate([OTHER_WAY.logprobs] * 3)
        ),
        replace(ANSWERS[7, 8], output_ids=[10, 11, 22]),
    ],
)
def test_nothing_else_passes(reference: Reference, wrong: Reply) -> None:
    with pytest.raises(AssertionError):
        reference.check([(PROMPT, 3)], [wrong])
