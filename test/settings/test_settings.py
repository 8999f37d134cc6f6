"""Settings are valid or refused with a message that names what is wrong; nothing else happens."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import msgspec
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from sglang_marconi.settings import schema
from sglang_marconi.settings.handover import settings_from_resolved, to_resolved
from sglang_marconi.settings.schema import (
    OPTION,
    Given,
    Settings,
    SettingsError,
    describe_settings,
    given_in_file,
    merge_settings,
    parse_settings,
)

DOCUMENT = Path(__file__).parents[2] / "docs" / "settings.md"
KEYS = [setting.key for setting in describe_settings()]

NUMBERS = st.one_of(st.integers(), st.floats(), st.sampled_from([10**400, -(10**400)]))
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    NUMBERS,
    st.text(max_size=200),
    st.sampled_from(["auto", "marconi", "flops", "tokens", "8GB", "bf16"]),
)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=8
)
OBJECTS = st.dictionaries(st.sampled_from([*KEYS, "file"]) | st.text(), VALUES)


def valid_or_refused(parse: Callable[[], Settings], source: str) -> None:
    try:
        parsed = parse()
    except SettingsError as error:
        message = str(error)
        assert source in message
        assert "\n" not in message
        assert len(message) < 1000
    else:
        assert parsed == msgspec.convert(msgspec.to_builtins(parsed), Settings)
        assert parsed.alpha is None or math.isfinite(parsed.alpha)


@given(VALUES | OBJECTS)
def test_any_json_value_is_valid_or_refused(value: Any) -> None:
    # A file of an arbitrary name is in the message itself.
    named = isinstance(value, dict) and isinstance(value.get("file"), str)
    valid_or_refused(lambda: parse_settings(value), "" if named else OPTION)


@given(st.binary() | st.text().map(str.encode))
@example(b"alpha = 0x" + b"f" * 5000)
@example(b"alpha = " + b"9" * 5000)
@example(b"alpha = " + b"[" * 5000)
@example(b"alpha = nan")
@example(b"alpha = 2026-11-24")
@example(b'file = "again.toml"')
@example(b"[policy]\nname = 1")
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_file_is_valid_or_refused(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "marconi.toml"
    file.write_bytes(content)
    valid_or_refused(lambda: parse_settings({"file": str(file)}), str(file))


@given(st.dictionaries(st.sampled_from(KEYS), SCALARS, min_size=1))
def test_a_file_means_what_the_object_means(values: dict[str, Any]) -> None:
    def outcome(source: str) -> Settings | str:
        try:
            return merge_settings([Given(source, values)]).settings
        except SettingsError as error:
            return str(error).replace(source, "")

    assert outcome("marconi.toml") == outcome(OPTION)


def test_the_object_overrides_its_file(tmp_path: Path) -> None:
    file = tmp_path / "marconi.toml"
    file.write_text('policy = "marconi"\nalpha = 0.5\n')
    assert parse_settings({"file": str(file)}) == Settings(policy="marconi", alpha=0.5)
    assert parse_settings({"alpha": None, "file": str(file)}) == Settings(policy="marconi")
    with pytest.raises(SettingsError, match=r"marconi\.toml: alpha = 0\.5 is for"):
        parse_settings({"policy": "auto", "file": str(file)})


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ("alpha = -1", r"marconi\.toml: alpha = -1 is not allowed; .*a number from 0, or null"),
        ('polcy = "auto"', r"marconi\.toml: unknown key 'polcy'.*did you mean 'policy'"),
        ("policy = ?", r"marconi\.toml' is not a TOML file: .*line 1"),
    ],
)
def test_messages_name_the_file_the_key_the_value_and_what_is_allowed(
    tmp_path: Path, content: str, named: str
) -> None:
    file = tmp_path / "marconi.toml"
    file.write_text(content)
    with pytest.raises(SettingsError, match=named):
        given = given_in_file(str(file))
        merge_settings([given])


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"absent\.toml: cannot be read: No such file"):
        parse_settings({"file": str(tmp_path / "absent.toml")})
    with pytest.raises(SettingsError, match="Is a directory"):
        parse_settings({"file": str(tmp_path)})
    with pytest.raises(SettingsError, match="file = 3 is not allowed"):
        parse_settings({"file": 3})


@pytest.mark.parametrize(
    ("values", "named"),
    [
        (
            {"checkpoint_memory": "0GB"},
            r"checkpoint_memory = '0GB' .*text such as",
        ),
        ({"checkpoint_memory": 1}, r"checkpoint_memory = 1 is not allowed"),
        ({"host_memory": "plenty"}, r"host_memory = 'plenty' is not allowed"),
        ({"encoding": "int4"}, r'"bf16" or "exact" or "fp8" or "int8"'),
        ({"page_bytes": 4096}, r"page_bytes = 4096 is for a store"),
    ],
)
def test_settings_of_a_store_are_checked(values: dict[str, Any], named: str) -> None:
    with pytest.raises(SettingsError, match=named):
        parse_settings(values)


def test_a_store_has_its_settings() -> None:
    assert not Settings().has_store
    for values in ({"checkpoint_memory": 0.5}, {"encoding": "int8"}, {"host_memory": "8GB"}):
        assert parse_settings({**values, "page_bytes": 4096}).has_store
    assert parse_settings({"host_memory": "8GB"}).host_bytes == 8 * 10**9


class Other(msgspec.Struct, frozen=True):
    """Kinds of settings that a later version may have."""

    memory: Annotated[
        Annotated[float, msgspec.Meta(gt=0, le=1)]
        | Annotated[str, msgspec.Meta(pattern=r"^\d+GB$", examples=["8GB"])]
        | None,
        msgspec.Meta(description="how much"),
    ] = None
    slots: Annotated[int, msgspec.Meta(ge=1, lt=4096)] = 1
    exact: bool = True
    nothing: None = None

    def unused(self) -> tuple[()]:
        return ()


def test_any_type_of_setting_is_described_and_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schema, "Settings", Other)
    assert [(setting.key, setting.allowed, setting.text) for setting in describe_settings()] == [
        ("memory", 'a number above 0 to 1, text such as "8GB", or null', "how much"),
        ("slots", "a whole number from 1 below 4,096", ""),
        ("exact", "true or false", ""),
        ("nothing", "null", ""),
    ]
    assert parse_settings({"memory": "16GB", "slots": 3}) == Other("16GB", 3)
    for value in ("big", 2, True, []):
        with pytest.raises(SettingsError, match=r"memory = .*8GB"):
            parse_settings({"memory": value})


def test_every_setting_is_in_the_documents_as_it_is_described() -> None:
    rows = [line.strip() for line in DOCUMENT.read_text().splitlines()]
    for setting in describe_settings():
        assert setting.text
        default = msgspec.json.encode(setting.default).decode()
        assert f"| `{setting.key}` | `{default}` | {setting.text} |" in rows


def test_settings_are_handed_on_as_they_are() -> None:
    cases: list[dict[str, Any]] = [
        {},
        {"policy": "marconi", "alpha": 2},
        {"checkpoint_memory": "8GB"},
    ]
    for values in cases:
        parsed = parse_settings(values)
        resolved = msgspec.json.decode(msgspec.json.encode(to_resolved(parsed)))
        assert settings_from_resolved(resolved) == parsed


@pytest.mark.parametrize("resolved", [None, {}, {"policy": "auto"}, {"file": "settings.toml"}])
def test_settings_that_were_not_handed_on_are_an_error(resolved: Any) -> None:
    with pytest.raises(SettingsError, match=f"{OPTION}: the process that started"):
        settings_from_resolved(resolved)
