"""Files appear whole or not at all, whatever the disk does, and two processes lose nothing of each other."""

from __future__ import annotations

import contextlib
import json
import math
import multiprocessing
import os
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from forkwise.errors import InputError
from forkwise.folders import is_held, only_process, whole_file, write_bytes, write_json, write_text
from forkwise.folders.metrics import metrics_file, read_metrics
from forkwise.folders.results import Input, inputs_of, result_text
from forkwise.samples import read_samples, write_shard

FORKWISE = [sys.executable, "-m", "forkwise"]


def rows(run: str, n: int = 8) -> list[dict[str, object]]:
    return [
        {"run": run, "model": "m", "problem_id": f"p{i // 4}", "sample_id": i % 4, "prompt": "q", "answer": str(i % 3),
         "completion": f"it is {i % 3}, " * 9, "correct": i % 3 == 0, "n_tokens": 9, "tokens": None}
        for i in range(n)
    ]  # fmt: skip


def names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


# ---- whole files


def test_a_file_appears_at_the_end_of_the_block_and_keeps_its_mode(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.txt"
    with whole_file(path) as file:
        file.write(b"one")
        assert not path.exists()
    assert path.read_bytes() == b"one"
    path.chmod(0o640)
    write_bytes(path, b"two")
    assert (path.read_bytes(), path.stat().st_mode & 0o777) == (b"two", 0o640)
    assert names(tmp_path) == ["new", "new/a.txt"]


def test_a_block_that_fails_leaves_everything_as_it_was(tmp_path: Path) -> None:
    write_text(tmp_path / "a", "before")

    def fail(path: Path) -> None:
        with whole_file(path) as file:
            file.write(b"half")
            raise KeyError

    for path in (tmp_path / "a", tmp_path / "new" / "below" / "b"):
        with pytest.raises(KeyError):
            fail(path)
    assert (tmp_path / "a").read_text() == "before"
    assert names(tmp_path) == ["a"]


def test_links_are_followed_and_devices_written_to(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "target")
    write_text(tmp_path / "link", "x")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "target").read_text() == "x"
    write_text(Path("/dev/null"), "x")
    assert not Path("/dev/null").is_file()
    os.mkfifo(tmp_path / "pipe")
    with subprocess.Popen(["cat", str(tmp_path / "pipe")], stdout=subprocess.PIPE) as reader:
        write_text(tmp_path / "pipe", "through")
        assert reader.communicate()[0] == b"through"


def test_what_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("precious")
    for path, reason in {
        tmp_path: "Is a directory",
        tmp_path / "file" / "below": "Not a directory",
        tmp_path / ("x" * 300): "File name too long",
        Path("/dev/full"): "No space left on device",
    }.items():
        with pytest.raises(InputError, match=reason) as caught:
            write_text(path, "x" * 100_000)
        assert str(path) in str(caught.value)
    if os.geteuid():  # root may write anywhere
        (tmp_path / "file").chmod(0o400)
        with pytest.raises(InputError, match="Permission denied"):
            write_text(tmp_path / "file", "x")
    assert (tmp_path / "file").read_text() == "precious"
    assert names(tmp_path) == ["file"]


def test_json_is_strict_ascii_and_reads_back_as_it_was(tmp_path: Path) -> None:
    content = {"\x1b[2J\x7f\x9b\u202e é \ud800": [0.1, None, "\x00"]}
    write_json(tmp_path / "a.json", content)
    data = (tmp_path / "a.json").read_bytes()
    assert json.loads(data) == content
    assert all(32 <= byte < 127 or byte == 10 for byte in data)


# ---- full disks: a limit on the size of files, a device that is full, and where it may be mounted a small disk


MANY = """
import io, json, resource, sys, traceback
from forkwise import cli
done = []
for words, limit in json.loads(sys.argv[1]):
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    sys.stdout, sys.stderr = io.StringIO(), io.StringIO()
    try:
        cli.run(words)
    except SystemExit as error:
        done.append([error.code, sys.stderr.getvalue()])
    except BaseException:
        done.append([-1, traceback.format_exc()])
print(json.dumps(done), file=sys.__stdout__)
"""


def in_one_process(folder: Path, commands: list[list[str]], limit: int = resource.RLIM_INFINITY) -> list[str]:
    """What commands that must fail with exit code 2 say; files can have `limit` bytes."""
    argument = json.dumps([[words, limit] for words in commands])
    done = subprocess.run([sys.executable, "-c", MANY, argument], cwd=folder, capture_output=True, check=True)
    said = []
    for words, (code, text) in zip(commands, json.loads(done.stdout), strict=True):
        assert code == 2, (words, text)
        (line,) = [line for line in text.splitlines() if line.startswith("forkwise: ")]
        said.append(line)
    return said


@pytest.fixture
def table(tmp_path: Path) -> Path:
    write_shard(tmp_path / "samples", "a", rows("r", 40))
    (tmp_path / "gold.jsonl").write_text("".join(json.dumps({"id": f"p{i}", "answer": "0"}) + "\n" for i in range(10)))
    (tmp_path / "null.html").symlink_to("/dev/null")
    lines = [{"problem_id": f"p{i}", "completion": os.urandom(300).hex(), "correct": True} for i in range(200)]
    (tmp_path / "plain.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return tmp_path


WRITERS = {
    "json": ["passk", "samples", "--json", "out/o.json"],
    "csv": ["passk", "samples", "--csv", "out/o.csv"],
    "png": ["passk", "samples", "--figure", "out/o.png"],
    "compare": ["compare", "a=samples", "b=samples", "--json", "out/o.json"],
    "compare-svg": ["compare", "a=samples", "b=samples", "--figure", "out/o.svg"],
    "explore": ["explore", "samples", "--out", "out"],
    "report": ["report", "samples", "--out", "out/o.html"],
    "report-figures": ["report", "samples", "--out", "null.html", "--figures", "out"],
    "import": ["import", "plain.jsonl", "--out", "out"],
    "verify": ["verify", "samples", "--answers", "gold.jsonl", "--verifier", "exact", "--force"],
}


def test_a_disk_that_fills_up_costs_one_sentence_and_no_file(table: Path) -> None:
    few = {"passk", "compare", "explore"}
    words = [[*w, *(["--resamples", "100"] if w[0] in few else [])] for w in WRITERS.values()]
    before = {path: path.read_bytes() for path in table.rglob("*") if path.is_file()}
    for said, name in zip(in_one_process(table, words, 1500), WRITERS, strict=True):
        assert "File too large" in said, (name, said)
    assert names(table) == sorted(["null.html", "samples", *(str(path.relative_to(table)) for path in before)])
    assert {path: path.read_bytes() for path in before} == before


@pytest.mark.slow
def test_a_disk_that_fills_up_while_samples_are_drawn_keeps_what_was_drawn(table: Path) -> None:
    pytest.importorskip("transformers")
    words = ["sample", "--model", "embedded", "--task", "countdown", "--problems", "2", "-n", "4", "--out", "out"]
    (said,) = in_one_process(table, [words], 1500)
    assert "File too large" in said
    assert names(table / "out") == ["sampling.json"]


def test_a_full_standard_output_is_one_sentence(table: Path) -> None:
    with open("/dev/full", "w") as full:
        for words in (["passk", "samples", "--resamples", "100"], ["--version"]):
            done = subprocess.run([*FORKWISE, *words], cwd=table, stdout=full, stderr=subprocess.PIPE, check=False)
            assert done.returncode == 2
            assert done.stderr.decode().startswith("forkwise: The standard output")
            assert b"Traceback" not in done.stderr


@contextlib.contextmanager
def small_disk(place: Path, kib: int) -> Iterator[None]:
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={kib}k", "tmpfs", str(place)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("a disk may not be mounted here")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def test_a_real_disk_that_is_full(table: Path) -> None:
    if os.geteuid():
        pytest.skip("only root may mount a disk")
    disk = table / "disk"
    with small_disk(disk, 48):
        write_text(disk / "o.csv", "what was there")
        with contextlib.suppress(OSError), (disk / "filler").open("ab", buffering=0) as filler:
            while True:
                filler.write(b"\0" * 512)
        outputs = {"o.csv": "--csv", "o.json": "--json", "o.png": "--figure", "o.svg": "--figure"}
        words = [["passk", "samples", "--resamples", "100", option, f"disk/{n}"] for n, option in outputs.items()]
        for said, name in zip(in_one_process(table, words), outputs, strict=True):
            assert said == f"forkwise: 'disk/{name}' cannot be written: No space left on device."
        assert names(disk) == ["filler", "o.csv"]
        assert (disk / "o.csv").read_text() == "what was there"


# ---- two processes


def test_a_folder_is_held_against_a_second_process_and_let_go(tmp_path: Path) -> None:
    folder = tmp_path / "new"
    with only_process(folder):
        assert is_held(folder)
        with pytest.raises(InputError, match="Another process is writing to"), only_process(folder):
            pass
        assert is_held(folder)  # the one that was refused removed nothing
    assert names(tmp_path) == []  # made for nothing
    with only_process(folder):
        (folder / "kept").write_text("")
    assert names(tmp_path) == ["new", "new/kept"]
    assert not is_held(folder)


def _count(folder: Path, times: int) -> None:
    for _ in range(times):
        while True:
            with contextlib.suppress(InputError), only_process(folder):
                number = int((folder / "n").read_text())
                time.sleep(0.001)
                (folder / "n").write_text(str(number + 1))
                break


def test_no_two_processes_are_ever_inside_though_the_lock_file_comes_and_goes(tmp_path: Path) -> None:
    (tmp_path / "n").write_text("0")
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=_count, args=(tmp_path, 60)) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert (tmp_path / "n").read_text() == "240"


def test_two_imports_at_once_of_files_with_one_name_lose_no_shard(tmp_path: Path) -> None:
    # Held where both have read the folder and neither has written: the moment in which the shard was lost.
    for name in ("d1", "d2"):
        (tmp_path / name).mkdir()
        lines = [{"problem_id": f"p{i}", "completion": "x" * 99, "correct": True} for i in range(3000)]
        (tmp_path / name / "results.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    for _ in range(2):
        processes = [
            subprocess.Popen(
                [*FORKWISE, "import", f"d{i}/results.jsonl", "--out", "out", "--run", f"r{i}"],
                cwd=tmp_path,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
            )
            for i in (1, 2)
        ]
        said = [process.communicate(timeout=120)[1].decode() for process in processes]
        done = [f"r{i}" for i, process in zip((1, 2), processes, strict=True) if process.returncode == 0]
        assert done, said
        assert sorted(set(read_samples(tmp_path / "out", ["run"])["run"].to_pylist())) == done
        for text, process in zip(said, processes, strict=True):
            assert process.returncode in (0, 2)
            assert not process.returncode or "Another process is writing to 'out'" in text
        for path in (tmp_path / "out").iterdir():
            path.unlink()


def test_an_import_waits_for_no_one_and_writes_nothing_beside_another(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"problem_id": "p", "completion": "x", "correct": true}\n')
    write_shard(tmp_path / "out", "a", rows("r"))
    with only_process(tmp_path / "out"):
        done = subprocess.run(
            [*FORKWISE, "import", "a.jsonl", "--out", "out"], cwd=tmp_path, capture_output=True, text=True, check=False
        )
    assert (done.returncode, done.stderr.count("forkwise: Another process is writing")) == (2, 1)
    assert names(tmp_path / "out") == ["a.parquet"]
    assert pq.read_metadata(tmp_path / "out" / "a.parquet").num_rows == 8


def test_inputs_are_named_with_the_sha256_of_their_bytes(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    (tmp_path / "b").write_bytes(b"a" * 1_000_000)
    # FIPS 180-2, appendices B.1 and B.3.
    assert inputs_of([tmp_path / "a", tmp_path / "b", tmp_path / "a"]) == [
        Input(str(tmp_path / "a"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"),
        Input(str(tmp_path / "b"), "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0"),
    ]
    with pytest.raises(InputError, match="cannot be read"):
        inputs_of([tmp_path / "nowhere"])


@dataclass
class _Found:
    a: list[float]
    schema: int = 1


def test_numbers_that_are_none_become_null() -> None:
    assert json.loads(result_text(_Found([math.nan, math.inf, 1.0]))) == {"a": [None, None, 1.0], "schema": 1}


def test_metrics_are_ours_or_those_of_the_trainers_newest_state(tmp_path: Path) -> None:
    assert (read_metrics(tmp_path), metrics_file(tmp_path)) == ([], None)
    for step, loss in ((9, 0.9), (10, 0.1)):
        (tmp_path / f"checkpoint-{step}").mkdir()
        history = [{"step": step, "loss": loss}, {"step": 2, "loss": 0.5}, {"step": 2, "eval_loss": 0.7}, {"loss": 1}]
        (tmp_path / f"checkpoint-{step}" / "trainer_state.json").write_text(json.dumps({"log_history": history}))
    (tmp_path / "checkpoint-11").mkdir()  # just being written
    (tmp_path / "checkpoint-best").mkdir()
    assert read_metrics(tmp_path) == [{"step": 2, "loss": 0.5, "eval_loss": 0.7}, {"step": 10, "loss": 0.1}]
    (tmp_path / "trainer_state.json").write_text('{"log_history": [{"step": 12, "loss": NaN}]}')
    assert [row["step"] for row in read_metrics(tmp_path)] == [12]
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "loss": 0.0}\n{"step": 2, "lo')
    assert read_metrics(tmp_path) == [{"step": 1, "loss": 0.0}]


def test_a_result_says_which_numerical_packages_made_it() -> None:
    import platform

    import numpy as np
    import scipy

    @dataclass(frozen=True)
    class Measured:
        schema: int
        forkwise: str
        value: float

    content = json.loads(result_text(Measured(1, "0.1", 2.0)))
    assert list(content) == ["schema", "forkwise", "versions", "value"]
    expected = {"python": platform.python_version(), "numpy": np.__version__, "scipy": scipy.__version__}
    assert content["versions"] == expected
