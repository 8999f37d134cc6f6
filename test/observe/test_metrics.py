"""The metrics count what happens, and the documents speak of those that exist."""

from __future__ import annotations

import json
import re
from itertools import count
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry
from sglang_marconi.cost import token_length_cost
from sglang_marconi.events import (
    AlphaChanged,
    AlphaTuned,
    Cleared,
    Decision,
    Dropped,
    Evicted,
    Observer,
    Prompted,
    Reason,
    Reformed,
    Refusal,
    Refused,
    Stored,
    Timed,
    What,
)
from sglang_marconi.observe.held import Held, Memory, places
from sglang_marconi.observe.metrics import METRICS, PREFIX, Metrics
from sglang_marconi.policy.eviction import EvictionPolicy
from sglang_marconi.policy.forms import forms_of
from sglang_marconi.policy.ledger import PrefixNode
from sglang_marconi.policy.utility import PaperUtility

DOCS = Path(__file__).parents[2] / "docs"
LABELS = {"model_name": "small", "tp_rank": 0}
FORMS = forms_of(400, ("int8", 100), host=True)
MEMORY = Memory({"device": 1600, "host": 800}, page_bytes=100)


class Watched:
    """Metrics of a policy to which things happen."""

    def __init__(self) -> None:
        cost = token_length_cost(state_bytes=400, kv_bytes_per_token=1)
        self.policy = EvictionPolicy(cost, PaperUtility(0.0), FORMS)
        self.registry, self.observer = CollectorRegistry(), Observer()
        held = Held(self.observer, FORMS)
        Metrics(self.observer, LABELS, cost, held, MEMORY, self.registry)
        self._handles = count()

    def store(self, depth: int) -> PrefixNode:
        node = self.policy.add(self.policy.root, next(self._handles), depth)
        self.policy.store_state(node)
        self.observer.emit(Stored(node, Reason.BRANCH))
        return node

    def reform(self, node: PrefixNode, form: int) -> None:
        before = node.form
        self.policy.set_form(node, form)
        self.observer.emit(Reformed(node, before))

    def value(self, name: str, **labels: str) -> float | None:
        shared = {label: str(value) for label, value in LABELS.items()}
        return self.registry.get_sample_value(PREFIX + name, shared | labels)


@pytest.fixture
def watched() -> Watched:
    return Watched()


def test_requests(watched: Watched) -> None:
    node = watched.store(30)
    watched.reform(node, 1)
    watched.observer.emit(Prompted(tokens=100, shared=50, hit=30, resumed=node))
    watched.observer.emit(Prompted(tokens=10, shared=0, hit=0, resumed=None))
    found = {
        name: watched.value(f"{name}_total")
        for name in (
            *("prompt_tokens", "hit_tokens", "recomputed_tokens"),
            *("prompt_flops", "saved_flops"),
        )
    }
    # Every token costs one FLOP in this model.
    assert found == {
        "prompt_tokens": 110,
        "hit_tokens": 30,
        "recomputed_tokens": 20,
        "prompt_flops": 110,
        "saved_flops": 30,
    }
    assert watched.value("checkpoints_used_total", form="int8") == 1


def test_checkpoints_in_all_forms(watched: Watched) -> None:
    first, second = watched.store(30), watched.store(40)
    watched.reform(first, 1)
    watched.reform(first, 2)
    assert watched.value("checkpoints", form="exact") == 1
    assert watched.value("checkpoints", form="host") == 1
    assert watched.value("checkpoint_bytes", tier="device", encoding="exact") == 400
    assert watched.value("checkpoint_bytes", tier="host", encoding="int8") == 100
    assert watched.value("checkpoint_pages", tier="device", encoding="exact") == 4
    assert watched.value("checkpoint_capacity_bytes", tier="host") == 800
    watched.reform(first, 1)
    assert watched.value("checkpoints_demoted_total", to="int8") == 1
    assert watched.value("checkpoints_demoted_total", to="host") == 1
    assert watched.value("checkpoints_returned_total") == 1
    watched.policy.drop_state(second)
    watched.observer.emit(Dropped(second))
    assert watched.value("checkpoints", form="exact") == 0
    assert watched.value("checkpoints", form="int8") == 1
    watched.policy.clear()
    watched.observer.emit(Cleared(watched.policy.root))
    assert watched.value("checkpoints", form="int8") == 0
    assert watched.value("checkpoints_stored_total", reason="branch") == 2


def test_evictions_and_refusals(watched: Watched) -> None:
    node = watched.store(30)
    bare = watched.policy.add(watched.policy.root, 99, 5)
    watched.observer.emit(Evicted(node, What.STATE, None))
    watched.observer.emit(Evicted(bare, What.LEAF, None))
    watched.observer.emit(Refused(Refusal.WORTH))
    assert watched.value("evictions_total", what="state", kind="end") == 1
    assert watched.value("evictions_total", what="leaf", kind="stateless") == 1
    assert watched.value("checkpoints_refused_total", reason="worth") == 1
    assert watched.value("checkpoints_refused_total", reason="room") == 0


def test_decisions_and_alpha(watched: Watched) -> None:
    watched.observer.emit(Timed(Decision.MATCH, 3e-5))
    watched.observer.emit(AlphaChanged(0.4))
    watched.observer.emit(AlphaTuned({0.0: 0.5, 0.4: 0.7}, seconds=2.5))
    assert watched.value("decision_seconds_count", decision="match") == 1
    assert watched.value("decision_seconds_bucket", decision="match", le="2e-05") == 0
    assert watched.value("decision_seconds_bucket", decision="match", le="5e-05") == 1
    assert watched.value("alpha") == 0.4
    assert watched.value("tuner_hit_rate", alpha="0.4") == 0.7
    assert watched.value("tuner_seconds") == 2.5
    assert watched.value("tunings_total") == 1


def test_without_a_host_or_a_lossy_encoding() -> None:
    assert [place.tier for place in places(forms_of(400))] == ["device"]
    assert places(forms_of(400, host=True))[1] == ("host", "exact", 400)


# ---- documents ----

_NAME = re.compile(r"sglang:marconi_\w+")
_OF_HISTOGRAM = ("_bucket", "_sum", "_count")


def exported() -> dict[str, tuple[str, ...]]:
    """Names of series, as Prometheus has them, and their labels beside SGLang's."""
    series = {}
    for metric in METRICS:
        suffixes = _OF_HISTOGRAM if metric.type == "histogram" else ("",)
        for suffix in suffixes:
            series[PREFIX + metric.name + suffix] = (*metric.labels, *(["le"] if suffix else []))
    return series


def test_the_registry_exports_what_the_definitions_say(watched: Watched) -> None:
    watched.observer.emit(AlphaChanged(0.0))
    watched.observer.emit(AlphaTuned({0.0: 0.5}, 1.0))
    names = {sample.name for family in watched.registry.collect() for sample in family.samples}
    assert {name for name in names if not name.endswith("_created")} == set(exported())


def test_every_metric_is_documented() -> None:
    text = (DOCS / "metrics.md").read_text()
    for metric in METRICS:
        labels = ", ".join(f"`{label}`" for label in metric.labels)
        assert f"| `{PREFIX}{metric.name}` | {metric.type} | {labels} |" in text, metric.name
    named = set(_NAME.findall(text))
    assert named <= {PREFIX + metric.name for metric in METRICS} | set(exported())


def queries() -> list[str]:
    dashboard = json.loads((DOCS / "grafana" / "marconi.json").read_text())
    return [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]


def test_the_dashboard_asks_for_metrics_and_labels_that_exist() -> None:
    known = exported()
    assert len(queries()) > 10
    for query in queries():
        names = _NAME.findall(query)
        assert names, query
        for name in names:
            assert name in known, query
        allowed = {"model_name", "tp_rank", "pp_rank", "instance"} | {
            label for name in names for label in known[name]
        }
        labels = re.findall(r"(\w+)\s*=~?\s*\"", query)
        grouped = [
            label.strip()
            for group in re.findall(r"by \(([^)]*)\)", query)
            for label in group.split(",")
        ]
        assert set(labels) | set(grouped) <= allowed, query
