"""What responses say of states that were written to the cache."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

from sglang_marconi.declare import usage
from sglang_marconi.declare.transport import WRITTEN, with_positions


def request(**sampling: Any) -> Any:
    return SimpleNamespace(sampling_params=sampling)


def declaring() -> Any:
    return SimpleNamespace(sampling_params=with_positions(None, [5]))


def meta(cached: int, **details: Any) -> dict[str, Any]:
    return {"cached_tokens": cached, "cached_tokens_details": details or None}


class Source:
    """What SGLang yields; whether it was closed."""

    def __init__(self, *outputs: Any) -> None:
        self.outputs = outputs
        self.closed = False

    async def __call__(self, *_: Any) -> AsyncIterator[Any]:
        try:
            for output in self.outputs:
                yield output
        finally:
            self.closed = True


def collected(outputs: AsyncIterator[Any], most: int = 99) -> list[Any]:
    """The first outputs; what yields them is closed then."""

    async def collect() -> list[Any]:
        found = []
        async for output in outputs:
            found.append(output)
            if len(found) == most:
                break
        await outputs.aclose()  # type: ignore[attr-defined]
        return found

    return asyncio.run(collect())


def test_the_number_goes_where_clients_look() -> None:
    source = Source(
        {"index": 0, "meta_info": meta(0, device=0, host=0, **{WRITTEN: 7})},
        [
            {"meta_info": meta(3, device=3, host=0, **{WRITTEN: 0})},
            {"index": 1, "meta_info": meta(3, device=3, host=0, **{WRITTEN: 9})},
        ],
    )
    obj = declaring()
    first, rest = collected(usage.lift(source, None, obj))  # type: ignore[arg-type]
    assert first["meta_info"] == {**meta(0), "cache_write_tokens": 7}
    assert [each["meta_info"]["cache_write_tokens"] for each in rest] == [0, 9]
    assert rest[0]["meta_info"]["cached_tokens_details"] == {"device": 3, "host": 0}
    # A stream's usage is of the first choice's prompt.
    assert obj.marconi_seen == (3, 0)


def test_who_hangs_up_ends_it_at_once() -> None:
    source = Source(*({"meta_info": meta(0, device=0, **{WRITTEN: 1})} for _ in range(9)))
    assert len(collected(usage.lift(source, None, declaring()), most=1)) == 1  # type: ignore[arg-type]
    assert source.closed


def test_who_declares_nothing_gets_what_sglang_yields() -> None:
    source = Source({"meta_info": meta(0)})
    outputs = usage.lift(source, None, request(custom_params=None))  # type: ignore[arg-type]
    assert type(outputs).__name__ == "async_generator"
    assert collected(outputs) == [{"meta_info": meta(0)}]


def test_of_a_stream_only_usages_change() -> None:
    obj = declaring()
    obj.marconi_seen = (4, 6)
    said = {"choices": [{"delta": {"content": 'é "usage":{'}}], "usage": None}
    told = {"choices": [], "usage": {"prompt_tokens": 12, "prompt_tokens_details": None}}
    chunks = [
        f"data: {json.dumps(each, separators=(',', ':'), ensure_ascii=False)}\n\n"
        for each in (said, told)
    ]
    found = collected(
        usage.total_in_stream(Source(*chunks, "data: [DONE]\n\n"), None, obj, None, None)
    )  # type: ignore[arg-type]
    assert found[0] == chunks[0]
    assert found[2] == "data: [DONE]\n\n"
    details = json.loads(found[1].removeprefix("data: "))["usage"]["prompt_tokens_details"]
    assert details == {"cached_tokens": 4, "cache_write_tokens": 6}
