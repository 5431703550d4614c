"""An importer of one's own: three names that say which records it takes, and what samples are in them.

    python examples/own_importer.py

The format here has a line per attempt: {"puzzle": 7, "text": "...", "try": 0, "said": "...", "solved": true}.
An object with these three names is an importer, and so is a module, like those in src/forkwise/samples/importers.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

from forkwise.passk import load_arm
from forkwise.samples.importers import Record, Row, Source, import_files, register


class Puzzles:
    """The importer."""

    USES = frozenset({"puzzle", "text", "try", "said", "solved"})
    """Fields that find their way into the table; the report names all others as left out."""

    def matches(self, record: Record) -> bool:
        """Whether a record has this format's shape: no other importer's record may."""
        return {"puzzle", "said", "solved"} <= record.keys()

    def rows(self, record: Record, source: Source) -> Iterator[Row]:
        """The samples in a record, here one. `source` knows the file, its place, and what the user said."""
        if not isinstance(record["said"], str):
            raise source.error(f"'said' is {record['said']!r}: it must be text.")
        yield {
            "run": source.run(),
            "problem_id": source.problem(f"puzzle-{record['puzzle']}"),
            "sample_id": record.get("try"),
            "prompt": record.get("text"),
            "completion": record["said"],
            "correct": source.verdict(record["solved"]),
            "verdict_by": "puzzles",
        }


def main() -> None:
    """Makes a small file of the format, imports it, and evaluates it."""
    # A script registers its importer; a package names it in the entry points of the group forkwise.importers.
    register("puzzles", Puzzles())
    attempts = [
        {"puzzle": puzzle, "text": f"{puzzle} + 1?", "try": i, "said": f"It is {puzzle + i}.", "solved": i == 1}
        for puzzle in range(6)
        for i in range(4)
    ]
    with tempfile.TemporaryDirectory() as folder:
        file, samples = Path(folder) / "attempts.jsonl", Path(folder) / "samples"
        file.write_text("".join(json.dumps(attempt) + "\n" for attempt in attempts))
        for report in import_files([file], samples):
            run = report.runs["attempts"]
            print(f"{report.format}: {run.correct} of {run.samples} samples correct")
        curves_SQK = load_arm(samples).curves([1, 2, 4])  # runs, problems, values of K
        print("Pass@1, 2, 4:", ", ".join(f"{value:.2f}" for value in curves_SQK.mean((0, 1))))


if __name__ == "__main__":
    main()
