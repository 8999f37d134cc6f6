"""Strategy, attention backend and KV pages as SGLang chooses them for each family, on GPUs.

SGLang's own resolution of arguments runs, with what it asks of the platform answered for a GPU
that is not there.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from sglang.srt.arg_groups.overrides import _MAMBA_RADIX_CACHE_ARCHS
from support.architectures import CACHED, NOT_CACHED
from support.forked import run_python

ROOT = Path(__file__).parents[2]
COMMON = {
    "max_position_embeddings": 32768,
    "dtype": "bfloat16",
    "rms_norm_eps": 1e-6,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
HOPPER, BLACKWELL = (9, 0), (10, 0)
NAMED = (
    "Qwen3NextForCausalLM",
    "Qwen3_5ForConditionalGeneration",
    "Qwen3_5MoeForConditionalGeneration",
    "InternS2PreviewForConditionalGeneration",
)
EXTRA_BUFFER = ("--mamba-radix-cache-strategy", "extra_buffer")
_RESOLVE = """
import json, sys
import torch
from sglang.srt.arg_groups.overrides import resolving_view
from sglang.srt.runtime_context import override_platform
from sglang.srt.server_args import prepare_server_args

for gpu, arguments in json.loads(sys.argv[1]):
    hopper, blackwell = gpu[0] == 9, gpu[0] == 10
    torch.cuda.get_device_capability = lambda *_: tuple(gpu)
    facts = {
        "is_cuda": True,
        "has_flashinfer": True,
        "is_sm90": hopper,
        "is_hopper_with_cuda_12_3": hopper,
        "is_sm100": blackwell,
        "is_sm100_or_sm110": blackwell,
        "is_blackwell": blackwell,
        "is_sm110": False,
        "is_sm120": False,
        "device_sm": 10 * gpu[0] + gpu[1],
        "device_capability": tuple(gpu),
    }
    with override_platform(**facts):
        server_args = prepare_server_args(arguments)
        server_args.resolve_once()
        args = resolving_view(server_args)
        strategy = args.mamba_radix_cache_strategy if args.uses_mamba_radix_cache else None
    print("found", json.dumps([strategy, args.attention_backend, args.page_size]))
"""


class Chosen(NamedTuple):
    """The strategy is ``None`` where SGLang does not cache the model's states."""

    strategy: str | None
    backend: str
    page: int


def choose(asked: list[tuple[tuple[int, int], Path, tuple[str, ...]]]) -> list[Chosen]:
    """What SGLang chooses on a GPU of this compute capability, for a model and more arguments."""
    # The last option is otherwise derived from the memory of the GPU.
    fixed = ["--device", "cuda", "--skip-tokenizer-init", "--mem-fraction-static", "0.8"]
    each = [(gpu, ["--model-path", str(model), *fixed, *more]) for gpu, model, more in asked]
    env = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1"}
    ended = run_python("-c", _RESOLVE, json.dumps(each), env=env)
    assert ended.returncode == 0, ended.stderr
    lines = [line for line in ended.stdout.splitlines() if line.startswith("found ")]
    return [Chosen(*json.loads(line.removeprefix("found "))) for line in lines]


def write_config(folder: Path, architecture: str, config: Mapping[str, Any]) -> Path:
    (folder / architecture).mkdir()
    written = {**COMMON, **config, "architectures": [architecture]}
    (folder / architecture / "config.json").write_text(json.dumps(written))
    return folder / architecture


@pytest.fixture(scope="module")
def chosen(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Chosen]:
    """By architecture, and by GPU or what is asked for besides."""
    folder = tmp_path_factory.mktemp("models")
    configs = {name: config for family in CACHED.values() for name, config in family.items()}
    cases = {}
    for name, config in (configs | NOT_CACHED).items():
        model = write_config(folder, name, config)
        cases[name, "Hopper"] = (HOPPER, model, ())
        cases[name, "Blackwell"] = (BLACKWELL, model, ())
        if name in NAMED:
            cases[name, "named"] = (BLACKWELL, model, EXTRA_BUFFER)
        if name == "ZayaForCausalLM":
            cases[name, "triton"] = (BLACKWELL, model, ("--attention-backend", "triton"))
    return dict(zip(cases, choose(list(cases.values())), strict=True))


def test_the_documented_pages_are_those_that_sglang_gives(
    chosen: dict[tuple[str, str], Chosen],
) -> None:
    rows = {}
    for family, architectures in CACHED.items():
        (hopper,) = {chosen[name, "Hopper"] for name in architectures}
        (blackwell,) = {chosen[name, "Blackwell"] for name in architectures}
        assert hopper.strategy == blackwell.strategy
        pages = [f"{one.page} (`{one.backend}`)" for one in (hopper, blackwell)]
        rows[family] = " | ".join([f"`{hopper.strategy}`", *pages])
    text = (ROOT / "docs" / "models.md").read_text()
    pattern = r"^\| (.+) \| (`\w+` \| \d+ \(`\w+`\) \| \d+ \(`\w+`\)) \|$"
    assert dict(re.findall(pattern, text, flags=re.MULTILINE)) == rows


def test_what_sglang_does_not_cache(chosen: dict[tuple[str, str], Chosen]) -> None:
    without = {name for (name, _), one in chosen.items() if one.strategy is None}
    assert without == set(NOT_CACHED)


def test_every_architecture_that_sglang_caches_is_there(
    chosen: dict[tuple[str, str], Chosen],
) -> None:
    assert {name for name, _ in chosen} >= _MAMBA_RADIX_CACHE_ARCHS


def test_a_strategy_that_is_named_may_come_with_larger_pages(
    chosen: dict[tuple[str, str], Chosen],
) -> None:
    # SGLang chooses the attention backend of these first, as if the strategy were another.
    assert {chosen[name, "named"] for name in NAMED} == {Chosen("extra_buffer", "trtllm_mha", 64)}


def test_zaya_has_pages_of_one_token_with_the_backend_that_is_advised(
    chosen: dict[tuple[str, str], Chosen],
) -> None:
    # Without a buffer, SGLang's cache asserts that pages have one token.
    assert chosen["ZayaForCausalLM", "triton"] == Chosen("no_buffer", "triton", 1)
