"""The kernels on a machine without a GPU, under Triton's interpreter."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

FILES = ["test_kernels_agree.py", "test_kernels_properties.py"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="the kernels run compiled")
def test_kernels_agree_under_the_interpreter() -> None:
    # A process of its own: Triton decides when it is imported, for every kernel in the process.
    child = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *FILES],
        cwd=Path(__file__).parent,
        env=os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert child.returncode == 0, child.stdout + child.stderr
    assert "skipped" not in child.stdout
