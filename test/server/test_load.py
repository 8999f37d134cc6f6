"""It keeps working: a short run of the load test, which scripts/load_test.py runs for longer."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from load_run import CHECKS, Plan, arguments, put_under_load
from support.forked_server import ForkedServer
from support.models import build_shallow_model

pytestmark = pytest.mark.server

CONFIGURATIONS: dict[str, dict[str, Any]] = {
    "shared": {},
    "int8-host": {"checkpoint_memory": 0.4, "encoding": "int8", "host_memory": "300KB"},
}


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_it_keeps_working(name: str, model: Path, tmp_path: Path) -> None:
    settings = CONFIGURATIONS[name]
    other = build_shallow_model(tmp_path / "other", seed=1)
    plan = Plan(
        (model, other), seconds=12, least_actions=60, samples=20, lossy="encoding" in settings
    )
    log = tmp_path / "server.log"
    with ForkedServer(model, *arguments(json.dumps(settings)), log_path=log, env=CHECKS) as server:
        report = asyncio.run(put_under_load(server, plan))
    assert report.failures == []
    assert report.compared == plan.samples
    assert report.sent.total() > plan.least_actions
    assert report.totals["cached tokens"] > 1000
