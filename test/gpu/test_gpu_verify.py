"""A server that answers right because it keeps no state inside a prompt has not shown anything."""

from __future__ import annotations

import inspect
from pathlib import Path

from gpu.verify_models import INCOMPLETE, Found, whole
from sglang_marconi.cache import pass_states

EXACT = Found(0, "reuse changes no answer", {})


def test_states_left_incomplete_are_found_in_the_log(tmp_path: Path) -> None:
    log = tmp_path / "server.log"
    log.write_text("Prefill batch\n")
    assert whole(EXACT, log) == EXACT
    log.write_text(f"Prefill batch\nMarconi: a pass left 4 {INCOMPLETE} (first: window 0)\n")
    assert whole(EXACT, log).is_bad
    assert "window 0" in whole(EXACT, log).said


def test_a_server_says_it_in_these_words() -> None:
    assert INCOMPLETE in inspect.getsource(pass_states)
