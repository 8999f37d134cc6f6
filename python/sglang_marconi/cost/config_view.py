"""Read-only access to a model's config, whatever form it comes in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sglang_marconi.cost.errors import ConfigFieldError

# Where a multimodal model keeps the config of its language model.
_TEXT_CONFIGS = ("text_config", "llm_config")


class ConfigView:
    """A config as read from ``config.json`` (a mapping) or loaded (an object).

    A multimodal config is replaced by that of its language model. A field may go by
    several names: the first one that is present and not ``None`` counts.
    """

    def __init__(self, config: object) -> None:
        outer_type = _field(config, "model_type")
        for name in _TEXT_CONFIGS:
            inner = _field(config, name)
            if inner is not None:
                config = inner
                break
        self._config = config
        self._rest: ConfigView | None = None
        self.model_type = str(_field(config, "model_type") or outer_type or "")

    def get(self, *names: str) -> object | None:
        """The field, or ``None`` where it is absent or ``None``."""
        for name in names:
            value = _field(self._config, name)
            if value is not None:
                return value
        return None if self._rest is None else self._rest.get(*names)

    def integer(self, *names: str, default: int | None = None) -> int:
        """An integer field; an absent one is the default or an error."""
        value = self.get(*names)
        if value is None:
            value = default
        if isinstance(value, bool) or not isinstance(value, int):
            raise self.error(names[0], "an integer", value)
        return value

    def flag(self, name: str, *, default: bool) -> bool:
        """A boolean field."""
        value = self.get(name)
        return default if value is None else bool(value)

    def integers(self, *names: str) -> list[int] | None:
        """A list of integers, or ``None`` where it is absent."""
        items = self._items(names)
        if items is None:
            return None
        integers = [item for item in items if isinstance(item, int)]
        if len(integers) != len(items):
            raise self.error(names[0], "a list of integers", items)
        return integers

    def strings(self, *names: str) -> list[str] | None:
        """A list of strings, or ``None`` where it is absent."""
        items = self._items(names)
        return None if items is None else [str(item) for item in items]

    def section(self, name: str) -> ConfigView:
        """A nested part of the config."""
        value = self.get(name)
        if value is None:
            raise self.error(name, "a nested object", value)
        view = ConfigView(value)
        view.model_type = self.model_type
        return view

    def sections(self, name: str) -> list[ConfigView]:
        """Nested parts, one for each layer; what one lacks is as in the whole config."""
        items = self._items((name,))
        if items is None:
            raise self.error(name, "a list of objects", items)
        views = []
        for item in items:
            if not isinstance(item, Mapping):
                raise self.error(name, "a list of objects", items)
            view = ConfigView(item)
            view._rest = self
            view.model_type = self.model_type
            views.append(view)
        return views

    def error(self, name: str, expected: str, value: object) -> ConfigFieldError:
        """What to raise where a field is not what a formula needs."""
        return ConfigFieldError(
            f"the config of model type {self.model_type!r} needs {expected} in {name!r}, "
            f"got {value!r}"
        )

    def _items(self, names: tuple[str, ...]) -> Sequence[object] | None:
        value = self.get(*names)
        if value is None:
            return None
        if isinstance(value, str) or not isinstance(value, Sequence):
            raise self.error(names[0], "a list", value)
        return value


def _field(config: object, name: str) -> object | None:
    if isinstance(config, Mapping):
        return config.get(name)
    value: object | None = getattr(config, name, None)
    return value
