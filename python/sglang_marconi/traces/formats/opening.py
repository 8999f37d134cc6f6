"""A file's bytes, compressed or not."""

import gzip
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast

from sglang_marconi.traces.formats.errors import TraceFileError

_GZIP = b"\x1f\x8b"


@contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """The file to be read, uncompressed as it is read if it begins as gzip does.

    Raises `OSError` where it cannot be opened, and within the context `TraceFileError` where
    the compressed bytes are damaged or cut short.
    """
    with path.open("rb") as file:
        if not file.peek(len(_GZIP)).startswith(_GZIP):
            yield file
            return
        try:
            yield cast(BinaryIO, gzip.GzipFile(fileobj=file))
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise TraceFileError(path, f"not a whole gzip file: {error}") from error
