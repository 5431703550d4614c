"""The samples table on disk: a folder of Parquet shards, each written whole or not at all."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pads
import pyarrow.parquet as pq

from forkwise.errors import InputError
from forkwise.folders import whole_file
from forkwise.terminal import counted

Key = tuple[str, str, int]
"""`(run, problem_id, sample_id)` of a sample."""

TOKEN_COLUMNS = pa.schema(
    [
        pa.field("token_ids", pa.list_(pa.int32())),
        pa.field("tokens", pa.list_(pa.string())),
        pa.field("logprobs", pa.list_(pa.float32())),  # nats, of the token that was sampled
        pa.field("entropies", pa.list_(pa.float32())),  # nats, exact: over the whole vocabulary
        pa.field("varentropies", pa.list_(pa.float32())),  # nats squared: variance of the surprisal -log p there
        pa.field(
            "top_logprobs",
            pa.list_(pa.list_(pa.struct([pa.field("token", pa.string()), pa.field("logprob", pa.float32())]))),
        ),
    ]
)
"""Optional columns with one entry per completion token; null for samples that come without them."""

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
        pa.field("gold", pa.string()),  # the gold answer or solution, where the file has one
        pa.field("n_tokens", pa.int64()),
        pa.field("finish_reason", pa.string()),  # "stop" or "length"; other tools know more
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
        pa.field("cluster", pa.string()),  # what problems share: topic, source or template
        pa.field("step", pa.int64()),  # of the training that drew the sample
        pa.field("rewards", pa.list_(pa.struct([pa.field("name", pa.string()), pa.field("value", pa.float64())]))),
        pa.field("advantage", pa.float64()),
        *TOKEN_COLUMNS,
    ]
)
"""Columns of the samples table; `(run, problem_id, sample_id)` identifies a row."""

KEYS = ("run", "problem_id", "sample_id")

_BATCH_ROWS = 1024
_BATCH_CHARACTERS = 16 << 20  # of text; as Python objects and as Arrow that is below 200 MB


class ShardWriter:
    """Writes one shard in batches; it appears under its name when the `with` block ends without an exception.

    A kill at any moment leaves either no shard or a whole one, see `forkwise.folders`. Memory is bounded by a batch,
    whatever the number of rows.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self.target = folder / f"{name}.parquet"
        self.rows = 0

    @contextmanager
    def _open(self) -> Iterator[None]:
        with whole_file(self.target) as file, pq.ParquetWriter(file, SCHEMA, compression="zstd") as self._parquet:
            yield

    def __enter__(self) -> ShardWriter:
        self._context = self._open()
        self._context.__enter__()
        return self

    def write(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Appends rows; columns that a row lacks are null, keys that the schema lacks are ignored."""
        batch: list[Mapping[str, Any]] = []
        size = 0
        for row in rows:
            batch.append(row)
            size += _characters(row)
            if len(batch) == _BATCH_ROWS or size >= _BATCH_CHARACTERS:
                self._flush(batch)
                batch, size = [], 0
        if batch:
            self._flush(batch)

    def _flush(self, batch: list[Mapping[str, Any]]) -> None:
        self._parquet.write_table(pa.Table.from_pylist(batch, schema=SCHEMA))
        self.rows += len(batch)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._context.__exit__(kind, error, trace)


def _characters(row: Mapping[str, Any]) -> int:
    top = row.get("top_logprobs") or ()
    # A candidate of `top_logprobs` costs as much memory as some 100 characters.
    alternatives = top if isinstance(top, list) else []
    candidates = sum(len(of_token) for of_token in alternatives if isinstance(of_token, list))
    return len(row.get("prompt") or "") + len(row.get("completion") or "") + 100 * candidates


def write_shard(folder: Path, name: str, rows: Iterable[Mapping[str, Any]]) -> Path:
    """Writes `rows` as `folder/name.parquet`, whole or not at all; `rows` may be a generator of any length."""
    with ShardWriter(folder, name) as shard:
        shard.write(rows)
    return shard.target


def find_shards(path: Path) -> list[Path]:
    """Returns the Parquet files at `path`, a file or a folder of them, in the order of their names.

    Raises:
        InputError: there are no Parquet files.
    """
    shards = sorted(path.glob("*.parquet")) if path.is_dir() else [path] if path.exists() else []
    if not shards:
        raise InputError(
            f"There are no samples at '{path}': give a Parquet file or a folder of them; "
            "forkwise import makes one of other tools' files."
        )
    return shards


def read_samples(path: Path, columns: Sequence[str] | None = None) -> pa.Table:
    """Reads the samples of one shard or of a folder of shards, ordered by run, problem and sample.

    Only `columns` (default: all) and the keys are read from disk. Optional columns that a shard lacks are null.

    Raises:
        InputError: nothing there, not Parquet, columns missing, or the same sample twice.
    """
    shards = find_shards(path)
    wanted = list(columns or SCHEMA.names)
    unknown = [name for name in wanted if name not in SCHEMA.names]
    if unknown:
        raise InputError(f"The samples table has no column '{unknown[0]}': its columns are {', '.join(SCHEMA.names)}.")
    for shard in shards:
        check_shard(shard)
    try:
        dataset = pads.dataset([str(s) for s in shards], format="parquet", schema=SCHEMA)
        table = dataset.to_table(columns=list(dict.fromkeys([*KEYS, *wanted])))
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"'{path}' is not a samples table, or was cut off: {reason}") from error
    check_values(table, path)
    table = table.sort_by([(key, "ascending") for key in KEYS])
    distinct = table.group_by(list(KEYS)).aggregate([])
    if distinct.num_rows != table.num_rows:
        raise InputError(
            f"'{path}' holds {counted(table.num_rows - distinct.num_rows, 'sample')} twice (same run, problem_id and "
            "sample_id): "
            "remove the copies, or give different runs different names."
        )
    return table.select(wanted)


def read_batches(tables: Sequence[Path], columns: Sequence[str], runs: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """Yields the wanted columns of the samples of these runs, in any order, a bounded number at a time.

    Raises:
        InputError: as `read_samples`, but for the same sample twice.
    """
    shards = [shard for table in tables for shard in find_shards(table)]
    for shard in shards:
        check_shard(shard)
    try:
        dataset = pads.dataset(list(map(str, shards)), format="parquet", schema=SCHEMA)
        for batch in dataset.to_batches(
            columns=list(columns), filter=pads.field("run").isin(list(runs)), batch_size=512, batch_readahead=2
        ):
            check_values(batch, tables[0])
            yield batch
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise InputError(f"The samples of '{', '.join(runs)}' cannot be read ({reason}).") from error


def open_parquet(path: Path) -> pq.ParquetFile:
    """Opens a Parquet file to be read in batches. Buffered ahead, as by default, it would be held whole."""
    return pq.ParquetFile(path, pre_buffer=False)


def iter_batches(
    file: pq.ParquetFile, shard: Path, rows: int = _BATCH_ROWS, columns: Sequence[str] | None = None
) -> Iterator[pa.RecordBatch]:
    """Yields batches of a file that `open_parquet` opened, `shard` in messages. Memory does not grow with the file.

    Raises:
        InputError: the file is damaged.
    """
    try:
        # Threads read ahead until they hold the whole file.
        for batch in file.iter_batches(rows, columns=columns, use_threads=False):
            batch.validate(full=True)  # text that is not UTF-8
            yield batch
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise InputError(f"'{shard}' is damaged ({str(error).splitlines()[0].rstrip('.')}).") from error


def count_words(path: Path) -> pa.ChunkedArray:
    """Counts the words of every completion at `path`, int64, null where there is none, ordered as in `read_samples`.

    The texts are read in batches, so memory does not grow with their length.

    Raises:
        InputError: as `read_samples`.
    """
    schema = pa.schema([*(SCHEMA.field(key) for key in KEYS), pa.field("words", pa.int64())])
    counted = [schema.empty_table()]
    for shard in find_shards(path):
        check_shard(shard)
        with open_parquet(shard) as file:
            names = [name for name in (*KEYS, "completion") if name in file.schema_arrow.names]
            for batch in iter_batches(file, shard, columns=names):
                texts = batch["completion"].to_pylist() if "completion" in names else [None] * batch.num_rows
                keys = {key: batch[key].cast(SCHEMA.field(key).type) for key in KEYS}
                words = [None if text is None else len(text.split()) for text in texts]
                counted.append(pa.table({**keys, "words": words}, schema=schema))
    return pa.concat_tables(counted).sort_by([(key, "ascending") for key in KEYS])["words"]


def check_shard(shard: Path) -> None:
    """Raises an InputError unless `shard` is Parquet with the columns that every samples table has, each once."""
    try:
        names = pq.read_schema(shard).names
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"'{shard}' is not a samples table, or was cut off: turn another tool's file into one with forkwise import."
        ) from error
    missing = [field.name for field in SCHEMA if not field.nullable and field.name not in names]
    if missing:
        raise InputError(
            f"'{shard}' is not a samples table, it lacks {', '.join(missing)}: "
            "turn it into one with forkwise import --map column=field."
        )
    check_names(names, shard)


def check_names(names: Sequence[str], shard: Path) -> None:
    """Raises an InputError where two columns have the same name."""
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise InputError(f"'{shard}' has the column '{twice[0]}' twice: remove or rename one of the two.")


def check_values(rows: pa.Table | pa.RecordBatch, path: Path) -> None:
    """Raises an InputError for values that fit the type of their column and mean nothing there."""
    try:
        rows.validate(full=True)
    except pa.ArrowInvalid as error:
        raise InputError(f"'{path}' is damaged ({str(error).splitlines()[0].rstrip('.')}).") from error
    for name in set(KEYS) & set(rows.column_names):
        if rows.column(name).null_count:
            raise InputError(f"'{path}' has samples without a {name}: give each one.")
    if "n_tokens" in rows.column_names:
        ends = pc.min_max(rows.column("n_tokens")).as_py()
        for value in ends.values():
            if value is not None and not 0 <= value < 1 << 53:
                raise InputError(f"'{path}' has a sample with n_tokens = {value}: it must be a count of tokens.")
