"""Properties of the admission rule, on any prompt and page size."""

from __future__ import annotations

import doctest
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sglang_marconi.cost import ModelCost, from_config, preset, preset_config, token_length_cost
from sglang_marconi.policy import admission
from sglang_marconi.policy.admission import (
    PrefixMatch,
    branch_point,
    chunk_end,
    is_worth_its_room,
    last_token,
)
from sglang_marconi.policy.eviction import SharedBudgetEviction
from sglang_marconi.policy.utility import PaperUtility
from sglang_marconi.simulate.shared_budget import SharedBudgetCache
from sglang_marconi.traces.requests import TraceRequest
from sglang_marconi.traces.tokens import Tokens

pages = st.sampled_from([1, 2, 16, 64])
lengths = st.integers(min_value=0, max_value=5000)
PAPER = preset("paper-7b")
# However little a hit saves, it shows beside a pass that takes no time.
FREE_PASSES = replace(PAPER, pass_flops=0.0)
TOKENS = token_length_cost(state_bytes=1, kv_bytes_per_token=1)


def least(cost: ModelCost, above: int = 0) -> int:
    """The fewest tokens below a checkpoint that get another."""
    return next(more for more in range(1, 5000) if is_worth_its_room(above, above + more, cost))


@given(lengths, lengths, pages)
def test_branch_is_the_last_whole_page_the_tree_shares(
    shared: int, resumed: int, page: int
) -> None:
    resumed = min(shared, resumed) // page * page
    branch = branch_point(PrefixMatch(shared, resumed, branches=True), page, FREE_PASSES)
    if branch is None:
        assert shared - resumed < page
    else:
        assert branch % page == 0
        assert resumed < branch <= shared < branch + page


def test_no_branch_where_a_checkpoint_stands() -> None:
    assert branch_point(PrefixMatch(257, 257, branches=True), 1, FREE_PASSES) is None
    assert branch_point(PrefixMatch(0, 0, branches=True), 1, FREE_PASSES) is None
    assert branch_point(PrefixMatch(257, 0, branches=True), 1, PAPER) == 257


def test_no_branch_where_a_prompt_continues_what_ended() -> None:
    assert branch_point(PrefixMatch(257, 0, branches=False), 1, FREE_PASSES) is None


@pytest.mark.parametrize(
    ("cost", "tokens"),
    [
        # What an H100 computes in the time in which it reads a 16-bit model is a prefill of 295
        # tokens, a tenth of which a hit has to save; a little less where tokens do more than
        # multiply with the weights.
        (PAPER, 30),
        (preset("nemotron-nano-9b-v2"), 30),
        (preset("granite-4.0-h-tiny"), 29),
        # Of its 512 experts a token is multiplied with 10.
        (preset("qwen3-next-80b-a3b"), 29),
        (from_config(preset_config("nemotron-nano-9b-v2"), tp_size=4), 30),
        (TOKENS, 30),
    ],
)
def test_a_short_gain_is_not_worth_its_room(cost: ModelCost, tokens: int) -> None:
    assert least(cost) == tokens
    for above in (0, 1000):
        gain = least(cost, above)
        shared = above + gain
        assert branch_point(PrefixMatch(shared, above, branches=True), 1, cost) == shared
        assert branch_point(PrefixMatch(shared - 1, above, branches=True), 1, cost) is None


def test_far_down_a_token_costs_more_so_that_fewer_are_worth_it() -> None:
    assert least(PAPER, 100_000) < least(PAPER)
    assert least(TOKENS, 100_000) == least(TOKENS)


def test_what_is_cut_off_for_a_page_is_no_gain() -> None:
    assert branch_point(PrefixMatch(64 + 63, 64, branches=True), 64, TOKENS) is None
    assert branch_point(PrefixMatch(64 + 63, 64, branches=True), 16, TOKENS) == 64 + 48
    assert branch_point(PrefixMatch(31, 0, branches=True), 16, TOKENS) is None


@given(lengths, lengths, st.none() | lengths)
def test_a_prefill_is_cut_only_inside(start: int, extent: int, branch: int | None) -> None:
    end = start + extent
    cut = chunk_end(start, end, branch)
    inside = branch is not None and start < branch < end
    assert cut == (branch if inside else end)


@given(lengths, lengths, pages)
def test_last_token_names_a_state_that_exists(known: int, state: int, page: int) -> None:
    at = last_token(known, state, page)
    assert at is None or (at == known == state and at % page == 0 and at > 0)
    if known == state > 0 and page == 1:
        assert at == known


def test_the_example_is_right() -> None:
    found = doctest.testmod(admission)
    assert found.attempted >= 10 and not found.failed


def test_the_example_is_what_a_cache_does() -> None:
    system, first, reply = [1] * 800, [2] * 40, [3] * 61
    prompts = [
        ([*system, *first], reply),
        ([*system, *[4] * 60], [5] * 31),
        ([*system, *first, *reply, *[6] * 49], [7] * 51),
        ([*system, *[8] * 20], [9]),
    ]
    policy = SharedBudgetEviction(PAPER, PaperUtility(0.0))
    cache = SharedBudgetCache(PAPER, policy, None)
    hits = [
        cache.serve(TraceRequest("0", 0, 0.0, Tokens.plain(prompt), Tokens.plain(reply)))
        for prompt, reply in prompts[:3]
    ]
    assert hits == [0, 0, 900]
    nodes = [policy.root]
    for node in nodes:
        nodes.extend(node.children.values())
    assert sorted(node.depth for node in nodes if node.has_state) == [800, 890, 900, 1000]
    prompt, reply = prompts[3]
    assert cache.serve(TraceRequest("0", 0, 0.0, Tokens.plain(prompt), Tokens.plain(reply))) == 800
