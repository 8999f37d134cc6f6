"""Heads are divided over what attention data and context parallelism leave of the ranks."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

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
_CPU = ("--device", "cpu", "--attention-backend", "torch_native", "--sampling-backend", "pytorch")
_RESOLVE = """
import json, sys
from sglang.srt.arg_groups.overrides import resolving_view
from sglang.srt.plugins import load_plugins
from sglang.srt.server_args import prepare_server_args
from sglang_marconi.plugin import attention_ranks

load_plugins()
for arguments in json.loads(sys.argv[1]):
    server_args = prepare_server_args(arguments)
    before = attention_ranks(server_args)
    try:
        server_args.resolve_once()
    except ValueError as error:
        # This model takes no context parallelism; the resolution gets as far as to say so.
        assert "attn-cp-size" in str(error), error
    after = attention_ranks(resolving_view(server_args))
    print("ranks", json.dumps([before, after]))
"""


def test_ranks_before_and_after_sglang_resolves_its_arguments(tmp_path: Path) -> None:
    model = ("--model-path", str(build_tiny_model(tmp_path / "model")))
    asked = [[*model, *_CPU, *arguments] for arguments, _ in LAYOUTS]
    # Resolving arguments writes to the environment, so it is left to another process.
    ended = subprocess.run(
        [sys.executable, "-c", _RESOLVE, json.dumps(asked)],
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    lines = [line for line in ended.stdout.splitlines() if line.startswith("ranks ")]
    found = [json.loads(line.removeprefix("ranks ")) for line in lines]
    assert found == [[ranks, ranks] for _, ranks in LAYOUTS]
