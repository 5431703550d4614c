"""The samples table on disk: a folder of Parquet shards, each written whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset as pads
import pyarrow.parquet as pq

from forkwise.errors import InputError

SCHEMA = pa.schema(
    [
        pa.field("run", pa.string(), nullable=False),
        pa.field("model", pa.string(), nullable=False),
        pa.field("problem_id", pa.string(), nullable=False),
        pa.field("sample_id", pa.int64(), nullable=False),
        pa.field("prompt", pa.string()),
        pa.field("completion", pa.string()),
        pa.field("answer", pa.string()),
        pa.field("correct", pa.bool_()),  # null: no verdict yet, which is not "wrong"
        pa.field("verdict_by", pa.string()),
        pa.field("n_tokens", pa.int64()),
        pa.field("finish_reason", pa.string()),  # "stop" or "length"
        pa.field("seed", pa.int64()),
        pa.field(
            "sampling",
            pa.struct(
                [
                    pa.field("temperature", pa.float64()),
                    pa.field("top_p", pa.float64()),
                    pa.field("max_tokens", pa.int64()),
                ]
            ),
        ),
    ]
)
"""Columns of the samples table; `(run, problem_id, sample_id)` identifies a row."""


def write_shard(folder: Path, name: str, rows: Sequence[Mapping[str, Any]]) -> Path:
    """Writes `rows` as `folder/name.parquet`: to a temporary file, flushed to disk, then renamed into place.

    A kill at any moment leaves either no shard or a whole one.
    """
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"{name}.parquet"
    partial = folder / f".{name}.{os.getpid()}.tmp"
    try:
        with partial.open("wb") as file:
            pq.write_table(pa.Table.from_pylist(list(rows), schema=SCHEMA), file, compression="zstd")
            file.flush()
            os.fsync(file.fileno())
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)
    return target


def read_samples(path: Path, columns: Sequence[str] | None = None) -> pa.Table:
    """The samples of one shard or of a folder of shards, ordered by run, problem and sample.

    Raises:
        InputError: nothing there, not Parquet, columns missing, or the same sample twice.
    """
    shards = sorted(path.glob("*.parquet")) if path.is_dir() else [path] if path.exists() else []
    if not shards:
        raise InputError(f"There are no samples at '{path}': give a Parquet file or a folder of them.")
    keys = ["run", "problem_id", "sample_id"]
    wanted = list(dict.fromkeys([*keys, *(columns or SCHEMA.names)]))
    try:
        table = pads.dataset([str(s) for s in shards], format="parquet").to_table(columns=wanted)
    except (pa.ArrowInvalid, OSError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"'{path}' is not a samples table, or was cut off: {reason}") from error
    table = table.sort_by([(key, "ascending") for key in keys])
    distinct = table.group_by(keys).aggregate([])
    if distinct.num_rows != table.num_rows:
        raise InputError(
            f"'{path}' holds {table.num_rows - distinct.num_rows} samples twice (same run, problem_id and sample_id): "
            "remove the copies, or give different runs different names."
        )
    return table.select(list(columns or SCHEMA.names))
