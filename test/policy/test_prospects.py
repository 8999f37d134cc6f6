"""Where prompts are predicted to be left, on streams whose right answer is known."""

from __future__ import annotations

import statistics

import numpy as np
import pytest
from bench_prospects import measure
from hypothesis import given, settings
from hypothesis import strategies as st
from sglang_marconi.policy.choice import Place, Prospect
from sglang_marconi.policy.prospects import Trail
from support.prospecting import ASSISTANT, CALL, END, THINK, USER, Server, document, places

# ---- ends of prompts ----


def test_the_same_prompt_again_is_predicted_once_such_repeats_have_been_seen() -> None:
    server = Server()
    seen = []
    for _ in range(6):
        prompt = server.words(600)
        seen.append(places(server.ask(prompt)))
        server.ask(prompt)
        server.ask(prompt)
    assert seen == [[], *[[(599, Place.PROMPT)]] * 5]


@pytest.mark.parametrize("header", [1, 2, 3, 9])
def test_reasoning_that_is_dropped_is_predicted_where_the_template_has_it(header: int) -> None:
    """The next turn leaves a prompt so many tokens before its end, where the reasoning began."""
    server = Server()
    think = list(range(10, 10 + header))
    seen = []
    for _ in range(8):
        history = [USER, *server.words(200), ASSISTANT]
        seen.append(places(server.ask([*history, *think])))
        answer = server.words(50)
        server.ask([*history, *answer, END, USER, *server.words(20), ASSISTANT, *think])
    assert seen[0] == []
    assert seen[-1] == [(202, Place.PROMPT)]
    assert all(at in ([], seen[-1]) for at in seen)


def test_reasoning_that_is_dropped_where_a_request_leaves_its_state_inside_its_prompt() -> None:
    """As where SGLang keeps nothing of the reply: the state stands on its grid before it."""
    server = Server()
    for _ in range(8):
        history = [USER, *server.words(200), ASSISTANT]
        prompt = [*history, THINK]
        trail, found = server.begin(prompt)
        server.past.append((prompt, trail))
        server.prospects.ended(trail, np.array(prompt, np.int64), 192)
        server.ask([*history, *server.words(50)])
    assert places(found) == [(202, Place.PROMPT)]


def test_an_end_serves_those_that_leave_a_little_later_too() -> None:
    """Most leave at the last token, where a state would not serve those that leave two before."""
    server = Server()
    for number in range(21):
        history = [USER, *server.words(300), ASSISTANT]
        prompt = [*history, THINK, THINK, THINK]
        found = server.ask(prompt)
        server.ask([*history, *server.words(5)] if number % 4 == 3 else prompt)
    assert places(found) == [(len(history), Place.PROMPT)]


def test_an_end_does_not_serve_the_few_at_the_cost_of_the_others() -> None:
    """Those that leave long before the end resume elsewhere, though one of them is the latest."""
    server = Server()
    for number in range(21):
        prompt = server.words(40)
        found = server.ask(prompt)
        server.ask([*prompt[:26], *server.words(14)] if number % 10 == 9 else prompt)
    assert places(found) == [(39, Place.PROMPT)]


def test_those_that_go_on_from_replies_do_not_tell_where_prompts_are_left() -> None:
    """One in seven leaves its prompt, at a long header; the others go on from all of it."""
    server = Server()
    before, header = list(range(20, 30)), list(range(10, 26))
    for number in range(70):
        history = [*server.words(74), *before]
        prompt, reply = [*history, *header], [*server.words(20), END]
        found = server.ask(prompt, reply)
        server.ask([*(history if number % 7 == 6 else [*prompt, *reply]), *server.words(20)])
    assert places(found) == [(84, Place.PROMPT)]


def test_what_the_tree_holds_is_not_predicted_once_more() -> None:
    """Where prompts part is seen: it needs no prediction, though no state is there any more."""
    server = Server()
    for _ in range(4):
        prompt = server.words(600)
        server.ask(prompt)
        server.ask(prompt)
    assert server.ask(prompt, above=0) == []


def test_prompts_are_told_apart_by_what_they_go_on_from() -> None:
    """A conversation's first prompt is sent again, the next ones never are."""
    server = Server()
    for _ in range(20):
        prompt, reply = server.words(200), [*server.words(20), END]
        first = server.ask(prompt)
        server.ask(prompt, reply)
        second = server.ask([*prompt, *reply, *server.words(200)])
    assert places(first) == [(199, Place.PROMPT)]
    assert second == []


def test_prompts_that_are_gone_on_from_at_their_replies_are_left_nowhere_else() -> None:
    server = Server()
    for _ in range(10):
        history = [USER, *server.words(50), ASSISTANT]
        for _ in range(5):
            reply = [*server.words(30), END]
            assert server.ask(history, reply) == []
            history = [*history, *reply, USER, *server.words(20), ASSISTANT]


def test_prompts_that_share_nothing_are_left_nowhere() -> None:
    server = Server()
    for _ in range(50):
        assert server.ask(server.words(100)) == []


def test_what_is_not_reused_any_more_is_not_predicted_any_more() -> None:
    server = Server()
    for _ in range(10):
        prompt = server.words(600)
        for _ in range(3):
            server.ask(prompt)
    assert server.ask(server.words(600)) != []
    for _ in range(300):
        found = server.ask(server.words(600))
    assert found == []


def test_repeats_are_learned_from_though_the_cache_has_forgotten_the_prompt() -> None:
    """Its end is remembered without its tokens."""
    server = Server()
    for _ in range(5):
        prompt = server.words(600)
        for _ in range(3):
            server.ask(prompt)
    small = Server(forgets=True)
    small.prospects = server.prospects
    # Half of all prompts come twice, which nothing but the memory of them shows.
    for _ in range(100):
        prompt = small.words(600)
        found = small.ask(prompt)
        small.ask(prompt)
    assert places(found) == [(599, Place.PROMPT)]


def test_a_place_that_is_used_often_counts_once() -> None:
    once, often = Server(), Server()
    for server, times in ((once, 2), (often, 50)):
        for _ in range(4):
            for _ in range(2):
                server.ask(server.words(600))
            prompt = server.words(600)
            for _ in range(times + 1):
                server.ask(prompt)
    first, second = (server.ask(server.words(600)) for server in (once, often))
    assert first == second != []


def test_where_a_prefill_has_to_be_cut_a_place_is_expected_to_save_a_pass() -> None:
    server = Server()
    for _ in range(30):
        prompt = server.words(600)
        for _ in range(2):
            server.ask(prompt)
    found = [server.begin(server.words(count), cut=300.0)[1] for count in (100, 300, 700, 900)]
    assert [places(each) for each in found] == [
        [],
        [],
        [(699, Place.PROMPT)],
        [(899, Place.PROMPT)],
    ]


def test_at_the_end_of_a_prompt_no_prefill_is_cut() -> None:
    """Where the template's last tokens are the ones that each next turn has, too."""
    server = Server()
    for _ in range(20):
        prompt = server.words(200)
        found = server.begin(prompt, cut=300.0)[1]
        server.ask(prompt)
        server.ask([*prompt, *server.words(30)])
    assert places(found) == [(200, Place.PROMPT)]


# ---- KV pages ----


def test_with_pages_of_64_all_stands_on_whole_pages() -> None:
    server = Server(64)
    for _ in range(6):
        prompt = server.words(600)
        found = server.ask(prompt)
        server.ask(prompt)
        server.ask(prompt)
    assert places(found) == [(576, Place.PROMPT)]
    server = Server(64)
    for _ in range(8):
        # What comes after it is longer than the end of a prompt, which is 16 pages.
        text = document(server, 2000)
        found = server.ask([*text, *server.words(1200), ASSISTANT])
        for _ in range(2):
            server.ask([*text, *server.words(1200), ASSISTANT])
    assert (2004 // 64 * 64, Place.BOUNDARY) in places(found)
    # In another, the tree has the page in which the marker stands up to just before it.
    found = server.ask([*text[:2000], *server.words(1), 11, 12, 13, *server.words(1200)], above=0)
    assert all(each.tokens > 2000 for each in found)


# ---- ends of replies ----


def test_replies_are_told_apart_by_how_they_end() -> None:
    """A tool is called, and the request goes on; an answer is the end."""
    server = Server()
    for _ in range(30):
        prompt = [USER, *server.words(100), ASSISTANT]
        call = [*server.words(20), 8, 9, CALL, END]
        server.ask(prompt, call)
        answer = [*server.words(20), 8, 9, THINK, END]
        server.ask([*prompt, *call, *server.words(20), ASSISTANT], answer)
    new = [USER, *server.words(100), ASSISTANT]
    assert server.chance_of_end(new, [*server.words(20), 8, 9, CALL, END]) > 1.6
    other = [USER, *server.words(100), ASSISTANT]
    assert server.chance_of_end(other, [*server.words(20), 8, 9, THINK, END]) < 0.4


def test_where_nothing_tells_replies_apart_they_are_as_usual() -> None:
    server = Server()
    for _ in range(30):
        prompt, reply = server.words(100), [*server.words(20), 8, 9, 7, END]
        server.ask(prompt, reply)
        server.ask([*prompt, *reply, *server.words(20)], [*server.words(20), 8, 9, 7, END])
    reply = [*server.words(20), 8, 9, 7, END]
    assert server.chance_of_end(server.words(50), reply) == pytest.approx(1.0, abs=0.1)


# ---- any stream ----

tokens = st.lists(st.integers(0, 2), min_size=1, max_size=40)
calls = st.lists(
    st.tuples(st.integers(0, 5), st.integers(0, 60), tokens, tokens, st.booleans()), max_size=25
)


@settings(deadline=None)
@given(calls, st.sampled_from([1, 4, 16]))
def test_the_same_calls_give_the_same_answers_on_whole_pages(
    calls: list[tuple[int, int, list[int], list[int], bool]], page_size: int
) -> None:
    both = [Server(page_size), Server(page_size)]
    said = []
    for server in both:
        answers: list[object] = []
        asked: list[list[int]] = []
        for again, cut, new, reply, forgets in calls:
            server.forgets = forgets
            before = asked[-1 - again][:cut] if again < len(asked) else []
            prompt = before + new * 10
            shared, left = server.shared(prompt)
            ids = np.array(prompt, np.int64)
            trail, found = server.prospects.arrived(ids, shared, shared, left)
            assert [each.tokens for each in found] == sorted({each.tokens for each in found})
            for each in found:
                assert each.place.is_guess and 0 < each.chance <= 1
                assert shared < each.tokens <= len(prompt) and each.tokens % page_size == 0
            assert (ids == prompt).all()
            chance = server.end(trail, prompt, reply)
            assert chance > 0
            answers += [found, chance]
            asked.append(prompt + reply)
        said.append(answers)
    assert said[0] == said[1]


def test_a_place_is_the_same_whether_its_hash_goes_on_from_the_prompt_s_or_not() -> None:
    server = Server()
    ids = np.array(server.words(120), np.int64)
    trail, _ = server.prospects.arrived(ids[:100], 0, 0, None)
    for end in (119, 100, 60):
        chance = server.prospects.ended(trail, ids, end)
        # It is not counted again.
        assert server.prospects.ended(Trail(0, 0, 0), ids, end) == chance


def test_prompts_of_other_namespaces_use_no_places() -> None:
    """As many come again as before, but never where their states could be used."""
    server = Server()

    def ask(prompt: list[int], namespace: int) -> list[Prospect]:
        ids = np.array(prompt, np.int64)
        _, found = server.prospects.arrived(ids, 0, 0, None, namespace)
        return found

    for _ in range(4):
        prompt = server.words(600)
        for _ in range(3):
            server.ask(prompt)
    assert server.ask(server.words(600)) != []
    for number in range(100):
        prompt = server.words(600)
        found = [ask(prompt, 2 * number + each) for each in (0, 1)]
    assert found == [[], []]
    for number in range(100):
        prompt = server.words(600)
        found = [ask(prompt, number) for _ in (0, 1)]
    assert [places(each) for each in found] == [[(599, Place.PROMPT)]] * 2


# ---- how long it takes ----


def test_a_long_prompt_takes_no_longer_than_its_tokens_do() -> None:
    """Some 1 ms on a quiet machine (`scripts/bench_prospects.py`), seconds if it were squared."""
    begins, ends = measure(100_000, 5)
    assert statistics.median(begins) < 0.03
    assert statistics.median(ends) < 0.01
