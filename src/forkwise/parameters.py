"""The parameters that several commands share, each with its one help text; `forkwise.cli.options` reads them.

A room writes `level: Level = 0.95` among its options.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

Brief = Annotated[bool, "Print the conclusion alone."]
Level = Annotated[float, "Coverage of the intervals."]
Intersect = Annotated[bool, "Take the problems that all arms share, and no others."]
PairedSeeds = Annotated[bool, "Runs of all arms share seeds, the last numbers in their names."]
Breaks = Annotated[str, "Words that begin a sentence, where there is no punctuation."]
LexiconFile = Annotated[Path | None, "YAML of pivotal words (default: ours)."]
ReflectiveFile = Annotated[Path | None, "YAML of reflective patterns (default: ours)."]
Device = Annotated[str, "cpu, cuda, cuda:1, ..."]
Dtype = Annotated[str, "float32, bfloat16 or float16."]
TrustRemoteCode = Annotated[bool, "Run the checkpoint's code."]
