"""Verdicts for the samples of any table: from `forkwise sample`, imported, or made elsewhere.

A shard is read in batches and replaced by its verified copy in one step, so a kill at any moment costs at most the work
on one shard, and the same command goes on: what has a verdict is left alone.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from forkwise.errors import InputError
from forkwise.folders import only_process, whole_file
from forkwise.progress import Console, Meter
from forkwise.samples.store import check_names, find_shards, iter_batches, open_parquet
from forkwise.sampling.manifest import MANIFEST, read_manifest
from forkwise.sampling.options import JudgeOptions
from forkwise.sampling.recipe import open_task
from forkwise.tasks import Problem, Verdict
from forkwise.tasks.answers import MathVerifier, require_math_verify
from forkwise.tasks.dataset import ANSWER_COLUMNS, ID_COLUMNS, gold_answer, read_rows, verify_exactly

_WRITTEN = {"answer": pa.string(), "correct": pa.bool_(), "verdict_by": pa.string()}

Verifier = Callable[[Sequence[str], Sequence[Problem]], Sequence[Verdict]]


@dataclass(frozen=True)
class Judge:
    """A judge says who decides, and against which gold answers.

    Attributes:
        verify: one verdict per completion.
        problems: the problems by id, for every sample whose gold answer is not in its own row.
        gold_column: column of the table with the gold answer of each row, instead of `problems`.
    """

    verify: Verifier
    problems: Mapping[str, Problem] = field(default_factory=dict)
    gold_column: str | None = None

    def problem(self, problem_id: str, gold: Any) -> Problem | None:
        """Returns the problem of a row; None if nothing is known of it."""
        if self.gold_column is None:
            return self.problems.get(problem_id)
        return None if gold is None or not str(gold).strip() else Problem(problem_id, "", str(gold))


@dataclass(frozen=True)
class Verification:
    """The counts that `verify` found; `forkwise.report.sampling` says them.

    Attributes:
        rows: samples in the table.
        kept: samples that had a verdict already.
        unknown: samples of problems without a gold answer; left as they are.
        empty: samples without completion and answer; left as they are.
        correct, wrong, unscored: verdicts of this call.
        by: how many of this call's verdicts each path decided.
        turned_right, turned_wrong: earlier verdicts that this call reversed.
        seconds: wall time of the call.
    """

    rows: int
    kept: int
    unknown: int
    empty: int
    correct: int
    wrong: int
    unscored: int
    by: Mapping[str, int]
    turned_right: int
    turned_wrong: int
    seconds: float


def find_judge(path: Path, options: JudgeOptions) -> Judge:
    """Finds the judge for the samples at `path`; without a source of gold answers, the one in `sampling.json`.

    Raises:
        InputError: no source of gold answers, more than one, one that cannot be read, or `last_number` with a task.
    """
    task, dataset, split, n_problems = options.task, options.dataset, options.split, options.problems
    answers, gold_column, verifier = options.answers, options.gold_column, options.verifier
    last_number = options.last_number
    if verifier not in (None, "math", "exact"):
        if task not in (None, verifier):
            raise InputError(f"--task {task} and --verifier {verifier} contradict each other: give one of them.")
        task, verifier = verifier, None
    sources = [source for source in (task, dataset, answers, gold_column) if source is not None]
    if len(sources) > 1:
        raise InputError("Give one source of gold answers: --task, --dataset, --answers or --gold-column.")
    if not sources:
        if not (path / MANIFEST).exists():
            raise InputError(
                "Say where the gold answers are: --task or --dataset (paired by problem_id), --answers FILE with "
                "problem_id and answer, or --gold-column of the table."
            )
        settings = read_manifest(path)["settings"]
        task, dataset = settings["task"], settings["dataset"]
        split, drawn = split or settings["split"], settings["problems"] + settings.get("first_problem", 0)
        n_problems = n_problems or drawn
    if last_number and task is not None:
        raise InputError(
            f"--last-number is for --dataset, --answers and --gold-column: the task '{task}' says itself what an "
            "answer is."
        )
    math_verifier = MathVerifier(workers=options.workers, timeout=options.timeout, memory_mb=options.memory_mb)
    compare = _math(math_verifier, last_number) if verifier != "exact" else _exact(last_number)
    if gold_column is not None:
        return Judge(compare, gold_column=gold_column)
    if answers is not None:
        return Judge(compare, _read_answers(answers))
    source = open_task(task, dataset, math_verifier)
    problems = {problem.id: problem for problem in source.problems(split or "test", n_problems)}
    return Judge(source.verify if verifier is None and not last_number else compare, problems)


def _math(verifier: MathVerifier, last_number: bool) -> Verifier:
    require_math_verify()  # now, and not in the middle of a table

    def verify(completions: Sequence[str], problems: Sequence[Problem]) -> list[Verdict]:
        golds = [gold_answer(problem) for problem in problems]
        return verifier.verify(golds, completions, last_number=last_number)

    return verify


def _exact(last_number: bool) -> Verifier:
    def verify(completions: Sequence[str], problems: Sequence[Problem]) -> list[Verdict]:
        pairs = zip(problems, completions, strict=True)
        return [verify_exactly(gold_answer(problem), text, last_number) for problem, text in pairs]

    return verify


def _read_answers(path: Path) -> dict[str, Problem]:
    if not path.is_file():
        raise InputError(f"There is no file '{path}' with answers.")
    problems: dict[str, Problem] = {}
    for number, row in enumerate(read_rows(path), start=1):
        problem_id = next((row[name] for name in ("problem_id", *ID_COLUMNS) if row.get(name) is not None), None)
        gold = next((row[name] for name in ANSWER_COLUMNS if row.get(name) is not None), None)
        if problem_id is None or gold is None:
            raise InputError(f"Row {number} of '{path}' needs a problem_id (or id) and an answer.")
        problem = Problem(str(problem_id), "", str(gold))
        if problems.setdefault(problem.id, problem) != problem:
            raise InputError(f"'{path}' has two answers to the problem '{problem.id}': remove one.")
    if not problems:
        raise InputError(f"'{path}' is empty: it needs rows with problem_id and answer.")
    return problems


def verify(path: Path, judge: Judge, *, force: bool = False, console: Console | None = None) -> Verification:
    """Fills in `answer`, `correct` and `verdict_by` of the samples at `path`, a Parquet file or a folder of them.

    Samples that have a verdict are left alone, unless `force`. Other columns are kept, those of other tools too.

    Raises:
        InputError: there is no table, its problems are unknown to the judge, or it cannot be written. Shards that
            were replaced before stay replaced.
    """
    shards = find_shards(path)
    rows = sum(_open(shard).metadata.num_rows for shard in shards)
    _check_problems(path, shards, judge)
    start = time.monotonic()
    tally: Counter[str] = Counter()
    by: Counter[str] = Counter()
    folder = path if path.is_dir() else path.parent
    with only_process(folder), Meter(rows, 0, console, "verifying") as meter:
        for shard in shards:
            _verify_shard(shard, judge, force, tally, by, meter)
    return Verification(
        rows=rows,
        **{
            name: tally[name]
            for name in ("kept", "unknown", "empty", "correct", "wrong", "unscored", "turned_right", "turned_wrong")
        },
        by=dict(by),
        seconds=time.monotonic() - start,
    )


def _open(shard: Path) -> pq.ParquetFile:
    try:
        file = open_parquet(shard)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise InputError(f"'{shard}' is not Parquet, or was cut off ({reason}).") from error
    check_names(file.schema_arrow.names, shard)
    return file


def _check_problems(path: Path, shards: Sequence[Path], judge: Judge) -> None:
    """Refuses a table that this judge can say nothing about, before anything is written."""
    columns = ["problem_id"] if judge.gold_column is None else ["problem_id", judge.gold_column]
    unknown_ids: list[str] = []
    known = False
    if judge.gold_column is not None:
        _refuse_own_answers(path, shards, judge.gold_column)
    for shard in shards:
        with _open(shard) as file:
            for name in columns:
                if name not in file.schema_arrow.names:
                    raise InputError(f"'{shard}' has no column '{name}', only {', '.join(file.schema_arrow.names)}.")
            for name, kind in _WRITTEN.items():
                if name in file.schema_arrow.names and file.schema_arrow.field(name).type != kind:
                    raise InputError(
                        f"'{shard}' is no samples table ({name} is not {kind}): use forkwise import first."
                    )
            if judge.gold_column is not None:
                golds = iter_batches(file, shard, 1 << 16, [judge.gold_column])
                known = known or any(batch.column(0).null_count < batch.num_rows for batch in golds)
                continue
            for batch in iter_batches(file, shard, 1 << 16, ["problem_id"]):
                ids = [str(value) for value in batch.column(0).unique().to_pylist()]
                known = known or any(problem_id in judge.problems for problem_id in ids)
                unknown_ids += ids[: 3 - len(unknown_ids)] if len(unknown_ids) < 3 else []
    if judge.gold_column is not None and not known:
        raise InputError(
            f"No sample of '{path}' has a gold answer in the column '{judge.gold_column}': give --answers, --task or "
            "--dataset, or name another column."
        )
    if unknown_ids and not known:
        table_ids = ", ".join(f"'{problem_id}'" for problem_id in unknown_ids)
        gold_ids = ", ".join(f"'{problem_id}'" for problem_id in list(judge.problems)[:3])
        raise InputError(
            f"No problem of '{path}' is among those with gold answers: it has {table_ids}, they are called {gold_ids}; "
            "give --answers with the ids of the table."
        )


def _refuse_own_answers(path: Path, shards: Sequence[Path], gold_column: str) -> None:
    """Refuses a column that says what each sample answered: verified against itself, every sample would be right."""
    is_own = gold_column in (*_WRITTEN, "completion")
    has_gold, differs, is_restated = False, False, True
    golds: dict[str, str] = {}  # by problem
    for shard in shards:
        with _open(shard) as file:
            names = file.schema_arrow.names
            has_gold = has_gold or "gold" in names
            if is_own or not {gold_column, "answer", "problem_id"}.issubset(names):
                is_restated = False
                continue
            for batch in iter_batches(file, shard, 1 << 16, list(dict.fromkeys(["problem_id", "answer", gold_column]))):
                ids, answers, gold_answers = (
                    batch.column(name).to_pylist() for name in ("problem_id", "answer", gold_column)
                )
                is_restated = is_restated and answers == gold_answers
                differs = differs or any(
                    golds.setdefault(str(i), str(gold)) != str(gold) for i, gold in zip(ids, gold_answers, strict=True)
                )
    if is_own or (is_restated and differs):
        raise InputError(
            f"The column '{gold_column}' of '{path}' says what each sample answered or how it was judged, and no gold "
            "answer: "
            + (
                "give --gold-column gold."
                if has_gold and gold_column != "gold"
                else "give another column, or --answers."
            )
        )


def _verify_shard(shard: Path, judge: Judge, force: bool, tally: Counter[str], by: Counter[str], meter: Meter) -> None:
    with _open(shard) as file:
        schema = file.schema_arrow
        for name, kind in _WRITTEN.items():
            index = schema.get_field_index(name)
            new = pa.field(name, kind)
            schema = schema.append(new) if index < 0 else schema.set(index, new)
        if not force and not _any_open(file, shard):
            tally["kept"] += file.metadata.num_rows
            meter.add(samples=file.metadata.num_rows)
            return
        with whole_file(shard) as partial, pq.ParquetWriter(partial, schema, compression="zstd") as writer:
            for batch in iter_batches(file, shard):
                writer.write_batch(_judged(batch, schema, judge, force, tally, by))
                meter.add(samples=batch.num_rows)


def _any_open(file: pq.ParquetFile, shard: Path) -> bool:
    """Tells whether any row waits for a verdict."""
    if "correct" not in file.schema_arrow.names:
        return True
    return any(batch.column(0).null_count for batch in iter_batches(file, shard, 1 << 16, ["correct"]))


def _judged(
    batch: pa.RecordBatch, schema: pa.Schema, judge: Judge, force: bool, tally: Counter[str], by: Counter[str]
) -> pa.RecordBatch:
    def column(name: str | None) -> list[Any]:
        return batch.column(name).to_pylist() if name in batch.schema.names else [None] * batch.num_rows

    ids, texts, golds = column("problem_id"), column("completion"), column(judge.gold_column)
    written = {name: column(name) for name in _WRITTEN}
    before = written["correct"]
    work: dict[tuple[str, str], list[int]] = {}  # equal completions of a problem are verified once
    problems: dict[tuple[str, str], Problem] = {}
    for i, problem_id in enumerate(ids):
        if before[i] is not None and not force:
            tally["kept"] += 1
            continue
        problem = judge.problem(str(problem_id), golds[i])
        text = texts[i] if texts[i] is not None else _restated(written["answer"][i])
        if problem is None or text is None:
            tally["unknown" if problem is None else "empty"] += 1
            continue
        key = (f"{problem.id}\0{problem.answer}", text)
        problems[key] = problem
        work.setdefault(key, []).append(i)
    verdicts = judge.verify([text for _, text in work], [problems[key] for key in work])
    for rows, verdict in zip(work.values(), verdicts, strict=True):
        by[verdict.by] += len(rows)
        tally["unscored" if verdict.correct is None else "correct" if verdict.correct else "wrong"] += len(rows)
        for i in rows:
            tally["turned_right"] += before[i] is False and verdict.correct is True
            tally["turned_wrong"] += before[i] is True and verdict.correct is False
            written["correct"][i], written["verdict_by"][i] = verdict.correct, verdict.by
            if texts[i] is not None:  # otherwise the answer is all there is
                written["answer"][i] = verdict.answer
    arrays = [
        pa.array(written[name], kind) if (kind := _WRITTEN.get(name)) is not None else batch.column(name)
        for name in schema.names
    ]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def _restated(answer: str | None) -> str | None:
    """Writes a completion that states `answer` in every form that a task looks for."""
    return None if answer is None else f"<answer>{answer}</answer> \\boxed{{{answer}}}"
