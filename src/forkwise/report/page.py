"""One self-contained HTML file: no script, no network, every string escaped."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

from matplotlib.figure import Figure

_STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #8881; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.15rem; margin-top: 2.2rem; }
.verdict { border-left: 4px solid #D55E00; padding: .6rem 1rem; background: var(--soft); }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .5rem; font-size: .85rem; border-bottom: 1px solid var(--line); }
th, td { text-align: right; white-space: pre; }
th:first-child, td:first-child { text-align: left; }
img { max-width: 100%; height: auto; background: #fff; border-radius: 6px; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; background: var(--soft); }
pre { padding: .7rem 1rem; border-radius: 6px; }
footer { margin-top: 3rem; font-size: .85rem; opacity: .75; }
"""


def _image(figure: Figure, alt: str) -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=130, bbox_inches="tight")
    data = base64.b64encode(buffer.getvalue()).decode()
    return f'<img alt="{escape(alt)}" src="data:image/png;base64,{data}">'


def table_html(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """An HTML table of escaped text."""
    head = "".join(f"<th>{escape(cell)}</th>" for cell in header)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def write_page(
    path: Path,
    *,
    title: str,
    verdict: str,
    header: Sequence[str],
    rows: Sequence[Sequence[str]],
    figures: Mapping[str, Figure],
    texts: Mapping[str, str],
    footer: str,
) -> None:
    """Writes the page: title, verdict, table, figures by heading, then model texts by heading (shown verbatim)."""
    parts = [
        f"<h1>{escape(title)}</h1>",
        f'<p class="verdict">{escape(verdict)}</p>',
        table_html(header, rows),
        *(f"<h2>{escape(heading)}</h2>{_image(figure, heading)}" for heading, figure in figures.items()),
        *(f"<h2>{escape(heading)}</h2><pre>{escape(text)}</pre>" for heading, text in texts.items()),
        f"<footer>{escape(footer)}</footer>",
    ]
    page = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; img-src data:; '
        "style-src 'unsafe-inline'\">"
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head><body>{''.join(parts)}</body></html>\n"
    )
    # Model text may hold lone surrogates, which no UTF-8 file can.
    path.write_bytes(page.encode("utf-8", errors="replace"))
