"""Commands where the extra `lab` is not installed."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from sglang_marconi.cli import LAB_PACKAGES, main

KEPT = {"sglang_marconi", "sglang_marconi.cli"}


@pytest.fixture
def server_installation() -> Iterator[None]:
    """No package of the extra can be imported, and none of our modules has been yet."""
    loaded = {name: module for name, module in sys.modules.items() if _is_loaded_anew(name)}
    for name in loaded:
        del sys.modules[name]
    sys.modules.update(dict.fromkeys(LAB_PACKAGES))  # type: ignore[arg-type]
    yield
    for name in filter(_is_loaded_anew, list(sys.modules)):
        del sys.modules[name]
    for name, module in loaded.items():
        sys.modules[name] = module
        parent, _, child = name.rpartition(".")
        if parent in sys.modules:
            setattr(sys.modules[parent], child, module)


def _is_loaded_anew(name: str) -> bool:
    package = name.partition(".")[0]
    return package in LAB_PACKAGES or (package == "sglang_marconi" and name not in KEPT)


@pytest.mark.usefixtures("server_installation")
@pytest.mark.parametrize(
    "arguments",
    [
        ["replay", "lmsys:sessions=1"],
        ["report", "folder"],
        ["explain", "paper-7b", "--plot", "memory.png"],
    ],
    ids=lambda arguments: arguments[0],
)
def test_a_command_of_the_lab_names_the_extra(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    shown = capsys.readouterr()
    assert not shown.out
    assert "pip install 'sglang-marconi[lab]'" in shown.err
    assert any(f"the package {name}," in shown.err for name in LAB_PACKAGES)


@pytest.mark.usefixtures("server_installation")
def test_an_operators_commands_need_no_extra(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["config"])
    main(["explain", "paper-7b"])
    # Of the others, what they print here depends on SGLang, a model or a server.
    for command in ("doctor", "set", "verify"):
        with pytest.raises(SystemExit) as ended:
            main([command, "--help"])
        assert ended.value.code == 0
    assert "one checkpoint" in capsys.readouterr().out


def test_another_missing_package_is_no_matter_of_the_extra(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delitem(sys.modules, "sglang_marconi.cli.config", raising=False)
    monkeypatch.setitem(sys.modules, "rich.table", None)
    with pytest.raises(ModuleNotFoundError):
        main(["config"])
