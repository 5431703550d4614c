"""Problems in verl's Parquet format: a task of ours written out, and a published file without its copies.

verl gives every row a number of its own, so that a file that holds each problem a hundred times is trained on as if it
were a hundred times as many problems, and validated on as if the copies were samples of one problem each.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from forkwise.errors import InputError
from forkwise.folders import whole_file
from forkwise.tasks import Problem

SOURCE = "forkwise:"
"""Before the name of a task, the data source of its rows; `forkwise.engines.verl.reward` goes by it."""

_NEEDED = ("data_source", "prompt", "reward_model")


class Deduplicated(NamedTuple):
    """What became of a file.

    Attributes:
        rows: how many there were.
        kept: how many are left, one for each prompt.
        disagreeing: prompts whose copies have several gold answers, of which the first counts.
    """

    rows: int
    kept: int
    disagreeing: int


def write_task(spec: str, problems: Sequence[Problem], out: Path) -> None:
    """Writes problems of the task `spec` as verl reads them; its chat template is put around the prompt by verl."""
    rows = []
    for index, problem in enumerate(problems):
        messages = problem.prompt
        if isinstance(messages, str):
            messages = [{"role": "user", "content": messages}]
        rows.append(
            {
                "data_source": SOURCE + spec,
                "prompt": messages,
                "ability": spec.partition(":")[0],
                "reward_model": {"style": "rule", "ground_truth": problem.answer or ""},
                "extra_info": {"index": index, "id": problem.id, "meta": json.dumps(dict(problem.meta))},
            }
        )
    with whole_file(out) as file:
        pq.write_table(pa.Table.from_pylist(rows), file)


def deduplicate(path: Path, out: Path) -> Deduplicated:
    """Writes the first row of each prompt of a file in verl's format, with all its columns and in its order.

    Raises:
        InputError: the file cannot be read, or is not in verl's format.
    """
    try:
        file = pq.ParquetFile(path)
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"'{path}' cannot be read as Parquet: {str(error).splitlines()[0]}.") from error
    if missing := [name for name in _NEEDED if name not in file.schema_arrow.names]:
        raise InputError(
            f"'{path}' is not in verl's format, which has the columns {', '.join(_NEEDED)}: it lacks "
            f"{', '.join(missing)}."
        )
    golds: dict[bytes, str] = {}
    disagreeing: set[bytes] = set()
    rows = 0
    with whole_file(out) as whole, pq.ParquetWriter(whole, file.schema_arrow) as writer:
        for batch in file.iter_batches(batch_size=8192):
            rows += len(batch)
            writer.write_batch(batch.take(pa.array(_new(batch.to_pylist(), golds, disagreeing), pa.int64())))
    return Deduplicated(rows, len(golds), len(disagreeing))


def _new(rows: Iterable[dict[str, Any]], golds: dict[bytes, str], disagreeing: set[bytes]) -> list[int]:
    """Returns the places of the rows whose prompt was not there before, and takes note of their gold answers."""
    places = []
    for index, row in enumerate(rows):
        key = hashlib.sha256(json.dumps(row["prompt"], sort_keys=True).encode()).digest()
        gold = str((row["reward_model"] or {}).get("ground_truth"))
        if key not in golds:
            golds[key] = gold
            places.append(index)
        elif golds[key] != gold:
            disagreeing.add(key)
    return places
