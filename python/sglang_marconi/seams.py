"""Checks that what we patch in SGLang is what our patch was written against."""

from __future__ import annotations

import inspect
import pkgutil
from typing import Any


class IncompatibleSGLang(RuntimeError):
    """The installed SGLang is not one that this version of sglang-marconi fits."""


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


def require_parameters(target: str, names: tuple[str, ...], *, exact: bool = True) -> None:
    """Compare a function of SGLang with the one our code was written against.

    Args:
        target: dotted path of the function.
        names: its parameters, in order.
        exact: whether further parameters at the end are a difference too.

    Raises:
        IncompatibleSGLang: it does not exist, or its parameters differ.
    """
    function = resolve(target)
    try:
        found = tuple(inspect.signature(function).parameters)
    except (TypeError, ValueError) as error:
        raise IncompatibleSGLang(
            f"sglang-marconi needs the parameters of {target}, which cannot be read: {error}"
        ) from error
    if (found if exact else found[: len(names)]) != names:
        raise IncompatibleSGLang(
            f"sglang-marconi needs {target} with parameters ({', '.join(names)}), "
            f"but this SGLang's has ({', '.join(found)})"
        )
