"""The table of problems: how often each arm solved each of them."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import urlencode

import pyarrow as pa

from forkwise.passk import Comparison
from forkwise.report.formats import number
from forkwise.report.sources import SampleArm
from forkwise.samples.store import read_batches
from forkwise.terminal import one_line, visible

_START = 70  # characters of a prompt
_NAME = 60  # characters of an id
_SHARED = 20  # least characters of a beginning that is left out because all prompts have it
MOST = 1000
"""Most rows of the table in a page."""


@dataclass(frozen=True)
class Solved:
    """One problem: the start of its prompt, and for each arm the number of right and of scored samples."""

    id: str
    start: str
    counts: Mapping[str, tuple[int, int]]


@dataclass(frozen=True)
class Cell:
    """A cell: its text and the number that it is sorted by, None where there is none."""

    text: str
    value: float | None


@dataclass(frozen=True)
class ProblemTable:
    """The table as the page shows it; a row is its start, its link (empty where no trace is shown) and its cells."""

    caption: str
    header: list[str]
    rows: list[tuple[str, str, list[Cell]]]
    sorted_by: int | None
    """Column whose largest numbers come first; None in the order of the ids."""


def short_name(name: str) -> str:
    """Puts a name on one line; names that are too long for it stay distinct by a digest."""
    if name == one_line(name, _NAME):
        return name
    return f"{one_line(name, _NAME - 9)} {hashlib.sha256(name.encode(errors='replace')).hexdigest()[:8]}"


def count_solved(arms: Sequence[SampleArm]) -> list[Solved]:
    """Counts right and scored samples of each problem and arm, in the order of the problems' ids."""
    prompts: dict[str, str | None] = {}
    counts: dict[str, dict[str, tuple[int, int]]] = {}
    for arm in arms:
        for batch in read_batches(arm.tables, ["problem_id", "prompt", "correct"], arm.runs):
            groups = pa.Table.from_batches([batch]).group_by("problem_id", use_threads=False)
            for row in groups.aggregate([("correct", "sum"), ("correct", "count"), ("prompt", "first")]).to_pylist():
                problem = row["problem_id"]
                prompts[problem] = prompts.get(problem) or row["prompt_first"]
                right, scored = counts.setdefault(problem, {}).get(arm.name, (0, 0))
                counts[problem][arm.name] = (right + (row["correct_sum"] or 0), scored + row["correct_count"])
    starts = prompt_starts(prompts)
    return [Solved(problem, starts[problem], counts[problem]) for problem in sorted(counts)]


def prompt_starts(prompts: Mapping[str, str | None]) -> dict[str, str]:
    """Returns the beginning of each prompt, without what all of them begin with; the id where there is no prompt."""
    texts = [text for text in prompts.values() if text]
    shared = os.path.commonprefix(texts) if len(texts) > 1 else ""  # noqa: RUF071 (characters are meant)
    at = max(shared.rfind(" "), shared.rfind("\n")) + 1
    at, before = (at, "… ") if at >= _SHARED else (0, "")
    # Made visible before it is cut: `split` would drop some hidden characters, and the cut counts what is shown.
    unshared = {problem: visible((text or "")[at : at + 10 * _START]) for problem, text in prompts.items()}
    starts = {problem: " ".join(text.split()) for problem, text in unshared.items()}
    return {
        problem: f"{before}{start[:_START]}{'…' if len(start) > _START else ''}" if start else short_name(problem)
        for problem, start in starts.items()
    }


def problem_table(
    solved: Sequence[Solved], comparison: Comparison | None, arms: Sequence[str], traced: Sequence[str]
) -> ProblemTable | None:
    """Makes the table, with differences from the reference of a comparison; None where nothing has a verdict.

    Args:
        traced: ids of the problems of which traces are shown.
    """
    if not any(scored for problem in solved for _, scored in problem.counts.values()):
        return None
    differences = comparison.differences if comparison else []
    pairs = [(d.arm, d.reference) for d in differences if {d.arm, d.reference} <= set(arms)]
    linked = set(traced)
    rows = []
    for problem in solved:
        cells = [_rate(*problem.counts.get(arm, (0, 0))) for arm in arms]
        rate = dict(zip(arms, (cell.value for cell in cells), strict=True))
        cells += [_difference(rate.get(arm), rate.get(reference)) for arm, reference in pairs]
        link = "#" + urlencode({"problem": short_name(problem.id)}) if problem.id in linked else ""
        rows.append((problem.start, link, cells))
    column = len(arms) if pairs else None
    if column is not None:
        rows.sort(key=lambda row: -(row[2][column].value or 0.0))
    caption = "Right of scored samples of each problem"
    if pairs:
        caption += "; differences are of shares"
    if len(rows) > MOST:
        half = MOST // 2
        rows = rows[:half] + rows[-half:]
        which = ", those with the largest differences" if pairs else ""
        caption += f". {MOST:,} of {len(solved):,} problems are shown{which}"
    header = ["problem", *arms, *(f"{arm} − {reference}" for arm, reference in pairs)]
    return ProblemTable(caption, header, rows, None if column is None else column + 1)


def _rate(right: int, scored: int) -> Cell:
    return Cell(f"{right}/{scored}", right / scored) if scored else Cell("", None)


def _difference(value: float | None, reference: float | None) -> Cell:
    if value is None or reference is None:
        return Cell("", None)
    return Cell(number(value - reference, sign="+"), value - reference)
