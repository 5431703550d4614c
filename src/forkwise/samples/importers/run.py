"""Importing: find the format, stream the rows into a shard, and say what was found and what was not taken."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import pyarrow as pa

from forkwise.errors import InputError, nearest
from forkwise.folders import only_process
from forkwise.plugins import with_plugins
from forkwise.samples.fields import WrongField
from forkwise.samples.importers import (
    gemini,
    grade_school_math,
    inspect_log,
    lm_eval,
    ollama,
    openai,
    plain,
    qwen_math,
    reasoning_gym,
    trl,
    verl,
)
from forkwise.samples.importers.base import Importer, Options, Row, Source, Undecided, check_types
from forkwise.samples.importers.folders import all_files, problems_in
from forkwise.samples.importers.ledger import Ledger
from forkwise.samples.importers.reader import Record, read_records
from forkwise.samples.importers.texts import covers
from forkwise.samples.store import TOKEN_COLUMNS, ShardWriter
from forkwise.tasks.answers import extract_answer
from forkwise.terminal import counted

FORMATS: dict[str, Importer] = {
    "qwen-math": qwen_math,
    "reasoning-gym": reasoning_gym,
    "lm-eval": lm_eval,
    "inspect": inspect_log,
    "verl": verl,
    "trl": trl,
    "openai": openai,
    "ollama": ollama,
    "gemini": gemini,
    "grade-school-math": grade_school_math,
    "plain": plain,
}
"""The importers by the name of their format, as `--format` takes it."""

ENTRY_POINTS = "forkwise.importers"
"""Group of entry points by which another package adds a format: its name, and a module or object like ours."""

_SCORES_CHECKED_EVERY = 4096  # rows: a file of fractional scores is refused long before its end


@dataclass
class RunReport:
    """The samples that a file added to one run."""

    samples: int = 0
    correct: int = 0
    unscored: int = 0
    n_of_problem: Counter[str] = field(default_factory=Counter)
    """Number of samples by problem id."""

    def sizes(self) -> dict[int, int]:
        """Counts the problems by their number of samples."""
        return dict(sorted(Counter(self.n_of_problem.values()).items()))


@dataclass
class FileReport:
    """The outcome of importing one file; `forkwise.report.importing` says it in full.

    What was dropped, noted and remarked is in the words of the importer, which alone knows its format.
    """

    path: Path
    format: str
    shard: Path
    runs: dict[str, RunReport]
    dropped: Counter[str]
    notes: Counter[str]
    remarks: list[str]
    fields_left_out: list[str]


@lru_cache(maxsize=1)
def all_formats() -> dict[str, Importer]:
    """Returns all importers by name, ours and those that other packages add.

    Raises:
        InputError: another package brings something that is no importer, or a name that is taken.
    """
    return with_plugins(FORMATS, ENTRY_POINTS, "format", _wrong_importer, lambda point, _: point.name)


def _wrong_importer(importer: Any) -> str | None:
    missing = [name for name in ("USES", "matches", "rows") if not hasattr(importer, name)]
    return f"is no importer: it has no {' and no '.join(missing)}" if missing else None


def register(name: str, importer: Importer) -> None:
    """Adds an importer to those of this process, as an entry point would in every process.

    Raises:
        InputError: it is no importer, or the name is taken.
    """
    if why := _wrong_importer(importer):
        raise InputError(f"The importer '{name}' {why}.")
    if name in all_formats():
        raise InputError(f"There is a format named '{name}' already: give the importer another name.")
    all_formats()[name] = importer


def import_files(
    files: Sequence[Path], out: Path, *, format_: str = "auto", options: Options | None = None
) -> Iterator[FileReport]:
    """Imports each file as one shard of the samples table in `out`, and reports on each when it is done.

    Of a folder, those files that may hold samples. A file is imported whole or not at all; when one is refused, those
    before it stay.

    Raises:
        InputError: a file cannot be used, its samples are in `out` already, or another process is writing there.
    """
    options = options or Options()
    formats = all_formats()
    if format_ not in ("auto", *formats):
        raise InputError(f"There is no format '{format_}'.{nearest(format_, formats)} Formats: {', '.join(formats)}.")
    plain.check_columns(options.columns)
    if options.columns and format_ == "auto":
        format_ = "plain"
    files = all_files(files)
    twice = [path for path, count in Counter(path.resolve() for path in files).items() if count > 1]
    if twice:
        raise InputError(f"'{twice[0]}' is given twice: give every file once.")
    if out.exists() and not out.is_dir():
        raise InputError(f"'{out}' is a file: give a folder with --out.")
    with only_process(out):
        ledger = Ledger(problems_in(out), explicit=options.run is not None)
        for path in files:
            yield _import_file(path, out, format_, options, ledger)


def _import_file(path: Path, out: Path, format_: str, options: Options, ledger: Ledger) -> FileReport:
    source = Source(path, options)
    first = next(read_records(path), None)
    if first is None:
        raise InputError(f"'{path}' is empty: it holds no records.")
    name = _detect(path, first[1], options) if format_ == "auto" else format_
    importer, source.place = all_formats()[name], first[0]
    if not (format_ == "plain" or _fits(importer, first[1])):
        raise source.error(f"this is not the format {name}: leave out --format, or choose another.")
    ledger.start(path)
    while True:
        try:
            report = _write(source, name, out, ledger)
        except Undecided:
            with _shape(source, name):
                survey = getattr(importer, "survey")  # noqa: B009  (only importers that may be `Undecided` have one)
                survey(_records(source), source)
            source.surveyed = True
        except _ToldApart:
            pass
        else:
            ledger.finish(source, report.runs)
            return report
        source.restart()
        ledger.restart()


class _ToldApart(Exception):
    """Documents turned out to share an id: the file is read once more, with ids that tell them apart."""


def _write(source: Source, name: str, out: Path, ledger: Ledger) -> FileReport:
    """Reads the file once and writes it into a shard."""
    path, importer = source.path, all_formats()[name]
    runs: dict[str, RunReport] = {}
    left_out: dict[str, None] = {}
    used = importer.USES | {column.split(".")[0] for column in source.options.columns.values()}

    def rows() -> Iterator[Row]:
        for record in _records(source):
            left_out.update(dict.fromkeys(record.keys() - used))
            with _shape(source, name):
                for row in importer.rows(record, source):
                    yield _finish(row, source, runs, ledger)

    shard_name = _free_name(out, re.sub(r"[^\w.+-]+", "_", source.stem) or "samples")
    try:
        with ShardWriter(out, shard_name) as shard:
            shard.write(rows())
            if source.documents.settle():
                raise _ToldApart
            source.check_scores()
            if not runs:
                reasons = "; ".join(f"{count} {reason}" for reason, count in source.dropped.items())
                raise InputError(f"'{path}' has no samples to import{f' ({reasons})' if reasons else ''}.")
            ledger.check_documents(source, runs)
    except (pa.ArrowException, OverflowError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(
            f"'{path}' has a value of the wrong type near {source.place or 'its end'}: {reason}"
        ) from error
    return FileReport(
        path,
        name,
        shard.target,
        runs,
        source.dropped,
        source.notes,
        _remarks(source),
        sorted(left_out.keys() - source.used),
    )


def _records(source: Source) -> Iterator[Record]:
    """Returns the records of the file; `source.place` says where the present one stands."""
    for position, record in read_records(source.path):
        source.place = position
        yield record


@contextmanager
def _shape(source: Source, name: str) -> Iterator[None]:
    """Makes a sentence of what an importer stumbles over: the shape was checked on the first record only."""
    try:
        yield
    except InputError:
        raise
    except WrongField as error:
        raise source.error(f"this record is not of the format {name}: {error}; correct or remove it.") from error
    except (LookupError, TypeError, AttributeError, ValueError, ArithmeticError) as error:
        raise source.error(f"this record is not of the format {name}: correct or remove it.") from error


def _remarks(source: Source) -> list[str]:
    documents, ids = source.documents.shared()
    if not documents:
        return source.remarks
    return [
        f"{counted(documents, 'document')} share {counted(ids, 'problem id')} (a text, or an id of the file) but have "
        "numbers, hashes, options or gold answers of their own: they are told apart by what is added to the id",
        *source.remarks,
    ]


def _detect(path: Path, record: Record, options: Options) -> str:
    formats = [name for name, importer in all_formats().items() if _fits(importer, record)]
    if len(formats) == 1:
        return formats[0]
    if formats:
        raise InputError(f"'{path}' may be {' or '.join(formats)}: choose with --format {formats[0]}.")
    raise InputError(
        f"'{path}' is of no known format; its fields are {', '.join(list(record)[:12])}: name them, for example "
        "--map problem_id=FIELD --map completion=FIELD --map correct=FIELD."
    )


def _fits(importer: Importer, record: Record) -> bool:
    try:
        return importer.matches(record)
    except (LookupError, TypeError, AttributeError, ValueError):  # it looked into values of other shapes
        return False


def _finish(row: Row, source: Source, runs: dict[str, RunReport], ledger: Ledger) -> Row:
    """Fills in what every row has, numbers the sample, and counts it."""
    options = source.options
    run, problem = row["run"], row["problem_id"]
    row["model"] = options.model or row.get("model") or "unknown"
    row["sample_id"] = ledger.number(run, problem, row.get("sample_id"), source)
    check_types(row, source)
    completion = row.get("completion")
    if completion and completion.startswith("<think>") and row.get("tokens") and not covers(row["tokens"], completion):
        source.notes["whose log-probs do not cover the text with its reasoning, kept without them"] += 1
        for column in TOKEN_COLUMNS.names:
            row.pop(column, None)
    if completion == "":
        source.notes["with an empty completion, kept with the file's verdict"] += 1
    if "answer" not in row:
        row["answer"] = extract_answer(completion) if completion else None
    if row.get("correct") is None:
        row["verdict_by"] = None
    report = runs.setdefault(run, RunReport())
    report.samples += 1
    report.correct += row.get("correct") is True
    report.unscored += row.get("correct") is None
    report.n_of_problem[problem] += 1
    if report.samples % _SCORES_CHECKED_EVERY == 0:
        source.check_scores()
    return row


def _free_name(out: Path, stem: str) -> str:
    """Returns `stem`, or `stem-2` and so on when the folder has that shard."""
    name, i = stem, 1
    while (out / f"{name}.parquet").exists():
        i += 1
        name = f"{stem}-{i}"
    return name
