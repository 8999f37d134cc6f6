"""A policy is one file and one line: the server, the simulator and the commands have it then."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import sglang_marconi
from sglang_marconi.policy.ranking import Valuation
from sglang_marconi.policy.registry import BASELINE, DEFAULT, POLICIES, SERVED, TUNED
from sglang_marconi.policy.registry import make_valuation as make

_FILE = '''
from sglang_marconi.policy.utility import PaperUtility


class Newest(PaperUtility):
    """Weighs nothing but efficiency."""

    def __init__(self) -> None:
        super().__init__(1e6)
'''
_LINE = '    "newest": Policy("what is new", "newest:Newest"),\n'
_USE = """
import contextlib, io, sys
from types import SimpleNamespace

from sglang_marconi.cache.live_policy import LivePolicy
from sglang_marconi.cli import main
from sglang_marconi.cost import preset
from sglang_marconi.settings.runtime import update_of
from sglang_marconi.settings.schema import Given, parse_settings

pools = SimpleNamespace(req_to_token_pool=SimpleNamespace(mamba_ckpt_pool=None))
live = LivePolicy(parse_settings({"policy": "newest"}), preset("paper-7b"), pools)
print("serves", live.eviction.valuation.name, type(live.eviction.valuation).__name__)
live.use("auto")
live.use("newest")
print("serves", live.eviction.valuation.name)
print("updates", update_of(Given("set", {"policy": "newest"})))
main(["replay", "lmsys:sessions=20", "--policy", "newest", "--budget", "1GB", "--jobs", "1"])
main(["config"])
with contextlib.suppress(SystemExit):
    main(["replay", "--help"])
"""


def test_a_policy_is_one_file_and_one_line(tmp_path: Path) -> None:
    package = Path(sglang_marconi.__file__).parent
    shutil.copytree(package, tmp_path / package.name, ignore=shutil.ignore_patterns("__pycache__"))
    policies = tmp_path / package.name / "policy"
    (policies / "newest.py").write_text(_FILE)
    registry = policies / "registry.py"
    registry.write_text(registry.read_text().replace('    "lru": ', f'{_LINE}    "lru": ', 1))
    ended = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", _USE],
        env={**os.environ, "PYTHONPATH": str(tmp_path), "COLUMNS": "200"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    said = ended.stdout
    assert "serves newest Newest\nserves newest\nupdates {'marconi_policy': 2}\n" in said
    assert "│ newest │" in said
    assert '"auto" or "marconi" or "newest"' in said
    assert "newest (what is new)" in " ".join(said.split())


@pytest.mark.parametrize("name", POLICIES)
def test_each_is_made_without_arguments_and_knows_its_name(name: str) -> None:
    one, other = make(name), make(name)
    assert isinstance(one, Valuation)
    assert one is not other
    assert one.name == name


def test_those_that_others_rely_on_are_there() -> None:
    assert DEFAULT in SERVED
    assert TUNED in SERVED
    assert make(TUNED).alpha == make(BASELINE).alpha == 0.0
    assert make(DEFAULT).alpha is None
