"""What the cache does, in SGLang's Prometheus endpoint."""

from __future__ import annotations

from collections.abc import Mapping
from math import nan
from typing import Any, Literal, NamedTuple

from sglang_marconi.cost import ModelCost
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
from sglang_marconi.observe.held import Held, Memory
from sglang_marconi.policy.prediction import kind_of

PREFIX = "sglang:marconi_"


class Metric(NamedTuple):
    """A metric as Prometheus has it; ``labels`` come beside SGLang's own."""

    name: str
    type: Literal["counter", "gauge", "histogram"]
    help: str
    labels: tuple[str, ...] = ()


METRICS = (
    Metric("prompt_tokens_total", "counter", "Prompt tokens of requests."),
    Metric("hit_tokens_total", "counter", "Prompt tokens that were reused."),
    Metric(
        "recomputed_tokens_total",
        "counter",
        "Prompt tokens whose KV was cached, but computed again for want of a checkpoint.",
    ),
    Metric("prompt_flops_total", "counter", "FLOPs to compute all prompts, on this rank."),
    Metric("saved_flops_total", "counter", "FLOPs that reuse has saved, on this rank."),
    Metric("checkpoints", "gauge", "Checkpoints held.", ("form",)),
    Metric(
        "checkpoint_pages",
        "gauge",
        "Store pages that checkpoints fill; slots of states if they have no store of their own.",
        ("tier", "encoding"),
    ),
    Metric("checkpoint_bytes", "gauge", "Bytes of these.", ("tier", "encoding")),
    Metric("checkpoint_capacity_bytes", "gauge", "Bytes that checkpoints may fill.", ("tier",)),
    Metric("checkpoints_stored_total", "counter", "Checkpoints stored.", ("reason",)),
    Metric("checkpoints_used_total", "counter", "Requests that resumed at one.", ("form",)),
    Metric("checkpoints_demoted_total", "counter", "Checkpoints put into a smaller form.", ("to",)),
    Metric("checkpoints_returned_total", "counter", "Checkpoints that came back from the host."),
    Metric("checkpoints_refused_total", "counter", "Checkpoints not stored.", ("reason",)),
    Metric(
        "evictions_total",
        "counter",
        "Evictions: of a state alone, or of a leaf's KV and state.",
        ("what", "kind"),
    ),
    Metric("alpha", "gauge", "Weight of FLOP efficiency against recency."),
    Metric("tunings_total", "counter", "Replays of a window of requests to tune alpha."),
    Metric("tuner_hit_rate", "gauge", "Token hit rate in the last replay.", ("alpha",)),
    Metric("tuner_seconds", "gauge", "Seconds that the last replay took."),
    Metric(
        "decision_seconds",
        "histogram",
        "Time that a decision takes in the scheduler.",
        ("decision",),
    ),
)

_DECISION_BUCKETS = (1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 5e-2, 0.1)

STATELESS = "stateless"
"""The kind of what has no checkpoint, beside those of ``policy.reuse.Kind``."""


class Metrics:
    """Listens to an observer.

    To be made once in a process, after SGLang has set where its processes' metrics are gathered.

    Args:
        labels: SGLang's.
        cost: what FLOPs are counted with.
        held: what checkpoints there are; hears of them from the same observer.
        memory: what they may fill.
        registry: for tests; by default the process's.
    """

    def __init__(
        self,
        observer: Observer,
        labels: Mapping[str, object],
        cost: ModelCost,
        held: Held,
        memory: Memory,
        registry: Any = None,
    ) -> None:
        self._labels = dict(labels)
        self._cost = cost
        self._held = held
        self._forms = held.forms
        self._page_bytes = memory.page_bytes
        self._metrics = {metric.name: self._make(metric, registry) for metric in METRICS}
        # Those with further labels, as their values are met.
        self._children: dict[tuple[str, tuple[str, ...]], Any] = {}
        self._start_at_zero()
        for tier, size in memory.capacity.items():
            self._child("checkpoint_capacity_bytes", tier).set(size)
        self._show_held()
        for kind, listener in {
            Prompted: self._prompted,
            Stored: self._stored,
            Dropped: self._dropped,
            Reformed: self._reformed,
            Evicted: self._evicted,
            Refused: self._refused,
            Cleared: self._cleared,
            Timed: self._timed,
            AlphaChanged: self._alpha_changed,
            AlphaTuned: self._alpha_tuned,
        }.items():
            observer.on(kind, listener)  # type: ignore[arg-type]

    def _make(self, metric: Metric, registry: Any) -> Any:
        # Only now: the client library looks at its environment when it is imported.
        from prometheus_client import REGISTRY, Counter, Gauge, Histogram

        arguments: dict[str, Any] = {
            "name": PREFIX + metric.name,
            "documentation": metric.help,
            "labelnames": [*self._labels, *metric.labels],
            "registry": REGISTRY if registry is None else registry,
        }
        if metric.type == "counter":
            return Counter(**arguments)
        if metric.type == "gauge":
            return Gauge(**arguments, multiprocess_mode="mostrecent")
        return Histogram(**arguments, buckets=_DECISION_BUCKETS)

    def _start_at_zero(self) -> None:
        """A rate can be taken only of what was there before it first happened."""
        for metric in METRICS:
            if metric.type == "counter" and not metric.labels:
                self._child(metric.name)
        for reason in Reason:
            self._child("checkpoints_stored_total", reason)
        for refusal in Refusal:
            self._child("checkpoints_refused_total", refusal)
        for what in What:
            self._child("evictions_total", what, STATELESS if what is What.LEAF else "end")
        for form in self._forms:
            self._child("checkpoints_used_total", form.name)
        for form in self._forms[1:]:
            self._child("checkpoints_demoted_total", form.name)
        for decision in Decision:
            self._child("decision_seconds", decision)

    def _child(self, name: str, *values: str) -> Any:
        child = self._children.get((name, values))
        if child is None:
            metric = self._metrics[name]
            labels = [*map(str, self._labels.values()), *values]
            child = metric.labels(*labels) if labels else metric
            self._children[name, values] = child
        return child

    # ---- requests ----

    def _prompted(self, event: Prompted) -> None:
        self._child("prompt_tokens_total").inc(event.tokens)
        self._child("prompt_flops_total").inc(self._cost.prefill_flops(0, event.tokens))
        if event.hit:
            self._child("hit_tokens_total").inc(event.hit)
            self._child("saved_flops_total").inc(self._cost.prefill_flops(0, event.hit))
        if event.shared > event.hit:
            self._child("recomputed_tokens_total").inc(event.shared - event.hit)
        if event.resumed is not None:
            self._child("checkpoints_used_total", self._forms[event.resumed.form].name).inc()

    # ---- checkpoints ----

    def _stored(self, event: Stored) -> None:
        self._child("checkpoints_stored_total", event.reason).inc()
        self._show_held()

    def _dropped(self, _event: Dropped) -> None:
        self._show_held()

    def _reformed(self, event: Reformed) -> None:
        form = event.node.form
        if form > event.before:
            self._child("checkpoints_demoted_total", self._forms[form].name).inc()
        else:
            self._child("checkpoints_returned_total").inc()
        self._show_held()

    def _cleared(self, _event: Cleared) -> None:
        self._show_held()

    def _show_held(self) -> None:
        held = self._held
        for form, place, count in zip(held.forms, held.places, held.counts, strict=True):
            size = count * place.size
            self._child("checkpoints", form.name).set(count)
            self._child("checkpoint_bytes", place.tier, place.encoding).set(size)
            pages = size // self._page_bytes
            self._child("checkpoint_pages", place.tier, place.encoding).set(pages)

    def _evicted(self, event: Evicted) -> None:
        kind = kind_of(event.node).name.lower() if event.node.has_state else STATELESS
        self._child("evictions_total", event.what, kind).inc()

    def _refused(self, event: Refused) -> None:
        self._child("checkpoints_refused_total", event.refusal).inc()

    # ---- decisions ----

    def _timed(self, event: Timed) -> None:
        self._child("decision_seconds", event.decision).observe(event.seconds)

    def _alpha_changed(self, event: AlphaChanged) -> None:
        self._child("alpha").set(nan if event.alpha is None else event.alpha)

    def _alpha_tuned(self, event: AlphaTuned) -> None:
        self._child("tunings_total").inc()
        self._child("tuner_seconds").set(event.seconds)
        for alpha, rate in event.hit_rates.items():
            self._child("tuner_hit_rate", str(alpha)).set(rate)
