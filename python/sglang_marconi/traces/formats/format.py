"""The contract every trace format fulfils."""

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator
from typing import ClassVar

from sglang_marconi.traces.formats.source import TraceSource
from sglang_marconi.traces.requests import TraceRequest


class TraceFormat(ABC):
    """How the records of one kind of trace become requests.

    A format has no state between files. It says whether a record is one of its own by a field
    that no other format has, so that a record that lacks another field is still recognised
    and reported as broken.
    """

    description: ClassVar[str]
    """Its name and its fields, for the user whose file was not recognised."""

    @abstractmethod
    def recognises(self, fields: Collection[str]) -> bool:
        """Whether a file whose first record has these fields is of this format."""

    @abstractmethod
    def read(self, source: TraceSource) -> Iterator[TraceRequest]:
        """The requests of the file, read as they are asked for.

        A record that is not as the format says is reported to `source.bad` and left out.

        Raises `TraceFileError` at once if the format needs what the source does not have.
        """
