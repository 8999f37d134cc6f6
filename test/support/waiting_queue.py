"""A queue of requests on SGLang's tree, driven round by round as its scheduler does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

from sglang.srt.managers.schedule_batch import Req
from sglang.srt.managers.schedule_policy import AddReqResult
from sglang.srt.model_executor.forward_batch_info import ForwardMode
from sglang_marconi.cost import preset
from sglang_marconi.forward.layers import parts
from sglang_marconi.forward.plan import current
from sglang_marconi.policy.eviction import EvictionPolicy
from sglang_marconi.policy.ledger import PrefixNode
from sglang_marconi.policy.prediction import PredictedReuse
from sglang_marconi.policy.ranking import Valuation

from support.tree_serving import (
    SCHEDULER,
    SINGLE_TOKENS,
    Flight,
    Serving,
    states_of,
    with_free_passes,
)
from support.watched_tree import MAMBA

ROOMY = replace(SINGLE_TOKENS, kv_size=400, mamba_cache_size=40, max_num_reqs=8)
COST = with_free_passes(preset("paper-7b"))


class Queue(Serving):
    """Requests wait in a queue; a pass is launched in one step and read in another."""

    is_generation = True

    def __init__(self, valuation: Valuation | None = None, **sizes: int) -> None:
        policy = EvictionPolicy(COST, PredictedReuse() if valuation is None else valuation)
        super().__init__(replace(ROOMY, **sizes), policy)
        self.policy = policy
        self.waiting_queue: list[Req] = []
        self.chunked_req: Req | None = None
        self.waiting = self.cache.components[MAMBA]._waiting
        self.launched: list[tuple[list[Flight], Any, Any]] = []

    def come(self, *prompts: list[int], **about: Any) -> list[Req]:
        """Requests arrive."""
        reqs = [self.arrive(prompt) for prompt in prompts]
        for req in reqs:
            req.rid = str(len(self.waiting_queue))
            for name, value in about.items():
                setattr(req, name, value)
            self.waiting_queue.append(req)
        return reqs

    def use(self, req: Req) -> None:
        """The hook on the admission says so itself."""

    def round(self, most: int | None = None, late: Sequence[list[int]] = ()) -> list[Req]:
        """One round of admissions, of prompts with at most ``most`` tokens in a pass.

        ``late``: prompts that come when it has begun. Returns who was admitted; their pass is
        launched.
        """
        self.waiting.begin(self)
        self.come(*late)
        flights: list[Flight] = []
        adder: Any = SimpleNamespace(can_run_list=[])

        def add(_adder: Any, req: Req) -> AddReqResult:
            flight = self.begin(list(req.origin_input_ids + req.output_ids), req=req)
            if flight is None:
                return AddReqResult.NO_TOKEN
            whole = len(flight.prompt)
            req.extend_end = whole if most is None else min(whole, flight.computed + most)
            flights.append(flight)
            adder.can_run_list.append(req)
            return AddReqResult.CONTINUE

        def match(_req: Req, _tree: Any, _cow: Any) -> None:
            """Done when it is added."""

        if self.chunked_req is not None:
            [flight] = [each for each in self.flights if each.req is self.chunked_req]
            self.chunked_req.extend_end = len(flight.prompt)
            flights.append(flight)
            adder.can_run_list.append(self.chunked_req)
            self.chunked_req = None
        for req in self.waiting_queue:
            self.waiting.look(match, req, self.cache)
            assert self.waiting.admit(add, adder, req) is AddReqResult.CONTINUE
        admitted: list[Req] = adder.can_run_list
        self.waiting_queue = [req for req in self.waiting_queue if req not in admitted]
        self.chunked_req = next(
            (each.req for each in flights if each.req.extend_end < len(each.prompt)), None
        )
        if flights:
            self.launch(flights)
        return admitted

    def launch(self, flights: list[Flight]) -> None:
        """A pass over what was admitted."""
        passing = states_of(self.cache)
        batch: Any = SimpleNamespace(
            forward_mode=ForwardMode.EXTEND,
            reqs=[flight.req for flight in flights],
            decoding_reqs=None,
            prefix_lens=[flight.computed for flight in flights],
            extend_lens=[flight.req.extend_end - flight.computed for flight in flights],
            can_run_dp_prefill_cuda_graph=False,
        )
        passing.plan(SCHEDULER, batch)

        def forward(*_: object) -> SimpleNamespace:
            plan = current()
            if plan is not None:
                plan._written.update(parts(self.cache.req_to_token_pool))
            return SimpleNamespace()

        self.launched.append((flights, batch, passing.run(forward, None)))
        for flight in flights:
            flight.computed = flight.req.extend_end

    def read(self) -> None:
        """The result of the oldest pass: prompts that it ended give out a token."""
        flights, batch, result = self.launched.pop(0)
        states_of(self.cache).read(None, batch, result)
        ends = [at + more for at, more in zip(batch.prefix_lens, batch.extend_lens, strict=True)]
        for flight, end in zip(flights, ends, strict=True):
            if flight in self.flights and end == len(flight.prompt):
                flight.req.output_ids.append(9)
                self.cache.checkpoint(flight.req, up_to=flight.computed)

    def node(self, *tokens: int) -> PrefixNode:
        return self.tree.prefix(self.tree.node_of(tokens))

    def check(self) -> None:
        """What tree and policy hold is sound."""
        self.cache.sanity_check()
