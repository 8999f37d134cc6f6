"""For all tests."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from hypothesis import settings

# How long an example takes says nothing on a machine that others use too.
settings.register_profile("shared", deadline=None)
settings.load_profile("shared")


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
