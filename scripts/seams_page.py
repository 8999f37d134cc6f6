"""The tables of what is touched in SGLang, as a document: ``seams_page.py > docs/seams.md``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import groupby

from sglang_marconi import seams
from sglang_marconi.cpu import replacements
from sglang_marconi.seams import Seam

_HEAD = """\
# What is touched in SGLang

Written by `python scripts/seams_page.py > docs/seams.md` from the tables in `seams/table.py`,
`seams/forward.py`, `seams/tree.py`, `cpu/kernels.py`, `cpu/surroundings.py` and
`cpu/replacements.py`; change those. Before a model is loaded, each row is checked: that it exists,
and that its parameters are those shown.
[develop.md](develop.md#when-sglang-changes) says what to do when SGLang changes."""

_WITHOUT_ACCELERATOR = """\
## On a machine without an accelerator

What stands in for SGLang's kernels there, in every process that loads the plugin."""


def page() -> str:
    """The whole document."""
    parts = [
        _HEAD,
        "## Where the backend is chosen",
        *_tables(seams.SEAMS),
        _WITHOUT_ACCELERATOR,
        *_tables(replacements.SEAMS),
    ]
    return "\n\n".join(parts) + "\n"


def _tables(rows: Iterable[Seam]) -> Iterator[str]:
    """A table for each module, in the order in which the modules are touched first."""
    rows = list(rows)
    order = list(dict.fromkeys(seam.module for seam in rows))
    rows.sort(key=lambda seam: order.index(seam.module))
    for module, inside in groupby(rows, key=lambda seam: seam.module):
        lines = (f"| `{_shown(seam)}` | {seam.kind.value} | {seam.purpose} |" for seam in inside)
        yield "\n".join([f"| `{module}` | | what for |", "|---|---|---|", *lines])


def _shown(seam: Seam) -> str:
    return seam.name if seam.parameters is None else f"{seam.name}({seam.parameters})"


if __name__ == "__main__":
    print(page(), end="")
