"""mamba-ssm's reference functions, and inputs to try them on.

The package's Python imports without its CUDA extension once a module of that name exists, and
without its models, which take five seconds, once the package itself does. All are forgotten
afterwards: transformers takes the package's CUDA kernels wherever it can be imported.
"""

import sys
import types
from dataclasses import dataclass
from importlib.util import find_spec

import pytest
import torch
from torch import Tensor

_PACKAGE, _EXTENSION = "mamba_ssm", "selective_scan_cuda"

_found = find_spec(_PACKAGE)
if _found is None:
    pytest.skip("mamba-ssm is not installed", allow_module_level=True)
for _name in (_PACKAGE, _EXTENSION):
    sys.modules.setdefault(_name, types.ModuleType(_name))
sys.modules[_PACKAGE].__path__ = _found.submodule_search_locations

from mamba_ssm.ops.selective_scan_interface import selective_scan_ref  # noqa: E402
from mamba_ssm.ops.triton.selective_state_update import (  # noqa: E402
    selective_state_update_ref,
)

for _name in [name for name in sys.modules if name.split(".")[0] in (_PACKAGE, _EXTENSION)]:
    del sys.modules[_name]

__all__ = ["ScanInput", "scan_one", "selective_state_update_ref"]


@dataclass(frozen=True)
class ScanInput:
    """Inputs of a Mamba2 layer's recurrence, packed: ``x (1, tokens, heads, headdim)`` etc."""

    x: Tensor
    dt: Tensor
    A: Tensor
    B: Tensor
    C: Tensor
    D: Tensor
    z: Tensor
    dt_bias: Tensor

    @classmethod
    def random(
        cls,
        tokens: int,
        heads: int = 4,
        headdim: int = 6,
        groups: int = 2,
        dstate: int = 5,
        seed: int = 0,
        dtype: torch.dtype = torch.float32,
    ) -> "ScanInput":
        g = torch.Generator().manual_seed(seed)

        def normal(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=g)

        return cls(
            x=normal(1, tokens, heads, headdim).to(dtype),
            dt=normal(1, tokens, heads).to(dtype),
            A=-torch.exp(normal(heads)),
            B=normal(1, tokens, groups, dstate).to(dtype),
            C=normal(1, tokens, groups, dstate).to(dtype),
            D=normal(heads),
            z=normal(1, tokens, heads, headdim).to(dtype),
            dt_bias=normal(heads),
        )

    def part(self, begin: int, end: int) -> "ScanInput":
        """The same layer on some of the tokens."""
        cut = {name: getattr(self, name)[:, begin:end] for name in ("x", "dt", "B", "C", "z")}
        return ScanInput(A=self.A, D=self.D, dt_bias=self.dt_bias, **cut)


def scan_one(
    given: ScanInput, initial: Tensor | None = None, gate: bool = False
) -> tuple[Tensor, Tensor]:
    """Token by token: outputs ``(tokens, heads, headdim)`` and the last state.

    The reference starts from zeros. The recurrence is linear in state and input together, so what
    an initial state alone turns into is added to its result.
    """
    _, tokens, heads, headdim = given.x.shape
    groups, dstate = given.B.shape[2:]
    x, dt, B, C, z = (t[0].float() for t in (given.x, given.dt, given.B, given.C, given.z))
    step = torch.nn.functional.softplus(dt + given.dt_bias.float())
    decay = given.A.float().repeat_interleave(headdim)[:, None].expand(-1, dstate)
    if tokens == 0:
        empty = torch.zeros(heads, headdim, dstate).float()
        return x, empty if initial is None else initial.float()
    per_head = [t.repeat_interleave(heads // groups, dim=1) for t in (B, C)]
    start = torch.zeros(heads, headdim, dstate).float() if initial is None else initial.float()
    y, last = selective_scan_ref(
        x.reshape(1, tokens, -1).transpose(1, 2),
        step.repeat_interleave(headdim, dim=1).t()[None],
        decay,
        B.permute(1, 2, 0)[None],
        C.permute(1, 2, 0)[None],
        D=given.D.float().repeat_interleave(headdim),
        return_last_state=True,
    )
    y = y[0].t().reshape(tokens, heads, headdim).float()
    faded = torch.exp((step * given.A.float()).cumsum(0))  # tokens heads
    y = y + torch.einsum("hps,ths,th->thp", start, per_head[1], faded)
    last = last.view(heads, headdim, dstate).float() + start * faded[-1][:, None, None]
    return (y * torch.nn.functional.silu(z) if gate else y), last
