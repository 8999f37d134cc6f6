"""``sglang-marconi config``."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from sglang_marconi.cli import main


def shown(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    main(["config", "--json", *arguments])
    return {record["key"]: record for record in json.loads(capsys.readouterr().out)}


def test_a_table_has_every_setting(capsys: pytest.CaptureFixture[str]) -> None:
    main(["config"])
    table = capsys.readouterr().out
    for text in ("policy", '"auto" or "marconi"', "a number from 0, or null", "what is evicted"):
        assert text in table
    main(["config", "--set", "cost=tokens"])
    assert '"tokens"' in capsys.readouterr().out


def test_the_last_place_counts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "marconi.toml"
    file.write_text('policy = "marconi"\nalpha = 0.5\ncost = "tokens"\n')
    option = "--radix-eviction-policy-config"
    found = shown(
        capsys, "--file", str(file), option, '{"alpha": 1, "cost": "flops"}', "--set", "alpha=2"
    )
    given = {
        key: (record["value"], record["source"])
        for key, record in found.items()
        if record["source"] != "default"
    }
    assert given == {
        "policy": ("marconi", str(file)),
        "alpha": (2, "--set"),
        "cost": ("flops", option),
    }
    found = shown(capsys, option, json.dumps({"file": str(file)}))
    assert (found["alpha"]["value"], found["alpha"]["source"]) == (0.5, str(file))
    assert shown(capsys)["alpha"]["source"] == "default"


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--set", "alpha=-1"], "--set: alpha = -1"),
        (["--set", "alpha"], "KEY=VALUE"),
        (["--set", "polic=auto"], "did you mean 'policy'"),
        (["--radix-eviction-policy-config", "{"], "not JSON"),
        (["--radix-eviction-policy-config", "[]"], "JSON object"),
        (["--file", "absent.toml"], "absent.toml"),
    ],
)
def test_what_is_wrong_is_one_line(arguments: list[str], named: str) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["config", *arguments])
    message = str(ended.value)
    assert named in message
    assert "\n" not in message


def test_commands_load_only_what_they_need() -> None:
    script = (
        "import sys; from sglang_marconi.cli import main; main(['config', '--json']); "
        "print(sorted({'torch', 'sglang', 'matplotlib', 'numpy', 'openai'} & set(sys.modules)))"
    )
    ended = subprocess.run(
        [sys.executable, "-c", script], check=True, capture_output=True, text=True
    )
    assert ended.stdout.splitlines()[-1] == "[]"
