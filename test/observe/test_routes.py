"""The page's routes take whatever comes: an answer or a refusal, never an error of their own."""

from __future__ import annotations

import asyncio
from urllib.parse import quote

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from hypothesis import given, settings
from hypothesis import strategies as st
from sglang_marconi.observe.inspection import routes


async def two_replicas() -> list[bytes]:
    # The second has no such cache.
    return [b'{"ticks":1}', b""]


async def nobody() -> list[bytes]:
    await asyncio.sleep(60)
    return []


def client(ask: routes.Ask) -> TestClient:
    app = FastAPI()
    routes.add_routes(app, ask)
    # What a route raises, the client raises.
    return TestClient(app)


CLIENT = client(two_replicas)


@settings(deadline=None, max_examples=200)
@given(
    path=st.sampled_from(["/marconi", "/marconi/state.json"]),
    method=st.sampled_from(["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "X-Y"]),
    below=st.binary(max_size=20),
    query=st.binary(max_size=50),
    body=st.binary(max_size=200),
    content_type=st.sampled_from(["application/json", "text/plain", "multipart/form-data", ""]),
)
def test_any_request(
    path: str, method: str, below: bytes, query: bytes, body: bytes, content_type: str
) -> None:
    url = path + quote(below) + ("?" + quote(query) if query else "")
    answer = CLIENT.request(method, url, content=body, headers={"content-type": content_type})
    if method == "GET" and not below:
        assert answer.status_code == 200
    else:
        assert answer.status_code in {200, 307, 404, 405}
    if path.endswith("json") and method == "GET" and not below:
        assert answer.json() == {"caches": [{"ticks": 1}]}


def test_a_scheduler_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(routes, "PATIENCE", 0.05)
    answer = client(nobody).get("/marconi/state.json")
    assert answer.status_code == 503
    assert answer.json() == {"error": "the scheduler is busy"}
