"""Numbers as people read them: ``63.4 %``, ``5 GB``, ``1.2 EFLOP``."""

from collections.abc import Sequence

# What a table shows where nothing was measured.
MISSING = "\N{EN DASH}"
NO_BUDGET = "no budget"

# A number and its unit stay on one line.
_SPACE = "\N{NO-BREAK SPACE}"

_Ladder = Sequence[tuple[float, str]]
_BYTES: _Ladder = ((1, "B"), (1e3, "kB"), (1e6, "MB"), (1e9, "GB"), (1e12, "TB"), (1e15, "PB"))
_FLOPS: _Ladder = (
    (1, "FLOP"),
    (1e3, "kFLOP"),
    (1e6, "MFLOP"),
    (1e9, "GFLOP"),
    (1e12, "TFLOP"),
    (1e15, "PFLOP"),
    (1e18, "EFLOP"),
    (1e21, "ZFLOP"),
    (1e24, "YFLOP"),
)
_SHORT: _Ladder = ((1e-6, "µs"), (1e-3, "ms"), (1, "s"))
_LONG: _Ladder = ((1, "s"), (60, "min"), (3600, "h"), (86400, "days"))


_SIZES = {"": 1.0, "B": 1.0, "KB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12}


def parse_bytes(text: str) -> int:
    """``"2GB"`` as bytes: GB is 10^9.

    Raises:
        ValueError: it is no size above 0.
    """
    number = text.rstrip("KMGTBkmgtb")
    try:
        amount = int(float(number) * _SIZES[text[len(number) :].upper()])
    except (KeyError, ValueError, OverflowError):
        amount = 0
    if amount <= 0:
        raise ValueError(f"{text!r} is no size; 2GB is one, 500MB too")
    return amount


def percent(share: float) -> str:
    return f"{share:.1%}".replace("%", f"{_SPACE}%")


def points(difference: float) -> str:
    """A difference of two shares, in percentage points."""
    return f"{difference * 100:+.1f}{_SPACE}points"


def count(number: int) -> str:
    return f"{number:,}"


def byte_size(number: float) -> str:
    return _scaled(number, _BYTES)


def budget_size(budget: int | None) -> str:
    return NO_BUDGET if budget is None else byte_size(budget)


def budget_title(budget: int | None) -> str:
    return NO_BUDGET if budget is None else f"budget {byte_size(budget)}"


def flops(number: float) -> str:
    return _scaled(number, _FLOPS)


def duration(seconds: float) -> str:
    return _scaled(seconds, _SHORT) if seconds < 60 else _scaled(seconds, _LONG)


def byte_unit(largest: float) -> tuple[float, str]:
    """The unit for an axis that ends at ``largest`` bytes: how many bytes it is, and its name."""
    return _unit(largest, _BYTES)


def flops_unit(largest: float) -> tuple[float, str]:
    """The unit for an axis that ends at ``largest`` FLOPs: how many FLOPs it is, and its name."""
    return _unit(largest, _FLOPS)


def time_unit(longest: float) -> tuple[float, str]:
    """The unit for an axis of ``longest`` seconds, of which it has at least three."""
    return _unit(longest / 3, _LONG)


def _unit(number: float, ladder: _Ladder) -> tuple[float, str]:
    # 999.96 MB is shown with three digits, which would make it 1,000 MB.
    fitting = [(size, name) for size, name in ladder if number >= size * 0.9995]
    return fitting[-1] if fitting else ladder[0]


def _scaled(number: float, ladder: _Ladder) -> str:
    size, name = _unit(number, ladder)
    return f"{float(f'{number / size:.3g}'):,g}{_SPACE}{name}"
