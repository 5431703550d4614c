"""The command `forkwise report`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def report(
    runs: Annotated[
        list[Path],
        typer.Argument(
            help="Run folders, samples, files that forkwise import reads, explorations.", show_default=False
        ),
    ],
    out: Annotated[
        Path | None, typer.Option(help="HTML file (default: report.html in the first RUN, or here).")
    ] = None,
    figures: Annotated[Path | None, typer.Option(help="Write the figures into this folder too, PNG and SVG.")] = None,
    text: Annotated[bool, typer.Option("--text", help="Print a summary, for logs.")] = False,
    trace_mb: Annotated[float, typer.Option(min=0, help="Most megabytes of traces in the page, compressed.")] = 2.0,
    open_page: Annotated[bool, typer.Option("--open", help="Show the page in the browser.")] = False,
) -> None:
    """Write one self-contained HTML page about runs, samples and explorations: curves, tables, traces."""
    from forkwise.report.command import run_report

    run_report(runs, out=out, figure_folder=figures, text=text, open_page=open_page, trace_mb=trace_mb)
