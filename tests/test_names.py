"""One name stands for one thing in the source."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator
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


def test_a_parameter_that_commands_share_is_declared_once() -> None:
    files: dict[tuple[str, str], list[str]] = defaultdict(list)
    for path in [*(SOURCE / "cli").glob("*.py"), *SOURCE.rglob("options.py")]:
        for name, annotation in _annotations(ast.parse(path.read_text())):
            if isinstance(annotation, ast.Subscript) and ast.unparse(annotation.value) == "Annotated":
                words = [node.value for node in ast.walk(annotation) if isinstance(node, ast.Constant)]
                texts = [word for word in words if isinstance(word, str) and " " in word]
                files[name, texts[-1] if texts else ""].append(path.relative_to(SOURCE).as_posix())
    assert len(files) > 150
    assert {what: paths for what, paths in files.items() if len(paths) > 1} == {}


def _annotations(tree: ast.AST) -> Iterator[tuple[str, ast.expr | None]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            yield node.target.id, node.annotation
        elif isinstance(node, ast.arg):
            yield node.arg, node.annotation
