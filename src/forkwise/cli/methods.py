"""The command `forkwise methods`."""

from __future__ import annotations

from json import dumps
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from forkwise.progress import Console
from forkwise.terminal import echo

_LEAST_WIDTH = 100  # columns


def methods(
    names: Annotated[list[str] | None, typer.Argument(help="Only these (default: all).", show_default=False)] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the methods for --method of grpo and ppo: paper, formula, what they require, options with defaults."""
    from forkwise.methods import describe
    from forkwise.methods.base import option_text

    entries = describe(names or [])
    if json:
        echo(dumps(entries, indent=2))
        return
    table = Table(show_lines=True, expand=True)
    table.add_column("method", no_wrap=True)
    for column, ratio in (("arXiv", 2), ("formula", 5), ("requires", 2), ("options and defaults", 3)):
        table.add_column(column, ratio=ratio, overflow="fold")
    for entry in entries:
        options = "\n".join(f"{key}={option_text(value)}" for key, value in entry["defaults"].items())
        requirements = ", ".join([*entry["requires"], *entry["conditions"]]) or "nothing"
        requires = "TRL's own" if entry["stage"] == "settings" else requirements
        cells = (entry["name"], entry["paper"] or entry["title"], entry["formula"], requires, options)
        table.add_row(*map(Text, cells))
    console = Console(width=max(_LEAST_WIDTH, Console().width))
    console.print(table)
    console.print(
        "Use: forkwise grpo --method NAME[:key=value,...] (repeatable; in YAML a list 'method'). Named methods act and "
        "no others: alpha counts only with entropy_advantage. docs/papers.md has a section on each.",
        markup=False,
    )
