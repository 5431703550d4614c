"""One name stands for one thing in the source."""

from __future__ import annotations

import ast
from collections import defaultdict
from pathlib import Path

SOURCE = Path(__file__).parents[1] / "src" / "forkwise"
COUNTERPARTS = {
    # What people put before the trainer class of their engine, in TRL and in verl; they have one engine.
    "EntropyShapingMixin": {"engines/trl/trainer.py", "engines/verl/trainer.py"},
}


def test_no_two_classes_have_one_name() -> None:
    files: dict[str, list[str]] = defaultdict(list)
    for path in sorted(SOURCE.rglob("*.py")):
        for statement in ast.parse(path.read_text()).body:
            if isinstance(statement, ast.ClassDef):
                files[statement.name].append(path.relative_to(SOURCE).as_posix())
    assert len(files) > 300  # they were read
    shared = {name: set(paths) for name, paths in files.items() if len(paths) > 1}
    assert shared == COUNTERPARTS
