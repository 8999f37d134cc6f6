"""Installing the replacements: what they stand in for is checked, and nothing else is touched."""

import subprocess
import sys

import pytest
import torch
from sglang_marconi.cpu import replacements
from sglang_marconi.seams import IncompatibleSGLang, Kind, Seam, check_seam
from support.forked import run_python


def test_importing_the_package_loads_neither_torch_nor_sglang() -> None:
    code = "import sys, sglang_marconi.cpu; print('torch' in sys.modules, 'sglang' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


def test_missing_function_is_named() -> None:
    with pytest.raises(IncompatibleSGLang, match=r"json\.no_such_function"):
        check_seam(Seam("json.no_such_function", "", Kind.REPLACE, ""))


def test_other_parameters_are_named() -> None:
    with pytest.raises(IncompatibleSGLang, match=r"textwrap\.indent.*text, prefix, predicate"):
        check_seam(Seam("textwrap.indent", "text, prefix", Kind.REPLACE, ""))
    check_seam(Seam("textwrap.indent", "text, prefix, ...", Kind.AFTER, ""))


def test_nothing_happens_where_there_is_an_accelerator(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setitem(replacements._state, "installed", False)
    assert replacements.install() is False
    assert replacements._state["installed"] is False


IN_SGLANG = """
import torch
from sglang_marconi.cpu import install, conv1d, mamba2
assert install() and install()
from sglang.srt.plugins.hook_registry import HookRegistry
HookRegistry.apply_hooks()
from sglang_marconi.cpu.replacements import REPLACEMENTS
assert {r.seam.target for r in REPLACEMENTS} <= HookRegistry._patched
from sglang.srt.layers.attention.mamba import mamba as mixer
weight, x = torch.randn(4, 3), torch.randn(2, 4)
plain = conv1d.causal_conv1d_update(x, torch.ones(2, 4, 2), weight, None, "silu")
for name in ("causal_conv1d_update", "causal_conv1d_update_triton"):
    assert torch.equal(getattr(mixer, name)(x, torch.ones(2, 4, 2), weight, None, "silu"), plain)
starts, x = torch.tensor([0, 5], dtype=torch.int32), torch.randn(4, 5)
given = dict(query_start_loc=starts, seq_lens_cpu=[5], conv_states=torch.zeros(1, 4, 2))
plain = conv1d.causal_conv1d_fn(x, weight, None, **given)
for name in ("causal_conv1d_fn", "causal_conv1d_fn_triton"):
    assert torch.equal(getattr(mixer, name)(x, weight, None, **given), plain)
assert mixer.mamba_chunk_scan_combined.__wrapped__ is not mixer.mamba_chunk_scan_combined
from sglang.srt.arg_groups import mamba_hook
assert mamba_hook._platform_supports_mamba_cache_extra_buffer()
assert torch.empty(1).pin_memory() is not None
from sglang.srt.distributed.device_communicators.pynccl import PyNcclCommunicator
from sglang.srt.distributed.utils import StatelessProcessGroup
pair = StatelessProcessGroup(rank=0, world_size=2, store=None)
assert not PyNcclCommunicator(pair, torch.device("cpu")).available
from sglang.srt.layers.rotary_embedding import base
assert base._is_cpu
assert torch._dynamo.config.disable
from sglang.srt.models.deepseek_common.attention_backend_handler import AttentionBackendRegistry
handler = AttentionBackendRegistry.get_handler("torch_native")
assert handler(None, None).name == "MLA"
print("fine")
"""


def test_sglang_calls_ours() -> None:
    if torch.accelerator.is_available():
        pytest.skip("the replacements are for machines without an accelerator")
    done = run_python("-c", IN_SGLANG)
    assert done.stdout.split() == ["fine"], done.stderr
