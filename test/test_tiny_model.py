import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny_model import build_tiny_model
from tiny_tokenizer import word_token_ids
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_model(tmp_path_factory.mktemp("tiny") / "model")


def contents(model: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in model.iterdir()}


def test_a_seed_gives_the_same_files_and_another_seed_others(model: Path, tmp_path: Path) -> None:
    assert contents(build_tiny_model(tmp_path / "same")) == contents(model)
    other = contents(build_tiny_model(tmp_path / "other", seed=1))
    assert other["model.safetensors"] != contents(model)["model.safetensors"]


def test_a_complete_model_is_kept_and_another_is_replaced(tmp_path: Path) -> None:
    model = build_tiny_model(tmp_path / "model")
    before = (model / "config.json").stat()
    assert build_tiny_model(model) == model
    assert (model / "config.json").stat() == before
    weights = (model / "model.safetensors").read_bytes()
    assert (build_tiny_model(model, seed=1) / "model.safetensors").read_bytes() != weights
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_directory_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "precious.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="holds no tiny model"):
        build_tiny_model(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["precious.txt"]


def test_transformers_loads_every_weight(model: Path) -> None:
    _, info = AutoModelForCausalLM.from_pretrained(model, output_loading_info=True)
    assert not any(info.values())


def test_config_says_the_groups_both_ways_and_the_size_is_small(model: Path) -> None:
    config = json.loads((model / "config.json").read_text())
    assert config["n_groups"] == config["mamba_n_groups"]
    assert config["max_position_embeddings"] >= 32768
    weights = load_file(model / "model.safetensors")
    assert sum(weight.numel() for weight in weights.values()) < 5_000_000
    assert {weight.dtype for weight in weights.values()} == {torch.float32}


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Keeps many small operations from waiting on cores that something else uses."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.usefixtures("one_thread")
def test_greedy_replies_vary_and_are_tokenized_again_as_they_were(model: Path) -> None:
    network = AutoModelForCausalLM.from_pretrained(model)
    tokenizer = AutoTokenizer.from_pretrained(model)
    for prompt in ("able about account", "What is the policy?"):
        prompt_ids = tokenizer(prompt, return_tensors="pt").input_ids
        output = network.generate(prompt_ids, max_new_tokens=64, do_sample=False)
        reply = output[0, prompt_ids.shape[1] :].tolist()
        assert len(reply) == 64
        assert len(set(reply)) > 32
        assert tokenizer(tokenizer.decode(reply)).input_ids == reply


@pytest.mark.parametrize("text", ["plain words.", "Grüße 世界 🎉", "\x00 \t\r\n\n  spaced  ", ""])
def test_any_text_comes_back_from_the_tokenizer(model: Path, text: str) -> None:
    tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
    assert tokenizer.decode(tokenizer.encode(text).ids) == text


def test_every_word_is_one_token(model: Path) -> None:
    tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
    ids = word_token_ids(tokenizer)
    assert len(ids) > 500
    assert all(tokenizer.encode(tokenizer.decode([id])).ids == [id] for id in ids)


def test_chat_template(model: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(model)
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "hello"},
        {"role": "assistant", "content": " able"},
        {"role": "tool", "content": "42"},
    ]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert text == (
        "<|im_start|>system\nBe brief.<|im_end|>\n"
        "<|im_start|>user\nhello<|im_end|>\n"
        "<|im_start|>assistant\n able<|im_end|>\n"
        "<|im_start|>tool\n42<|im_end|>\n"
        "<|im_start|>assistant\n"
    )
    with pytest.raises(Exception, match="unknown role: robot"):
        tokenizer.apply_chat_template([{"role": "robot", "content": ""}], tokenize=False)
