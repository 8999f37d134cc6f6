"""Whether the installed SGLang is what our code was written against, seam by seam."""

from __future__ import annotations

import inspect
import pkgutil
from collections.abc import Iterable, Iterator
from typing import Any

from sglang_marconi.seams.seam import Kind, Seam
from sglang_marconi.seams.table import SEAMS


class IncompatibleSGLang(RuntimeError):
    """The installed SGLang is not one that this version of sglang-marconi fits."""


def check_seams() -> None:
    """Check everything of SGLang that we touch.

    Raises:
        IncompatibleSGLang: names the first one that differs, and how.
    """
    for difference in seam_differences(SEAMS):
        raise difference


def seam_differences(seams: Iterable[Seam]) -> Iterator[IncompatibleSGLang]:
    """How each of them that is not what our code was written against differs."""
    for seam in seams:
        try:
            check_seam(seam)
        except IncompatibleSGLang as difference:
            yield difference


def check_seam(seam: Seam) -> None:
    """Compare what is there with what our code was written against.

    Raises:
        IncompatibleSGLang: it does not exist, or its parameters differ.
    """
    if seam.kind in (Kind.READ, Kind.WRITE) and _is_set_on_instances(seam.target):
        return
    found = resolve(seam.target)
    if seam.parameters is not None:
        _check_parameters(seam.target, seam.parameters, found)


def resolve(target: str) -> Any:
    """What a dotted path names in SGLang.

    Raises:
        IncompatibleSGLang: it names nothing.
    """
    try:
        return pkgutil.resolve_name(target)
    except (ImportError, AttributeError) as error:
        raise IncompatibleSGLang(
            f"sglang-marconi needs {target}, which this SGLang does not have: {error}"
        ) from error


def _check_parameters(target: str, parameters: str, function: Any) -> None:
    try:
        found = list(inspect.signature(function).parameters)
    except (TypeError, ValueError) as error:
        raise IncompatibleSGLang(
            f"sglang-marconi needs the parameters of {target}, which cannot be read: {error}"
        ) from error
    names = parameters.split(", ") if parameters else []
    if names[-1:] == ["..."]:
        names.pop()
        same = found[: len(names)] == names
    else:
        same = found == names
    if not same:
        raise IncompatibleSGLang(
            f"sglang-marconi needs {target} with parameters ({parameters}), "
            f"but this SGLang's has ({', '.join(found)})"
        )


def _is_set_on_instances(target: str) -> bool:
    """Whether a method of its class mentions an attribute that the class itself does not have."""
    owner, _, name = target.rpartition(".")
    kind = resolve(owner)
    return isinstance(kind, type) and any(
        name in inspect.unwrap(method).__code__.co_names
        for base in kind.__mro__
        for method in vars(base).values()
        if inspect.isfunction(method)
    )
