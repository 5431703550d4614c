"""The command `forkwise methods`."""

from __future__ import annotations

from typing import Annotated

import typer

from forkwise.terminal import echo


def methods(
    names: Annotated[list[str] | None, typer.Argument(help="Only these (default: all).", show_default=False)] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the methods for --method of grpo and ppo: paper, formula, what they require, options with defaults."""
    from forkwise.methods import listing

    echo(listing.as_json(names or []) if json else listing.as_table(names or []), end="")
