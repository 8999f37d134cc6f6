from pathlib import Path

import pytest
import torch
from marconi_kernels.launch import INTERPRETED
from support.interpreted import InterpretedSuite

COMPILED = torch.cuda.is_available() and not INTERPRETED

# Needs kernels that run; without a GPU, `test_kernels_interpreted.py` sees to them.
collect_ignore = [] if COMPILED or INTERPRETED else ["test_kernels_agree.py"]


def pytest_pycollect_makemodule(
    module_path: Path, parent: pytest.Collector
) -> InterpretedSuite | None:
    """In place of its own tests, of which it has none."""
    if module_path.name != "test_kernels_interpreted.py" or COMPILED or INTERPRETED:
        return None
    files = ("test_kernels_agree.py", "test_kernels_properties.py")
    return InterpretedSuite.from_parent(parent, path=module_path, files=files)


@pytest.fixture
def device() -> torch.device:
    """A GPU where there is one, so that the same tests run the kernels compiled."""
    return torch.device("cuda" if COMPILED else "cpu")
