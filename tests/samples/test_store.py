"""The samples table: what is written comes back, and a broken writer leaves nothing behind."""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from forkwise.errors import InputError
from forkwise.samples import SCHEMA, read_samples, write_shard
from forkwise.samples.store import ShardWriter, count_words


def row(problem: str, sample: int, **other: Any) -> dict[str, Any]:
    return {"run": "r", "model": "m", "problem_id": problem, "sample_id": sample, **other}


def test_round_trip_keeps_order_and_nulls(tmp_path: Path) -> None:
    write_shard(tmp_path, "b", [row("p2", 0, correct=None), row("p1", 1, correct=True)])
    write_shard(tmp_path, "a", [row("p1", 0, correct=False, sampling={"temperature": 1.0})])
    table = read_samples(tmp_path)
    assert table.column_names == SCHEMA.names
    assert table["problem_id"].to_pylist() == ["p1", "p1", "p2"]
    assert table["correct"].to_pylist() == [False, True, None]
    assert table["sampling"].to_pylist()[0] == {"temperature": 1.0, "top_p": None, "max_tokens": None}
    # Another tool reads it without us.
    assert pq.read_table(tmp_path / "a.parquet")["sample_id"].to_pylist() == [0]


def test_a_writer_that_fails_leaves_no_shard(tmp_path: Path) -> None:
    write_shard(tmp_path, "a", [row("p1", 0)])
    with pytest.raises(Exception, match="sample_id|int|convert"):
        write_shard(tmp_path, "b", [row("p1", "not a number")])  # type: ignore[arg-type]
    assert [f.name for f in tmp_path.iterdir()] == ["a.parquet"]
    assert read_samples(tmp_path).num_rows == 1


def test_refusals(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no samples at"):
        read_samples(tmp_path)
    with pytest.raises(InputError, match="no samples at"):
        read_samples(tmp_path / "absent.parquet")
    whole = write_shard(tmp_path, "a", [row("p1", 0)])
    cut = tmp_path / "cut.parquet"
    cut.write_bytes(whole.read_bytes()[:-20])
    with pytest.raises(InputError, match="not a samples table, or was cut off"):
        read_samples(cut)
    cut.unlink()
    write_shard(tmp_path, "b", [row("p1", 0)])
    with pytest.raises(InputError, match="1 sample twice"):
        read_samples(tmp_path)
    with pytest.raises(InputError, match="no column 'corect'"):
        read_samples(tmp_path, ["corect"])
    write_shard(tmp_path / "file", "a", [])
    with pytest.raises(InputError, match=r"cannot be written: (File exists|Not a directory)"):
        write_shard(tmp_path / "file" / "a.parquet", "b", [])


def test_another_tools_parquet_is_named_as_such(tmp_path: Path) -> None:
    pq.write_table(pa.table({"question": ["1+1"], "run": ["r"]}), tmp_path / "other.parquet")
    with pytest.raises(InputError, match="lacks model, problem_id, sample_id: turn it into one with forkwise import"):
        read_samples(tmp_path)


def test_token_columns_come_back_and_are_null_where_a_shard_lacks_them(tmp_path: Path) -> None:
    tokens = {
        "token_ids": [5, 7],
        "tokens": ["a", "b"],
        "logprobs": [-0.5, None],
        "entropies": [1.25, 0.0],
        "top_logprobs": [[{"token": "a", "logprob": -0.5}, {"token": "c", "logprob": -2.0}], []],
    }
    write_shard(tmp_path, "a", [row("p", 0, **tokens), row("p", 1)])
    old = pa.Table.from_pylist([row("p", 2)], schema=pa.schema([f for f in SCHEMA if f.name not in tokens]))
    pq.write_table(old, tmp_path / "0-old.parquet")  # as written before these columns existed
    rows = read_samples(tmp_path).to_pylist()
    assert {name: rows[0][name] for name in tokens} == tokens
    assert all(rows[i][name] is None for name in tokens for i in (1, 2))
    assert read_samples(tmp_path, ["logprobs"]).column_names == ["logprobs"]


def test_only_the_columns_asked_for_are_read(tmp_path: Path) -> None:
    """A file whose completions are destroyed still gives its verdicts."""
    # A column that no encoding makes small, so that its pages fill the middle of the file.
    noise = random.Random(0)
    rows = [row("p", i, correct=i % 2 == 0, completion=noise.randbytes(5000).hex()) for i in range(200)]
    shard = write_shard(tmp_path, "a", rows)
    column = pq.ParquetFile(shard).metadata.row_group(0).column(SCHEMA.names.index("completion"))
    with shard.open("r+b") as file:
        file.seek(column.dictionary_page_offset or column.data_page_offset)
        file.write(b"\x00" * column.total_compressed_size)
    assert sum(read_samples(shard, ["correct"])["correct"].to_pylist()) == 100
    with pytest.raises(InputError, match="not a samples table, or was cut off"):
        read_samples(shard, ["completion"])


def test_a_generator_of_any_length_is_written_in_batches(tmp_path: Path) -> None:
    alive = 0
    most = 0

    class Text(str):
        def __del__(self) -> None:
            nonlocal alive
            alive -= 1

    def rows() -> Any:
        nonlocal alive, most
        for i in range(5000):
            alive += 1
            most = max(most, alive)
            yield row("p", i, completion=Text(i))

    shard = write_shard(tmp_path, "a", rows())
    assert read_samples(shard, ["completion"]).num_rows == 5000
    assert most <= 2100  # two batches of 1,024, not 5,000


def test_long_completions_make_smaller_batches(tmp_path: Path) -> None:
    shard = write_shard(tmp_path, "a", (row("p", i, completion="x" * (1 << 20)) for i in range(40)))
    assert pq.ParquetFile(shard).num_row_groups == 3  # of 16, 16 and 8 million characters


KILLED = """
import sys
from pathlib import Path
from forkwise.samples.store import write_shard
print("ready", flush=True)
for i in range(100_000):
    rows = [{"run": "r", "model": "m", "problem_id": str(i), "sample_id": j, "completion": "x"} for j in range(40)]
    write_shard(Path(sys.argv[1]), f"{i:06}", rows)
"""


@pytest.mark.skipif(os.name != "posix", reason="SIGKILL is POSIX")
def test_a_kill_at_any_moment_leaves_only_whole_shards(tmp_path: Path) -> None:
    moments = random.Random(0)
    leftovers = 0
    for _ in range(4):
        process = subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path)], stdout=subprocess.PIPE)
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(moments.uniform(0.02, 0.3))
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        leftovers += len(list(tmp_path.glob("*.forkwise-tmp"))) + len(list(tmp_path.glob(".*.forkwise-tmp")))
        shards = list(tmp_path.glob("*.parquet"))
        assert all(pq.read_metadata(shard).num_rows == 40 for shard in shards)
        if shards:
            assert read_samples(tmp_path).num_rows == 40 * len(shards)
    assert len(shards) > 0
    write_shard(tmp_path, "after", [row("p", 0)])
    assert not list(tmp_path.glob(".*.forkwise-tmp"))


@pytest.mark.skipif(os.name != "posix", reason="process ids are looked up by POSIX means")
def test_the_next_writer_removes_what_killed_writers_left(tmp_path: Path) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    here = socket.gethostname()
    of_the_dead = tmp_path / f".a.{here}.{gone.pid}.forkwise-tmp"
    of_the_living = tmp_path / f".b.{here}.{os.getpid()}.forkwise-tmp"
    elsewhere = tmp_path / f".c.other-machine.{gone.pid}.forkwise-tmp"
    long_ago = tmp_path / ".d.other-machine.1.forkwise-tmp"
    not_ours = tmp_path / ".editor.tmp"
    for file in (of_the_dead, of_the_living, elsewhere, long_ago, not_ours):
        file.write_text("")
    os.utime(long_ago, (0, 0))
    write_shard(tmp_path, "a", [row("p", 0)])
    assert not of_the_dead.exists()
    assert not long_ago.exists()
    assert of_the_living.exists()
    assert elsewhere.exists()
    assert not_ours.exists()


def test_a_failed_writer_removes_the_folder_that_it_made(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), ShardWriter(tmp_path / "new", "a"):
        raise RuntimeError
    assert not (tmp_path / "new").exists()


QUERY = """
    SELECT run, problem_id, count(*) AS n, count(*) FILTER (correct) AS c, count(*) FILTER (correct IS NULL) AS unscored
    FROM '{}/*.parquet' GROUP BY ALL ORDER BY ALL
"""


def example(tmp_path: Path) -> None:
    write_shard(tmp_path, "a", [row("p1", i, correct=i > 0, logprobs=[-0.5]) for i in range(3)])
    write_shard(tmp_path, "b", [row("p2", 0, correct=None, sampling={"temperature": 0.6})])


def test_duckdb_reads_it_without_us(tmp_path: Path) -> None:
    duckdb = pytest.importorskip("duckdb", reason="duckdb is not installed")
    example(tmp_path)
    assert duckdb.sql(QUERY.format(tmp_path)).fetchall() == [("r", "p1", 3, 2, 0), ("r", "p2", 1, 0, 1)]


def test_pandas_reads_it_without_us(tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas", reason="pandas is not installed")
    example(tmp_path)
    assert pandas.read_parquet(tmp_path).groupby("problem_id")["sample_id"].count().to_dict() == {"p1": 3, "p2": 1}


def test_datasets_reads_it_without_us(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets", reason="datasets is not installed")
    example(tmp_path)
    files = str(tmp_path / "*.parquet")
    loaded = datasets.load_dataset("parquet", data_files=files, split="train", cache_dir=str(tmp_path / "cache"))
    assert loaded["correct"] == [False, True, True, None]
    assert loaded[3]["sampling"]["temperature"] == 0.6


def test_words_are_counted_in_the_order_in_which_samples_are_read(tmp_path: Path) -> None:
    texts = {("p2", 1): "a b  c\nd", ("p1", 0): "", ("p2", 0): " one ", ("p1", 1): None}
    for i, ((problem, sample), text) in enumerate(texts.items()):  # shards in another order than the samples
        write_shard(tmp_path, f"{i}", [row(problem, sample, completion=text)])
    assert read_samples(tmp_path, ["completion"])["completion"].to_pylist() == ["", None, " one ", "a b  c\nd"]
    assert count_words(tmp_path).to_pylist() == [0, None, 1, 4]
