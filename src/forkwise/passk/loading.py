"""Loads arms from samples tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from forkwise.errors import InputError
from forkwise.passk.notes import note
from forkwise.passk.outcomes import Arm, build_arm
from forkwise.samples import read_samples
from forkwise.samples.direct import OpenTable, imported_from, names_of_runs, open_table
from forkwise.samples.store import count_words


def _check_sampling(table: pa.Table, where: str) -> None:
    """Refuses a run whose samples were drawn at different settings: their mixture estimates nothing."""
    fields = {f: pc.struct_field(table["sampling"], [f]) for f in ("temperature", "top_p", "max_tokens")}
    settings = pa.table({"run": table["run"], **fields})
    distinct = settings.group_by(settings.column_names).aggregate([]).to_pylist()
    for run in {row["run"] for row in distinct}:
        rows = [row for row in distinct if row["run"] == run]
        for field in fields:
            values = sorted({row[field] for row in rows if row[field] is not None})
            if len(values) > 1:
                drawn_at = " and ".join(f"{value:g}" for value in values)
                raise InputError(
                    f"Run '{run}' in '{where}' mixes samples drawn at {field} {drawn_at}: give each setting a run "
                    "name of its own."
                )


def load_arm(
    paths: Path | str | Sequence[Path | str], *, name: str | None = None, runs: Sequence[str] = (), texts: bool = False
) -> Arm:
    """Loads the scored samples of one or several samples tables (Parquet shard or folder) as one arm.

    Files of other tools are imported on the way, and left as they are. It has more than 60 lines because every way in
    which tables may not fit together has a sentence of its own.

    Args:
        paths: tables of the arm; every distinct `run` in them is one training run of it.
        name: of the arm; the table's only run, or the file name, if None.
        runs: which runs to take; all if empty.
        texts: also read the completions, for the diversity measures.

    Raises:
        InputError: what `read_samples` and `make_arm` refuse, a run unknown to the tables, or mixed sampling settings.
    """
    sources = [Path(p) for p in ([paths] if isinstance(paths, (str, Path)) else paths)]
    columns = ["run", "problem_id", "correct", "answer", "verdict_by", "n_tokens", "sampling", "cluster"]
    tables: list[pa.Table] = []
    read: list[OpenTable] = []
    for source, run_name in zip(sources, names_of_runs(sources), strict=True):
        with open_table(source, run_name) as opened:
            table = read_samples(opened.path, [*columns, "completion"] if texts else columns)
            if table.num_rows and table["n_tokens"].null_count == table.num_rows:
                table = table.append_column("words", count_words(opened.path))
        _check_sampling(table, str(source))
        tables.append(table)
        read.append(opened)
    if len({(s, r) for s, t in zip(sources, tables, strict=True) for r in t["run"].unique().to_pylist()}) != len(
        {r for t in tables for r in t["run"].unique().to_pylist()}
    ):
        raise InputError("Two of the tables of one arm hold a run of the same name: rename one, or leave it out.")
    table = pa.concat_tables(tables, promote_options="default").unify_dictionaries()
    chosen_runs = sorted(set(table["run"].unique().to_pylist()))
    if runs:
        unknown = sorted(set(runs) - set(chosen_runs))
        if unknown:
            raise InputError(f"There is no run '{unknown[0]}' in the samples; there are {', '.join(chosen_runs)}.")
        table = table.filter(pc.is_in(table["run"], pa.array(list(runs))))
        chosen_runs = sorted(runs)
    name = name or (chosen_runs[0] if len(chosen_runs) == 1 else sources[0].stem)
    if table.num_rows == 0:
        raise InputError(f"'{name}' holds no samples.")
    if table["correct"].null_count == table.num_rows:
        raise InputError(f"No sample of '{name}' has a verdict: run `forkwise verify` on the samples first.")

    def codes(column: str) -> tuple[list[str], npt.NDArray[np.int64]]:
        encoded = table[column].combine_chunks().dictionary_encode()
        values = encoded.dictionary.to_pylist()
        order = np.argsort(np.array(values, dtype=object), kind="stable")
        rank = np.empty(len(values), dtype=np.int64)
        rank[order] = np.arange(len(values))
        return [str(values[i]) for i in order], rank[encoded.indices.to_numpy(zero_copy_only=False)]

    problems, problem_N = codes("problem_id")
    run_names, run_N = codes("run")
    completion = table["completion"].to_numpy() if "completion" in table.column_names else None
    length, unit = None, "tokens"
    imports = imported_from(read)
    notes = [note("imported", **vars(imports))] if imports else []
    if table["n_tokens"].null_count < table.num_rows:
        length = pc.cast(table["n_tokens"], pa.float64()).to_numpy()
    elif "words" in table.column_names and not table["words"].null_count:
        length, unit = pc.cast(table["words"], pa.float64()).to_numpy(), "words"
        notes.append(note("lengths in words"))
    else:
        notes.append(note("no lengths"))
    answer = table["answer"].to_numpy() if table["answer"].null_count < table.num_rows else None
    arm = build_arm(
        name,
        problems,
        run_names,
        problem_N,
        run_N,
        pc.fill_null(pc.cast(table["correct"], pa.int8()), -1).to_numpy(),
        length=length,
        length_unit=unit,
        answer=answer,
        completion=completion if texts else None,
        cluster=None if table["cluster"].null_count == table.num_rows else table["cluster"].to_numpy(),
        notes=notes,
    )
    # In Countdown, two expressions that reach the target are two solutions, though their value is one.
    judges = set(table["verdict_by"].unique().to_pylist()) - {None, "no-answer"}
    return replace(arm, by_text=judges == {"countdown"}, tables=tuple(sources))
