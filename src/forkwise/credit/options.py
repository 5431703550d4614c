"""What a user may choose about `forkwise credit`; each field is an option of the command line."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from forkwise.parameters import Level

Half = Literal["all", "first", "second"]
Gradients = Literal["head", "all"]


@dataclass(frozen=True)
class CreditOptions:
    """The options of `forkwise credit`, which `credit.json` records."""

    out: Annotated[Path | None, "Folder for credit.json."] = None
    method: Annotated[
        list[str],
        "Scored besides every method with its defaults: NAME:key=value,...; repeatable.",
        {"metavar": "SPEC"},
    ] = field(default_factory=list)
    only: Annotated[bool, "Score GRPO and the methods of --method alone."] = False
    half: Annotated[Half, "Half of the problems: the first for choosing, the second for testing."] = "all"
    draws: Annotated[int, "Draws of each random method and of each placebo.", {"min": 2, "max": 1000}] = 10
    seed: Annotated[int, "Seed of all that is random.", {"min": 0}] = 0
    level: Level = 0.95
    groups: Annotated[
        list[Path],
        "Samples table whose groups are scored in gradients; repeatable.",
        {"metavar": "TABLE"},
    ] = field(default_factory=list)
    model: Annotated[list[str], "The model that drew the table; one for each --groups.", {"metavar": "MODEL"}] = field(
        default_factory=list
    )
    group_size: Annotated[int, "Completions of a group in --groups.", {"min": 2}] = 16
    completions: Annotated[int, "Completions of the update that is compared with the true gradient.", {"min": 2}] = 256
    gradients: Annotated[Gradients, "Gradients of the output layer (head), or of all parameters: slow."] = "head"
    updates: Annotated[
        int,
        "Score methods after so many of GRPO's updates on every second problem.",
        {"min": 0},
    ] = 0
    learning_rate: Annotated[float, "Learning rate of --updates."] = 3e-4
    pack: Annotated[Path | None, "Also write the one bank given to this file, small and by itself."] = None
