"""One dataclass of options is all the parameters of a command."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import pytest
import typer
from typer.testing import CliRunner

from forkwise.cli.options import with_options
from forkwise.parameters import Brief


@dataclass(frozen=True)
class Choice:
    name: Annotated[str, "What to call it."]
    n: Annotated[int | None, "How many.", {"min": 1}] = None
    top_p: Annotated[float, "Nucleus."] = 0.5
    split: Annotated[Literal["train", "test"], "Which."] = "test"
    extra: Annotated[list[str], "More."] = field(default_factory=list)
    force: Annotated[bool, "Anyway."] = False
    verify: Annotated[bool, "Look."] = True


@dataclass(frozen=True)
class Place:
    folder: Annotated[Path | None, "Where."] = None


def run(*words: str) -> tuple[int, str, list[object]]:
    taken: list[object] = []
    app = typer.Typer(rich_markup_mode=None)

    @app.command()
    @with_options
    def command(
        out: Annotated[str, typer.Argument()], choice: Choice, place: Place, last: int = 3, brief: Brief = False
    ) -> None:
        """Do it."""
        taken.extend((out, choice, place, last, brief))

    result = CliRunner().invoke(app, list(words))
    return result.exit_code, result.output, taken


def test_fields_become_options_and_options_fields() -> None:
    assert run("o", "--name", "x")[2] == ["o", Choice("x"), Place(), 3, False]
    words = (
        "--name x -n 2 --top-p 0.25 --split train --extra a --extra b --force --no-verify --folder f --last 4 --brief"
    )
    expected = Choice("x", 2, 0.25, "train", ["a", "b"], True, False)
    assert run("o", *words.split(), "--brief")[2] == ["o", expected, Place(Path("f")), 4, True]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--name x -n 0", "'-n'"),
        ("", "--name"),
        ("--name x --split dev", "train"),
        ("--name x --no-force", "No such option"),
        ("--name x --top-p high", "'--top-p'"),
    ],
)
def test_mistakes_are_refused(words: str, message: str) -> None:
    code, text, taken = run("o", *words.split())
    assert (code, taken) == (2, [])
    assert message in text


def test_help_is_the_fields() -> None:
    text = run("--help")[1]
    for part in ("Do it.", "What to call it.", "[required]", "--top-p", "[default: 0.5]", "--verify / --no-verify"):
        assert part in text
    assert "--no-force" not in text
