"""An OpenAI-compatible server that streams made-up replies, for tests of the driver."""

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import ThreadingHTTPServer
from typing import Any

from support.http_fake import JsonHandler, running


class FakeServer(ThreadingHTTPServer):
    """Replies with the tokens 1000, 1001, ... or the words `w0 w1 ...`, as many as asked for.

    Says that it reused half of the prompt, where a token of chat is a message.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.lock = threading.Lock()
        self.bodies: list[dict[str, Any]] = []
        """What was asked, in order of arrival."""
        self.running = 0
        self.most_running = 0
        self.cache_report = True
        self.fails_after: int | None = None
        """Requests from this one on (from 0) get an error."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


@contextmanager
def fake_server() -> Iterator[FakeServer]:
    with running(FakeServer()) as server:
        yield server


class _Handler(JsonHandler):
    server: FakeServer

    def do_GET(self) -> None:
        self.answer(200, {"object": "list", "data": [{"id": "tiny", "object": "model"}]})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        fake = self.server
        with fake.lock:
            number = len(fake.bodies)
            fake.bodies.append(body)
            fake.running += 1
            fake.most_running = max(fake.most_running, fake.running)
        try:
            if fake.fails_after is not None and number >= fake.fails_after:
                self.answer(400, {"error": {"message": "the prompt is too long"}})
            else:
                self._stream(body)
        finally:
            with fake.lock:
                fake.running -= 1

    def _stream(self, body: dict[str, Any]) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        chat = "messages" in body
        prompt = body["messages"] if chat else body["prompt"]
        tokens = body["max_completion_tokens"] if chat else body["max_tokens"]
        if chat:
            self._event(choices=[{"index": 0, "delta": {"role": "assistant", "content": ""}}])
        time.sleep(0.02)
        for token in range(tokens):
            if chat:
                choice: dict[str, Any] = {"index": 0, "delta": {"content": f" w{token}"}}
            else:
                choice = {"index": 0, "text": f" w{token}", "token_ids": [1000 + token]}
            self._event(choices=[choice])
            time.sleep(0.002)
        details = {"cached_tokens": len(prompt) // 2} if self.server.cache_report else None
        usage = {
            "prompt_tokens": len(prompt),
            "completion_tokens": tokens,
            "total_tokens": len(prompt) + tokens,
            "prompt_tokens_details": details,
        }
        self._event(choices=[], usage=usage)
        self.wfile.write(b"data: [DONE]\n\n")

    def _event(self, **fields: Any) -> None:
        event = {"id": "x", "created": 0, "model": "tiny", "object": "chunk", **fields}
        self.wfile.write(f"data: {json.dumps(event)}\n\n".encode())
