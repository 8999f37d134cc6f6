"""What the documents name is there: files, commands, options, settings, sizes of checkpoints."""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from pathlib import Path

import pytest
import sglang
from sglang.srt.server_args import ServerArgs
from sglang_marconi import units
from sglang_marconi.cli import _COMMANDS
from sglang_marconi.cost import preset, preset_names
from sglang_marconi.settings.schema import describe_settings

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted(
    [*ROOT.glob("*.md"), *(ROOT / ".github").rglob("*.md"), *(ROOT / "docs").rglob("*.md")]
)
# Where a document may name a file from.
SGLANG = Path(sglang.__file__).parent
BASES = (
    *(ROOT, ROOT / "python" / "sglang_marconi", ROOT / "triton_kernels" / "marconi_kernels"),
    *(SGLANG, SGLANG / "srt"),
)
# Files of a project that is not installed here.
ELSEWHERE = "vllm/"
# Options of programs that are neither SGLang's nor ours, and of other projects.
FOREIGN = {
    "--check",
    "--enable-mamba-shared-prefix-checkpoint",
    "--hybrid-cache-checkpoints-level",
    "--prefix-cache-retention-interval",
    "--prefix-match-unit",
}

each_document = pytest.mark.parametrize(
    "document", DOCUMENTS, ids=[str(document.relative_to(ROOT)) for document in DOCUMENTS]
)


@each_document
def test_relative_links_lead_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", document.read_text()):
        if "://" not in target:
            assert (document.parent / target.partition("#")[0]).exists(), target


@each_document
def test_files_named_exist(document: Path) -> None:
    for name in re.findall(r"`([\w./-]+\.(?:py|md|svg)|[\w./-]+/)`", document.read_text()):
        bases = (*BASES, document.parent)
        # A bare name is that of a file in a folder which the text has named before.
        found = any(ROOT.glob(f"[pstd]*/**/{name}")) if "/" not in name else False
        found = found or name.startswith(ELSEWHERE)
        assert found or any((base / name).exists() for base in bases), name


@each_document
def test_options_named_exist(document: Path) -> None:
    for option in re.findall(r"(?<![\w-])--[a-z][a-z0-9-]+", document.read_text()):
        assert option in known_options(), option


def test_settings_are_all_described_and_no_others() -> None:
    text = "".join(document.read_text() for document in DOCUMENTS)
    settings = {setting.key for setting in describe_settings()}
    # Rows of a table, each with the default and what the setting does.
    rows = re.findall(r"^ *\| `(\w+)` \| `(.+?)` \| .{20,} \|$", _settings(), flags=re.MULTILINE)
    described = [(key, json.loads(default)) for key, default in rows]
    assert described == [(setting.key, setting.default) for setting in describe_settings()]
    given = {key for group in re.findall(r"'\{(.+?)\}'", text) for key in _keys(group)}
    assert given <= settings | {"file"}


def test_sizes_of_checkpoints() -> None:
    rows = re.findall(r"^\| `([\w.-]+)` \| (.+) \|$", _models(), flags=re.MULTILINE)
    assert [name for name, _ in rows] == preset_names()
    for name, cells in rows:
        cost = preset(name)
        sizes = [cost.encoded_state_bytes(encoding) for encoding in ("exact", "bf16", "int8")]
        shown = [units.byte_size(size) for size in (*sizes, cost.kv_bytes_per_token)]
        tokens = f"{cost.state_bytes / cost.kv_bytes_per_token:,.0f}"
        assert cells == " | ".join([*shown, tokens]).replace("\xa0", " "), name


def _settings() -> str:
    return (ROOT / "docs" / "settings.md").read_text()


def _models() -> str:
    return (ROOT / "docs" / "models.md").read_text()


def _keys(settings: str) -> list[str]:
    return re.findall(r'"(\w+)":', settings)


@cache
def known_options() -> frozenset[str]:
    """Of SGLang's server, of our commands, of our scripts, and of the tools that install."""
    parser = argparse.ArgumentParser()
    ServerArgs.add_cli_args(parser)
    return frozenset({*_of(parser), *FOREIGN, *_ours()})


def _ours() -> Iterator[str]:
    for name in _COMMANDS:
        parser = argparse.ArgumentParser()
        import_module(f"sglang_marconi.cli.{name}").add_arguments(parser)
        yield from _of(parser)
    for script in (ROOT / "scripts").rglob("*.py"):
        yield from re.findall(r'add_argument\(\s*"(--[\w-]+)"', script.read_text())
    yield from ("--strict",)


def _of(parser: argparse.ArgumentParser) -> Iterator[str]:
    for action in parser._actions:
        yield from action.option_strings
