"""What is installed, read from package metadata: nothing is imported."""

from __future__ import annotations

import platform
from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError, entry_points, metadata, requires, version

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from sglang_marconi.compatibility import BACKEND, SUPPORTED_SGLANG
from sglang_marconi.doctor.findings import Finding

_DISTRIBUTION = "sglang-marconi"
_GROUP = "sglang.srt.plugins"
_ENTRY_POINT = "sglang_marconi.plugin:register"
# SGLang loads only the plugins that this variable lists, where it is set.
_LISTED = "SGLANG_PLUGINS"


def installation(environment: Mapping[str, str]) -> Iterator[Finding]:
    """Python, the packages that a server stands on, and the plugin's entry point."""
    yield _python()
    yield _sglang()
    wanted = _wanted_by_sglang()
    for name in ("torch", "triton"):
        yield _package(name, wanted.get(name))
    yield _plugin(environment.get(_LISTED, ""))


def _python() -> Finding:
    found = platform.python_version()
    try:
        supported = SpecifierSet(metadata(_DISTRIBUTION)["Requires-Python"] or "")
    except PackageNotFoundError:
        supported = SpecifierSet()
    if supported.contains(found, prereleases=True):
        return Finding("python", "ok", found)
    return Finding(
        "python", "problem", f"{found}; supported: {supported}", "install into another Python"
    )


def _sglang() -> Finding:
    remedy = f"pip install 'sglang{SUPPORTED_SGLANG}'"
    found = _version("sglang")
    if found is None:
        return Finding("sglang", "problem", "not installed", remedy)
    if not SUPPORTED_SGLANG.contains(found, prereleases=True):
        return Finding("sglang", "problem", f"{found}; supported: {SUPPORTED_SGLANG}", remedy)
    return Finding("sglang", "ok", found)


def _package(name: str, wanted: SpecifierSet | None) -> Finding:
    found = _version(name)
    if found is None:
        return Finding(name, "problem", "not installed", f"pip install '{name}{wanted or ''}'")
    if wanted is not None and not wanted.contains(found, prereleases=True):
        return Finding(
            name,
            "warning",
            f"{found}; this SGLang asks for {wanted}",
            f"pip install '{name}{wanted}'",
        )
    return Finding(name, "ok", found)


def _plugin(listed: str) -> Finding:
    names = {point.name for point in entry_points(group=_GROUP) if point.value == _ENTRY_POINT}
    if not names:
        return Finding(
            "plugin",
            "problem",
            f"no entry point {_ENTRY_POINT} in the group {_GROUP}",
            f"install {_DISTRIBUTION} with pip into SGLang's environment",
        )
    allowed = {name.strip() for name in listed.split(",") if name.strip()}
    if allowed and not names & allowed:
        return Finding(
            "plugin",
            "problem",
            f"{_LISTED}={listed} keeps SGLang from loading it",
            f"add {BACKEND} to {_LISTED}",
        )
    return Finding("plugin", "ok", f"{_DISTRIBUTION} {_version(_DISTRIBUTION)}, an entry point")


def _wanted_by_sglang() -> dict[str, SpecifierSet]:
    try:
        wanted = map(Requirement, requires("sglang") or ())
    except PackageNotFoundError:
        return {}
    return {each.name: each.specifier for each in wanted if not each.marker}


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
