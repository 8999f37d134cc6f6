"""The traces of a command line: files, and generated workloads by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple

from sglang_marconi.traces.formats import TraceError, TraceFileError, read_trace
from sglang_marconi.traces.generators import names, shape_type
from sglang_marconi.traces.requests import TraceRequest


class SourceError(ValueError):
    """A trace that cannot be had: a workload's settings are wrong, or nothing is in it."""


class Trace(NamedTuple):
    """A trace and how records call it."""

    name: str
    requests: list[TraceRequest]


def load_trace(
    spec: str,
    *,
    limit: int | None = None,
    tokenizer: Path | None = None,
    on_bad: Callable[[TraceError], None] | None = None,
) -> Trace:
    """The first ``limit`` requests of a file, or of a workload.

    A workload is a name of `generators.names`, with settings after a colon as in
    ``swebench:sessions=50,seed=3,turns=30``; for a length or a number of turns, the value is
    the mean. ``tokenizer`` and ``on_bad`` are `read_trace`'s.

    Raises:
        SourceError: unknown or malformed settings, a tokenizer that cannot be read, or a trace
            without a request.
        TraceFileError: see `read_trace`, as for ``OSError``.
    """
    name, _, settings = spec.partition(":")
    if name in names():
        trace = Trace(spec, _generate(name, settings)[:limit])
    else:
        path = Path(spec)
        try:
            records = read_trace(path, limit=limit, tokenizer=tokenizer, on_bad=on_bad)
            trace = Trace(Path(path.name.removesuffix(".gz")).stem, list(records))
        except (TraceError, TraceFileError):
            raise
        except ValueError as error:
            raise SourceError(str(error)) from error
    if not trace.requests:
        raise SourceError(f"{spec}: no request")
    return trace


def _generate(name: str, settings: str) -> list[TraceRequest]:
    # Every shape has defaults for what the base class has none for.
    shape: Any = shape_type(name)
    known = [field.name for field in fields(shape)]
    chosen: dict[str, Any] = {}
    for part in filter(None, settings.split(",")):
        key, _, text = part.partition("=")
        if key not in known:
            raise SourceError(f"{name} has no setting {key!r}; it has {', '.join(known)}")
        default: Any = getattr(shape(), key)
        try:
            if hasattr(default, "mean"):
                chosen[key] = default._replace(mean=float(text))
            elif isinstance(default, float):
                chosen[key] = float(text)
            else:
                chosen[key] = int(text)
        except ValueError as error:
            raise SourceError(f"{name}: {part!r} is not a number") from error
    try:
        requests: list[TraceRequest] = shape(**chosen).requests()
    except ValueError as error:
        raise SourceError(f"{name}: {error}") from error
    return requests
