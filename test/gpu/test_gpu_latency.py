"""What the latency step asks and how it counts."""

from __future__ import annotations

import pytest
from gpu.latency import CPU, OURS, STOCK, Round, branch_lines, pairs, ratios_of, ttft_lines
from gpu.traffic import Conversations

VOCABULARY = list(range(100, 1100))


def played(*ttft: float) -> Round:
    return Round(list(ttft), [], hit_rate=0.5, seconds=1.0)


def test_a_ratio_is_of_the_medians_of_one_round() -> None:
    rounds = {
        STOCK: [played(1.0, 2.0, 9.0), played(4.0, 4.0, 4.0), played(1.0)],
        # The third round was not played to the end.
        OURS: [played(1.0, 1.0, 9.0), played(3.0, 2.0, 1.0)],
    }
    assert ratios_of(rounds) == [0.5, 0.5]
    assert ttft_lines(rounds)[-1].endswith("over SGLang: 0.50 (0.50 to 0.50 in 2 rounds); "
                                           "the goal, 0.7, is met.")  # fmt: skip


@pytest.mark.parametrize(("ours", "verdict"), [(0.7, "met"), (0.71, "missed")])
def test_the_goal(ours: float, verdict: str) -> None:
    rounds = {STOCK: [played(1.0, 1.0)], OURS: [played(ours, ours)]}
    assert ttft_lines(rounds)[-1].endswith(f"is {verdict}.")


def test_without_a_round_there_is_no_number() -> None:
    assert ttft_lines({STOCK: [played(1.0, 1.0)], OURS: []}) == ["No round was finished."]


def test_a_branch_is_what_its_prompt_takes_longer() -> None:
    (line,) = branch_lines({OURS: [0.002, 0.003, 0.010]})
    assert "+3.0 ms to the first token (+2.0 ms to +10.0 ms)" in line


def test_branching_prompts_share_one_half_and_are_as_long_as_whole_ones() -> None:
    requests = list(pairs(CPU, VOCABULARY, seed=1))
    assert len(requests) == 3 * CPU.branches
    for first, branch, whole in zip(*[iter(requests)] * 3, strict=True):
        one, two, three = ([int(t) for t in r.prompt.ids] for r in (first, branch, whole))
        half = CPU.branch_prompt // 2
        assert one[:half] == two[:half]
        assert one[half:] != two[half:]
        assert len(two) == len(three) == CPU.branch_prompt
        assert three[:half] != one[:half]


def test_a_turn_continues_its_conversation() -> None:
    shape = Conversations(2, 50, 6, 3, 20, 5)
    requests = shape.requests(VOCABULARY, seed=1)
    assert len(requests) == 18
    assert [r.arrival for r in requests] == sorted(r.arrival for r in requests)
    seen: dict[str, list[int]] = {}
    for request in requests:
        prompt = [int(token) for token in request.prompt.ids]
        before = seen.get(request.session_id, [])
        assert prompt[: request.continues] == before
        assert request.continues == len(before)
        assert 10 <= len(prompt) - (len(before) or 50) <= 30
        seen[request.session_id] = prompt + [int(token) for token in request.reply.ids]
    # Three conversations begin with each system prompt.
    assert len({tuple(tokens[:50]) for tokens in seen.values()}) == 2
    # They overlap: some turn lies between two of another conversation.
    order = [request.session_id for request in requests]
    assert order != sorted(order, key=order.index)


def test_other_seeds_share_nothing() -> None:
    shape = Conversations(2, 50, 6, 3, 20, 5)
    begins = [
        {tuple(int(t) for t in r.prompt.ids[:3]) for r in shape.requests(VOCABULARY, seed)}
        for seed in (1, 2)
    ]
    assert not begins[0] & begins[1]
    assert shape.requests(VOCABULARY, 1)[3].prompt.ids.tolist() == (
        shape.requests(VOCABULARY, 1)[3].prompt.ids.tolist()
    )
