"""What the code imports is declared in pyproject.toml, and what is declared is imported."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Iterable, Iterator
from importlib.metadata import packages_distributions
from itertools import chain
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from sglang_marconi.cli import LAB_PACKAGES

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PACKAGES = ("python", "triton_kernels")
# Programs that are run; and the oracle that the Makefile builds by itself.
RUN_ONLY = {"import-linter", "mypy", "pytest-xdist", "ruff"}
BUILT_APART = {"mamba-ssm"}


def declared(*extras: str) -> set[str]:
    """The distributions that an installation with these extras brings."""
    lines = list(PROJECT["dependencies"])
    for extra in extras:
        lines += PROJECT["optional-dependencies"][extra]
    return {canonicalize_name(Requirement(line).name) for line in lines}


def needed(folders: Iterable[Path], ours: Iterable[Path]) -> dict[str, str]:
    """The distributions that the files of some folders import, each with one of the files.

    ``ours`` are folders whose modules no distribution has to bring.
    """
    own = {path.stem for folder in ours for path in [*folder.rglob("*.py"), *folder.rglob("*/")]}
    distributions = packages_distributions()
    found = {}
    for file in sorted(file for folder in folders for file in folder.rglob("*.py")):
        for name in imported(file):
            if name in own or name in sys.stdlib_module_names:
                continue
            # Without a distribution it is not installed: its own name says what is missing.
            found[canonicalize_name(distributions.get(name, [name])[0])] = str(file)
    return found


def imported(file: Path) -> Iterator[str]:
    """The top-level packages that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
            names = [node.module]
        else:
            continue
        yield from (name.partition(".")[0] for name in names)


def of(*names: str) -> list[Path]:
    return [ROOT / name for name in names]


EVERYWHERE = of(*PACKAGES, "scripts", "test")


def test_what_is_imported_is_declared() -> None:
    packages = needed(of(*PACKAGES), of(*PACKAGES))
    assert packages.keys() <= declared("lab"), packages
    scripts = needed(of("scripts"), of(*PACKAGES, "scripts"))
    assert scripts.keys() <= declared("lab"), scripts
    tests = needed(of("test"), EVERYWHERE)
    assert tests.keys() <= declared("lab", "test") | BUILT_APART, tests


def test_what_is_declared_is_imported() -> None:
    packages = needed(of(*PACKAGES), of(*PACKAGES)).keys()
    assert declared() <= packages
    scripts = needed(of("scripts"), of(*PACKAGES, "scripts")).keys()
    assert declared("lab") <= packages | scripts
    tests = needed(of("test"), EVERYWHERE).keys()
    assert declared("test") - declared() <= tests | RUN_ONLY


def test_commands_name_the_extra_for_what_it_brings() -> None:
    own = {
        name for folder in of(*PACKAGES) for file in folder.rglob("*.py") for name in imported(file)
    }
    of_lab = declared("lab") - declared()
    brought = packages_distributions()
    assert {name for name in own if canonicalize_name(brought.get(name, [name])[0]) in of_lab} == (
        LAB_PACKAGES
    )


def test_constraints_pin_what_is_declared() -> None:
    lines = (ROOT / "constraints.txt").read_text().split()
    pinned = {canonicalize_name(line.partition("==")[0]): line.partition("==")[2] for line in lines}
    extras = chain.from_iterable(PROJECT["optional-dependencies"].values())
    for requirement in map(Requirement, chain(PROJECT["dependencies"], extras)):
        version = pinned[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(version), requirement


def test_a_planted_mistake_is_found(tmp_path: Path) -> None:
    (tmp_path / "one.py").write_text("import os, numpy.linalg, nowhere\nfrom . import two\n")
    (tmp_path / "two.py").write_text(
        "def late() -> None:\n    from PIL import Image\n    import one\n"
    )
    found = needed([tmp_path], [tmp_path])
    assert found.keys() == {"numpy", "nowhere", "pillow"}
    assert not found.keys() <= declared("lab")
    assert not declared() <= found.keys()


def test_one_place_has_the_version() -> None:
    assert "version" in PROJECT["dynamic"]
    text = (ROOT / "python" / "sglang_marconi" / "__init__.py").read_text()
    (version,) = re.findall(r'^__version__ = "(\d+\.\d+\.\d+)"$', text, flags=re.MULTILINE)
    assert f"## {version}" in (ROOT / "CHANGELOG.md").read_text()
