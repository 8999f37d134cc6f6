"""A real server, observed: metrics, the page behind the API key, events for routers."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest
import zmq
from local_server import LocalServer, free_port
from prometheus_client.parser import text_string_to_metric_families
from sglang.srt.disaggregation.kv_events import AllBlocksCleared, BlockStored, KVEventBatch
from sglang_marconi.observe.routers import ON_DEVICE, ON_HOST
from support.client import generate
from support.forked_server import ForkedServer
from support.prompts import tokens

pytestmark = pytest.mark.server

KEY = "a key"


class Observed(NamedTuple):
    """A server under way and a subscriber to its events."""

    server: LocalServer
    events: zmq.Socket[bytes]

    def get(self, path: str, key: str | None = None) -> str:
        headers = {} if key is None else {"Authorization": f"Bearer {key}"}
        request = urllib.request.Request(self.server.url + path, headers=headers)
        with urllib.request.urlopen(request, timeout=30) as answer:
            text: str = answer.read().decode()
        return text

    def metrics(self) -> dict[tuple[str, ...], float]:
        """Values by name and our labels' values."""
        return {
            (each.name.removeprefix("sglang:marconi_"), *_ours(each.labels)): each.value
            for family in text_string_to_metric_families(self.get("/metrics"))
            for each in family.samples
            if each.name.startswith("sglang:marconi_") and not each.name.endswith("_bucket")
        }

    def cache(self) -> dict[str, Any]:
        (cache,) = json.loads(self.get("/marconi/state.json", KEY))["caches"]
        return dict(cache)


def _ours(labels: dict[str, str]) -> list[str]:
    names = ("form", "reason", "to", "what", "kind", "tier", "encoding", "decision", "alpha")
    return [labels[name] for name in names if name in labels]


@pytest.fixture(scope="module")
def observed(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Observed]:
    log = tmp_path_factory.mktemp("log") / "observed.log"
    endpoint = f"tcp://127.0.0.1:{free_port()}"
    arguments = (
        *("--radix-cache-backend", "marconi", "--enable-cache-report", "--enable-metrics"),
        *("--max-total-tokens", "6000", "--max-mamba-cache-size", "24"),
        *("--max-running-requests", "4", "--skip-server-warmup"),
        *("--api-key", KEY, "--served-model-name", "small"),
        "--kv-events-config",
        json.dumps({"publisher": "zmq", "endpoint": endpoint, "topic": "kv", "bind": True}),
        "--radix-eviction-policy-config",
        json.dumps({"inspect": True, "encoding": "int8", "host_memory": "500KB"}),
    )
    with zmq.Context() as context, context.socket(zmq.SUB) as events:
        events.subscribe("kv")
        events.connect(endpoint)
        with ForkedServer(model, *arguments, log_path=log) as server:
            yield Observed(server, events)


@pytest.fixture(scope="module")
def cached_tokens(observed: Observed) -> int:
    """A workload larger than memory; the prompt tokens that the server said it reused."""
    systems = [tokens(100 + 50 * i, seed=i) for i in range(4)]
    cached = 0
    for i in range(60):
        prompt = systems[i % 4] + tokens(40 + i, seed=100 + i)
        cached += generate(observed.server.url, prompt, 8, key=KEY).cached_tokens
    return cached


def test_metrics_agree_with_the_server_and_with_the_page(
    observed: Observed, cached_tokens: int
) -> None:
    metrics, cache = observed.metrics(), observed.cache()
    assert cached_tokens > 5000
    assert metrics["hit_tokens_total",] == cached_tokens
    assert metrics["prompt_tokens_total",] >= cached_tokens + metrics["recomputed_tokens_total",]
    assert 0 < metrics["saved_flops_total",] < metrics["prompt_flops_total",]
    assert metrics["checkpoints_stored_total", "branch"] == 4
    assert metrics["checkpoints_stored_total", "end"] >= 60
    held = {form: metrics["checkpoints", form] for form in ("exact", "int8", "host")}
    assert held == cache["checkpoint_forms"]
    assert cache["checkpoints"] == sum(held.values()) > 10
    used = sum(value for key, value in metrics.items() if key[0] == "checkpoints_used_total")
    assert used >= 50
    assert metrics["checkpoints_demoted_total", "int8"] > 0
    assert metrics["checkpoints_demoted_total", "host"] > 0
    for tier in ("device", "host"):
        filled = [v for k, v in metrics.items() if k[:2] == ("checkpoint_bytes", tier)]
        assert 0 < sum(filled) <= metrics["checkpoint_capacity_bytes", tier]
    assert metrics["decision_seconds_count", "match"] >= 60
    assert metrics["decision_seconds_count", "eviction"] > 0


def test_the_page_wants_the_key_and_shows_no_text(observed: Observed, cached_tokens: int) -> None:
    for path in ("/marconi", "/marconi/state.json"):
        for key in (None, "another"):
            with pytest.raises(urllib.error.HTTPError) as refused:
                observed.get(path, key)
            assert refused.value.code == 401
    assert "<title>Marconi" in observed.get("/marconi", KEY)
    cache = observed.cache()
    assert sum(each["hit_tokens"] for each in cache["intervals"]) == cached_tokens
    assert len(cache["evictions"]) > 10
    assert all(eviction["group"] for eviction in cache["evictions"])
    # All that is said of a prefix is its name, of 12 hexadecimal digits, and numbers.
    for node in cache["tree"]:
        text = {value for value in node.values() if isinstance(value, str)}
        assert text <= {node["id"], node["form"], node["group"]}
        assert len(bytes.fromhex(node["id"])) == 6
    # The least of a few: a machine with other load may stop a process for as long.
    taken = [cache["snapshot_seconds"]]
    for _ in range(4):
        time.sleep(1)
        taken.append(observed.cache()["snapshot_seconds"])
    assert min(taken) < 0.05


def test_a_subscriber_hears_of_the_checkpoints_there_are(
    observed: Observed, cached_tokens: int
) -> None:
    assert cached_tokens
    blocks: set[int] = set()
    where: dict[int, str] = {}
    decode = msgspec.msgpack.Decoder(KVEventBatch).decode
    while observed.events.poll(1000):
        _topic, _number, payload = observed.events.recv_multipart()
        for event in decode(payload).events:
            if isinstance(event, AllBlocksCleared):
                # Of a tree just built.
                assert not blocks and not where
                continue
            stored = isinstance(event, BlockStored)
            assert event.medium is not None
            if event.medium not in (ON_DEVICE, ON_HOST):
                (blocks.update if stored else blocks.difference_update)(event.block_hashes)
            elif stored:
                (checkpoint,) = event.block_hashes
                assert event.parent_block_hash in blocks
                assert checkpoint not in where
                where[checkpoint] = event.medium
            else:
                for checkpoint in event.block_hashes:
                    assert where.pop(checkpoint) == event.medium
    forms = observed.cache()["checkpoint_forms"]
    assert list(where.values()).count(ON_HOST) == forms["host"]
    assert list(where.values()).count(ON_DEVICE) == forms["exact"] + forms["int8"]
    assert len(blocks) == observed.cache()["tokens"]
