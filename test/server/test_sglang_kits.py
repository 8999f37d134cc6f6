"""SGLang's own server kits, from the installed package, against this backend.

Its accuracy kits (GSM8K) need trained weights and the network, and are not here. The
others want a large vocabulary or a downloaded data set: they get ids of the demo model.
"""

from __future__ import annotations

import json
import random
import re
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from local_server import LocalServer
from sglang.test import kl_multiturn_utils
from sglang.test.kits import radix_cache_server_kit
from sglang.test.kits.cache_hit_kit import run_multiturn_cache_hit_test
from sglang.test.kits.prefix_cache_branching_kit import PrefixCacheBranchingMixin
from sglang_marconi.traces.words import WORDS
from support.client import flush, post
from support.prompts import HIGHEST, LOWEST, tokens

pytestmark = pytest.mark.server

# float32 against float32: what is left is the order of summation.
KL_THRESHOLD = 1e-6
GROUPS, BRANCHES = 2, 3


def test_branching(marconi: LocalServer) -> None:
    ids = {"hi": 1001, "this": 1002, "here": 1003, "that": 1004}

    class Branching(PrefixCacheBranchingMixin):
        # SGLang's branch lies on a grid of its kernel's chunks; ours is exact.
        cache_chunk_size = 1
        base_url = marconi.url

        @classmethod
        def flush_cache(cls) -> None:
            flush(cls.base_url)

        @classmethod
        def send_request_helper(cls, text: str) -> Any:
            # The kit counts on one token for each word, and the demo's tokenizer has more.
            words = re.findall("this|here|that|hi", text)
            return post(
                cls.base_url,
                "/generate",
                {
                    "input_ids": [ids[word] for word in words],
                    "sampling_params": {"max_new_tokens": 1},
                },
            )

    Branching.test_prefix_cache_branching()


def test_radix_attention(marconi: LocalServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tree of prompts in one batch; smaller than SGLang's, in the demo's vocabulary."""
    grow = partial(radix_cache_server_kit.gen_radix_tree, num_nodes=48, chunk_len=48)

    def small_tree() -> list[dict[str, Any]]:
        span = HIGHEST - LOWEST
        return [
            {**node, "input_ids": [LOWEST + id % span for id in node["input_ids"]]}
            for node in grow()
        ]

    monkeypatch.setattr(radix_cache_server_kit, "gen_radix_tree", small_tree)
    random.seed(0)
    flush(marconi.url)
    for _ in range(2):
        radix_cache_server_kit.run_radix_attention_test(marconi.url)


def test_multiturn_cache_hit(marconi: LocalServer, model: Path, tmp_path: Path) -> None:
    # In place of the data set that the kit would download.
    chooser = random.Random(0)
    turns = [{"value": " ".join(chooser.choices(WORDS, k=200))} for _ in range(80)]
    talks = tmp_path / "talks.json"
    talks.write_text(json.dumps([{"conversations": [turn, turn]} for turn in turns]))
    result = run_multiturn_cache_hit_test(
        marconi.url,
        str(model),
        num_clients=6,
        num_rounds=3,
        request_length=160,
        output_length=24,
        dataset_path=str(talks),
    )
    for turn, known in ((1, 160 + 24 - 1), (2, 2 * (160 + 24) - 1)):
        assert result["rounds"][f"round_{turn}"]["total_cached_tokens"] == 6 * known


def _suffixes(count: int, length: int, seed: int) -> list[list[int]]:
    return [tokens(length, seed=seed + i) for i in range(count)]


def test_multiturn_logprobs(marconi: LocalServer) -> None:
    kl_multiturn_utils.test_input_output_logprobs_match_helper(
        marconi.url,
        "demo",
        KL_THRESHOLD,
        _suffixes(4, 180, seed=1000),
        turn_suffixes=[_suffixes(4, 96, seed=1100), _suffixes(4, 48, seed=1200)],
        assert_decode_cached_tokens=kl_multiturn_utils.default_decode_cache_assert,
        max_new_tokens=48,
    )


def test_multiturn_logprobs_of_branches_from_cached_prompts(marconi: LocalServer) -> None:
    prefixes = [tokens(130, seed=2000 + group) for group in range(GROUPS) for _ in range(BRANCHES)]
    count = len(prefixes)
    ends = [tokens(64 + 16 * (i % BRANCHES), seed=2100 + i) for i in range(count)]
    kl_multiturn_utils.test_input_output_logprobs_match_prefill_cache_hit_helper(
        marconi.url,
        "demo",
        KL_THRESHOLD,
        prefix_input_ids=prefixes,
        full_input_ids=[prefix + end for prefix, end in zip(prefixes, ends, strict=True)],
        turn_suffixes=[_suffixes(count, 96, seed=2200), _suffixes(count, 48, seed=2300)],
        branches_per_group=BRANCHES,
        max_new_tokens=48,
    )


def test_multiturn_logprobs_of_branches_from_cached_replies(marconi: LocalServer) -> None:
    first = [tokens(130, seed=3000 + group) for group in range(GROUPS) for _ in range(BRANCHES)]
    count = len(first)
    kl_multiturn_utils.test_input_output_logprobs_match_decode_cache_hit_helper(
        marconi.url,
        "demo",
        KL_THRESHOLD,
        first,
        turn_suffixes=[_suffixes(count, 96, seed=3100), _suffixes(count, 48, seed=3200)],
        branches_per_group=BRANCHES,
        max_new_tokens=48,
    )
