"""Properties of the admission rule, on any prompt and page size."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from sglang_marconi.policy.admission import PrefixMatch, branch_point, chunk_end, last_token

pages = st.sampled_from([1, 2, 16, 64])
lengths = st.integers(min_value=0, max_value=5000)


@given(lengths, lengths, pages)
def test_branch_is_the_last_whole_page_the_tree_shares(
    shared: int, resumed: int, page: int
) -> None:
    resumed = min(shared, resumed) // page * page
    branch = branch_point(PrefixMatch(shared, resumed, branches=True), page)
    if branch is None:
        assert shared - resumed < page
    else:
        assert branch % page == 0
        assert resumed < branch <= shared < branch + page


def test_no_branch_where_a_checkpoint_stands() -> None:
    assert branch_point(PrefixMatch(257, 257, branches=True), 1) is None
    assert branch_point(PrefixMatch(0, 0, branches=True), 1) is None
    assert branch_point(PrefixMatch(257, 0, branches=True), 1) == 257


def test_no_branch_where_a_prompt_continues_what_ended() -> None:
    assert branch_point(PrefixMatch(257, 0, branches=False), 1) is None


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
