import pytest
import torch
from marconi_kernels.launch import INTERPRETED

COMPILED = torch.cuda.is_available() and not INTERPRETED

# Needs kernels that run; without a GPU, `test_kernels_interpreted.py` sees to them.
collect_ignore = [] if COMPILED or INTERPRETED else ["test_kernels_agree.py"]


@pytest.fixture
def device() -> torch.device:
    """A GPU where there is one, so that the same tests run the kernels compiled."""
    return torch.device("cuda" if COMPILED else "cpu")
