"""Whether what a policy remembers, what follows from its nodes, and its owner's tree agree.

Everything is worked out anew, which takes time in proportion to the nodes, and nothing is changed,
so that of several ranks one may be checked alone. For tests, and for a server that checks itself
while it is idle.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from sglang_marconi.policy.eviction import PricedLedger
from sglang_marconi.policy.ledger import PrefixNode
from sglang_marconi.policy.ranking import Placed, Ranking


class Disagreement(AssertionError):
    """The first difference found. SGLang's check of its own tree raises an ``AssertionError``."""


class OwnersNode(NamedTuple):
    """A node as the owner of the tree has it, in the terms of `PrefixNode`.

    ``parent``: the owner's number of the node above, that of the policy's root at the top.
    ``form`` counts for a node with a state, ``kv_referenced`` for a leaf that is offered.
    """

    handle: int
    parent: int
    depth: int
    has_state: bool
    form: int
    state_in_use: bool
    state_referenced: bool
    leaf_offered: bool
    kv_referenced: bool


class OwnersTotals(NamedTuple):
    """What the owner counts: ``tokens`` whose KV it holds, and its states by form."""

    tokens: int
    states: Sequence[int]


def check_policy(policy: PricedLedger) -> None:
    """Check the nodes that a policy has, and that its rankings hold what follows from them.

    Nodes that a change has concerned are not looked for in rankings until the policy has looked
    at them.

    Raises:
        Disagreement: names the first node that is not as it must be, and how.
    """
    nodes = list(policy.nodes())
    for node in nodes:
        _check_node(node, forms=len(policy.forms))
    _check_running(policy.root, nodes)
    _check_rankings(policy, nodes)


def check_tree(policy: PricedLedger, owners: Iterable[OwnersNode], totals: OwnersTotals) -> None:
    """Check that a policy has the nodes that the owner has, each as the owner has it.

    Raises:
        Disagreement: names the first node that is not, and how, or the first total.
    """
    unseen = {node.handle: node for node in policy.nodes()}
    for owned in owners:
        node = unseen.pop(owned.handle, None)
        if node is None:
            raise Disagreement(f"node {owned.handle} is in the tree, but the policy has none")
        _compare(node, owned)
    for handle in unseen:
        raise Disagreement(f"the policy has node {handle}, but it is not in the tree")
    _check_totals(policy, totals)


# ---- the policy's own nodes ----


def _check_node(node: PrefixNode, forms: int) -> None:
    above = _above(node)
    if above.children.get(node.handle) is not node:
        raise Disagreement(f"node {node.handle} is no child of node {above.handle} above it")
    if node.depth <= above.depth:
        raise Disagreement(
            f"node {node.handle} ends at {node.depth}, node {above.handle} above it at "
            f"{above.depth}"
        )
    if node.form >= forms:
        raise Disagreement(f"node {node.handle} is in form {node.form} of {forms}")
    if len(node.children) > 1 and not node.branched:
        raise Disagreement(f"node {node.handle} has several children, but never branched")


def _check_running(root: PrefixNode, nodes: Sequence[PrefixNode]) -> None:
    running = dict.fromkeys((root, *nodes), 0)
    for node in reversed(nodes):
        running[_above(node)] += running[node] + node.state_in_use
    for node, count in running.items():
        if node.running_below != count:
            raise Disagreement(
                f"node {node.handle} has {node.running_below} nodes in use below it, but they are "
                f"{count}"
            )


# ---- its rankings ----


def _check_rankings(policy: PricedLedger, nodes: Sequence[PrefixNode]) -> None:
    """Compare each ranking with one that is made anew."""
    rankings = {name: ranking for name, (ranking, _) in policy.roles(policy.root).items()}
    anew = {name: policy.valuation.ranking() for name in rankings}
    settled = [node for node in nodes if policy.is_settled(node)]
    for node in settled:
        for name, (_, candidate) in policy.roles(node).items():
            if candidate is not None:
                anew[name].place(node, candidate)
    known = set(nodes)
    for name, ranking in rankings.items():
        found, wanted = _by_node(ranking, name), _by_node(anew[name], name)
        for node in settled:
            is_, should_be = found.get(node), wanted.get(node)
            if is_ != should_be:
                raise Disagreement(
                    f"where room for {name} is short, node {node.handle} is {_describe(is_)}, but "
                    f"should be {_describe(should_be)}"
                )
        for node in found:
            if node not in known:
                raise Disagreement(
                    f"where room for {name} is short, node {node.handle} is ranked, but gone"
                )


def _by_node(ranking: Ranking, name: str) -> dict[PrefixNode, Placed]:
    found: dict[PrefixNode, Placed] = {}
    for placed in ranking.placed():
        if found.setdefault(placed.node, placed) is not placed:
            raise Disagreement(
                f"where room for {name} is short, node {placed.node.handle} is ranked twice"
            )
    return found


def _describe(placed: Placed | None) -> str:
    if placed is None:
        return "no candidate"
    return f"among {placed.group}, efficiency {placed.efficiency!r}, last use {placed.last_use!r}"


# ---- the owner's tree ----


def _compare(node: PrefixNode, owned: OwnersNode) -> None:
    ours = {field: getattr(node, field) for field in OwnersNode._fields if field != "parent"}
    ours["parent"] = _above(node).handle
    if not owned.has_state:
        ours["form"] = owned.form
    if not owned.leaf_offered:
        ours["kv_referenced"] = owned.kv_referenced
    for field, theirs in owned._asdict().items():
        if ours[field] != theirs:
            raise Disagreement(
                f"node {node.handle} has {field} {ours[field]} in the policy, {theirs} in the tree"
            )


def _check_totals(policy: PricedLedger, totals: OwnersTotals) -> None:
    tokens, states = 0, [0] * len(policy.forms)
    for node in policy.nodes():
        tokens += node.depth - _above(node).depth
        states[node.form] += node.has_state
    if tokens != totals.tokens:
        raise Disagreement(f"{tokens} tokens in the policy, {totals.tokens} in the tree")
    for form, ours, theirs in zip(policy.forms, states, totals.states, strict=True):
        if ours != theirs:
            size = form.device_bytes + form.host_bytes
            raise Disagreement(
                f"{ours} states in form {form.name} in the policy ({ours * size} bytes), {theirs} "
                f"in the tree ({theirs * size} bytes)"
            )


def _above(node: PrefixNode) -> PrefixNode:
    assert node.parent is not None
    return node.parent
