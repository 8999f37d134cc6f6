"""Every setting of the backend, its default and its bounds.

The settings arrive as the JSON object of ``--radix-eviction-policy-config``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import msgspec

from sglang_marconi.sizes import parse_bytes


class SettingsError(ValueError):
    """A setting has an unknown name or a value outside its bounds."""


class Settings(msgspec.Struct, frozen=True):
    """The backend's settings.

    Attributes:
        policy: what is evicted. ``auto``: what is least likely to be used again soon, for what a
            hit on it saves and the bytes it holds; it needs no parameter. ``marconi``: the
            paper's utility.
        alpha: with ``marconi``, the weight of FLOP efficiency against recency, 0 or more; 0
            evicts the least recently used. ``None``: tuned while serving.
        cost: what a hit is worth. ``flops``: the model's prefill FLOPs; ``tokens``: its
            length, for a model whose layers the cost model has no formula for.
        checkpoint_memory: a store of their own for checkpoints, taken out of the memory that
            SGLang gives recurrent states: a share of it above 0 and below 1, or bytes such as
            ``8GB``. ``None``: checkpoints share the slots of running requests, unless
            ``encoding`` or ``host_memory`` need a store, which then gets what the requests that
            may run at a time do not need.
        encoding: how a checkpoint may be stored when memory is short; it is stored as it is
            first, and demoted before any is evicted. ``exact``: as it is, always.
        host_memory: bytes such as ``32GB`` of host memory, on each rank, for checkpoints that
            leave the device. ``None``: they are evicted.
        page_bytes: the store's pages; ``None``: chosen for the model's state.
        inspect: whether the server shows its cache at ``/marconi``.
    """

    policy: Literal["auto", "marconi"] = "auto"
    alpha: Annotated[float, msgspec.Meta(ge=0)] | None = None
    cost: Literal["flops", "tokens"] = "flops"
    checkpoint_memory: Annotated[float, msgspec.Meta(gt=0, lt=1)] | str | None = None
    encoding: Literal["exact", "bf16", "int8", "fp8"] = "exact"
    host_memory: str | None = None
    page_bytes: Annotated[int, msgspec.Meta(ge=512)] | None = None
    inspect: bool = False

    @property
    def has_store(self) -> bool:
        """Whether checkpoints have a store of their own."""
        wants_store = self.encoding != "exact" or self.host_memory is not None
        return self.checkpoint_memory is not None or wants_store

    @property
    def host_bytes(self) -> int:
        """``host_memory`` as a number; 0 for none."""
        return parse_bytes(self.host_memory) if self.host_memory is not None else 0


def parse_settings(given: Mapping[str, Any] | None) -> Settings:
    """Check the JSON object of ``--radix-eviction-policy-config``.

    Raises:
        SettingsError: names the key, the value it was given and what is allowed.
    """
    if given is None:
        return Settings()
    if not isinstance(given, Mapping):
        raise SettingsError(f"--radix-eviction-policy-config must be a JSON object, got {given!r}")
    allowed = {field.name: field for field in msgspec.structs.fields(Settings)}
    for key, value in given.items():
        if key not in allowed:
            names = ", ".join(sorted(allowed)) or "none"
            raise SettingsError(
                f"--radix-eviction-policy-config: unknown key {key!r} (value {value!r}) for "
                f"--radix-cache-backend marconi; allowed keys: {names}"
            )
        try:
            msgspec.convert(value, allowed[key].type)
        except msgspec.ValidationError as error:
            raise SettingsError(
                f"--radix-eviction-policy-config: {key} = {value!r} is not allowed: {error}"
            ) from error
    settings = msgspec.convert(dict(given), Settings)
    if settings.alpha is not None and settings.policy != "marconi":
        raise SettingsError(
            f"--radix-eviction-policy-config: alpha = {settings.alpha!r} is for "
            '"policy": "marconi"; "auto" takes no parameter'
        )
    for key in ("checkpoint_memory", "host_memory"):
        size = getattr(settings, key)
        if isinstance(size, str):
            try:
                parse_bytes(size)
            except ValueError as error:
                raise SettingsError(
                    f"--radix-eviction-policy-config: {key} is not allowed: {error}"
                ) from error
    if settings.page_bytes is not None and not settings.has_store:
        raise SettingsError(
            f"--radix-eviction-policy-config: page_bytes = {settings.page_bytes!r} is for a store "
            "of checkpoints: set checkpoint_memory, too"
        )
    return settings
