"""The tree of prompts that wait, against a naive reference that compares all with all."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from sglang_marconi.cost import ModelCost, preset
from sglang_marconi.policy.admission import is_worth_its_room
from sglang_marconi.policy.waiting import Ids, WaitingPrompts

PAPER = preset("paper-7b")
FREE_PASSES = replace(PAPER, pass_flops=0.0)

Tokens = tuple[int, ...]
Key = tuple[str, Tokens]


def ids(tokens: Tokens) -> Ids:
    return np.array(tokens, np.int64)


def common(left: Tokens, right: Tokens) -> int:
    count = 0
    while count < min(len(left), len(right)) and left[count] == right[count]:
        count += 1
    return count


@dataclass
class Naive:
    """The same answers by comparing each prompt with each."""

    cost: ModelCost
    page_size: int
    resumes: dict[int, int] = field(default_factory=dict)
    waiting: dict[int, tuple[str, Tokens, int]] = field(default_factory=dict)
    expected: list[Key] = field(default_factory=list)

    def forget_unshared(self) -> None:
        """What is expected while nobody shares it is of no use to those who come later."""
        self.expected = [
            (namespace, tokens)
            for namespace, tokens in self.expected
            if any(
                theirs == namespace and prompt[: len(tokens)] == tokens
                for theirs, prompt, _ in self.waiting.values()
            )
        ]

    def _gains(self, above: int, at: int, passes: float = 0.0) -> bool:
        return above < at and is_worth_its_room(above, at, self.cost, passes)

    def places(
        self, namespace: str, tokens: Tokens, start: int, but: int | None, passes: float
    ) -> list[int]:
        parting: dict[int, list[int]] = {}
        for request, (theirs, prompt, most) in self.waiting.items():
            if theirs == namespace and request != but:
                at = min(common(prompt, tokens), most) // self.page_size * self.page_size
                if at > start:
                    parting.setdefault(at, []).append(request)
        chosen = [0]
        for at in sorted(parting):
            # Whoever parts there or later could resume there; at the prompt's end it is free.
            payers = sum(len(those) for place, those in parting.items() if place >= at)
            each_pays = passes / payers if at < len(tokens) else 0.0
            if any(
                self._gains(max(self.resumes[each], chosen[-1]), at, each_pays)
                for each in parting[at]
            ):
                chosen.append(at)
        return chosen[1:]

    def waits(self, request: int) -> bool:
        theirs, prompt, most = self.waiting[request]
        usable = [
            len(tokens)
            for namespace, tokens in self.expected
            if namespace == theirs and len(tokens) <= most and prompt[: len(tokens)] == tokens
        ]
        return self._gains(self.resumes[request], max(usable, default=0))

    def sharing(self, namespace: str, tokens: Tokens) -> set[int]:
        return {
            request
            for request, (theirs, prompt, most) in self.waiting.items()
            if theirs == namespace and len(tokens) <= most and prompt[: len(tokens)] == tokens
        }


# Few tokens, so that prompts share much, end inside one another and are the same.
prompts = st.lists(st.integers(0, 2), min_size=1, max_size=9).map(tuple)
keys = st.tuples(st.sampled_from("ab"), prompts)
steps = st.lists(
    st.one_of(
        st.tuples(st.just("add"), keys, st.integers(0, 9), st.integers(0, 9)),
        st.tuples(st.just("remove"), st.integers(0, 9)),
        st.tuples(st.just("expect"), st.integers(0, 9), st.integers(1, 9)),
        st.tuples(st.just("expect nothing")),
        st.tuples(st.just("resume"), st.integers(0, 9), st.integers(0, 9)),
    ),
    max_size=25,
)


@settings(max_examples=400)
@given(steps, keys, st.integers(0, 9), st.sampled_from([1, 2, 3]), st.booleans())
def test_as_by_comparing_each_with_each(
    done: list[tuple], asked: Key, start: int, page_size: int, free: bool
) -> None:
    cost = FREE_PASSES if free else replace(PAPER, pass_flops=PAPER.prefill_flops(0, 2) * 10)
    naive = Naive(cost, page_size)
    tree: WaitingPrompts[int] = WaitingPrompts(cost, page_size, lambda each: naive.resumes[each])
    for number, (what, *given_) in enumerate(done):
        there = list(naive.waiting)
        if what == "add":
            (namespace, prompt), most, resumes = given_
            most = min(most, len(prompt) - 1)
            naive.waiting[number] = namespace, prompt, most
            naive.resumes[number] = min(resumes, most)
            tree.add(number, namespace, ids(prompt), most)
        elif what == "remove" and there:
            gone = there[given_[0] % len(there)]
            del naive.waiting[gone]
            naive.forget_unshared()
            tree.remove(gone)
        elif what == "expect" and there:
            namespace, prompt, _ = naive.waiting[there[given_[0] % len(there)]]
            tokens = prompt[: given_[1]]
            naive.expected.append((namespace, tokens))
            tree.expect(namespace, ids(tokens))
        elif what == "expect nothing":
            naive.expected.clear()
            tree.expect_nothing()
        elif what == "resume" and there:
            who = there[given_[0] % len(there)]
            naive.resumes[who] = min(given_[1], naive.waiting[who][2])
        compare(tree, naive, asked, start)


def compare(tree: WaitingPrompts[int], naive: Naive, asked: Key, start: int) -> None:
    namespace, tokens = asked
    assert set(tree) == set(naive.waiting) and len(tree) == len(naive.waiting)
    # Another prompt, and each of those that wait as the one that goes first.
    prefills = [(None, namespace, tokens)]
    prefills += [(each, space, prompt) for each, (space, prompt, _) in naive.waiting.items()]
    for but, space, prompt in prefills:
        for passes in (0.0, 0.1, 0.3):
            found = tree.places(space, ids(prompt), start, but, passes)
            assert found == naive.places(space, prompt, start, but, passes)
    for request in naive.waiting:
        assert tree.waits(request) == naive.waits(request)
    assert set(tree.sharing(namespace, ids(tokens))) == naive.sharing(namespace, tokens)


def tree_of(*prompts: Tokens, cost: ModelCost = FREE_PASSES) -> WaitingPrompts[Tokens]:
    """Prompts that wait and could resume nowhere, each by itself."""
    tree: WaitingPrompts[Tokens] = WaitingPrompts(cost, 1, lambda _: 0)
    for prompt in prompts:
        tree.add(prompt, "", ids(prompt), len(prompt) - 1)
    return tree


def test_what_is_expected_stays_where_it_is_as_edges_change() -> None:
    first, second = (1, 2, 3, 4), (1, 2, 3, 9)
    tree = tree_of(first)
    tree.expect("", ids((1, 2)))
    tree.add(second, "", ids(second), 3)
    assert tree.waits(first) and tree.waits(second)
    tree.remove(second)
    assert tree.waits(first)
    tree.expect_nothing()
    assert not tree.waits(first)


def test_the_place_before_counts_as_there() -> None:
    cost = replace(PAPER, pass_flops=10 * PAPER.prefill_flops(0, 2))
    prompts = [(1, 2, 3, 4, 9), (1, 2, 3, 8), (1, 2, 7)]
    tree = tree_of(*prompts, cost=cost)
    # After 2, 3 and 4 tokens: one token more is not worth another state, two are.
    assert tree.places("", ids((1, 2, 3, 4, 5)), 0) == [2, 4]
    assert tree.places("", ids((1, 2, 3, 4, 5)), 2) == [3]
