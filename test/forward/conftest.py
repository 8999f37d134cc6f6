"""States taken inside SGLang's Triton kernels, which a CPU runs under Triton's interpreter."""

from pathlib import Path

import pytest
import torch
from marconi_kernels.launch import INTERPRETED
from support.interpreted import InterpretedSuite

# With an accelerator kernels are compiled, and do not take what is on a CPU.
RUNS = not INTERPRETED and not torch.accelerator.is_available()
FILES = sorted(path.name for path in Path(__file__).parent.glob("test_*_triton.py"))

collect_ignore = [] if INTERPRETED else FILES


def pytest_pycollect_makemodule(
    module_path: Path, parent: pytest.Collector
) -> InterpretedSuite | None:
    """In place of its own tests, of which it has none."""
    if module_path.name != "test_forward_interpreted.py" or not RUNS:
        return None
    return InterpretedSuite.from_parent(parent, path=module_path, files=FILES)
