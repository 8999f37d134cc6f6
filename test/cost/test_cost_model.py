"""Properties of the reduced cost, and the paper's own account."""

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sglang_marconi.cost import (
    ModelCost,
    WindowCost,
    from_config,
    preset,
    preset_names,
    token_length_cost,
)
from support.public_models import GPT_OSS_120B

COSTS = {name: preset(name) for name in preset_names()} | {
    "gpt-oss-120b": from_config(GPT_OSS_120B),
    "token length": token_length_cost(state_bytes=7, kv_bytes_per_token=3),
}
costs = st.sampled_from(list(COSTS.values()))
lengths = st.integers(0, 1_000_000)


@given(costs, lengths, lengths, lengths)
def test_prefill_flops_add_up(cost: ModelCost, first: int, second: int, third: int) -> None:
    a, b, c = sorted((first, second, third))
    parts = cost.prefill_flops(a, b) + cost.prefill_flops(b, c)
    assert parts == pytest.approx(cost.prefill_flops(a, c), rel=1e-12)


@given(costs, lengths, st.integers(1, 1000))
def test_a_later_token_costs_no_less_and_never_nothing(
    cost: ModelCost, start: int, tokens: int
) -> None:
    here, next_one = cost.prefill_flops(start, start + 1), cost.prefill_flops(start + 1, start + 2)
    assert 0 < here <= next_one
    assert cost.prefill_flops(start, start) == 0
    run = cost.prefill_flops(start, start + tokens)
    assert run >= tokens * here * (1 - 1e-12)


@given(st.integers(1, 40), st.integers(0, 100))
def test_a_window_counts_the_keys_each_token_sees(window: int, tokens: int) -> None:
    seen = sum(min(position + 1, window) for position in range(tokens))
    assert WindowCost(window, flops_per_key=1.0).pairs(tokens) == seen


def test_flops_of_a_prefix_are_the_sum_over_its_tokens() -> None:
    window = WindowCost(window=3, flops_per_key=5.0, kv_bytes_per_token=11)
    cost = ModelCost(
        flops_per_token=100.0,
        flops_per_token_squared=7.0,
        state_bytes=1000,
        kv_bytes_per_token=2,
        windows=(window,),
    )
    assert cost.prefill_flops(0, 5) == 5 * 100 + 25 * 7 + (1 + 2 + 3 + 3 + 3) * 5
    assert [cost.kv_bytes(tokens) for tokens in (0, 2, 3, 5)] == [0, 26, 39, 43]


def test_measured_bytes_replace_all_computed_ones() -> None:
    computed = from_config(GPT_OSS_120B)
    measured = computed.with_pool_bytes(state_bytes=12345, kv_bytes_per_token=64)
    assert (measured.state_bytes, measured.kv_bytes(1000)) == (12345, 64_000)
    assert measured.prefill_flops(10, 1000) == computed.prefill_flops(10, 1000)


def test_token_length_counts_tokens() -> None:
    cost = token_length_cost(state_bytes=7, kv_bytes_per_token=3)
    assert cost.prefill_flops(10, 25) == 15
    assert (cost.state_bytes, cost.kv_bytes(4)) == (7, 12)


def test_paper_7b_is_accounted_as_in_the_paper() -> None:
    """The formulas of arXiv 2411.19379's appendix, spelled out for the 7B hybrid."""
    cost = preset("paper-7b")
    d, n = 4096, 128

    def flops(tokens: int) -> int:
        attention = 8 * tokens * d**2 + 4 * tokens**2 * d
        mlp = 16 * tokens * d**2
        mamba = 12 * tokens * d**2 + 16 * tokens * d * n + 10 * tokens * d
        return 4 * attention + 28 * mlp + 24 * mamba

    assert cost.state_bytes == 24 * (d * n * 2 + (2 * d + 2 * n) * 4 * 2) == 26_787_840
    assert cost.kv_bytes_per_token == 4 * 4 * d == 65_536
    for tokens in (1, 100, 10_000, 100_000):
        assert cost.prefill_flops(0, tokens) == flops(tokens)
    assert cost.prefill_flops(100, 10_000) == flops(10_000) - flops(100)


def test_the_cost_model_imports_neither_torch_nor_sglang() -> None:
    check = (
        "import sys, sglang_marconi.cost as cost; cost.preset('paper-7b'); "
        "sys.exit(bool({'torch', 'sglang', 'transformers', 'numpy'} & set(sys.modules)))"
    )
    subprocess.run([sys.executable, "-c", check], check=True)
