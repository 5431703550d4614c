"""Reads files of other tools where a samples table is asked for: they are imported into a temporary folder."""

from __future__ import annotations

import re
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from forkwise.errors import InputError
from forkwise.samples.importers import FileReport, Options, import_files
from forkwise.samples.importers.folders import files_in, without_ending
from forkwise.samples.store import SCHEMA, find_shards

_REQUIRED = frozenset(field.name for field in SCHEMA if not field.nullable)


@dataclass(frozen=True)
class OpenTable:
    """A samples table that can be read.

    Attributes:
        given: what the user gave: a samples table, or files of another tool.
        path: the table itself, which is temporary in the latter case.
        reports: what the import of each file found; none for a samples table.
    """

    given: Path
    path: Path
    reports: tuple[FileReport, ...] = ()


@dataclass(frozen=True)
class Imported:
    """What was imported from files of other tools, as facts; `forkwise.report.importing` says it.

    Attributes:
        given: what the user gave; of several, the first.
        more: how many more were given.
        formats: the formats of the files, each once.
        runs: the names of the runs, file by file.
        samples, correct, unscored: counts over all runs.
        problems_by_n: number of problems by their number of samples, where there is one run.
        dropped, noted: how many records or samples each remark of an importer is about.
        remarks: what importers said about a file as a whole.
    """

    given: str
    more: int
    formats: list[str]
    runs: list[str]
    samples: int
    correct: int
    unscored: int
    problems_by_n: dict[str, int]
    dropped: dict[str, int]
    noted: dict[str, int]
    remarks: list[str]


_GIVE = "give a Parquet file, a folder of them, or files of another tool that forkwise import reads"


def is_foreign(path: Path) -> bool:
    """Whether the path is there and is no samples table, whole or damaged, so that it would have to be imported."""
    if path.is_dir():
        shards = sorted(path.glob("*.parquet"))
        return all(map(_is_other, shards)) if shards else bool(files_in(path))
    return path.exists() and _is_other(path)


def _is_other(file: Path) -> bool:
    """Whether a file is of another kind than a shard of a samples table; a Parquet file that is cut off is not."""
    try:
        with file.open("rb") as stream:
            if stream.read(4) != b"PAR1":
                return file.suffix != ".parquet"
        return not set(pq.read_schema(file).names) >= _REQUIRED
    except (pa.ArrowException, OSError, UnicodeDecodeError):
        return False


def source_files(path: Path) -> list[Path]:
    """Returns the user's files behind a table: its shards, or the files of another tool."""
    return files_in(path) if is_foreign(path) else find_shards(path)


@contextmanager
def open_table(path: Path, run: str | None = None) -> Iterator[OpenTable]:
    """Opens a samples table as it is, and imports anything else into a folder that is removed afterwards.

    Args:
        run: name of the run in files of another tool; None is the file's name.

    Raises:
        InputError: what `import_files` refuses. A sentence about the temporary folder names the user's path instead.
    """
    if not path.exists():
        raise InputError(f"There are no samples at '{path}': {_GIVE}.")
    if not is_foreign(path):
        yield OpenTable(path, path)
        return
    with tempfile.TemporaryDirectory(prefix="forkwise-") as folder:
        table = Path(folder, "samples")
        try:
            reports = tuple(import_files(files_in(path), table, options=Options(run=run)))
        except InputError as error:
            raise InputError(_refusal(path, str(error))) from error
        try:
            yield OpenTable(path, table, reports)
        except InputError as error:
            raise InputError(re.sub(re.escape(str(table)) + "[^']*", lambda _: str(path), str(error))) from error


def _refusal(path: Path, reason: str) -> str:
    """Says why files cannot be imported, in the words of the import."""
    if " --" in reason:
        reason = f"{reason.removesuffix('.')} (an option of forkwise import: import the file first)."
    if path.is_dir():
        return f"There are no samples at '{path}': {_GIVE} ({reason.removesuffix('.')})."
    return reason


@contextmanager
def open_tables(paths: Sequence[Path]) -> Iterator[list[OpenTable]]:
    """Opens several tables; files of one name get run names with that of their folder."""
    with ExitStack() as stack:
        yield [
            stack.enter_context(open_table(path, run)) for path, run in zip(paths, names_of_runs(paths), strict=True)
        ]


def names_of_runs(paths: Sequence[Path]) -> list[str | None]:
    """Names the runs of files of another tool that have one name in several folders; None leaves the file's name."""
    uses = Counter(path.name for path in paths)
    return [
        f"{path.resolve().parent.name}-{without_ending(path)}" if uses[path.name] > 1 and path.is_file() else None
        for path in paths
    ]


def imported_from(tables: Sequence[OpenTable]) -> Imported | None:
    """Sums up what was imported; None where all are samples tables."""
    foreign = [table for table in tables if table.reports]
    if not foreign:
        return None
    reports = [report for table in foreign for report in table.reports]
    runs = [(name, run) for report in reports for name, run in report.runs.items()]
    single = runs[0][1].sizes() if len(runs) == 1 else {}
    return Imported(
        given=str(foreign[0].given),
        more=len(foreign) - 1,
        formats=sorted({report.format for report in reports}),
        runs=[name for name, _ in runs],
        samples=sum(run.samples for _, run in runs),
        correct=sum(run.correct for _, run in runs),
        unscored=sum(run.unscored for _, run in runs),
        problems_by_n={str(n): problems for n, problems in single.items()},
        dropped=dict(sum((report.dropped for report in reports), Counter())),
        noted=dict(sum((report.notes for report in reports), Counter())),
        remarks=list(dict.fromkeys(remark for report in reports for remark in report.remarks)),
    )
