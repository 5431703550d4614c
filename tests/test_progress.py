"""Where there is no terminal, long work says in sentences how far it is, also while it is silent."""

from __future__ import annotations

import importlib
import io
import re
import time

import pytest
from rich.console import Console

from forkwise import cli, progress
from forkwise.errors import InputError
from forkwise.progress import Meter, watch


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr("forkwise.progress.time.monotonic", lambda: now[0])
    return now


def test_a_sentence_has_phase_share_rate_and_time_left(clock: list[float]) -> None:
    file = io.StringIO()
    with Meter(1000, 200, Console(file=file, width=40), "sampling (2 of 3)") as meter:
        meter.add(tokens=500)
        clock[0] += 40
        meter.add(samples=100, tokens=1500)  # 2,000 tokens and 100 samples in 40 s: 700 more take 280 s
        clock[0] += 9
        meter.add(samples=1)  # not yet
    assert file.getvalue().splitlines() == [
        "200 of 1,000 samples are there already.",
        "Sampling (2 of 3): 300 of 1,000 samples are done (30 %), 50 tokens/s, about 5 min left.",
    ]


def test_slow_work_has_a_rate_too_and_a_note(clock: list[float]) -> None:
    file = io.StringIO()
    with Meter(8, 0, Console(file=file, width=40), "training", "steps") as meter:
        clock[0] += 10
        meter.reach(0)
        clock[0] += 10
        meter.reach(5, "2 runs at work [1]")
    assert file.getvalue().splitlines() == [
        "Training: 0 of 8 steps are done (0 %), 10 s so far.",
        "Training: 5 of 8 steps are done (62 %), 0.25 steps/s, about 12 s left; 2 runs at work [1].",
    ]


def test_it_speaks_while_the_work_is_silent_and_stops_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "_SAY_EVERY", 0.2)
    file = io.StringIO()
    with Meter(None, 0, Console(file=file), "loading the model"):
        deadline = time.monotonic() + 20
        while len(file.getvalue().splitlines()) < 2 and time.monotonic() < deadline:
            time.sleep(0.05)
    said = file.getvalue().splitlines()
    assert len(said) >= 2
    assert all(re.fullmatch(r"Loading the model: \d+ s so far\.", line) for line in said)
    time.sleep(0.5)
    assert file.getvalue().splitlines() == said


def test_a_terminal_has_a_bar_and_no_sentences(clock: list[float]) -> None:
    file = io.StringIO()
    with Meter(4, 0, Console(file=file, width=120, force_terminal=True), "sampling [1]") as meter:
        clock[0] += 60
        meter.reach(1, "note [2]")
        meter._bar.refresh()
    assert "sampling [1]" in file.getvalue()
    assert "1/4" in file.getvalue()
    assert "25%" in file.getvalue()
    assert "note [2]" in file.getvalue()
    assert "are done" not in file.getvalue()


def test_a_phase_of_longer_work_counts_its_items_and_then_the_work_goes_on(clock: list[float]) -> None:
    file = io.StringIO()
    with Meter(2, 0, Console(file=file, width=40), "importing", "files") as meter:
        taken = []
        for number in watch(range(100, 104), "reading [a]", "records"):
            taken.append(number)
            clock[0] += 6
        clock[0] += 10
        meter.reach(1)
        for _ in watch(iter("abc"), "reading b", "kB", 100, lambda: 10 * len(taken)):
            taken.append(0)
            clock[0] += 10
    assert taken == [100, 101, 102, 103, 0, 0, 0]
    assert file.getvalue().splitlines() == [
        # The clock stands at 12 s when the second of four is done, at 24 s when all are.
        "Importing, reading [a]: 2 of 4 records are done (50 %), 0.17 records/s, about 12 s left.",
        "Importing, reading [a]: 4 of 4 records are done (100 %), 0.17 records/s, about 0 s left.",
        # 34 s, one of two files.
        "Importing: 1 of 2 files are done (50 %), 0.029 files/s, about 34 s left.",
        # 50 kB in 10 s, 60 in 20, 70 in 30: the rest at the same rate.
        "Importing, reading b: 50 of 100 kB are done (50 %), 5 kB/s, about 10 s left.",
        "Importing, reading b: 60 of 100 kB are done (60 %), 3 kB/s, about 13 s left.",
        "Importing, reading b: 70 of 100 kB are done (70 %), 2.3 kB/s, about 13 s left.",
    ]


def test_without_a_meter_a_phase_passes_its_items_on_in_silence(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(watch(iter("ab"), "reading", "kB")) == ["a", "b"]
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("module", "slow", "words", "said"),
    [
        ("forkwise.passk.planning", "plan_study", ["plan", "--components", "x.yaml"], "Planning (2 of 2): "),
        ("forkwise.passk.arguments", "parse_arm", ["plan", "x.jsonl"], "Reading the pilot (1 of 2): "),
        ("forkwise.study.reading", "read_study", ["study", "plan", "x.yaml"], "Checking the study (1 of 2): "),
        ("forkwise.study.reading", "read_study", ["study", "register", "x.yaml"], "Checking the study: "),
        ("forkwise.study.reading", "read_study", ["study", "run", "x.yaml", "--out", "x"], "Checking the study: "),
        ("forkwise.study.analysis", "read_study_folder", ["study", "analyse", "x"], "Reading and comparing receipts: "),
        ("forkwise.explore.selection", "select", ["select", "x", "--out", "y"], "Choosing solutions: "),
        ("forkwise.tasks", "load_task", ["verl-data", "countdown", "--out", "x.parquet"], "Reading and writing probl"),
    ],
)
def test_commands_that_compute_long_say_so(
    module: str,
    slow: str,
    words: list[str],
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Each is held up for longer than it may be silent."""

    def hold(*_: object, **__: object) -> None:
        time.sleep(0.5)
        raise InputError("That is enough.")

    if words[0] == "study" and words[1] != "analyse":
        pytest.importorskip("trl")  # `study run` and `plan` import what they check with
    monkeypatch.setattr(progress, "_SAY_EVERY", 0.1)
    monkeypatch.setattr(importlib.import_module(module), slow, hold)
    with pytest.raises(SystemExit) as ended:
        cli.run(words)
    assert ended.value.code == 2
    assert said in capsys.readouterr().err
