"""The table of folders is the order of imports that the linter checks."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_table_of_folders_is_the_linters_list() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    contracts = project["tool"]["importlinter"]["contracts"]
    (layers,) = [contract["layers"] for contract in contracts if contract["type"] == "layers"]
    checked = [name for layer in layers for name in re.split(r" [|:] ", layer)]
    layout = (
        (ROOT / "docs" / "develop.md").read_text().partition("## Layout")[2].partition("\n## ")[0]
    )
    shown = re.findall(r"^\| `(\w+)(?:/|\.py)` \|", layout, flags=re.MULTILINE)
    assert shown == checked
