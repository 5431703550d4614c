"""The command `forkwise report`: it writes a page and figures, and prints a summary."""

from __future__ import annotations

import webbrowser
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from forkwise.errors import InputError
from forkwise.progress import Meter
from forkwise.report.content import TRACE_BYTES, Content, gather
from forkwise.report.figures import figures
from forkwise.report.page import write_page
from forkwise.report.passk_figures import save
from forkwise.report.sources import find_source, find_sources
from forkwise.report.text import summary
from forkwise.terminal import complain, echo

PAGE = "report.html"
_OURS = b'<meta name="generator" content="forkwise'


def write_report(runs: Sequence[Path], path: Path, *, trace_bytes: float = TRACE_BYTES) -> Content:
    """Writes the page about the RUNs to `path`, with at most so many bytes of traces, and returns what is in it.

    Raises:
        InputError: a RUN that is nothing to report on, or a file that cannot be written.
    """
    with ExitStack() as imported:
        content = gather(find_sources(runs, imported), imported, trace_bytes=trace_bytes)
    write_page(path, content)
    return content


def run_report(
    runs: Sequence[Path],
    *,
    out: Path | None,
    figure_folder: Path | None,
    text: bool,
    open_page: bool,
    trace_mb: float = TRACE_BYTES / 1e6,
) -> None:
    """Writes the page and perhaps figures, and says where they are; `text` prints the summary.

    Args:
        out: where the page goes; None is `report.html` in the first RUN, which replaces only what a report wrote;
            for files of another tool, in the present folder.
        figure_folder: where figures go, as PNG and SVG; None is nowhere.
        open_page: show the page in the default browser.
        trace_mb: most megabytes of traces in the page.
    """
    path = _default_page(runs[0]) if out is None else _page_file(out)
    content = write_report(runs, path, trace_bytes=1e6 * trace_mb)
    paths = [path]
    with Meter(phase="drawing figures"):
        for name, figure in figures(content).items() if figure_folder else ():
            for ending in ("png", "svg"):
                paths.append(Path(figure_folder or ".", f"{name}.{ending}"))
                save(figure, paths[-1])
    if text:
        echo(summary(content), end="")
    for file in paths:
        echo(f"{file} ({file.stat().st_size / 1000:,.0f} kB)")
    if open_page and not webbrowser.open(path.resolve().as_uri()):
        complain(f"no browser could be opened; the report is {path.resolve().as_uri()}")


def _page_file(path: Path) -> Path:
    if path.is_dir():
        return path / PAGE
    if path.suffix.lower() not in (".html", ".htm"):
        raise InputError(f"--out is '{path}': give a name that ends with .html, or a folder.")
    return path


def _default_page(run: Path) -> Path:
    """Returns `report.html` beside the RUN's files, or here for files of another tool.

    Raises:
        InputError: that is a file that no report wrote.
    """
    try:
        find_source(run)
        path = (run if run.is_dir() else run.parent) / PAGE
    except InputError:
        path = Path(PAGE)
    if path.exists() and _OURS not in path.read_bytes()[:4096] and b"<title>forkwise" not in path.read_bytes()[:4096]:
        raise InputError(f"'{path}' is there already and was not written by forkwise: give another --out.")
    return path
