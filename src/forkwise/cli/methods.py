"""The command `forkwise methods`."""

from __future__ import annotations

from json import dumps
from textwrap import fill
from typing import Annotated, Any, NamedTuple

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
    """List the methods for --method of grpo and ppo: paper, formula, engines, what they require, options."""
    from forkwise.engines.which import engines_of
    from forkwise.methods import all_methods, describe

    entries = [{**entry, "engines": engines_of(all_methods()[entry["name"]])} for entry in describe(names or [])]
    if json:
        echo(dumps(entries, indent=2))
        return
    console = Console()
    rows = [_cells(entry) for entry in entries]
    if console.width < _LEAST_WIDTH:
        for row in rows:
            _print_block(console, row)
    else:
        table = Table(show_lines=True, expand=True)
        table.add_column("method", no_wrap=True)
        for column, ratio in (("arXiv", 2), ("formula", 5), ("engines", 2), ("requires", 2), ("options", 3)):
            table.add_column(column, ratio=ratio, overflow="fold")
        for row in rows:
            table.add_row(
                *map(Text, (row.name, row.paper, row.formula, row.engines, row.requires, "\n".join(row.options)))
            )
        console.print(table)
    console.print(
        "Use: forkwise grpo --method NAME[:key=value,...] (repeatable; in YAML a list 'method'). Named methods act and "
        "no others: alpha counts only with entropy_advantage. What is =? must be given. docs/papers.md has a section "
        "on each.",
        markup=False,
    )


class _Row(NamedTuple):
    """What is shown of a method."""

    name: str
    paper: str
    formula: str
    engines: str
    requires: str
    options: list[str]


def _cells(entry: dict[str, Any]) -> _Row:
    from forkwise.methods.base import option_text

    options = [
        f"{key}=?" if key in entry["required_options"] else f"{key}={option_text(value)}"
        for key, value in entry["defaults"].items()
    ]
    requirements = ", ".join([*entry["requires"], *entry["conditions"]]) or "nothing"
    requires = "TRL's own" if entry["of_trl"] else requirements
    return _Row(
        entry["name"],
        entry["paper"] or entry["title"],
        entry["formula"],
        ", ".join(entry["engines"]),
        requires,
        options,
    )


def _print_block(console: Console, row: _Row) -> None:
    """Prints a method below another, for narrow terminals: a table of five columns cannot be read there."""
    indent = " " * 4
    header = Text(fill(f"{row.name}  {row.paper}", console.width, subsequent_indent=indent))
    header.stylize("bold", 0, len(row.name))
    console.print(header)
    lines = [row.formula, f"runs on: {row.engines}", f"requires: {row.requires}"]
    lines += [f"options: {', '.join(row.options)}"] if row.options else []
    for line in lines:
        console.print(Text(fill(line, console.width, initial_indent=indent, subsequent_indent=indent)))
