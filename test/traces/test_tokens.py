"""Properties of token runs, against the tokens they stand for."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from sglang_marconi.traces.tokens import Tokens

plain = st.lists(st.integers(0, 2), max_size=8).map(Tokens.plain)


@st.composite
def blocks(draw: st.DrawFn) -> Tokens:
    hashes = draw(st.lists(st.integers(0, 2), min_size=1, max_size=4))
    cut = draw(st.integers(0, 3))
    return Tokens.blocks(hashes, 4, len(hashes) * 4 - cut)


replies = st.integers(0, 3).map(lambda n: Tokens.blocks([-1], n, n) if n else Tokens.plain(()))
answered = st.builds(Tokens.__add__, blocks(), replies)
tokens = plain | blocks() | answered


def naive_common_prefix(a: Tokens, b: Tokens) -> int:
    pairs = list(zip(a.expand(), b.expand(), strict=False))
    return next((at for at, (x, y) in enumerate(pairs) if x != y), len(pairs))


@given(tokens, tokens)
@example(Tokens.blocks([1, 2], 4, 6), Tokens.blocks([1, 2], 4, 8))
@example(Tokens.plain([1, 2]), Tokens.plain([1, 2, 3]))
@example(Tokens.plain(()), Tokens.plain([1]))
def test_common_prefix_is_that_of_the_tokens(a: Tokens, b: Tokens) -> None:
    assert a.common_prefix(b) == b.common_prefix(a) == naive_common_prefix(a, b)


@given(tokens)
def test_the_common_prefix_with_itself_is_all(a: Tokens) -> None:
    assert a.common_prefix(a) == len(a) == len(a.expand())


@given(tokens, tokens)
def test_addition_puts_the_tokens_after_each_other(a: Tokens, b: Tokens) -> None:
    assert (a + b).expand() == a.expand() + b.expand()
    assert len(a + b) == len(a) + len(b)
    assert a.common_prefix(a + b) == len(a)


@given(st.lists(st.integers(0, 5), max_size=5), st.integers(1, 6), st.integers(0, 5))
def test_blocks_are_whole_but_the_last(hashes: list[int], block: int, cut: int) -> None:
    length = max(0, len(hashes) * block - min(cut, block - 1))
    whole = [(number, place) for number in hashes for place in range(block)]
    assert Tokens.blocks(hashes, block, length).expand() == whole[:length]


@given(tokens, tokens)
def test_numbers_are_equal_where_the_tokens_are(a: Tokens, b: Tokens) -> None:
    for one, other in ((a, b), (a, a)):
        numbers = one.numbers()[:, None] == other.numbers()
        assert numbers.tolist() == [[x == y for y in other.expand()] for x in one.expand()]


@pytest.mark.parametrize("length", [0, 4, 9, 100])
def test_hashes_that_do_not_make_the_length_are_refused(length: int) -> None:
    with pytest.raises(ValueError, match=f"2 blocks of 4 tokens do not make {length} tokens"):
        Tokens.blocks([1, 2], 4, length)
