"""What a change of a running server's settings asks for."""

from __future__ import annotations

from typing import Any

import pytest
from sglang_marconi.settings.runtime import update_of
from sglang_marconi.settings.schema import Given, SettingsError


@pytest.mark.parametrize(
    ("given", "update"),
    [
        ({"policy": "auto"}, {"marconi_policy": 0}),
        ({"policy": "marconi"}, {"marconi_policy": 1}),
        ({"alpha": 0.5}, {"marconi_alpha": 0.5}),
        ({"policy": "marconi", "alpha": 0}, {"marconi_alpha": 0}),
    ],
)
def test_updates(given: dict[str, Any], update: dict[str, float]) -> None:
    assert update_of(Given("set", given)) == update


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"encoding": "int8"}, "cannot change while a server runs"),
        ({"alpha": -1}, "alpha = -1 is not allowed"),
        ({"policy": "lru"}, "policy = 'lru' is not allowed"),
        ({"policy": "auto", "alpha": 1}, "takes no parameter"),
    ],
)
def test_what_cannot_be_set(given: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        update_of(Given("set", given))
