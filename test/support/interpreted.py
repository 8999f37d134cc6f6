"""Collects tests to run under Triton's interpreter, each reported by itself.

They run in one process of their own: Triton decides when it is imported, for every kernel in the
process.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest


class InterpretedSuite(pytest.File):
    """The tests of some files of its folder, as the interpreter's process reports them."""

    def __init__(self, *, files: Sequence[str], **node: Any) -> None:
        super().__init__(**node)
        self.files = files

    def collect(self) -> Iterator[InterpretedTest]:
        for file in self.files:
            module = pytest.Module.from_parent(self, path=self.path.with_name(file))
            for item in self.session.genitems(module):
                name = f"{module.path.stem}.{item.name}"
                yield InterpretedTest.from_parent(self, name=name)

    @cached_property
    def failures(self) -> dict[str, str]:
        """What went wrong in each test that ran, empty if nothing did."""
        with tempfile.TemporaryDirectory() as folder:
            report = Path(folder) / "report.xml"
            options = ("-q", "-p", "no:cacheprovider", f"--junitxml={report}")
            child = subprocess.run(
                [sys.executable, "-m", "pytest", *options, *self.files],
                cwd=self.path.parent,
                env=os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"},
                capture_output=True,
                text=True,
                check=False,
            )
            if not report.exists():
                pytest.fail(child.stdout + child.stderr, pytrace=False)
            cases = ElementTree.parse(report).getroot().iter("testcase")
            return {
                f"{case.attrib['classname'].rpartition('.')[2]}.{case.attrib['name']}": "\n".join(
                    f"{problem.tag}: {problem.text}" for problem in case
                )
                for case in cases
            }


class InterpretedTest(pytest.Item):
    """One of them."""

    def runtest(self) -> None:
        suite = self.parent
        assert isinstance(suite, InterpretedSuite)
        # One that was skipped has run nothing either.
        problem = suite.failures.get(self.name, "it did not run")
        if problem:
            pytest.fail(problem, pytrace=False)

    def reportinfo(self) -> tuple[Any, int | None, str]:
        return self.path, None, self.name
