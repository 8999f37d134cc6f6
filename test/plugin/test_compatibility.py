"""Bad use is refused with a message that names what is wrong."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from sglang.srt.arg_groups import model_override_base
from sglang.srt.environ import envs
from sglang.srt.server_args import ServerArgs
from sglang_marconi import compatibility, plugin, seams
from sglang_marconi.cache.live_policy import LivePolicy
from sglang_marconi.compatibility import REFUSALS, UnsupportedConfiguration, check_arguments
from sglang_marconi.cost import preset
from sglang_marconi.policy.prediction import PredictedReuse
from sglang_marconi.policy.ranking import Valuation
from sglang_marconi.policy.utility import PaperUtility
from sglang_marconi.settings.schema import Settings, SettingsError, parse_settings

ACCEPTED: dict[str, Any] = {
    "disable_radix_cache": False,
    "radix_eviction_policy": "lru",
    "speculative_algorithm": None,
    "disaggregation_mode": "null",
    "enable_hierarchical_cache": False,
    "enable_lmcache": False,
    "enable_flexkv": False,
    "enable_unified_cache_external_linker": False,
    "enable_unified_memory": False,
    "enable_hisparse": False,
    "enable_pdmux": False,
    "enable_two_batch_overlap": False,
    "dllm_algorithm": None,
    "enable_deterministic_inference": False,
    "pp_size": 1,
    "uses_mamba_radix_cache": True,
    "mamba_radix_cache_strategy": "extra_buffer",
    "page_size": 64,
    "model_path": "some/model",
}


def arguments(**changed: Any) -> SimpleNamespace:
    return SimpleNamespace(**{**ACCEPTED, **changed})


def test_a_hybrid_model_is_accepted() -> None:
    check_arguments(arguments())


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"disable_radix_cache": True}, "--disable-radix-cache"),
        ({"radix_eviction_policy": "lfu"}, "--radix-eviction-policy"),
        ({"speculative_algorithm": "NGRAM"}, "--speculative-algorithm"),
        ({"disaggregation_mode": "prefill"}, "--disaggregation-mode"),
        ({"enable_hierarchical_cache": True}, "--enable-hierarchical-cache"),
        ({"enable_lmcache": True}, "--enable-lmcache"),
        ({"enable_flexkv": True}, "--enable-flexkv"),
        ({"enable_unified_cache_external_linker": True}, "--enable-unified-cache-external-linker"),
        ({"enable_unified_memory": True}, "--enable-unified-memory"),
        ({"enable_hisparse": True}, "--enable-hisparse"),
        ({"enable_pdmux": True}, "--enable-pdmux"),
        ({"enable_two_batch_overlap": True}, "--enable-two-batch-overlap"),
        ({"dllm_algorithm": "x"}, "--dllm-algorithm"),
        ({"pp_size": 2}, "--pp-size"),
        ({"mamba_radix_cache_strategy": "no_buffer"}, "--page-size"),
        ({"uses_mamba_radix_cache": False}, "some/model"),
    ],
)
def test_what_cannot_be_honoured_is_named(changed: dict[str, Any], named: str) -> None:
    with pytest.raises(UnsupportedConfiguration, match=named):
        check_arguments(arguments(**changed))


@pytest.mark.parametrize("name", ["SGLANG_ENABLE_POST_CAPTURE_KV_SIZING"])
def test_a_switch_in_the_environment_is_named(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "0")
    check_arguments(arguments())
    monkeypatch.setenv(name, "1")
    with pytest.raises(UnsupportedConfiguration, match=name):
        check_arguments(arguments())


def test_a_model_with_sliding_windows_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for windows in (False, True):
        config = SimpleNamespace(is_hybrid_swa=windows)
        monkeypatch.setattr(model_override_base, "model_config_of", lambda _, found=config: found)
        if windows:
            with pytest.raises(UnsupportedConfiguration, match="sliding windows"):
                check_arguments(arguments())
        else:
            check_arguments(arguments())


def test_states_that_sglang_files_wrongly_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    config = SimpleNamespace(hf_config=SimpleNamespace(linear_backend="minimax"))
    monkeypatch.setattr(model_override_base, "model_config_of", lambda _: config)
    with pytest.raises(UnsupportedConfiguration, match="minimax"):
        check_arguments(arguments())
    check_arguments(arguments(mamba_radix_cache_strategy="no_buffer", page_size=1))
    config.hf_config.linear_backend = "seg_la"
    check_arguments(arguments())


def test_only_prefills_that_are_cut_do_not_go_with_determinism(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = SimpleNamespace(hf_config=SimpleNamespace(linear_backend="minimax"))
    monkeypatch.setattr(model_override_base, "model_config_of", lambda _: config)
    given = arguments(
        enable_deterministic_inference=True, mamba_radix_cache_strategy="no_buffer", page_size=1
    )
    with pytest.raises(UnsupportedConfiguration, match="--enable-deterministic-inference"):
        check_arguments(given)
    config.hf_config.linear_backend = "seg_la"
    check_arguments(given)


def test_what_is_refused_is_there_in_sglang() -> None:
    named = [refusal.option for refusal in REFUSALS]
    options = {name.removeprefix("--").replace("-", "_") for name in named if name[:2] == "--"}
    assert options <= set(ServerArgs.__struct_fields__)
    assert all(hasattr(envs, name) for name in named if name.startswith("SGLANG_"))


def test_settings_name_the_key_the_value_and_what_is_allowed() -> None:
    with pytest.raises(SettingsError, match=r"'alhpa'.*0\.5.*allowed keys"):
        parse_settings({"alhpa": 0.5})
    with pytest.raises(SettingsError, match="JSON object"):
        parse_settings([1])  # type: ignore[arg-type]
    assert parse_settings(None) == Settings()


@pytest.mark.parametrize(
    ("key", "value"),
    [("alpha", -1), ("alpha", "1"), ("policy", "lru"), ("policy", 1), ("cost", "seconds")],
)
def test_a_setting_out_of_bounds_is_named(key: str, value: object) -> None:
    with pytest.raises(SettingsError, match=f"{key} = "):
        parse_settings({key: value})
    with pytest.raises(SettingsError, match=f"{key} = "):
        parse_settings({"policy": "marconi", key: value})


def test_settings_are_read() -> None:
    given = {"policy": "marconi", "alpha": 0, "cost": "tokens"}
    assert parse_settings(given) == Settings(policy="marconi", alpha=0, cost="tokens")
    assert parse_settings({"policy": "marconi", "alpha": None}).alpha is None


@pytest.mark.parametrize("policy", [{}, {"policy": "auto"}])
def test_alpha_is_refused_where_nothing_uses_it(policy: dict[str, str]) -> None:
    with pytest.raises(SettingsError, match=r"alpha = 0\.5.*marconi"):
        parse_settings({**policy, "alpha": 0.5})
    assert parse_settings({**policy, "alpha": None}) == Settings()


@pytest.mark.parametrize(
    ("settings", "valuation", "alpha"),
    [
        (Settings(), PredictedReuse, None),
        (Settings(policy="marconi", alpha=0.0), PaperUtility, 0.0),
        (Settings(policy="marconi", alpha=2.5), PaperUtility, 2.5),
    ],
)
def test_settings_choose_what_is_evicted(
    settings: Settings, valuation: type[Valuation], alpha: float | None
) -> None:
    # Only tuning asks for their sizes.
    pools: Any = SimpleNamespace(req_to_token_pool=SimpleNamespace(mamba_ckpt_pool=None))
    chosen = LivePolicy(settings, preset("paper-7b"), pools)
    assert type(chosen.eviction.valuation) is valuation
    assert getattr(chosen.eviction.valuation, "alpha", None) == alpha
    assert chosen.tuning is None


def test_this_sglang_has_every_seam() -> None:
    compatibility.check_version()
    seams.check_seams()


def test_a_changed_seam_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    changed = seams.table.TRACK_GRID._replace(parameters="something_else")
    monkeypatch.setattr(seams.check, "SEAMS", (*seams.SEAMS, changed))
    with pytest.raises(seams.IncompatibleSGLang, match=changed.target):
        seams.check_seams()
    gone = seams.Seam("sglang.srt.runtime_context.gone", "", seams.Kind.CALL, "")
    monkeypatch.setattr(seams.check, "SEAMS", (*seams.SEAMS, gone))
    with pytest.raises(seams.IncompatibleSGLang, match=r"runtime_context\.gone"):
        seams.check_seams()


def test_another_sglang_is_refused_only_when_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    hooks: list[Any] = []
    monkeypatch.setattr(compatibility, "version", lambda _name: "0.5.24")
    monkeypatch.setattr(plugin, "hook", lambda _seam, function: hooks.append(function))
    plugin.register()
    (refuse,) = hooks
    refuse(None, SimpleNamespace(radix_cache_backend=None))
    with pytest.raises(seams.IncompatibleSGLang, match=r"0\.5\.24"):
        refuse(None, SimpleNamespace(radix_cache_backend="marconi"))


def test_without_the_backend_nothing_is_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plugin, "check_seams", lambda: pytest.fail("checked"))
    plugin._check_if_chosen(None, SimpleNamespace(radix_cache_backend=None))
