"""What SGLang makes of arguments, in a process of its own: what we read of it, and say of it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest
from sglang_marconi.settings.schema import Settings
from support.forked import run_python
from tiny_model import build_tiny_model

# Arguments, and over how many ranks SGLang divides the heads of its attention.
LAYOUTS = (
    (("--tp", "2"), 2),
    (("--tp", "1", "--dp-size", "2"), 1),
    # Deprecated, and turned by the resolution into what follows it.
    (("--tp", "4", "--dp-size", "2", "--enable-dp-attention"), 2),
    (("--tp", "4", "--attn-dp-size", "2"), 2),
    (("--tp", "8", "--attn-dp-size", "2", "--enable-dp-attention"), 4),
    (("--tp", "8", "--attn-cp-size", "2"), 4),
    (("--tp", "8", "--attn-dp-size", "2", "--attn-cp-size", "2"), 2),
)
STRATEGY = "--mamba-radix-cache-strategy"
NO_BUFFER = (STRATEGY, "no_buffer")
NO_OVERLAP = "--disable-overlap-schedule"
# Set for all, and refused where our backend is chosen.
SWITCH = "SGLANG_ENABLE_POST_CAPTURE_KV_SIZING"
CHOSEN = ("--radix-cache-backend", "marconi")

LFM2 = {
    "architectures": ["Lfm2ForCausalLM"],
    "model_type": "lfm2",
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "layer_types": ["conv", "full_attention"],
    "conv_L_cache": 3,
    "hidden_size": 64,
    "intermediate_size": 128,
    "block_auto_adjust_ff_dim": False,
}
_CPU = ("--device", "cpu", "--attention-backend", "torch_native", "--sampling-backend", "pytorch")
_RESOLVE = """
import json, sys
from sglang.srt.arg_groups.overrides import resolving_view
from sglang.srt.plugins import load_plugins
from sglang.srt.server_args import prepare_server_args
from sglang_marconi.compatibility import attention_ranks

load_plugins()
for arguments in json.loads(sys.argv[1]):
    server_args = prepare_server_args(arguments)
    before = attention_ranks(server_args)
    error = ""
    try:
        server_args.resolve_once()
    except (AssertionError, ValueError) as problem:
        error = str(problem)
    args = resolving_view(server_args)
    found = (before, attention_ranks(args), args.mamba_radix_cache_strategy)
    print("found", json.dumps([*found, args.disable_overlap_schedule, error]))
"""


_HAND_ON = """
import json, pickle, sys
from pathlib import Path
from sglang.srt.arg_groups.overrides import resolving_view
from sglang.srt.plugins import load_plugins
from sglang.srt.runtime_context import get_memory, publish
from sglang.srt.server_args import prepare_server_args

load_plugins()
arguments, file, changed = json.loads(sys.argv[1])
server_args = prepare_server_args(arguments)
server_args.resolve_once()
Path(file).write_text(changed)
# As SGLang hands them to the processes that it starts, and starts anew.
for _ in range(2):
    server_args = pickle.loads(pickle.dumps(server_args))
    publish(server_args, role="scheduler")
    server_args.resolve_once()
    found = (resolving_view(server_args), get_memory())
    read = [each.radix_eviction_policy_config for each in found]
    print("found", json.dumps([*read, server_args.resolved_dict()["radix_eviction_policy_config"]]))
"""


class Resolved(NamedTuple):
    """Ranks before and after; strategy, whether it overlaps no schedules, and what was wrong."""

    before: int
    after: int
    strategy: str
    no_overlap: bool
    error: str


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A small NemotronH, and a LFM2 without weights."""
    nemotron = build_tiny_model(tmp_path_factory.mktemp("nemotron"))
    lfm2 = tmp_path_factory.mktemp("lfm2")
    for file in nemotron.glob("*token*"):
        (lfm2 / file.name).write_bytes(file.read_bytes())
    shared = json.loads((nemotron / "config.json").read_text())
    kept = ("dtype", "vocab_size", "bos_token_id", "eos_token_id", "max_position_embeddings")
    config = {key: shared[key] for key in kept} | LFM2
    (lfm2 / "config.json").write_text(json.dumps(config))
    return {"nemotron": nemotron, "lfm2": lfm2}


def run(script: str, asked: list[Any]) -> list[Any]:
    """What a script finds; SGLang writes to its environment, so that is done elsewhere."""
    env = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    ended = run_python("-c", script, json.dumps(asked), env=env)
    assert ended.returncode == 0, ended.stderr
    lines = [line for line in ended.stdout.splitlines() if line.startswith("found ")]
    return [json.loads(line.removeprefix("found ")) for line in lines]


def resolve(cases: list[tuple[Path, tuple[str, ...]]]) -> list[Resolved]:
    """Have SGLang resolve each."""
    asked: list[Any] = [["--model-path", str(model), *_CPU, *more] for model, more in cases]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(SWITCH, "1")
        return [Resolved(*found) for found in run(_RESOLVE, asked)]


def test_arguments_as_sglang_resolves_them(models: dict[str, Path]) -> None:
    nemotron, lfm2 = models["nemotron"], models["lfm2"]
    cases: list[tuple[Path, tuple[str, ...]]] = [
        *[(nemotron, arguments) for arguments, _ in LAYOUTS],
        (nemotron, ()),
        (nemotron, (NO_OVERLAP,)),
        (nemotron, NO_BUFFER),
        (nemotron, (*NO_BUFFER, NO_OVERLAP)),
        (lfm2, ()),
        (lfm2, (STRATEGY, "extra_buffer")),
        (nemotron, CHOSEN),
    ]
    found = resolve(cases)
    # Heads are divided over what attention data and context parallelism leave of the ranks.
    ranks = [ranks for _, ranks in LAYOUTS]
    assert [each.before for each in found][: len(ranks)] == ranks
    assert [each.after for each in found][: len(ranks)] == ranks
    # What the documents say of strategies and overlap scheduling.
    chosen, alone, asked, both, only, not_there, refused = found[len(ranks) :]
    assert (chosen.strategy, chosen.no_overlap, chosen.error) == ("extra_buffer", False, "")
    assert (alone.strategy, alone.error) == ("no_buffer", "")
    assert "no_buffer do not support overlap schedule" in asked.error
    assert (both.strategy, both.no_overlap, both.error) == ("no_buffer", True, "")
    assert (only.strategy, only.no_overlap, only.error) == ("no_buffer", True, "")
    assert "extra_buffer is not supported for Lfm2ForCausalLM" in not_there.error
    assert SWITCH in refused.error


@pytest.mark.parametrize("changed", ['policy = "auto"', "nonsense"])
def test_settings_are_read_once_and_the_same_in_all_processes(
    models: dict[str, Path], tmp_path: Path, changed: str
) -> None:
    file, config = tmp_path / "settings.toml", tmp_path / "server.yaml"
    file.write_text('policy = "marconi"\nencoding = "int8"')
    option = json.dumps({"file": str(file), "alpha": 2})
    config.write_text(f"radix-cache-backend: marconi\nradix-eviction-policy-config: '{option}'\n")
    arguments = ["--model-path", str(models["nemotron"]), *_CPU, "--config", str(config)]
    settings = msgspec.to_builtins(Settings(policy="marconi", alpha=2, encoding="int8"))
    assert run(_HAND_ON, [arguments, str(file), changed]) == [[settings] * 3] * 2
    assert file.read_text() == changed
