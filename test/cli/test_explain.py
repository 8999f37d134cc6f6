"""``sglang-marconi explain``: what fits, what it costs, what a hit saves."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sglang_marconi.cli import main
from sglang_marconi.cost import ModelCost, WindowCost, preset, preset_config
from sglang_marconi.cost.latency import LatencyProfile
from sglang_marconi.cost.sglang_pools import Pools, divide_pools
from sglang_marconi.doctor.options import read_settings
from sglang_marconi.explain import NothingToCheckpointError, explain
from sglang_marconi.explain.plot import draw
from sglang_marconi.settings.schema import Settings

COST = ModelCost(
    flops_per_token=10.0, flops_per_token_squared=0.0, state_bytes=1000, kv_bytes_per_token=10
)


def explained(cost: ModelCost = COST, **changed: Any) -> Any:
    given = {"budget_bytes": 100_000, "context_tokens": 4096, "ratio": 0.9} | changed
    return explain("model", cost, **given)


def test_sizes_are_those_of_the_cost() -> None:
    found = explained()
    assert (found.state_bytes, found.kv_bytes_per_token) == (1000, 10)
    assert set(found.encoded_bytes.values()) == {1000}
    assert (found.tokens_per_state, found.break_even_tokens) == (100.0, 100)
    assert found.fit.checkpoints == 100
    assert found.fit.kv_tokens == 10_000
    # 1,000 for the checkpoint and 40,960 for the KV of each.
    assert found.fit.contexts == 2


def test_a_window_moves_the_break_even_point() -> None:
    window = WindowCost(window=50, flops_per_key=1.0, kv_bytes_per_token=10)
    found = explained(replace(COST, windows=(window,)))
    assert found.tokens_per_state == 100.0
    # The first 50 tokens take twice as much.
    assert found.break_even_tokens == 50
    assert explained(context_tokens=99).break_even_tokens is None


def test_a_hit_saves_its_share_of_the_prefill() -> None:
    latency = LatencyProfile([(0, 0.1), (4096, 4.196)])
    found = explained(latency=latency)
    assert [hit.tokens for hit in found.hits] == [1024, 2048, 4096]
    assert [hit.share_saved for hit in found.hits] == [0.25, 0.5, 1.0]
    assert [hit.flops_saved for hit in found.hits] == [10_240, 20_480, 40_960]
    assert [hit.seconds_saved for hit in found.hits] == pytest.approx([1.024, 2.048, 4.096])
    assert {hit.seconds_saved for hit in explained().hits} == {None}
    assert [hit.tokens for hit in explained(context_tokens=1000).hits] == [1000]


def test_a_model_without_states_has_nothing_to_explain() -> None:
    with pytest.raises(NothingToCheckpointError, match="no recurrent layers"):
        explained(replace(COST, state_bytes=0))


def test_a_model_without_kv_is_held_by_its_states() -> None:
    cost = replace(COST, kv_bytes_per_token=0)
    found = explained(cost)
    assert set(found.encoded_bytes.values()) == {1000}
    assert (found.tokens_per_state, found.break_even_tokens, found.fit.kv_tokens) == (None,) * 3
    assert found.fit.contexts == 100
    assert found.fit.pool_contexts == found.fit.pool_checkpoints
    assert len(draw(found, cost).axes) == 2


@given(
    st.integers(-(10**6), 10**12),
    st.floats(0.01, 100),
    st.integers(1, 10**9),
    st.integers(1, 10**6),
)
def test_two_pools_hold_no_more_than_their_memory(
    total: int, ratio: float, state_bytes: int, kv_bytes: int
) -> None:
    cost = replace(COST, state_bytes=state_bytes, kv_bytes_per_token=kv_bytes)
    pools = divide_pools(total, cost, ratio=ratio)
    assert pools.state_slots is not None
    assert pools.kv_tokens is not None
    if pools.state_slots:
        # A slot is padding.
        states = (pools.state_slots + 1) * state_bytes
        assert states <= total * ratio / (1 + ratio) * (1 + 1e-9)
        assert states + pools.kv_tokens * kv_bytes <= total


def test_limits_given_to_a_server_take_the_place_of_the_ratio() -> None:
    assert divide_pools(100_000, COST, state_slots=9, max_tokens=500) == Pools(9, 500)
    assert divide_pools(100_000, COST, state_slots=9) == Pools(9, 9_000)
    assert divide_pools(100_000, replace(COST, state_bytes=0)) == Pools(None, 10_000)
    assert divide_pools(-1, COST) == Pools(0, 0)


def test_the_plots_show_the_numbers() -> None:
    found = explained()
    memory, fitting = draw(found, COST).axes
    states, kv = memory.collections
    assert max(y for _, y in states.get_paths()[0].vertices) == 1.0
    assert max(y for _, y in kv.get_paths()[0].vertices) == pytest.approx(41.96)
    assert memory.get_ylabel() == "held (kB)"
    assert list(memory.lines[0].get_xdata()) == [100, 100]
    line, one, pools = fitting.lines
    assert list(line.get_xdata()) == [0, 100]
    assert line.get_ydata()[0] == pytest.approx(100_000 / 40_960)
    assert (*one.get_xdata(), *one.get_ydata()) == (2, 2)
    assert list(pools.get_xdata()) == [found.fit.pool_checkpoints]


def test_a_table_a_record_and_a_plot(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plot = tmp_path / "explain.png"
    main(["explain", "nemotron-nano-9b-v2", "--context", "8k", "--plot", str(plot)])
    table = capsys.readouterr().out
    assert "contexts of 8,192" in table
    assert plot.read_bytes().startswith(b"\x89PNG")
    main(["explain", "nemotron-nano-9b-v2", "--budget", "20GB", "--context", "8000", "--json"])
    record = json.loads(capsys.readouterr().out)
    cost = preset("nemotron-nano-9b-v2")
    assert record["state_bytes"] == cost.state_bytes
    assert record["encoded_bytes"]["int8"] == cost.encoded_state_bytes("int8")
    assert record["fit"]["checkpoints"] == 20_000_000_000 // cost.state_bytes
    assert record["hits"][-1]["tokens"] == 8000


def test_ranks_share_a_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "config.json"
    config.write_text(json.dumps(preset_config("nemotron-nano-9b-v2")))
    sizes = []
    for ranks in ("1", "2"):
        main(["explain", str(tmp_path), "--tp", ranks, "--json"])
        sizes.append(json.loads(capsys.readouterr().out)["state_bytes"])
    assert sizes[0] == 2 * sizes[1]


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["gpt-5"], "gpt-5"),
        (["paper-7b", "--tp", "2"], "one rank"),
        (["nemotron-nano-9b-v2", "--tp", "7"], "7 tensor-parallel ranks"),
        (["nemotron-nano-9b-v2", "--latency", "absent.json"], "absent.json"),
    ],
)
def test_what_is_wrong_is_one_line(arguments: list[str], named: str) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["explain", *arguments])
    assert named in str(ended.value)
    assert "\n" not in str(ended.value)


@pytest.mark.parametrize("command", [["explain"], ["replay", "agents"]])
def test_a_model_without_a_formula_is_named_with_the_ways_out(
    tmp_path: Path, command: list[str]
) -> None:
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"model_type": "novel", "hidden_size": 8}))
    model = [str(config)] if command == ["explain"] else ["--model", str(config)]
    with pytest.raises(SystemExit) as ended:
        main([*command, *model])
    said = str(ended.value)
    assert "'novel'" in said
    assert "preset" in said
    option, given = said.rpartition(" with ")[2].split(" ", 1)
    effective = read_settings(given.strip("'"))
    assert option == "--radix-eviction-policy-config"
    assert effective.settings == Settings(cost="tokens")


@pytest.mark.parametrize("arguments", [["--context", "32q"], ["--budget", "0"], ["--plot", "x.y"]])
def test_bad_values_are_usage_errors(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["explain", "paper-7b", *arguments])
    assert ended.value.code == 2
    assert arguments[1] in capsys.readouterr().err
