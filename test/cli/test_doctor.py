"""``sglang-marconi doctor``: what stands in the way of a server, before a model is loaded."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from subprocess import CompletedProcess
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from sglang_marconi.cli import main
from sglang_marconi.compatibility import Refusal
from sglang_marconi.cost import ModelCost, preset_config
from sglang_marconi.cost.encoding import RecurrentPart
from sglang_marconi.cpu import replacements
from sglang_marconi.doctor import Finding, examine, installation, server
from sglang_marconi.doctor.memory import Plan, memory_finding
from sglang_marconi.doctor.model import model_findings
from sglang_marconi.doctor.options import Options, read_options, read_settings
from sglang_marconi.seams import SEAMS, Kind, Seam, table
from sglang_marconi.settings.schema import Settings
from support.forked import run_python
from tiny_model import build_tiny_model

# Here, as to import what the seams are in changes the environment, which no test may do.
import_module(table.RUN_BATCH.module)

CPU = (
    *("--device", "cpu", "--attention-backend", "torch_native"),
    *("--sampling-backend", "pytorch", "--dtype", "float32"),
)
# Of torch, as much as is asked before SGLang is imported.
NO_ACCELERATOR = """
class cuda:
    is_available = staticmethod(lambda: False)
class accelerator:
    current_accelerator = staticmethod(lambda check_available: None)
"""


def by_check(findings: Iterable[Finding]) -> dict[str, Finding]:
    return {finding.check: finding for finding in findings}


def asked(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, dict[str, Any]]:
    status: Any = 0
    try:
        main(["doctor", "--json", *arguments])
    except SystemExit as ended:
        status = ended.code
    return status, {record["check"]: record for record in json.loads(capsys.readouterr().out)}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(build_tiny_model(tmp_path_factory.mktemp("model")))


def test_a_server_that_starts_is_said_to_start(
    model: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    limits = ("--max-mamba-cache-size", "192", "--max-total-tokens", "65536")
    chosen = ("--radix-cache-backend", "marconi")
    status, found = asked(capsys, model, "--", *CPU, *limits, *chosen)
    assert status == 0
    assert {record["status"] for record in found.values()} == {"ok"}
    assert found["model"]["found"] == "nemotron_h: 4 Mamba2, 4 MLP, 2 Attention; hybrid"
    assert "192 state slots" in found["memory"]["found"]
    assert "65,536 tokens of KV" in found["memory"]["found"]
    assert "predicted reuse" in found["outcome"]["found"]


def forked(command: Sequence[str], env: dict[str, str], **_: Any) -> CompletedProcess[bytes]:
    """The checks that import SGLang, in a process that has it already."""
    ended = run_python(*command[command.index("-m") :], env=env)
    return CompletedProcess(command, ended.returncode, ended.stdout.encode(), ended.stderr.encode())


def test_all_that_stands_in_the_way_is_named_at_once(
    model: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subprocess, "run", forked)
    refused = ("--radix-eviction-policy", "lfu", "--pp-size", "2")
    settings = ("--radix-eviction-policy-config", '{"alpha": 1}')
    status, found = asked(capsys, "--", "--model-path", model, *CPU, *refused, *settings)
    assert status == 1
    problems = [check for check, record in found.items() if record["status"] == "problem"]
    assert {"settings", "--radix-eviction-policy", "--pp-size", "outcome"} <= set(problems)
    assert all(found[check]["remedy"] for check in problems if check != "outcome")
    assert found["backend"]["status"] == "warning"


def write_module(folder: Path, name: str, text: str) -> None:
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.py").write_text(text)


def environment(folder: Path) -> dict[str, str]:
    """One in which the modules of a folder stand in for installed ones."""
    path = os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])
    return {**os.environ, "PYTHONPATH": path}


def test_a_broken_sglang_is_a_finding(tmp_path: Path) -> None:
    write_module(tmp_path, "torch", NO_ACCELERATOR)
    write_module(tmp_path, "sglang", "raise ImportError('libcudart.so.13: cannot open')")
    found = by_check(examine(None, [], environment(tmp_path)))
    assert found["settings"].found == "the defaults"
    assert found["device"].status == "warning"
    assert found["loader"].status == "problem"
    assert "libcudart.so.13" in found["loader"].found
    assert found["outcome"].status == "problem"


def test_a_crash_is_a_finding(tmp_path: Path) -> None:
    write_module(tmp_path, "torch", NO_ACCELERATOR)
    write_module(tmp_path, "sglang", "import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
    config = tmp_path / "model" / "config.json"
    config.parent.mkdir()
    config.write_text(json.dumps(preset_config("nemotron-nano-9b-v2")))
    found = by_check(examine(str(config.parent), [], environment(tmp_path)))
    # What was found before, and what needs no SGLang, is there.
    assert found["device"].status == "problem"
    assert "27 Mamba2" in found["model"].found
    assert "SIGKILL" in found["SGLang"].found
    assert found["outcome"].status == "problem"


def test_a_broken_torch_is_a_finding(tmp_path: Path) -> None:
    write_module(tmp_path, "torch", "1 / 0")
    settings = ["--radix-eviction-policy-config", '{"encoding": "int8"}']
    found = by_check(examine(None, settings, environment(tmp_path)))
    assert "ZeroDivisionError" in found["torch"].found
    assert found["settings"].found == '{"encoding":"int8"}'
    assert "loader" not in found


@pytest.mark.parametrize(
    ("name", "version", "status"),
    [
        ("sglang", None, "problem"),
        ("sglang", "0.5.24", "problem"),
        ("sglang", "0.5.23.post1", "ok"),
        ("torch", None, "problem"),
        ("torch", "1.0", "warning"),
        ("triton", None, "problem"),
    ],
)
def test_versions(
    monkeypatch: pytest.MonkeyPatch, name: str, version: str | None, status: str
) -> None:
    real = installation._version
    monkeypatch.setattr(
        installation, "_version", lambda asked: version if asked == name else real(asked)
    )
    finding = by_check(installation.installation({}))[name]
    assert finding.status == status
    assert bool(finding.remedy) == (status != "ok")


def test_sglang_loads_only_the_plugins_that_it_is_told_to() -> None:
    def status(listed: str) -> str:
        return by_check(installation.installation({"SGLANG_PLUGINS": listed}))["plugin"].status

    assert [status(listed) for listed in ("", "other, marconi", "other")] == ["ok", "ok", "problem"]


def test_a_plugin_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(installation, "entry_points", lambda group: [])
    finding = by_check(installation.installation({}))["plugin"]
    assert finding.status == "problem"
    assert "sglang.srt.plugins" in finding.found


def test_every_seam_that_differs_is_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    changed = table.TRACK_GRID._replace(parameters="other")
    gone = Seam("sglang.srt.runtime_context.gone", "", Kind.CALL, "")
    monkeypatch.setattr(server, "SEAMS", (changed, *SEAMS, gone))
    found: list[Finding] = []
    server._check_seams(found.append)
    assert [finding.status for finding in found] == ["problem", "problem"]
    assert "mamba_track_grid" in found[0].found
    assert "runtime_context.gone" in found[1].found


def test_what_stands_in_for_an_accelerator_is_checked_where_there_is_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gone = Seam("sglang.kernels.ops.mamba.gone", "", Kind.REPLACE, "")
    monkeypatch.setattr(replacements, "SEAMS", (gone,))
    for accelerated in (False, True):
        monkeypatch.setattr(torch.accelerator, "is_available", lambda here=accelerated: here)
        found: list[Finding] = []
        server._check_seams(found.append)
        assert found[0].status == ("ok" if accelerated else "problem")
        assert ("mamba.gone" in found[0].found) is not accelerated


LLAMA = {
    "model_type": "llama",
    "vocab_size": 100,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
}


@pytest.mark.parametrize(
    ("config", "settings", "statuses", "named"),
    [
        (preset_config("nemotron-nano-9b-v2"), Settings(), ("ok", "ok"), "; hybrid"),
        (preset_config("falcon-h1-7b"), Settings(), ("ok", "ok"), "; hybrid"),
        (preset_config("lfm2-2.6b"), Settings(), ("ok", "ok"), "; hybrid"),
        (preset_config("qwen3-next-80b-a3b"), Settings(), ("ok", "ok"), "; hybrid"),
        (preset_config("kimi-linear-48b-a3b"), Settings(), ("ok", "ok"), "; hybrid"),
        (preset_config("granite-4.0-h-tiny"), Settings(), ("ok", "ok"), "; hybrid"),
        (preset_config("nemotron-3-nano-30b-a3b"), Settings(), ("ok", "ok"), "; hybrid"),
        # What chooses the keys of their sparse attention runs on a GPU only.
        (preset_config("glm-5.3-flash"), Settings(), ("problem", "ok"), "LightningIndexer"),
        (preset_config("qwen3.8-flash-next"), Settings(), ("problem", "ok"), "BlockIndexer"),
        (LLAMA, Settings(), ("problem", "ok"), "no recurrent layers"),
        ({"model_type": "novel"}, Settings(), ("problem", "problem"), "novel"),
        ({"model_type": "novel"}, Settings(cost="tokens"), ("problem", "warning"), "novel"),
        ({}, Settings(), ("problem", "problem"), "no model_type"),
    ],
)
def test_models(config: Any, settings: Settings, statuses: tuple[str, str], named: str) -> None:
    model, formula = model_findings(config, settings, on_cpu=True)
    assert (model.status, formula.status) == statuses
    assert named in model.found
    assert bool(model.remedy) == (model.status == "problem")


def test_a_model_without_a_formula_may_run_on_an_accelerator() -> None:
    _, formula = model_findings({"model_type": "novel"}, Settings())
    option, given = formula.remedy.removeprefix("pass ").split(": a hit")[0].split(" ", 1)
    settings = read_options([option, given.strip("'")]).settings
    model, formula = model_findings({"model_type": "novel"}, read_settings(settings).settings)
    assert (model.status, formula.status) == ("ok", "warning")


def test_ranks_that_do_not_divide_a_model_have_another_remedy() -> None:
    config = preset_config("nemotron-nano-9b-v2")
    _, formula = model_findings(config, Settings(), tp_size=7)
    assert (formula.status, "ranks" in formula.remedy) == ("problem", True)
    assert "tokens" not in formula.remedy


def test_what_is_refused_has_a_row_and_a_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    refused = (
        Refusal("--option", lambda _: True, "states have siblings here"),
        Refusal("SWITCH", lambda _: True, "it breaks a copy", "unset it"),
        Refusal("--other", lambda _: False, "not asked for"),
    )
    found: list[Finding] = []
    args = SimpleNamespace(radix_eviction_policy_config=None)
    monkeypatch.setattr(server, "REFUSALS", refused)
    monkeypatch.setattr(server, "_resolve", lambda *_: args)
    server._check_arguments([], server._Device("cuda"), found.append)
    rows = by_check(found)
    assert (rows["--option"].status, rows["SWITCH"].status) == ("problem", "problem")
    assert "siblings" in rows["--option"].found
    assert rows["--option"].remedy == "omit --option"
    assert rows["SWITCH"].remedy == "unset it"
    assert "--other" not in rows


COST = ModelCost(1.0, 0.0, state_bytes=10**8, kv_bytes_per_token=10**4)
PLAN = Plan(
    free_bytes=80 * 10**9,
    weight_bytes=20 * 10**9,
    fraction=0.75,
    ratio=1.0,
    state_slots=None,
    max_tokens=None,
    slots_per_request=5,
    slots_in_use=3,
)


def test_memory_is_divided_as_sglang_does_it() -> None:
    found = memory_finding(PLAN, COST, Settings())
    assert found.status == "ok"
    # Half of 40 GB for states, one of them padding.
    assert "199 state slots, " in found.found
    assert "2,000,000 tokens of KV; 39 requests" in found.found
    assert "8 requests" in memory_finding(PLAN._replace(max_requests=8), COST, Settings()).found


def test_a_store_takes_its_share_of_the_states() -> None:
    encoded = replace(COST, recurrent=RecurrentPart(25 * 10**6, 4))
    settings = Settings(checkpoint_memory=0.5, encoding="bf16", host_memory="1GB")
    found = memory_finding(PLAN, encoded, settings)
    assert found.status == "ok"
    assert "99 state slots for running requests" in found.found
    # Slots of 100 MB, checkpoints of 50 MB.
    assert "for 200 checkpoints (bf16)" in found.found
    assert "host memory for 20 more" in found.found
    assert "33 requests" in found.found
    refused = memory_finding(PLAN, COST, Settings(checkpoint_memory="30GB"))
    assert refused.status == "problem"
    assert "checkpoint_memory = '30GB'" in refused.found


@pytest.mark.parametrize(
    ("changed", "status", "named"),
    [
        ({"free_bytes": None}, "ok", "unknown"),
        ({"weight_bytes": 60 * 10**9}, "problem", "nothing is left"),
        ({"state_slots": 4}, "problem", "4 state slots"),
        ({"state_slots": 399}, "problem", "0 tokens"),
    ],
)
def test_memory_that_is_unknown_or_short(changed: Any, status: str, named: str) -> None:
    found = memory_finding(PLAN._replace(**changed), COST, Settings())
    assert found.status == status
    assert named in found.found
    assert found.remedy


def test_options_are_read_as_sglang_takes_them() -> None:
    given = ["--model=some/model", "--tp", "2", "--device", "cpu", "--enable-mixed-chunk"]
    assert read_options(given) == Options("some/model", "cpu", None, None, None)
    assert read_options([]) == Options(None, None, None, None, None)
    assert read_options(["--device"]).device is None


def test_wrong_usage_has_its_own_status(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["doctor", "--nonsense"])
    assert ended.value.code == 2
    assert "--nonsense" in capsys.readouterr().err
