"""For all tests."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from hypothesis import settings

# How long an example takes says nothing on a machine that others use too.
settings.register_profile("shared", deadline=None)
settings.load_profile("shared")


# Those with the longest files, longest first.
_FIRST = ("server", "verify", "kernels", "evaluation", "traces", "tree", "tuning")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long files first: at the end short ones keep both workers busy."""

    def place(item: pytest.Item) -> int:
        folder = item.path.parent.name
        return _FIRST.index(folder) if folder in _FIRST else len(_FIRST)

    items.sort(key=place)


@pytest.fixture(autouse=True)
def _environment_as_it_was() -> Iterator[None]:
    """A variable that a test leaves behind would change the servers of every later test."""
    before = dict(os.environ)
    yield
    after = dict(os.environ)
    os.environ.clear()
    os.environ.update(before)
    for variables in (before, after):
        variables.pop("PYTEST_CURRENT_TEST", None)
    assert after == before
