"""Every setting of the backend: its name, default and bounds, and what it does.

The settings arrive as the JSON object of ``--radix-eviction-policy-config``. Its key ``file``
may name a TOML file, whose values the object's other keys override. A file rather than an
environment variable: it is part of SGLang's own argument, so it reaches every process, works in
SGLang's ``--config`` and ``Engine(...)``, and is shown by the server. The file is read once, by the
process that starts the server, which hands on what it says (``handover``).
"""

from __future__ import annotations

import difflib
import math
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated, Any, Literal, NamedTuple

import msgspec

from sglang_marconi.policy.registry import DEFAULT, POLICIES, SERVED, TUNED
from sglang_marconi.units import parse_bytes

OPTION = "--radix-eviction-policy-config"
COUNT_TOKENS = f"""{OPTION} '{{"cost": "tokens"}}'"""
"""What makes a server start whose model has no formula."""
FILE_KEY = "file"

_LONGEST_VALUE = 80

# What checks the values of a type beyond what the type says: under this key of its `extra`.
_CHECK = "check"


def _check_policy(name: str) -> None:
    if name not in SERVED:
        raise ValueError(f"no policy {name!r}")


_POLICIES = "what is evicted: what is worth least. " + ". ".join(
    f"`{name}`: {POLICIES[name].description}" for name in SERVED
)
_PolicyName = Annotated[
    str, msgspec.Meta(extra={_CHECK: _check_policy}, extra_json_schema={"enum": list(SERVED)})
]
_Size = Annotated[str, msgspec.Meta(examples=["8GB"], extra={_CHECK: parse_bytes})]


class SettingsError(ValueError):
    """A setting has an unknown name or a value outside its bounds."""


class Settings(msgspec.Struct, frozen=True):
    """The backend's settings: types with their bounds, defaults, and descriptions.

    Messages, ``sglang-marconi config`` and the table of ``docs/settings.md`` come from here.
    """

    policy: Annotated[
        _PolicyName,
        msgspec.Meta(description=_POLICIES),
    ] = DEFAULT
    alpha: Annotated[
        Annotated[float, msgspec.Meta(ge=0)] | None,
        msgspec.Meta(
            description=f"with `{TUNED}`: weight of FLOP efficiency against recency; 0 is LRU. "
            "`null`: tuned while serving, by a sidecar process that replays the latest requests"
        ),
    ] = None
    admission: Annotated[
        Literal["all", "seen"],
        msgspec.Meta(
            description="which prefixes get a checkpoint. `all`: where prompts have parted, where "
            "requests that wait part, where the application says so, where requests end, and, "
            f'with `"policy": "{DEFAULT}"`, where prompts are predicted to part. `seen`: the '
            "paper's rule, where prompts have parted and where requests end"
        ),
    ] = "all"
    cost: Annotated[
        Literal["flops", "tokens"],
        msgspec.Meta(
            description='what a hit is worth: the model\'s prefill FLOPs, or with `"tokens"` the '
            "prefix's length, for a model whose layers have no formula here (the server says "
            "which, and does not start)"
        ),
    ] = "flops"
    checkpoint_memory: Annotated[
        Annotated[float, msgspec.Meta(gt=0, lt=1)] | _Size | None,
        msgspec.Meta(
            description="a store of their own for checkpoints, taken out of the memory that SGLang "
            "gives recurrent states: a share of it, or bytes. `null`: checkpoints share the slots "
            "of running requests, unless `encoding` or `host_memory` need a store, which then gets "
            "what the requests that may run at a time do not need"
        ),
    ] = None
    encoding: Annotated[
        Literal["exact", "bf16", "int8", "fp8"],
        msgspec.Meta(
            description="what a checkpoint may be demoted to when memory is short; it is stored as "
            "it is at first. `exact`: it stays as it is"
        ),
    ] = "exact"
    host_memory: Annotated[
        _Size | None,
        msgspec.Meta(
            description="host memory, on each rank, for checkpoints that leave the device. "
            "`null`: they are evicted"
        ),
    ] = None
    page_bytes: Annotated[
        Annotated[int, msgspec.Meta(ge=512)] | None,
        msgspec.Meta(description="size of a store page; `null`: chosen for the model's state"),
    ] = None
    inspect: Annotated[
        bool, msgspec.Meta(description="whether the server shows its cache at `/marconi`")
    ] = False

    def unused(self) -> Iterator[tuple[str, str]]:
        """Settings that have no use beside the others, and why."""
        if self.alpha is not None and self.policy != TUNED:
            yield "alpha", f'is for "policy": "{TUNED}"; "{self.policy}" takes no parameter'
        if self.page_bytes is not None and not self.has_store:
            yield "page_bytes", "is for a store of checkpoints: set checkpoint_memory, too"

    @property
    def has_store(self) -> bool:
        """Whether checkpoints have a store of their own."""
        wants_store = self.encoding != "exact" or self.host_memory is not None
        return self.checkpoint_memory is not None or wants_store

    @property
    def host_bytes(self) -> int:
        """``host_memory`` as a number; 0 for none."""
        return parse_bytes(self.host_memory) if self.host_memory is not None else 0


class Description(NamedTuple):
    """A setting as people read it; ``default`` is a Python value, the rest text."""

    key: str
    allowed: str
    default: Any
    text: str


class Given(NamedTuple):
    """Values from one place; ``source`` is its name in messages."""

    source: str
    values: Mapping[str, Any]


class Effective(NamedTuple):
    """Checked settings, and where each one that was given comes from."""

    settings: Settings
    sources: Mapping[str, str]


def parse_settings(given: Mapping[str, Any] | None) -> Settings:
    """Check the JSON object of ``--radix-eviction-policy-config``, and the file it may name.

    Raises:
        SettingsError: names the place, the key, the value it was given and what is allowed.
    """
    return merge_settings(given_in_option(given)).settings


def given_in_option(given: Mapping[str, Any] | None) -> list[Given]:
    """What the JSON object says, after what its file says.

    Raises:
        SettingsError: it is no object, or its file cannot be read.
    """
    if given is None:
        return []
    if not isinstance(given, Mapping):
        raise SettingsError(f"{OPTION} must be a JSON object, got {_shown(given)}")
    values = dict(given)
    if FILE_KEY not in values:
        return [Given(OPTION, values)]
    path = values.pop(FILE_KEY)
    if not isinstance(path, str):
        raise SettingsError(
            f"{OPTION}: {FILE_KEY} = {_shown(path)} is not allowed; allowed: "
            "the path of a TOML file, as text"
        )
    return [given_in_file(path), Given(OPTION, values)]


def given_in_file(path: str) -> Given:
    """What a TOML file says.

    Raises:
        SettingsError: it cannot be read, or is not TOML; the message names the file.
    """
    try:
        with open(path, "rb") as file:
            return Given(path, tomllib.load(file))
    except OSError as error:
        raise SettingsError(f"{path}: cannot be read: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise SettingsError(f"{path!r} is not a TOML file: {error}") from error


def merge_settings(givens: Iterable[Given]) -> Effective:
    """Check each value; where two places give a key, the later one counts.

    Raises:
        SettingsError: names the place, the key, the value it was given and what is allowed.
    """
    fields = {field.name: field for field in msgspec.structs.fields(Settings)}
    values: dict[str, Any] = {}
    sources: dict[str, str] = {}
    for source, given in givens:
        for key, value in given.items():
            if key not in fields:
                raise SettingsError(_unknown_key(source, key, value, fields))
            kind = msgspec.inspect.type_info(fields[key].type)
            try:
                values[key] = msgspec.convert(value, fields[key].type)
                _check(values[key], kind)
            except ValueError as error:
                raise SettingsError(
                    f"{source}: {key} = {_shown(value)} is not allowed; allowed: {_allowed(kind)}"
                ) from error
            sources[key] = source
    settings = Settings(**values)
    for key, reason in settings.unused():
        raise SettingsError(f"{sources[key]}: {key} = {_shown(values[key])} {reason}")
    return Effective(settings, sources)


def describe_settings() -> list[Description]:
    """Every setting, in the order of `Settings`."""
    return [
        Description(field.name, _allowed(kind), field.default, _description(kind))
        for field in msgspec.structs.fields(Settings)
        for kind in (msgspec.inspect.type_info(field.type),)
    ]


def _unknown_key(source: str, key: object, value: object, known: Iterable[str]) -> str:
    names = sorted({*known, FILE_KEY} if source == OPTION else known)
    near = difflib.get_close_matches(str(key), names, n=1)
    guess = f"; did you mean {near[0]!r}?" if near else ""
    return (
        f"{source}: unknown key {_shown(key)} (value {_shown(value)}) for "
        f"--radix-cache-backend marconi{guess} (allowed keys: {', '.join(names)})"
    )


def _check(value: object, kind: msgspec.inspect.Type) -> None:
    """Raise ``ValueError`` for what a type lets pass and should not."""
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError("not finite")
    if isinstance(kind, msgspec.inspect.UnionType):
        for each in kind.types:
            _check(value, each)
    elif isinstance(kind, msgspec.inspect.Metadata):
        check = (kind.extra or {}).get(_CHECK)
        if check is not None and isinstance(value, str):
            check(value)
        _check(value, kind.type)


def _shown(value: object) -> str:
    """A value as it was given, cut where it is long."""
    try:
        text = repr(value)
    except ValueError:  # An integer of more digits than Python writes.
        return f"a huge {type(value).__name__}"
    return text if len(text) <= _LONGEST_VALUE else f"{text[:_LONGEST_VALUE]}..."


def _description(kind: msgspec.inspect.Type) -> str:
    schema = kind.extra_json_schema if isinstance(kind, msgspec.inspect.Metadata) else None
    return str((schema or {}).get("description", ""))


def _allowed(kind: msgspec.inspect.Type) -> str:
    """The values that a type takes, in words."""
    text = type(kind).__name__.removesuffix("Type").lower()
    match kind:
        case msgspec.inspect.Metadata():
            schema = kind.extra_json_schema or {}
            if "enum" in schema:
                return " or ".join(map(_json, schema["enum"]))
            text = _allowed(kind.type)
            if examples := schema.get("examples"):
                text += f" such as {' or '.join(map(_json, examples))}"
        case msgspec.inspect.UnionType():
            *others, last = map(_allowed, kind.types)
            text = f"{', '.join(others)}, or {last}"
        case msgspec.inspect.LiteralType():
            text = " or ".join(map(_json, kind.values))
        case msgspec.inspect.FloatType():
            text = "a number" + _bounds(kind)
        case msgspec.inspect.IntType():
            text = "a whole number" + _bounds(kind)
        case msgspec.inspect.BoolType():
            text = "true or false"
        case msgspec.inspect.NoneType():
            text = "null"
        case msgspec.inspect.StrType():
            text = "text"
    return text


def _bounds(kind: msgspec.inspect.FloatType | msgspec.inspect.IntType) -> str:
    bounds = {"from": kind.ge, "above": kind.gt, "to": kind.le, "below": kind.lt}
    return "".join(f" {word} {bound:,}" for word, bound in bounds.items() if bound is not None)


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()
