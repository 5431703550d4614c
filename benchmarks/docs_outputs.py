"""Runs the commands that the docs print output of, and compares: a page must not show what the program no longer says.

    python benchmarks/docs_outputs.py                          # README.md and docs/*.md
    python benchmarks/docs_outputs.py docs/passk.md --data D   # with public files that are not in the repository
    python benchmarks/docs_outputs.py --write                  # puts today's output into the pages

Checked are blocks marked `console`: lines that begin with `$ ` are run by bash, in one folder for each page that
holds `examples` and `studies`, and the lines below are what they print. A line `...` stands for any lines; output
shown with one is not rewritten. `<!-- data: NAME=FILE, ... -->` above a block says which files of --data it needs,
and their names there. A plain block of output is marked with why it is not repeated and, where it does not hold it,
with the command that prints it: `<!-- printed once: REASON; by COMMAND -->`. A plain block of commands with `$ ` and
without the mark is an error.
"""

from __future__ import annotations

import argparse
import difflib
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
_BLOCK = re.compile(r"(?:<!-- data: (?P<data>[^>]*) -->\n)?```console\n(?P<body>.*?)^```$", re.DOTALL | re.MULTILINE)
_PLAIN = re.compile(r"^(?P<mark><!-- printed once: [^>]+ -->\n)?```\n(?P<body>.*?)^```$", re.DOTALL | re.MULTILINE)
_COMMAND = re.compile(r"^\$ (?:.*\\\n)*.*$", re.MULTILINE)
_ANY = "..."
_PROGRESS = re.compile(r": .*(?: are done\b.*| so far)\.$")  # of a machine that is slower than that of the page


@dataclass(frozen=True)
class Block:
    """One block of a page: its commands, each with the lines that the page shows below it."""

    start: int
    end: int
    """Where its body lies in the page's text."""
    files: dict[str, str]
    """Name in the page's folder -> file of --data."""
    commands: list[tuple[str, list[str]]]


def blocks_of(text: str) -> list[Block]:
    """The checked blocks of a page."""
    blocks = []
    for block in _BLOCK.finditer(text):
        body = block["body"]
        places = [*_COMMAND.finditer(body)]
        ends = [place.start() for place in places[1:]] + [len(body)]
        commands = [
            (place[0].removeprefix("$ "), body[place.end() : end].strip("\n").splitlines())
            for place, end in zip(places, ends, strict=True)
        ]
        pairs = [pair.split("=") for pair in (block["data"] or "").split(",") if pair]
        files = {name.strip(): file.strip() for name, file in pairs}
        blocks.append(Block(block.start("body"), block.end("body"), files, commands))
    return blocks


def printed_once(text: str) -> tuple[int, list[str]]:
    """Counts the plain blocks of output that say why they are not repeated, and lists the commands of the others."""
    # Labelled blocks go first: their ends look like the beginnings of plain ones.
    blocks = [*_PLAIN.finditer(re.sub(r"^```\w.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE))]
    silent = [
        command[0] for block in blocks if not block["mark"] for command in [_COMMAND.search(block["body"])] if command
    ]
    return sum(bool(block["mark"]) for block in blocks), silent


def agrees(shown: Sequence[str], printed: Sequence[str]) -> bool:
    """Whether the lines of a page are those of the program; `...` stands for any number of lines, none included."""
    if not shown:
        return not printed
    if shown[0].strip() == _ANY:
        return any(agrees(shown[1:], printed[i:]) for i in range(len(printed) + 1))
    return bool(printed) and shown[0].rstrip() == printed[0].rstrip() and agrees(shown[1:], printed[1:])


def run(command: str, folder: Path) -> list[str]:
    """What a command prints, on both of its outputs, without the sentences about progress."""
    settings = {"NO_COLOR": "1", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "PYTHON": sys.executable}
    done = subprocess.run(
        ["bash", "-c", f'forkwise() {{ "$PYTHON" -m forkwise "$@"; }}\npython() {{ "$PYTHON" "$@"; }}\n{command}'],
        cwd=folder,
        env={**{name: value for name, value in os.environ.items() if name != "COLUMNS"}, **settings},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    lines = [line for line in done.stdout.splitlines() if not _PROGRESS.search(line)]
    return "\n".join(lines).strip("\n").splitlines()


def check_page(page: Path, data: Path | None, *, write: bool = False) -> tuple[int, int, list[str]]:
    """Runs a page's blocks in order.

    Returns:
        How many commands were run, how many blocks were left out for want of data, and a difference for each command
        whose output is another.
    """
    text, ran, left_out, drifts = page.read_text(encoding="utf-8"), 0, 0, []
    renewed = text
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for name in ("examples", "studies"):
            (folder / name).symlink_to(ROOT / name)
        for block in blocks_of(text):
            files = {alias: next(data.rglob(file), None) if data else None for alias, file in block.files.items()}
            if None in files.values():
                left_out += 1
                continue
            for alias, file in files.items():
                if file is not None and not (folder / alias).exists():
                    (folder / alias).parent.mkdir(parents=True, exist_ok=True)
                    (folder / alias).symlink_to(file.resolve())
            said = []
            for command, shown in block.commands:
                printed = run(command, folder)
                ran += 1
                abridged = any(line.strip() == _ANY for line in shown)
                said += [f"$ {command}", *(shown if abridged else printed)]
                if not agrees(shown, printed):
                    lines = difflib.unified_diff(shown, printed, f"{page.name}: {command}", "today", lineterm="")
                    drifts.append("\n".join(lines))
            renewed = renewed.replace(text[block.start : block.end], "\n".join(said) + "\n")
    if write and renewed != text:
        page.write_text(renewed, encoding="utf-8")
    return ran, left_out, drifts


def main(argv: Sequence[str] | None = None) -> int:
    """Checks the pages; 1 if the output of any command is another than its page shows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pages", nargs="*", type=Path, help="default: README.md and all of docs")
    parser.add_argument("--data", type=Path, help="folder of public files that pages name")
    parser.add_argument("--write", action="store_true", help="put today's output into the pages")
    given = parser.parse_args(argv)
    drifted, once = 0, 0
    for page in given.pages or [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]:
        ran, left_out, drifts = check_page(page, given.data, write=given.write)
        drifted += len(drifts)
        if ran or left_out:
            waiting = f", {left_out} blocks left out: they need --data" if left_out else ""
            print(f"{page.name}: {ran} commands, {len(drifts)} print something else{waiting}")
        print("\n".join(drifts), end="\n" if drifts else "")
        marked, silent = printed_once(page.read_text(encoding="utf-8"))
        once += marked
        drifted += len(silent)
        for command in silent:
            print(f"{page.name}: neither repeated nor marked with a reason: {command}")
    print(f"{once} blocks were printed once, and say why they are not repeated.")
    return int(drifted > 0)


if __name__ == "__main__":
    sys.exit(main())
