"""Where a breakpoint stands, under templates and a tokenizer that merges across borders."""

from __future__ import annotations

import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from sglang_marconi.declare import position as module
from sglang_marconi.declare.breakpoints import Body, BreakpointError, breakpoints
from sglang_marconi.declare.position import Rendered, position, shared
from support import chat_templates
from support.chat_templates import CHATML, DROPS_REASONING, SHOW_ALL, THINKING
from tiny_tokenizer import build_tokenizer, save_tokenizer
from tokenizers import Tokenizer, decoders, models, trainers
from transformers import PreTrainedTokenizerFast

CACHED = {"cache_control": {"type": "ephemeral"}}
SYSTEM = "You answer questions about trains.\nBe brief."
# How what comes next may begin: with each kind of text that could merge with what is before it.
NEXT = ("When?", "when", " where", "\nWhy", "\n\n", "1st", ".", "...", "ü", "到", "<", '"', "You")


def merging() -> Tokenizer:
    """A tokenizer whose tokens go over borders of words and lines, as SentencePiece's do."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.decoder = decoders.Fuse()
    trainer = trainers.BpeTrainer(  # type: ignore[no-untyped-call]
        vocab_size=160,
        min_frequency=1,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=[chr(code) for code in (10, *range(32, 127), 0xA4, 0xFC, 0x5230, 0x7684)],
        show_progress=False,
    )
    lines = [f"user: {text}\nassistant: Now. You\n\nuser: 1st" for text in NEXT]
    tokenizer.train_from_iterator([SYSTEM, *lines, *lines, "brief.\nuser: W", "?\na"], trainer)
    return tokenizer


@pytest.fixture(scope="module", params=["bytes", "merging"])
def tokenizer(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> PreTrainedTokenizerFast:
    folder: Path = tmp_path_factory.mktemp("tokenizer")
    save_tokenizer(build_tokenizer() if request.param == "bytes" else merging(), folder, 4096)
    return PreTrainedTokenizerFast.from_pretrained(folder)


class Template:
    """Renders bodies of chat requests, as SGLang does."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, template: str) -> None:
        self.tokenizer = tokenizer
        self._template = template

    def text(self, body: Body) -> str:
        messages = deepcopy(body["messages"])
        for message in messages:
            content = message["content"]
            if isinstance(content, list):
                message["content"] = " ".join(part["text"] for part in content)
            for call in message.get("tool_calls") or ():
                call["function"]["arguments"] = json.loads(call["function"]["arguments"])
        tools = [{"function": tool["function"]} for tool in body.get("tools") or ()]
        for tool in tools:
            tool["function"] = {k: v for k, v in tool["function"].items() if k != "cache_control"}
        try:
            return str(
                self.tokenizer.apply_chat_template(
                    messages,
                    tools=tools or None,
                    chat_template=self._template,
                    tokenize=False,
                    add_generation_prompt=True,
                )
            )
        except Exception as error:
            raise ValueError(str(error)) from error

    def tokens(self, body: Body) -> list[int]:
        return list(self.tokenizer.encode(self.text(body), add_special_tokens=False))

    def positions(self, body: Body) -> list[int]:
        rendered = Rendered(body, self.tokens(body), self.tokens, self.tokenizer)
        return [position(rendered, place) for place in breakpoints(body)]

    def before(self, body: Body, tokens: int) -> str:
        """The text of the first tokens."""
        return str(self.tokenizer.decode(self.tokens(body)[:tokens], skip_special_tokens=False))


def message(role: str, content: Any, **more: Any) -> dict[str, Any]:
    return {"role": role, "content": content, **more}


def chat(*messages: dict[str, Any], **more: Any) -> Body:
    return {"messages": list(messages), **more}


@pytest.mark.parametrize("name", SHOW_ALL)
def test_after_the_system_prompt(tokenizer: PreTrainedTokenizerFast, name: str) -> None:
    """All that any question shares with any other, and the system prompt is in it."""
    template = Template(tokenizer, SHOW_ALL[name])
    system = message("system", [{"type": "text", "text": SYSTEM, **CACHED}])
    bodies = [chat(system, message("user", question)) for question in NEXT]
    found = {position for body in bodies for position in template.positions(body)}
    # Whatever is asked, the place is the same one; a last token that may merge is left out.
    # A tokenizer may have a token for "user: You", where no other token does.
    assert max(found) - min(found) <= (name == "plain")
    at = min(found)
    prompts = [template.tokens(body) for body in bodies]
    everybody = min(shared(prompts[0], prompt) for prompt in prompts)
    assert everybody - 2 <= at <= everybody
    kept = template.before(bodies[0], at)
    assert SYSTEM in kept or name == "plain"
    assert SYSTEM[:-1] in kept


@pytest.mark.parametrize("name", SHOW_ALL)
def test_on_the_last_question_the_next_turn_resumes_there(
    tokenizer: PreTrainedTokenizerFast, name: str
) -> None:
    template = Template(tokenizer, SHOW_ALL[name])
    question = message("user", "When does the train leave?", **CACHED)
    (at,) = template.positions(chat(question))
    before = template.tokens(chat(question))
    for reply in NEXT:
        later = chat(question, message("assistant", reply), message("user", "And then?"))
        assert shared(before, template.tokens(later)) >= at
    assert "the train leave" in template.before(chat(question), at)


@pytest.mark.parametrize("name", SHOW_ALL)
def test_inside_a_message_another_part_may_follow(
    tokenizer: PreTrainedTokenizerFast, name: str
) -> None:
    template = Template(tokenizer, SHOW_ALL[name])
    document = {"type": "text", "text": "A long document about trains", **CACHED}
    bodies = [
        chat(message("user", [document, {"type": "text", "text": question}])) for question in NEXT
    ]
    prompts = [template.tokens(body) for body in bodies]
    for body in bodies:
        (at,) = template.positions(body)
        assert at <= min(shared(prompts[0], prompt) for prompt in prompts)
        assert "A long document about trai" in template.before(body, at)


def test_a_history_is_shared_up_to_its_breakpoint(tokenizer: PreTrainedTokenizerFast) -> None:
    template = Template(tokenizer, THINKING)
    history = [
        message("system", SYSTEM, **CACHED),
        message("user", "When?"),
        message("assistant", "Now.", **CACHED),
        message("user", "Where?", **CACHED),
    ]
    first, second, third = template.positions(chat(*history))
    text = template.text(chat(*history))
    assert first < second < third
    assert template.before(chat(*history), second).endswith(
        ("Now.<|im_end|>\n<|im_start|>user", "Now.<|im_end|>\n<|im_start|>user\n")
    )
    assert text.startswith(template.before(chat(*history), third))


def function(name: str, **more: Any) -> dict[str, Any]:
    about = {"name": name, "description": f"Looks {name} up.", "parameters": {"type": "object"}}
    return {"type": "function", "function": about, **more}


@pytest.mark.parametrize("cached", [0, 1])
def test_on_a_tool(tokenizer: PreTrainedTokenizerFast, cached: int) -> None:
    """Other tools may come after it, and other questions."""
    template = Template(tokenizer, CHATML)
    tools = [function("fares"), function("times")]
    tools[cached] |= CACHED
    system, question = message("system", SYSTEM), message("user", "When?")
    body = chat(system, question, tools=tools)
    (at,) = template.positions(body)
    kept = template.before(body, at)
    assert json.dumps(tools[cached]["function"] | {}, ensure_ascii=False) in kept
    for following in ([], [function("delays")], [function("stations"), function("x")]):
        other = chat(system, message("user", "Why?"), tools=[*tools[: cached + 1], *following])
        assert shared(template.tokens(body), template.tokens(other)) >= at


def test_on_a_call_of_a_tool(tokenizer: PreTrainedTokenizerFast) -> None:
    template = Template(tokenizer, CHATML)
    call = {"function": {"name": "times", "arguments": '{"to": "York"}'}}
    calls = message("assistant", None, tool_calls=[call], **CACHED)
    body = chat(message("user", "When?"), calls, message("tool", "At 9."))
    (at,) = template.positions(body)
    assert '"York"' in template.before(body, at)
    assert "At 9." not in template.before(body, at)


def long_chat(question: dict[str, Any]) -> Body:
    """Many turns, with breakpoints on the last ones."""
    said = "The train leaves from platform nine at noon, " * 20
    turns = [message(role, said) for _ in range(4) for role in ("user", "assistant")]
    turns[-2] |= CACHED
    return chat(message("system", SYSTEM), *turns, question)


@pytest.mark.parametrize("name", SHOW_ALL)
def test_a_long_prompt_is_not_tokenized_again(
    tokenizer: PreTrainedTokenizerFast, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The positions are the same ones, found from the end."""
    template = Template(tokenizer, SHOW_ALL[name])
    parts = [{"type": "text", "text": "Look:"}, {"type": "text", "text": "When?", **CACHED}]
    for question in (message("user", "When?", **CACHED), message("user", parts)):
        body = long_chat(question)
        whole = template.tokens(body)
        counts: list[int] = []

        def render(other: Body, counts: list[int] = counts) -> list[int]:
            tokens = template.tokens(other)
            counts.append(len(tokens))
            return tokens

        rendered = Rendered(body, whole, render, tokenizer)
        found = [module.position(rendered, place) for place in breakpoints(body)]
        # Without special tokens, one may go from what came before into the place.
        assert name == "plain" or max(counts) < len(whole) / 3
        monkeypatch.setattr(module, "_LONG", len(whole))
        assert template.positions(body) == found
        monkeypatch.undo()


def test_a_template_that_looks_at_what_was_said_first(tokenizer: PreTrainedTokenizerFast) -> None:
    """Where it makes a difference to the rest, what comes before is not made short."""
    says_so = "{{- 'long' if messages[0].content | length > 20 else 'short' -}}"
    shows = "{{- '<|im_end|>' -}}{%- for message in messages -%}"
    template = CHATML.replace("{%- for message in messages -%}", shows, 1)
    ends = template.rpartition("{%- if add_generation_prompt -%}")
    looking = Template(tokenizer, ends[0] + says_so + ends[1] + ends[2])
    body = long_chat(message("user", "When?", **CACHED))
    whole = looking.tokens(body)
    assert "long" in looking.text(body)
    rendered = Rendered(body, whole, looking.tokens, tokenizer)
    (_, last) = breakpoints(body)
    assert module._from_the_end(rendered, last) is None
    assert looking.positions(body)[1] == module._from_the_start(rendered, last)


def test_what_is_called_next_may_differ(tokenizer: PreTrainedTokenizerFast) -> None:
    template = Template(tokenizer, CHATML)
    question = message("user", "When?", **CACHED)

    def calling(name: str) -> Body:
        call = {"function": {"name": name, "arguments": '{"to": "York"}'}}
        return chat(question, message("assistant", None, tool_calls=[call]), message("tool", "9"))

    bodies = [calling("times"), calling("fares")]
    found = [template.positions(body) for body in bodies]
    one, other = map(template.tokens, bodies)
    assert found[0] == found[1]
    assert found[0][0] <= shared(one, other)


def test_what_the_template_does_not_show(tokenizer: PreTrainedTokenizerFast) -> None:
    body = chat(message("system", SYSTEM, **CACHED), message("user", "When?"))
    with pytest.raises(BreakpointError, match=r"messages\[0\]: the chat template does not show"):
        Template(tokenizer, chat_templates.DROPS_SYSTEM).positions(body)
    tools = [function("times", **CACHED)]
    with pytest.raises(BreakpointError, match=r"tools\[0\]: the chat template does not show"):
        Template(tokenizer, chat_templates.PLAIN).positions(
            chat(message("user", "When?"), tools=tools)
        )


def test_reasoning_that_is_left_out(tokenizer: PreTrainedTokenizerFast) -> None:
    template = Template(tokenizer, DROPS_REASONING)
    thought = {"type": "text", "text": "<think>Trains leave", **CACHED}
    reply = message("assistant", [thought, {"type": "text", "text": "soon.</think> Now."}])
    question = message("user", "When?")
    with pytest.raises(BreakpointError, match=r"messages\[1\].content\[0\]: .* depends on what"):
        template.positions(chat(question, reply, message("user", "Where?")))
    # In a loop of tools it is still there.
    looping = chat(question, reply, message("tool", "At 9."))
    (at,) = template.positions(looping)
    assert "<think>Trains" in template.before(looping, at)


def test_a_result_in_a_loop_whose_reasoning_a_next_question_drops(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    template = Template(tokenizer, DROPS_REASONING)
    reply = message("assistant", "<think>Trains leave soon.</think> Now.")
    body = chat(message("user", "When?"), reply, message("tool", "At 9", **CACHED))
    (at,) = template.positions(body)
    assert template.before(body, at).endswith(("At 9", "At "))


def test_what_the_template_moves(tokenizer: PreTrainedTokenizerFast) -> None:
    body = chat(message("system", SYSTEM, **CACHED), message("user", "When?"))
    with pytest.raises(BreakpointError, match=r"messages\[0\]: .* depends on what comes later"):
        Template(tokenizer, chat_templates.SYSTEM_LAST).positions(body)
