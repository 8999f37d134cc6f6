from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sglang_marconi.client.vocabulary import Vocabulary, plain_token_ids
from sglang_marconi.traces.tokens import Tokens
from tiny_tokenizer import SPECIAL_TOKENS, build_tokenizer


@pytest.fixture(scope="module")
def tokenizer_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path: Path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    build_tokenizer().save(str(path))
    return path


def test_special_tokens_are_left_out(tokenizer_file: Path) -> None:
    ids = plain_token_ids(tokenizer_file)
    tokenizer = build_tokenizer()
    assert len(ids) == tokenizer.get_vocab_size() - len(SPECIAL_TOKENS)
    assert {tokenizer.token_to_id(token) for token in SPECIAL_TOKENS}.isdisjoint(ids)


def test_plain_tokens_are_folded() -> None:
    vocabulary = Vocabulary([10, 20, 30, 40, 50])
    assert vocabulary.fold(Tokens.plain([1, 70, 1, 3, 4, -1])) == [20, 10, 20, 40, 50, 50]
    assert vocabulary.fold(Tokens.plain([])) == []


def test_a_run_has_the_same_ids_in_every_process() -> None:
    assert Vocabulary(range(1000)).fold(Tokens.blocks([7, -2], 4, 8)) == [
        7,
        257,
        587,
        32,
        998,
        374,
        785,
        76,
    ]


def test_runs_of_other_numbers_have_other_ids() -> None:
    vocabulary = Vocabulary(range(1000))
    one, other = (vocabulary.fold(Tokens.blocks([n], 10_000, 10_000)) for n in (7, 8))
    # One in a thousand is equal by chance.
    assert sum(a == b for a, b in zip(one, other, strict=True)) < 40


def test_ids_of_a_run_are_spread_over_the_vocabulary() -> None:
    allowed = range(500, 600)
    ids = Vocabulary(allowed).fold(Tokens.blocks([7], 20_000, 20_000))
    counts = [ids.count(id) for id in allowed]
    assert sum(counts) == 20_000
    # Of a binomial with mean 200 and deviation 14.
    assert 120 < min(counts) <= max(counts) < 280


@given(
    st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=5),
    st.integers(1, 7),
    st.data(),
)
def test_equal_tokens_have_equal_ids(numbers: list[int], block: int, data: st.DataObject) -> None:
    whole = Tokens.blocks(numbers, block, len(numbers) * block)
    length = data.draw(st.integers((len(numbers) - 1) * block + 1, len(numbers) * block))
    cut = Tokens.blocks(numbers, block, length)
    after = cut + Tokens.plain([numbers[0]])
    vocabulary = Vocabulary(range(100, 200))
    ids = vocabulary.fold(whole)
    assert vocabulary.fold(cut) == ids[:length]
    assert vocabulary.fold(after) == [*ids[:length], ids[0]]


def test_an_empty_vocabulary_is_an_error() -> None:
    with pytest.raises(ValueError, match="at least one id"):
        Vocabulary([])
