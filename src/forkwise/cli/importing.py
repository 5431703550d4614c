"""The command `forkwise import`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from forkwise.cli.common import long_command
from forkwise.progress import Meter
from forkwise.terminal import echo


def import_(
    files: Annotated[
        list[Path], typer.Argument(help="Files of other tools, or folders of them; .gz is fine.", show_default=False)
    ],
    out: Annotated[Path, typer.Option(help="Folder of the samples table; one shard per file is added to it.")],
    format_: Annotated[str, typer.Option("--format", help="Their format; docs/samples.md lists them.")] = "auto",
    run: Annotated[str | None, typer.Option(help="Name of the run (default: the file's name).")] = None,
    model: Annotated[str | None, typer.Option(help="Name of the model (default: what the file says).")] = None,
    threshold: Annotated[float | None, typer.Option(help="Correct from this score on (fractional scores).")] = None,
    score: Annotated[str | None, typer.Option(help="Which of several scores decides.")] = None,
    map_: Annotated[list[str] | None, typer.Option("--map", help="COLUMN=FIELD, for plain files.")] = None,
) -> None:
    """Import samples that other tools wrote into a samples table, and say what was found and what was not taken."""
    with long_command("the files reported above stay imported; import the others again"):
        from forkwise.report.importing import imported_file
        from forkwise.samples.importers import Options, import_files, parse_columns

        options = Options(run, model, threshold, score, parse_columns(map_ or []))
        with Meter(len(files), phase="importing", unit="files") as meter:
            for count, report in enumerate(import_files(files, out, format_=format_, options=options), start=1):
                echo(imported_file(report))
                meter.reach(count)
