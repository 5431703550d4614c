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
        list[str], "Besides every method with its defaults: NAME:key=value,...; repeatable.", {"metavar": "SPEC"}
    ] = field(default_factory=list)
    only: Annotated[bool, "Score those of --method alone, beside GRPO."] = False
    half: Annotated[Half, "Of the problems: the first for choosing, the second for testing."] = "all"
    draws: Annotated[int, "Of random methods and of placebos.", {"min": 2, "max": 1000}] = 10
    seed: Annotated[int, "Of these draws.", {"min": 0}] = 0
    level: Level = 0.95
    groups: Annotated[
        list[Path],
        "Samples table whose groups are scored in gradients; repeatable.",
        {"metavar": "TABLE"},
    ] = field(default_factory=list)
    model: Annotated[list[str], "The model that drew it; one for each --groups.", {"metavar": "MODEL"}] = field(
        default_factory=list
    )
    group_size: Annotated[int, "Completions of a group in --groups.", {"min": 2}] = 16
    completions: Annotated[int, "Of the update whose cosine is given.", {"min": 2}] = 256
    gradients: Annotated[Gradients, "Of the output layer alone, or of all parameters, which takes long."] = "head"
    updates: Annotated[int, "Move the policy first, by so many of GRPO's on every second problem.", {"min": 0}] = 0
    learning_rate: Annotated[float, "Of these updates."] = 3e-4
    pack: Annotated[Path | None, "Also write the one bank given to this file, small and by itself."] = None
