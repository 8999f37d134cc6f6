from array import array

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sglang_marconi.simulate.tree import RadixTree
from sglang_marconi.tuning.messages import Finished
from sglang_marconi.tuning.prefix_hashes import PrefixHasher
from sglang_marconi.tuning.shadow import recorded

_HASHER = PrefixHasher()
_TOKENS = st.lists(st.integers(0, 2**31 - 1) | st.integers(0, 3), max_size=40)


def _hashes(tokens):
    return np.frombuffer(_HASHER.hash(tokens), np.uint32)


def _common(one, other):
    parted = (a != b for a, b in zip(one, other, strict=False))
    return next((at for at, parts in enumerate(parted) if parts), min(len(one), len(other)))


@given(_TOKENS, _TOKENS, _TOKENS)
def test_as_many_hashes_are_common_as_tokens(shared, one, other):
    one, other = shared + one, shared + other
    assert _common(_hashes(one), _hashes(other)) == _common(one, other)


@given(_TOKENS.filter(bool))
def test_every_kind_of_sequence_has_the_same_hashes(tokens):
    expected = _HASHER.hash(tokens)
    assert len(expected) == 4 * len(tokens)
    assert _HASHER.hash(array("q", tokens)) == expected
    assert _HASHER.hash(np.array(tokens, np.int64)) == expected
    assert _HASHER.hash(np.array(tokens, np.int32)) == expected


def test_a_sequence_longer_than_all_before_keeps_its_start():
    tokens = array("q", range(200_000))
    start = _HASHER.hash(tokens[:1000])
    assert _HASHER.hash(tokens)[: len(start)] == start
    assert _HASHER.hash(tokens[:1000]) == start


def test_no_tokens():
    assert _HASHER.hash(array("q")) == b""


def test_tokens_that_differ_in_one_bit_differ_everywhere():
    for bit in range(32):
        assert not set(enumerate(_hashes([0] * 100))) & set(enumerate(_hashes([1 << bit] * 100)))


def test_another_process_has_other_hashes():
    assert PrefixHasher().hash([1, 2, 3]) != PrefixHasher().hash([1, 2, 3])


def test_the_same_token_has_other_hashes_elsewhere():
    assert len(set(_hashes([7] * 100).tolist())) == 100


@given(_TOKENS.filter(bool), st.data())
def test_a_recorded_request_is_its_prompt_and_its_reply(tokens, data):
    prompt = data.draw(st.integers(1, len(tokens)))
    request = recorded(Finished(1, prompt, len(tokens), _HASHER.hash(tokens)))
    assert (len(request.prompt), len(request.reply)) == (prompt, len(tokens) - prompt)
    sequence = request.prompt + request.reply
    assert sequence.ids.tolist() == _hashes(tokens).tolist()
    assert sequence.ends.tolist() == list(range(1, len(tokens) + 1))
    assert sequence.common_prefix(request.prompt) == prompt


@given(_TOKENS, _TOKENS.filter(bool), _TOKENS)
def test_the_next_turn_goes_on_from_any_token(first, message, other):
    """The tree finds exactly what two sequences share, wherever the earlier one ended."""

    def sequence(tokens):
        request = recorded(Finished(1, len(tokens), len(tokens), _HASHER.hash(tokens)))
        return request.prompt + request.reply

    one, two = [*first, *message], [*first, *other]
    tree = RadixTree()
    tree.add(tree.root, sequence(one), len(one))
    if two:
        assert tree.walk(sequence(two), len(two)).shared == _common(one, two)


@pytest.mark.parametrize(
    ("prompt", "length", "size"), [(0, 4, 16), (5, 4, 16), (-1, 4, 16), (2, 4, 15), (2, 4, 32)]
)
def test_lengths_that_do_not_fit_are_refused(prompt, length, size):
    with pytest.raises(ValueError, match="tokens of prompt"):
        recorded(Finished(1, prompt, length, bytes(size)))
