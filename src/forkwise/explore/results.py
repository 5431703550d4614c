"""What `forkwise explore` finds, as frozen dataclasses, and `explore.json`, the file that holds them.

Its parts are in `findings`, with their units.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from forkwise.errors import InputError
from forkwise.explore.findings import Behaviour, Dependence, EntropySummary, Entry, Rarity
from forkwise.folders.results import Input, read_result, write_result
from forkwise.samples.direct import Imported

SCHEMA = 5
"""Version of `explore.json`. It grows when a field changes its meaning or goes; new optional fields do not count."""

FILE = "explore.json"
_COMMAND = "forkwise explore --out"


@dataclass(frozen=True)
class TrainingRow:
    """One point of the figures over training (the paper's Figure 8)."""

    run: str
    step: int | None
    samples: int
    accuracy: float | None
    mean_length: float
    length_unit: str
    mean_entropy: float | None
    pivotal: int
    pivotal_per_response: float
    pivotal_per_1000_words: float
    pivotal_entropy: float | None
    reflective: int
    reflective_per_response: float
    reflective_share: float
    """Share of reflective sentences."""
    reflective_entropy: float | None
    repetition: float
    """Share of word 4-grams that already occurred in the same response."""


@dataclass(frozen=True)
class RunExploration:
    """Everything that was found about one run."""

    run: str
    model: str
    samples: int
    empty: int
    """Number of samples without text, which are left out."""
    problems: int
    words: int
    sentences: int
    entropy: EntropySummary | None
    behaviours: list[Behaviour]
    """The behaviours `pivotal`, `reflective` and, with a base, `rare`."""
    entries: list[Entry]
    """Entries of the lexicon that occur, most frequent first."""
    rarity: Rarity | None
    dependence: list[Dependence]
    without_tokens: int = 0
    """Number of samples without token data, where others of the run have them."""
    rarity_refused: str | None = None
    """Why rarity could not be measured against the base, where there is one."""
    cut_off: int = 0
    """Number of sentences that the limit of tokens cut off, which are left out."""
    by_verdict: dict[str, RunExploration] = field(default_factory=dict)
    """What was found about the `right` and the `wrong` samples, if both exist; high is above the run's threshold."""


@dataclass(frozen=True)
class Exploration:
    """Everything that `explore.json` holds: one or more runs, and what they were explored with."""

    samples: list[str]
    """The tables that were analysed, paths as given."""
    token_data: list[str]
    """Tables with exact entropies, parallel to `samples`: these, or what `--model` wrote (relative to the file)."""
    inputs: list[Input]
    """Every shard that was read, those of the base too."""
    settings: dict[str, Any]
    """Options of the command by name, but for `samples`, `out` and `breaks`."""
    lexicon: str
    """Name of the file, and the first digits of its hash."""
    reflective: str
    breaks: list[str]
    """Words that begin a sentence besides punctuation (`--breaks`); a viewer that splits sentences needs them."""
    runs: list[RunExploration]
    series: list[TrainingRow]
    """One row for each run, in the order of `runs`."""
    full_logits: str | None = None
    """Why `--model` scores by its full logits, where it does."""
    imported: Imported | None = None
    """What the import of other tools' files found and remarked."""
    schema: int = SCHEMA
    forkwise: str = ""

    def run(self, name: str) -> RunExploration:
        """Returns the run called `name`.

        Raises:
            InputError: there is none.
        """
        for run in self.runs:
            if run.run == name:
                return run
        raise InputError(f"There is no run '{name}' here: it holds {', '.join(run.run for run in self.runs)}.")


def write(folder: Path, exploration: Exploration) -> Path:
    """Writes `folder/explore.json`, whole or not at all."""
    return write_result(folder / FILE, exploration)


def read(path: Path) -> Exploration:
    """Reads the exploration in a file, or in a folder's `explore.json`."""
    path = path / FILE if path.is_dir() else path
    return _whole(read_result(path, Exploration, schema=SCHEMA, command=_COMMAND))


def _whole(exploration: Exploration) -> Exploration:
    if len(exploration.token_data) != len(exploration.samples):
        raise InputError(
            f"{FILE} is damaged (it has another number of tables with tokens than with samples): run {_COMMAND} again."
        )
    return exploration
