"""The samples table: what is written comes back, and a broken writer leaves nothing behind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from forkwise.errors import InputError
from forkwise.samples import SCHEMA, read_samples, write_shard


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
    with pytest.raises(InputError, match="1 samples twice"):
        read_samples(tmp_path)
