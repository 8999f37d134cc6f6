"""No change of SGLang's list and set of nodes goes past the eviction policy."""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections import defaultdict
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
from sglang.srt.mem_cache.unified_cache.unified_tree_core import UnifiedLRUList
from sglang_marconi.cache.tree_core import LeafSet, StateList
from sglang_marconi.seams import IncompatibleSGLang

# Of a set of 1 and 2, what changes one does so with one of these.
_ARGUMENTS: tuple[tuple[Any, ...], ...] = ((), (1,), (3,), ({1},), ({3},))


class Node(int):
    """A node that belongs to no session."""

    component_data: ClassVar = defaultdict(lambda: SimpleNamespace(session_ref=0))


class Policy(set[Node]):
    """The leaves as the eviction policy knows them."""

    def offer_leaf(self, node: Node, *, referenced: bool) -> None:
        assert not referenced
        self.add(node)

    withdraw_leaf = set.remove


def changed(make: type, name: str) -> Iterator[tuple[Any, Policy]]:
    """Sets of 1 and 2 after one method with each of the arguments that it takes."""
    for arguments in _ARGUMENTS:
        policy = Policy()
        tree = SimpleNamespace(policy=policy, prefix=lambda node: node)
        leaves = make() if make is set else make(tree)
        for number in (1, 2):
            leaves.add(Node(number))
        given = [
            {Node(each) for each in argument} if isinstance(argument, set) else Node(argument)
            for argument in arguments
        ]
        try:
            getattr(leaves, name)(*given)
        except IncompatibleSGLang as error:
            assert "SGLang" in str(error) and f" {name} of " in str(error)
        except (TypeError, KeyError):
            continue
        yield leaves, policy


def mutators() -> list[str]:
    """The methods of a set that change it, found by calling all."""
    passing = {"__init__", "__class__"}
    return [
        name
        for name in dir(set)
        if name not in passing and any(leaves != {1, 2} for leaves, _ in changed(set, name))
    ]


def unheard(kind: type) -> list[str]:
    """Methods after which the policy no longer knows the set."""
    return [
        name
        for name in mutators()
        if any(leaves != policy for leaves, policy in changed(kind, name))
    ]


def test_the_policy_hears_of_each_change_of_leaves_or_it_is_an_error() -> None:
    assert {"add", "discard", "remove", "pop", "clear", "update", "__ior__"} <= set(mutators())
    assert len(mutators()) == 13
    assert unheard(LeafSet) == []


@pytest.mark.parametrize("name", ["update", "pop", "__isub__"])
def test_a_change_of_leaves_that_goes_unheard_is_found(name: str) -> None:
    assert unheard(type("Planted", (LeafSet,), {name: getattr(set, name)})) == [name]


def changers(kind: type) -> set[str]:
    """The methods of a list of nodes that change which nodes are in it: its ``cache``."""
    return {
        name
        for name, method in inspect.getmembers(kind, inspect.isfunction)
        if name != "__init__" and _changes_cache(textwrap.dedent(inspect.getsource(method)))
    }


def _changes_cache(source: str) -> bool:
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Subscript(value=ast.Attribute(attr="cache"), ctx=ast.Store() | ast.Del()):
                return True
            case ast.Attribute(attr="cache", ctx=ast.Store() | ast.Del()):
                return True
            case ast.Call(func=ast.Attribute(value=ast.Attribute(attr="cache"))):
                # Of a dict's methods hardly one that SGLang would call leaves it as it is.
                return True
    return False


def test_the_policy_hears_of_each_change_of_states_or_it_is_an_error() -> None:
    assert changers(UnifiedLRUList) == {"insert_mru", "insert_after", "remove_node"}
    assert changers(UnifiedLRUList) <= set(vars(StateList))
    states = StateList.__new__(StateList)
    with pytest.raises(IncompatibleSGLang, match=r"SGLang called insert_after of the list of"):
        states.insert_after(None, None)


class Planted(UnifiedLRUList):  # type: ignore[misc]
    """SGLang's list as it might become."""

    def pop_lru(self) -> Any:
        return self.cache.popitem()


def test_a_change_of_states_that_goes_unheard_is_found() -> None:
    assert changers(Planted) - set(vars(StateList)) == {"pop_lru"}
