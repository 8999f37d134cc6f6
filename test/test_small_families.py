"""Small models of families: their files, and chats as the token ids that they are asked with."""

from __future__ import annotations

from pathlib import Path

import pytest
from families import FAMILIES, build_family
from families.chats import chats_as_tokens
from sglang_marconi.cost.load import load_cost
from sglang_marconi.traces.requests import ChatRequest, Message
from transformers import AutoTokenizer


@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_has_the_states_that_it_says(name: str, tmp_path: Path) -> None:
    build_family(tmp_path, name)
    cost = load_cost(str(tmp_path))
    assert cost.state_bytes > 0
    assert cost.kv_bytes_per_token > 0
    # Encodings make nothing else smaller than recurrent states.
    assert (cost.encoded_state_bytes("int8") < cost.state_bytes) == FAMILIES[name].recurrent


def test_chats_are_rendered_as_the_chat_template_does(tmp_path: Path) -> None:
    build_family(tmp_path, "qwen3-next")
    turns = [
        ChatRequest("a", 0, 0.0, (Message("system", "Be kind."), Message("user", "Hello you.")), 3),
        ChatRequest("b", 0, 1.0, (Message("user", "Who are you?"),), 2),
        ChatRequest("a", 1, 2.0, (Message("user", "And then?"),), 3),
    ]
    first, other, second = chats_as_tokens(turns, tmp_path / "tokenizer.json")
    assert [request.continues for request in (first, other, second)] == [
        0,
        0,
        len(first.prompt) + 3,
    ]
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)

    def rendered(messages: list[Message]) -> list[int]:
        text = tokenizer.apply_chat_template(
            [message._asdict() for message in messages], tokenize=False, add_generation_prompt=True
        )
        ids: list[int] = tokenizer(text, add_special_tokens=False).input_ids
        return ids

    assert list(first.prompt.ids) == rendered(list(turns[0].new_messages))
    # A reply of three tokens that are a word each.
    reply = tokenizer.decode(tokenizer(" the and for").input_ids)
    history = [*turns[0].new_messages, Message("assistant", reply), *turns[2].new_messages]
    expected = rendered(history)
    found = list(second.prompt.ids)
    assert len(found) == len(expected)
    begin, end = len(first.prompt), len(first.prompt) + 3
    assert found[:begin] == expected[:begin]
    assert found[end:] == expected[end:]
