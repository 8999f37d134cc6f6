"""Files that are known, but hold nothing to replay."""

from collections.abc import Collection

from sglang_marconi.traces.formats.errors import TraceFileError
from sglang_marconi.traces.formats.source import TraceSource


def refuse(source: TraceSource, fields: Collection[str] | None) -> None:
    """Says of such a file why it is of no use; `fields` are `source.first_fields`'.

    Raises `TraceFileError` for the output of a batch, and for a table of lengths, such as the
    Azure and BurstGPT traces.
    """
    if fields is None:
        if any("token" in name.lower() for name in source.columns()):
            reason = "the lengths of requests hold no content, so nothing in them can be reused: "
            raise TraceFileError(
                source.path, reason + "take a trace with text, token ids or block hashes"
            )
    elif {"custom_id", "response"} <= set(fields):
        reason = "the output of a batch has replies without their prompts: take the batch's input"
        raise TraceFileError(source.path, reason)
