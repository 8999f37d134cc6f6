import pytest
import torch
from marconi_kernels.launch import INTERPRETED


@pytest.fixture
def device() -> torch.device:
    """A GPU where there is one, so that the same tests run the kernels compiled."""
    return torch.device("cuda" if torch.cuda.is_available() and not INTERPRETED else "cpu")
