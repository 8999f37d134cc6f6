"""HTML from text: each function escapes what it is given."""

from base64 import b64encode
from collections.abc import Iterable, Mapping
from html import escape

from sglang_marconi.report.tables import Table


def heading(text: str) -> str:
    return f"<h2>{escape(text)}</h2>"


def paragraph(text: str) -> str:
    return f"<p>{escape(text)}</p>"


def bullets(sentences: Iterable[str]) -> str:
    return "<ul>\n" + "".join(f"<li>{escape(text)}</li>\n" for text in sentences) + "</ul>"


def definitions(terms: Mapping[str, str]) -> str:
    items = (f"<dt>{escape(term)}</dt><dd>{escape(text)}</dd>\n" for term, text in terms.items())
    return "<dl>\n" + "".join(items) + "</dl>"


def table(content: Table, name: str) -> str:
    """A table that scrolls on a narrow screen; ``name`` is what a screen reader says."""
    columns = len(content.head)
    head = "".join(f'<th scope="col">{escape(text)}</th>' for text in content.head)
    bodies = "".join(
        f'<tbody>\n<tr><th scope="rowgroup" colspan="{columns}">{escape(group)}</th></tr>\n'
        + "".join(f"<tr>{''.join(map(_cell, row))}</tr>\n" for row in rows)
        + "</tbody>\n"
        for group, rows in content.groups
    )
    return (
        f'<div class="wide" role="region" tabindex="0" aria-label="{escape(name)}">\n<table>\n'
        f"<thead><tr>{head}</tr></thead>\n{bodies}</table>\n</div>"
    )


def figure(png: bytes, alt: str, caption: str) -> str:
    """An image inside the report, with a caption if there is one."""
    source = f"data:image/png;base64,{b64encode(png).decode()}"
    below = f"\n<figcaption>{escape(caption)}</figcaption>" if caption else ""
    return (
        f'<figure>\n<div class="wide"><img alt="{escape(alt)}" src="{source}"></div>'
        f"{below}\n</figure>"
    )


def _cell(text: str) -> str:
    return f"<td>{escape(text)}</td>"
