"""The command `forkwise select`."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from forkwise.cli.common import long_command
from forkwise.progress import Meter
from forkwise.terminal import counted, echo


class Rule(str, Enum):
    """The score by which solutions are chosen."""

    casl = "casl"
    drop = "drop"
    plain = "plain"


def select(
    samples: Annotated[Path, typer.Argument(help="Samples table with tokens and the student's log-probs of them.")],
    out: Annotated[Path, typer.Option(help="New folder for the samples table of the chosen solutions.")],
    by: Annotated[Rule, typer.Option(help="Mean log-prob, freed of the steps' length by casl or drop.")] = Rule.casl,
    keep: Annotated[int, typer.Option(help="Solutions kept per problem.", min=1)] = 5,
    skip: Annotated[int, typer.Option(help="Tokens at the beginning of a step that count as its head.", min=1)] = 2,
    only_right: Annotated[bool, typer.Option("--only-right", help="Choose among right solutions only.")] = False,
) -> None:
    """Choose solutions for fine-tuning by the student's log-probs, freed of the length of their steps."""
    with long_command("nothing was written"):
        from forkwise.explore.selection import select as choose

        with Meter(phase="choosing solutions"):
            selections = list(choose(samples, out, by=by.value, keep=keep, skip=skip, only_right=only_right))
        for selection in selections:
            kept = f"{len(selection.rows)} of {counted(selection.solutions, 'solution')}"
            echo(f"{selection.run}: {kept} kept, of {counted(selection.problems, 'problem')}")
            if selection.slope is not None:
                echo(f"  mean log-prob per share of step heads: {selection.slope:.3f} nats, taken out")
            if selection.without:
                echo(f"  without log-probs, left out: {counted(selection.without, 'solution')}")
            if selection.misfits:
                echo(f"  tokens that do not join to the text, left out: {counted(selection.misfits, 'solution')}")
        echo(f"-> {out}")
