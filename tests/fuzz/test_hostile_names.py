"""Names, texts and headings full of escape sequences reach no terminal, log or text file through any command."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml
from mutations import command
from rich.table import Table
from rich.text import Text

from forkwise.progress import Console
from forkwise.samples import write_shard
from forkwise.terminal import complain

EVIL = "\x1b]0;pwned\x07\x1b[2J\x9b31m\u202egnp\u2066\u200b\x7f\x00\r[/red][bold]$x^{ \\ 名"
# By the names of the Unicode standard: Cc but tab and line ends, bidirectional controls, and what has no width.
HIDDEN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f]|\r(?!\n)")


@pytest.fixture
def table(tmp_path: Path) -> Path:
    rows = [
        {
            **{"run": f"{run}{EVIL}", "model": EVIL, "problem_id": f"{EVIL}{q}", "sample_id": i, "prompt": EVIL},
            **{"completion": f"Wait, {EVIL} but {i}. So {q}", "answer": EVIL, "correct": (q + i) % 3 > 0},
            **{"verdict_by": EVIL, "n_tokens": 5 + i, "finish_reason": EVIL},
            **{"tokens": ["Wait,", f" {EVIL}", " but", f" {i}", f". So {q}"], "entropies": [0.1, 2.0, 1.0, 0.2, 0.3]},
        }
        for run in ("a", "b")
        for q in range(4)
        for i in range(4)
    ]
    write_shard(tmp_path / "samples", "s", rows)
    return tmp_path


def said(*words: object) -> str:
    """What a command prints, without anything hidden; `command` looks too."""
    text = command(*words)[1]
    assert not HIDDEN.search(text)
    return text


def test_every_command_on_a_table_of_hostile_names(table: Path) -> None:
    samples, few = table / "samples", ("--resamples", 100)
    files = [table / name for name in ("o.csv", "o.json", "o.svg", "c.csv", "c.json", "c.svg", "x/explore.json")]
    options = [["--csv", f, "--json", j, "--figure", g] for f, j, g in (files[:3], files[3:6])]
    assert "⟨U+001B⟩]0;pwned" in said("passk", samples, *few, "--diversity", *options[0])
    assert "⟨U+001B⟩" in said("compare", samples, *few, *options[1])
    assert "⟨U+009B⟩31m" in said("explore", samples, *few, "--out", table / "x")
    assert "⟨U+202E⟩" in said("report", samples, table / "x", "--out", table / "o.html", "--text")
    assert "⟨U+001B⟩" in said("report", table / "c.json", "--out", table / "c.html", "--text")
    assert "⟨U+001B⟩" in said("compare", samples, *few, "--brief")
    for file in files:
        assert not HIDDEN.search(file.read_text(encoding="utf-8")), file
    assert json.loads(files[1].read_text())["single"][0]["arm"] == f"a{EVIL}"  # JSON keeps every name as it is
    assert said("passk", samples, *few, "--json", "-").isascii()


def test_more_commands_on_hostile_texts(table: Path) -> None:
    samples, text = table / "samples", EVIL.replace("\0", "")
    said("plan", samples, "--k", "1,2")
    said("plan", f"a{text}={samples}", "--k", "1")
    said("select", samples, "--rule", text)
    said("forks", samples, "--model", text, "--out", table / "f")
    said("sample", "--model", text, "--task", text, "--out", table / "new")
    said("methods", text)
    file = table / "study.yaml"
    file.write_text(
        yaml.safe_dump({"title": text, "model": "embedded", "arms": {text: {text: 0}, "b": {}}, "seeds": "0-5"})
    )
    for what in ("plan", "register", "analyse"):
        said("study", what, file, "--receipts", table / "receipts")


@pytest.mark.parametrize("trainer", ["grpo", "ppo"])
def test_completions_that_a_training_run_shows(table: Path, trainer: str) -> None:
    """TRL prints the table of `log_completions` by itself."""
    texts = table / "texts.jsonl"
    texts.write_text("".join(json.dumps({"prompt": f"{i} + 1 = {EVIL}", "answer": "7"}) + "\n" for i in range(40)))
    words = "--num_generations 4 --per_device_train_batch_size 4 --max_completion_length 4 --max_steps 1 --use_cpu true"
    run = [
        trainer,
        "--model",
        "embedded",
        "--dataset",
        str(texts),
        "--output_dir",
        str(table / trainer),
        *words.split(),
    ]
    done = subprocess.run(
        [sys.executable, "-m", "forkwise", *run, "--log_completions", "true", "--report_to", "none"],
        capture_output=True,
        check=False,
        env={**_environment(), "PYTHONIOENCODING": "utf-8"},
    )
    printed = (done.stdout + done.stderr).decode()
    assert done.returncode == 0, printed[-2000:]
    assert "Completion" in printed  # TRL's table
    assert "⟨U+001B⟩" in printed
    assert not HIDDEN.search(printed)


def test_what_is_wrong_with_hostile_names_is_said_without_them(table: Path) -> None:
    gold = table / "gold.jsonl"
    gold.write_text(json.dumps({"id": "x", "answer": "1"}) + "\n")
    samples = table / "samples"
    assert "No problem of" in said("verify", samples, "--answers", gold, "--verifier", "exact")
    assert "has no column" in said("verify", samples, "--gold-column", EVIL.replace("\0", ""), "--verifier", "exact")
    evil = table / re.sub("[/\0]", "", f"{EVIL}.jsonl")
    record = {"problem_id": EVIL, "completion": EVIL, "correct": True, EVIL: EVIL}
    evil.write_text(json.dumps(record) + "\n")
    assert "⟨U+001B⟩" in said("import", evil, "--out", table / "new", "--run", EVIL)
    assert "already" in said("import", evil, "--out", table / "new", "--run", EVIL)
    evil.write_text(json.dumps({EVIL: 1}) + "\n")
    assert "its fields are" in said("import", evil, "--out", table / "new2")
    pq.write_table(
        pq.read_table(samples).rename_columns([EVIL, *pq.read_table(samples).column_names[1:]]), table / "b.parquet"
    )
    assert "has no column 'key'" in said("verify", table / "b.parquet", "--gold-column", "key", "--verifier", "exact")
    said("compare", f"{EVIL}={samples}", f"b={samples}", "--k", "99")
    run = table / "run"
    run.mkdir()
    (run / "run.yaml").write_text(json.dumps({"alpha": EVIL}))
    assert "which is no number" in said("doctor", "run", run)
    (run / "metrics.jsonl").write_text('{"step": 1, "loss": 1.0}\n')
    (run / "results.json").write_text(json.dumps({"verdict": EVIL, "settings": {"title": EVIL}}))
    assert "pwned" in said("report", run, "--out", table / "o.html", "--text")


def test_a_console_measures_what_it_prints() -> None:
    file = io.StringIO()
    table = Table()
    table.add_column("\x1b[2Jname")
    table.add_row("\x1b[31m")
    table.add_row(Text("\u202eab"))
    console = Console(file=file, width=60)
    console.print(table)
    console.print(Text("\x1b]0;x\x07"), "\x9b", markup=False)
    lines = file.getvalue().splitlines()
    assert not HIDDEN.search(file.getvalue())
    assert "⟨U+001B⟩[31m" in file.getvalue()
    assert len({len(line) for line in lines[:4]}) == 1


def test_on_a_terminal_only_richs_own_sequences_remain() -> None:
    file = io.StringIO()
    console = Console(file=file, width=60, force_terminal=True, color_system="standard")
    console.print("[bold]\x1b[31mx[/bold]", highlight=False)
    assert file.getvalue() == "\x1b[1m⟨U+001B⟩[31mx\x1b[0m\n"


def test_an_error_is_one_line_and_of_bounded_length(capsys: pytest.CaptureFixture[str]) -> None:
    complain("two\nlines \x1b[2J " + "x" * 100_000)
    error = capsys.readouterr().err
    assert error.startswith("forkwise: two lines ⟨U+001B⟩[2J xxx")
    assert error.count("\n") == 1
    assert len(error) < 2100


def test_what_libraries_log_or_warn_of_is_visible_and_any_terminal_can_print_it() -> None:
    code = (
        "import logging, warnings, sys; sys.path[:0] = []\n"
        "from forkwise.terminal import echo, guard_libraries\n"
        "guard_libraries(); logging.warning('%s', '\\x1b[2J'); warnings.warn('\\x1b]0;x'); echo('é\\ud800')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        check=True,
        env={"PYTHONIOENCODING": "ascii", **_environment()},
    )
    assert not HIDDEN.search(done.stderr.decode())
    assert done.stderr.count(b"U+001B") == 2
    assert done.stdout == b"\\xe9\\u27e8U+D800\\u27e9\n"


def _environment() -> dict[str, str]:
    import os

    return dict(os.environ)


def test_no_module_prints_past_the_one_way_out() -> None:
    source = Path(__file__).parent.parent.parent / "src" / "forkwise"
    past = re.compile(
        r"(?<![\w.])print\(|rich\.console import .*\bConsole\b|sys\.std(out|err)\.write|yaml\.(safe_)?load\("
    )
    files_before = [
        f"{path.name}: {line.strip()}"
        for path in source.rglob("*.py")
        if path.name != "terminal.py"
        for line in path.read_text(encoding="utf-8").splitlines()
        if past.search(line) and "noqa" not in line
    ]
    assert files_before == []
