"""From conversations of text to requests of tokens, for the formats that hold text."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

from tokenizers import Tokenizer

from sglang_marconi.traces.formats.errors import TraceFileError
from sglang_marconi.traces.formats.source import TraceSource
from sglang_marconi.traces.requests import TraceRequest
from sglang_marconi.traces.tokens import Tokens

ASSISTANT, USER = "assistant", "user"

_TURN_SECONDS = 1.0
_WORDS_PER_SECOND = 90 / 60

_Record = TypeVar("_Record")


class Spoken(NamedTuple):
    """One message; `role` is the OpenAI API's name of who speaks."""

    role: str
    text: str


class Session(NamedTuple):
    """A conversation as requests; `start` is the arrival of the first, in seconds."""

    start: float
    requests: Iterator[TraceRequest]


class ConversationTokenizer:
    """Renders messages to text and splits it into tokens.

    No chat template is known, so each message is rendered as `<|im_start|>`, its role, a
    newline, its text, `<|im_end|>` and a newline. Messages are tokenized one by one, so that
    what one is as tokens does not depend on what follows, and a conversation's prompts grow at
    their ends only.

    `tokenizer` is a `tokenizer.json` or a directory with one. Raises `FileNotFoundError` where
    it is not, `ValueError` if it cannot be read.
    """

    def __init__(self, tokenizer: Path) -> None:
        file = tokenizer / "tokenizer.json" if tokenizer.is_dir() else tokenizer
        if not file.is_file():
            raise FileNotFoundError(f"no tokenizer at {file}")
        try:
            self._tokenizer = Tokenizer.from_file(str(file))
        except Exception as error:  # The library raises nothing narrower.
            raise ValueError(f"{file}: not a tokenizer: {error}") from error

    @classmethod
    def of(cls, source: TraceSource) -> ConversationTokenizer:
        """With the tokenizer the caller passed; raises `TraceFileError` if there is none."""
        if source.tokenizer is None:
            reason = "the trace is text and takes a tokenizer to read: pass --tokenizer with "
            raise TraceFileError(
                source.path, reason + "the path of a tokenizer.json or of a directory with one"
            )
        return cls(source.tokenizer)

    def session(self, name: str, start: float, messages: Sequence[Spoken]) -> Session:
        """A conversation as a session whose first request arrives at `start`, in seconds.

        Each assistant message ends a request: the prompt is everything before it and the
        assistant's role marker, the reply is its text and end marker. Messages after the last
        of them make a request with a reply of zero tokens. Assistant messages that nothing
        comes before are no replies, but the beginning of the first prompt.

        A turn arrives one second after the one before it, and later by the time it takes to
        type the words that users say in between, at 90 words a minute, which is the rate in
        the Marconi paper's artifact.
        """
        return Session(start, self._requests(name, start, messages))

    def request(self, name: str, arrival: float, messages: Sequence[Spoken]) -> TraceRequest:
        """One request that all messages are the prompt of; its reply has zero tokens."""
        said = "".join(_opening(role) + _rest(text) for role, text in messages)
        prompt = self._tokens(said + _opening(ASSISTANT))
        return TraceRequest(name, 0, arrival, prompt, Tokens.plain(()))

    def _requests(
        self, name: str, arrival: float, messages: Sequence[Spoken]
    ) -> Iterator[TraceRequest]:
        said = Tokens.plain(())
        continues = turn = words = 0
        started = unanswered = False
        for role, text in messages:
            if role == ASSISTANT and started:
                arrival += _gap(words) if turn else 0.0
                prompt = said + self._tokens(_opening(ASSISTANT))
                reply = self._tokens(_rest(text))
                yield TraceRequest(name, turn, arrival, prompt, reply, continues)
                said = prompt + reply
                continues = len(said)
                turn += 1
                words = 0
                unanswered = False
            else:
                said = said + self._tokens(_opening(role) + _rest(text))
                if role == USER:
                    words += len(text.split())
                started = unanswered = started or role != ASSISTANT
        if unanswered:
            arrival += _gap(words) if turn else 0.0
            prompt = said + self._tokens(_opening(ASSISTANT))
            yield TraceRequest(name, turn, arrival, prompt, Tokens.plain(()), continues)

    def _tokens(self, text: str) -> Tokens:
        return Tokens.plain(self._tokenizer.encode(text, add_special_tokens=False).ids)


def with_messages(
    source: TraceSource, kind: type[_Record], messages: Callable[[_Record], Sequence[Spoken]]
) -> Iterator[tuple[int, _Record, Sequence[Spoken]]]:
    """`source.records` with what is said in each; `messages` raises `ValueError` if it cannot say.

    Such a record is reported to `source.bad` and left out.
    """
    for number, record in source.records(kind):
        try:
            said = messages(record)
        except ValueError as error:
            source.bad(number, str(error))
        else:
            yield number, record, said


def one_a_second(
    source: TraceSource, kind: type[_Record], messages: Callable[[_Record], Sequence[Spoken]]
) -> Iterator[TraceRequest]:
    """Conversations that have no times: they begin one second apart, in the file's order.

    `ConversationTokenizer.session` says when their turns arrive. Requests come in order of
    arrival. A session is named by its record's number in the file, as errors name it. A
    conversation that nobody but the assistant speaks in makes no request. For `messages` see
    `with_messages`.

    Raises `TraceFileError` at once if there is no tokenizer.
    """
    tokenizer = ConversationTokenizer.of(source)
    records = with_messages(source, kind, messages)
    return interleave(
        tokenizer.session(str(number), float(start), said)
        for start, (number, _, said) in enumerate(records)
    )


def interleave(sessions: Iterable[Session]) -> Iterator[TraceRequest]:
    """The requests of all sessions in order of arrival, of equal ones by session.

    The sessions come in order of start; only those under way are held in memory.
    """
    waiting: list[tuple[float, int, TraceRequest, Iterator[TraceRequest]]] = []

    def push(order: int, requests: Iterator[TraceRequest]) -> None:
        for request in requests:
            heapq.heappush(waiting, (request.arrival, order, request, requests))
            return

    def pop_until(arrival: float) -> Iterator[TraceRequest]:
        while waiting and waiting[0][0] <= arrival:
            _, order, request, requests = heapq.heappop(waiting)
            yield request
            push(order, requests)

    for order, session in enumerate(sessions):
        push(order, session.requests)
        yield from pop_until(session.start)
    yield from pop_until(float("inf"))


def _opening(role: str) -> str:
    return f"<|im_start|>{role}\n"


def _rest(text: str) -> str:
    return f"{text}<|im_end|>\n"


def _gap(words: int) -> float:
    return _TURN_SECONDS + words / _WORDS_PER_SECOND
