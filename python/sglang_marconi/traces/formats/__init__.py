"""Readers of traces: the format is recognised by what the file holds, never by its name."""

from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from textwrap import shorten

from sglang_marconi.traces.formats.artifact import ArtifactFormat
from sglang_marconi.traces.formats.batch import BatchFormat
from sglang_marconi.traces.formats.chat import ChatFormat
from sglang_marconi.traces.formats.compact import CompactFormat
from sglang_marconi.traces.formats.errors import TraceError, TraceFileError
from sglang_marconi.traces.formats.format import TraceFormat
from sglang_marconi.traces.formats.incremental import IncrementalFormat
from sglang_marconi.traces.formats.lmsys import LmsysFormat
from sglang_marconi.traces.formats.mooncake import MooncakeFormat
from sglang_marconi.traces.formats.refused import refuse
from sglang_marconi.traces.formats.sharegpt import ShareGptFormat
from sglang_marconi.traces.formats.source import TraceSource
from sglang_marconi.traces.formats.swe_agent import SweAgentFormat
from sglang_marconi.traces.formats.tau_bench import TauBenchFormat
from sglang_marconi.traces.requests import TraceRequest

__all__ = ["FORMATS", "TraceError", "TraceFileError", "TraceFormat", "read_trace"]

FORMATS: tuple[TraceFormat, ...] = (
    CompactFormat(),
    IncrementalFormat(),
    MooncakeFormat(),
    ArtifactFormat(),
    ShareGptFormat(),
    ChatFormat(),
    BatchFormat(),
    LmsysFormat(),
    TauBenchFormat(),
    SweAgentFormat(),
)

_LONGEST_LIST = 200


def read_trace(
    path: Path,
    *,
    limit: int | None = None,
    tokenizer: Path | None = None,
    on_bad: Callable[[TraceError], None] | None = None,
) -> Iterator[TraceRequest]:
    """The first `limit` requests of the file (all of them if None), read as they are asked for.

    `tokenizer`, for formats that hold text, is a `tokenizer.json` or a directory with one.
    A broken record raises `TraceError`, or, where `on_bad` is given, is passed to it as one and
    left out. Records are not read beyond what `limit` takes.

    Raises `TraceFileError` at once for a file that is empty, of no known format, without
    anything to replay, or of text with no tokenizer given, and where its compressed bytes turn
    out to be damaged; `OSError` where the file or the tokenizer cannot be opened;
    `ValueError` for a tokenizer that cannot be read.
    """
    source = TraceSource(path, tokenizer, on_bad)
    fields = source.first_fields()
    refuse(source, fields)
    for known in FORMATS:
        if fields is not None and known.recognises(fields):
            return islice(known.read(source), limit)
    found = "no JSON object"
    if fields is not None:
        found = "the fields " + (shorten(", ".join(fields), _LONGEST_LIST) or "(none)")
    formats = "; ".join(known.description for known in FORMATS)
    raise TraceFileError(path, f"not a known trace: it starts with {found}; known are {formats}")
