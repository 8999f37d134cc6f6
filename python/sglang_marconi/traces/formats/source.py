"""A trace file as a stream of JSON records, with one place where broken ones are reported."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Annotated, TypeVar

import msgspec

from sglang_marconi.traces.formats.errors import TraceError, TraceFileError
from sglang_marconi.traces.formats.opening import opened

TokenId = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
"""A token id or block hash: negative numbers are left for tokens that no record names."""

TimeStamp = Annotated[float, msgspec.Meta(ge=-1e15, le=1e15)]
"""Seconds or milliseconds, of some 30,000 years: differences of two are numbers."""

# A record may be nested more deeply than the decoder can follow.
_BROKEN = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)

_BLOCK = 4096

_BOM = b"\xef\xbb\xbf"

_HEAD = 100
"""Records looked at for one that is not broken: the file may be of another kind, and large."""

_T = TypeVar("_T")


class TraceSource:
    """One trace file, compressed by gzip or not: a stream of JSON records.

    Each line is a record, or it is one JSON array whose items are, or, where the first line is
    an opening brace alone, each object over several lines is. Lines and objects are streamed; an
    array is held in memory. A byte-order mark before a record is none of it. `tokenizer` is what
    the caller passed for formats that hold text. `first_number` is that of the first record: a
    line counts from 1, the item of an array and an object over several lines from 0.

    Raises `TraceFileError` for an empty file, for an array that is not valid JSON, and, here or
    when it is read so far, for compressed bytes that are damaged.
    """

    def __init__(
        self,
        path: Path,
        tokenizer: Path | None,
        on_bad: Callable[[TraceError], None] | None,
    ) -> None:
        self.path = path
        self.tokenizer = tokenizer
        self._on_bad = on_bad
        self._items: list[msgspec.Raw] | None = None
        with opened(path) as file:
            # Of a line without an end, no more is read than it takes to see what it begins with.
            pieces = iter(partial(file.readline, _BLOCK), b"")
            self._start = next(filter(bytes.strip, map(_without_mark, pieces)), b"")
        if not self._start:
            raise TraceFileError(path, "the file is empty")
        self._over_lines = self._start.strip() == b"{" and self._start.endswith(b"\n")
        as_array = self._start.lstrip().startswith(b"[")
        self.first_number = 0 if as_array or self._over_lines else 1
        if as_array:
            with opened(path) as file:
                text = _without_mark(file.read())
            try:
                self._items = msgspec.json.decode(text, type=list[msgspec.Raw])
            except _BROKEN as error:
                raise TraceFileError(path, f"not a JSON array: {error}") from error

    def first_fields(self) -> list[str] | None:
        """The field names of the first JSON object, None if the first 100 records have none."""
        decoder = msgspec.json.Decoder(dict[str, msgspec.Raw])
        for _, value in islice(self._values(), _HEAD):
            try:
                return list(decoder.decode(value))
            except _BROKEN:
                continue
        return None

    def columns(self) -> list[str]:
        """The column names of a file that is a table, with commas between them."""
        return self._start.decode(errors="replace").strip().split(",")

    def records(self, kind: type[_T]) -> Iterator[tuple[int, _T]]:
        """Every record that decodes as `kind`, with its number.

        One that does not is reported by `bad`.
        """
        decoder = msgspec.json.Decoder(kind)
        for number, value in self._values():
            try:
                record = decoder.decode(value)
            except _BROKEN as error:
                self.bad(number, str(error))
            else:
                yield number, record

    def whole_records(self, kind: type[_T]) -> Iterator[tuple[int, _T]]:
        """`records` for a look ahead: what does not decode is left out and not reported."""
        decoder = msgspec.json.Decoder(kind)
        for number, value in self._values():
            with suppress(*_BROKEN):
                yield number, decoder.decode(value)

    def bad(self, number: int, reason: str) -> None:
        """Reports the record of this number as broken: to the caller's `on_bad`, if given.

        Raises `TraceError` if not.
        """
        if self.first_number:
            error = TraceError(self.path, number, reason)
        else:
            error = TraceError(self.path, None, f"item {number}: {reason}")
        if self._on_bad is None:
            raise error
        self._on_bad(error)

    def _values(self) -> Iterator[tuple[int, bytes | msgspec.Raw]]:
        if self._items is not None:
            yield from enumerate(self._items)
            return
        with opened(self.path) as file:
            lines = map(_without_mark, file)
            values = _objects(lines) if self._over_lines else lines
            yield from enumerate(values, self.first_number)


def _objects(lines: Iterable[bytes]) -> Iterator[bytes]:
    """Objects over several lines; one ends with a closing brace alone on a line, not indented."""
    text = bytearray()
    for line in lines:
        text += line if text else line.lstrip()
        if line.rstrip() == b"}":
            yield bytes(text)
            text.clear()
    if text:
        yield bytes(text)


def _without_mark(text: bytes) -> bytes:
    return text.removeprefix(_BOM)
