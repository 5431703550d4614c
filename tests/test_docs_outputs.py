"""The outputs that README.md shows are those of today, and the script that compares them notices when they are not."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

import docs_outputs

PAGE = """Text.

```console
$ echo one; echo two
one
...
$ printf 'a\\n' \\
    b
a
```

<!-- data: here.txt=there.txt -->
```console
$ cat here.txt
of the folder
```

```
$ not run
```
"""


def page(folder: Path, text: str = PAGE) -> Path:
    path = folder / "page.md"
    path.write_text(text)
    return path


def test_a_page_says_what_is_run_and_what_it_prints() -> None:
    first, second = docs_outputs.blocks_of(PAGE)
    assert first.commands == [
        ("echo one; echo two", ["one", "..."]),
        ("printf 'a\\n' \\\n    b", ["a"]),
    ]
    assert second.files == {"here.txt": "there.txt"}


@pytest.mark.parametrize(
    ("shown", "printed", "agree"),
    [
        (["a", "b"], ["a", "b  "], True),
        (["a", "..."], ["a", "b", "c"], True),
        (["...", "c"], ["a", "c", "b", "c"], True),
        (["..."], [], True),
        (["a"], ["a", "b"], False),
        (["...", "c"], ["a", "b"], False),
        ([], ["a"], False),
    ],
)
def test_dots_stand_for_any_lines(shown: list[str], printed: list[str], agree: bool) -> None:
    assert docs_outputs.agrees(shown, printed) is agree


def test_what_a_command_no_longer_prints_is_a_difference(tmp_path: Path) -> None:
    assert docs_outputs.check_page(page(tmp_path), None) == (2, 1, [])
    ran, left_out, drifts = docs_outputs.check_page(page(tmp_path, PAGE.replace("echo one", "echo 1")), None)
    assert (ran, left_out, len(drifts)) == (2, 1, 1)
    assert "-one" in drifts[0]
    assert "+1" in drifts[0]


def test_writing_renews_what_is_shown_in_full(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "there.txt").write_text("new\n")
    path = page(tmp_path, PAGE.replace("echo one", "echo 1").replace("    b\na\n", "    b\nold\n"))
    ran, left_out, drifts = docs_outputs.check_page(path, tmp_path / "data", write=True)
    assert (ran, left_out, len(drifts)) == (3, 0, 3)
    assert path.read_text() == PAGE.replace("echo one", "echo 1").replace("of the folder", "new")


def test_output_that_is_not_repeated_says_why(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert docs_outputs.printed_once(PAGE) == (0, ["$ not run"])
    marked = PAGE.replace("```\n$ not run", "<!-- printed once: hours -->\n```\n$ not run") + "```\ncommand\n```\n"
    assert docs_outputs.printed_once(marked) == (1, [])
    path = page(tmp_path, "```\n$ not run\n```\n")
    assert docs_outputs.main([str(path)]) == 1
    assert "page.md: neither repeated nor marked with a reason: $ not run" in capsys.readouterr().out


def test_the_outputs_of_the_readme_are_those_of_today() -> None:
    assert docs_outputs.check_page(ROOT / "README.md", None) == (2, 0, [])


def test_progress_is_no_output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy machine takes longer than ten seconds where that of the page did not."""
    speaking = (
        "import io\nfrom forkwise.progress import Console, Meter\nfile = io.StringIO()\n"
        "for total in (40, None):\n"
        "    with Meter(total, console=Console(file=file), phase='computing', unit='problems') as meter:\n"
        "        meter._said -= 11\n        meter.reach(21)\n"
        "print(file.getvalue(), 'all are done')\n"
    )
    (tmp_path / "speaking.py").write_text(speaking)
    command = "python speaking.py"
    assert docs_outputs.run(command, tmp_path) == [" all are done"]
    monkeypatch.setattr(docs_outputs, "_PROGRESS", re.compile("no line"))
    assert len(docs_outputs.run(command, tmp_path)) == 3
