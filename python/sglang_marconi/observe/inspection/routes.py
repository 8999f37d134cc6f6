"""The live view ``/marconi`` and its data ``/marconi/state.json``, on SGLang's own server."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from importlib.resources import files
from typing import TYPE_CHECKING

from fastapi.responses import HTMLResponse, JSONResponse, Response

if TYPE_CHECKING:
    from fastapi import FastAPI

PATIENCE = 10.0
"""Seconds to wait for a scheduler, which answers between two batches."""

Ask = Callable[[], Awaitable[list[bytes]]]


def add_routes(app: FastAPI, ask: Ask) -> None:
    """Serve the view and its data.

    SGLang's API key, where there is one, is asked for as for every other route. ``ask``: the
    states of all replicas, in JSON.
    """

    async def page() -> HTMLResponse:
        text = files(__package__).joinpath("page.html").read_text(encoding="utf-8")
        return HTMLResponse(text)

    async def state() -> Response:
        try:
            states = await asyncio.wait_for(asyncio.shield(ask()), PATIENCE)
        except TimeoutError:
            return JSONResponse({"error": "the scheduler is busy"}, status_code=503)
        caches = b",".join(filter(None, states))
        return Response(b'{"caches":[' + caches + b"]}", media_type="application/json")

    app.add_api_route("/marconi", page, methods=["GET"], include_in_schema=False)
    app.add_api_route("/marconi/state.json", state, methods=["GET"], include_in_schema=False)
