"""The list of methods for people (`forkwise methods`) and for programs (`--json`)."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

from forkwise.errors import InputError, nearest
from forkwise.methods.registry import describe
from forkwise.progress import Console


def as_json(names: Sequence[str]) -> str:
    """A JSON list, one object per method."""
    return json.dumps(_chosen(names), indent=2) + "\n"


def as_table(names: Sequence[str], width: int | None = None) -> str:
    """A table as wide as the terminal, and how to use what is in it."""
    table = Table(show_lines=True, expand=True)
    table.add_column("method", no_wrap=True)
    for column, share in (("arXiv", 2), ("formula", 5), ("requires", 2), ("options and defaults", 3)):
        table.add_column(column, ratio=share, overflow="fold")
    for entry in _chosen(names):
        options = "\n".join(f"{key}={_text(value)}" for key, value in entry["defaults"].items())
        needed = ", ".join([*entry["requires"], *entry["conditions"]])
        acts = "TRL's own" if entry["stage"] == "settings" else needed or "nothing"
        cells = (entry["name"], entry["paper"] or entry["title"], entry["formula"], acts, options)
        table.add_row(*map(Text, cells))
    out = io.StringIO()
    console = Console(file=out, force_terminal=False, width=width or max(100, shutil.get_terminal_size().columns))
    console.print(table)
    console.print(
        "Use: forkwise grpo --method NAME[:key=value,...] (repeatable; in YAML a list 'method'). Named methods act and "
        "no others: alpha counts only with entropy_advantage. docs/papers.md has a section on each."
    )
    return out.getvalue()


def _chosen(names: Sequence[str]) -> list[dict[str, Any]]:
    entries = describe()
    known = [entry["name"] for entry in entries]
    for name in names:
        if name not in known:
            raise InputError(f"There is no method '{name}'.{nearest(name, known)}")
    return [entry for entry in entries if not names or entry["name"] in names]


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
