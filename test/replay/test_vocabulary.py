from pathlib import Path

import pytest
from sglang_marconi.replay.requests import TokenRequest
from sglang_marconi.replay.vocabulary import fold, plain_token_ids
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


def test_folding_keeps_lengths_and_equality() -> None:
    request = TokenRequest("s", 0, 0.0, (1, 70, 1, 3), (4, 70))
    (folded,) = fold([request], [10, 20, 30, 40, 50])
    assert folded == TokenRequest("s", 0, 0.0, (20, 10, 20, 40), (50, 10))
