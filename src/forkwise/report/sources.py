"""Recognises what `forkwise report` was given by its files: run folders, samples, explorations and results."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeGuard

from forkwise.constants import ALPHA, KAPPA
from forkwise.credit.results import FILE as CREDIT
from forkwise.errors import InputError
from forkwise.explore.results import FILE as EXPLORE
from forkwise.folders.metrics import METRICS, STATE, metrics_file
from forkwise.forks.results import FILE as FORKS
from forkwise.forks.sentence_results import FILE as SENTENCES
from forkwise.passk.files import COMPARE, PASSK
from forkwise.reading import parse_json, read_yaml
from forkwise.report.importing import imported_note
from forkwise.samples import read_samples
from forkwise.samples.direct import imported_from, is_foreign, open_table

BASE = "base"
_RUN = "run.yaml"
_SEED = re.compile(r"-seed\d+$")

_PLAN = "study.yaml"  # of a study and its receipts; `forkwise.study`, which is above, names it


@dataclass(frozen=True)
class Shaping:
    """Entropy-shaping settings that an arm was trained with, from its `run.yaml`."""

    alpha: float
    """Weight of the entropy; 0 where the entropy advantage did not act."""
    kappa: float
    methods: tuple[str, ...] = ()


PAPER = Shaping(ALPHA, KAPPA)
"""The paper's values for GRPO, used for samples of a model whose training is not known."""


@dataclass(frozen=True)
class SampleArm:
    """Samples of one model, or of several training runs of one method."""

    name: str
    tables: tuple[Path, ...]
    runs: tuple[str, ...]
    """Values of `run` in the tables that belong to the arm."""
    shaping: Shaping | None = None
    """Entropy-shaping settings; None where they are not known."""
    given: tuple[Path, ...] = ()
    """What the user gave, where the tables were imported from it."""

    @property
    def inputs(self) -> tuple[Path, ...]:
        """Returns the user's tables or files."""
        return self.given or self.tables


@dataclass(frozen=True)
class LoggedArm:
    """Training runs (seeds) of one method."""

    name: str
    folders: tuple[Path, ...]
    """Folders that hold the metrics of one run each."""


@dataclass(frozen=True)
class ReportSource:
    """What one RUN holds; any part may be empty."""

    path: Path
    title: str
    samples: tuple[SampleArm, ...] = ()
    training: tuple[LoggedArm, ...] = ()
    explorations: tuple[Path, ...] = ()
    """Paths of `explore.json`."""
    forks: tuple[Path, ...] = ()
    """Paths of `forks.json`."""
    sentences: tuple[Path, ...] = ()
    """Paths of `sentences.json`, of `forkwise forks --unit sentence`."""
    credit: tuple[Path, ...] = ()
    """Paths of `credit.json`."""
    results: tuple[Path, ...] = ()
    """Files with Pass@K."""
    conclusion: str | None = None
    """Conclusion that the run itself recorded."""
    breaks: tuple[str, ...] = ()
    """Words that begin a sentence in the samples, besides punctuation."""
    experiment: bool = False
    """Whether arms were trained side by side from one base model, which is shown beside them and not compared."""
    notes: tuple[str, ...] = ()
    """What an import of another tool's files found."""


def find_source(path: Path, imported: ExitStack | None = None) -> ReportSource:
    """Finds out what the RUN at `path` holds.

    Args:
        imported: where tables stay open that are imported from files of other tools; None refuses such files.

    Raises:
        InputError: nothing is there, or nothing that a report can show.
    """
    if not path.exists():
        raise InputError(
            f"There is no '{path}': give the folder of a quickstart or training run, samples, or what forkwise explore "
            "--out wrote."
        )
    if path.is_file():
        if path.name == EXPLORE:
            return ReportSource(path, path.resolve().parent.name, explorations=(path,))
        if path.name == FORKS:
            return ReportSource(path, path.resolve().parent.name, forks=(path,))
        if path.name == SENTENCES:
            return ReportSource(path, path.resolve().parent.name, sentences=(path,))
        if path.name == CREDIT:
            return ReportSource(path, path.resolve().parent.name, credit=(path,))
        if path.suffix == ".parquet" and not is_foreign(path):
            return ReportSource(path, path.stem, samples=tuple(_tables([path])), results=_results(path.parent))
        if path.name in (COMPARE, PASSK) or (path.suffix == ".json" and {"single", "inputs"} <= set(_json(path))):
            return ReportSource(path, path.resolve().parent.name, results=(path,))
    else:
        source = ReportSource(
            path,
            path.resolve().name,
            samples=tuple(_samples(path)),
            training=tuple(_training(path)),
            explorations=tuple(file for file in (path / EXPLORE, path / "explore" / EXPLORE) if file.exists()),
            forks=tuple(file for file in (path / FORKS,) if file.exists()),
            sentences=tuple(file for file in (path / SENTENCES,) if file.exists()),
            credit=tuple(file for file in (path / CREDIT,) if file.exists()),
            results=_results(path),
        )
        measured = source.explorations or source.forks or source.sentences or source.credit or source.results
        if source.samples or source.training or measured:
            return _with_record(source)
    return _imported(path, imported)


def _refuse_receipts(path: Path) -> None:
    """Refuses the folder of a study's receipts, which hold neither samples nor curves of training."""
    folder = path if path.is_dir() else path.parent
    if (folder / _PLAN).exists() and not (folder / "samples").exists():
        raise InputError(
            f"'{path}' holds receipts of a study, and no runs or samples to report on: read them with forkwise study "
            f"analyse {folder} (--markdown FILE writes it), or give the study's own folder, its --out."
        )


def _imported(path: Path, imported: ExitStack | None) -> ReportSource:
    """Imports the files of another tool at `path`, or says what a report takes, and why this is none."""
    _refuse_receipts(path)
    refusal = (
        f"'{path}' holds nothing to report on: a report takes a folder with {METRICS} or {STATE}, with samples "
        f"(*.parquet), with {EXPLORE}, {FORKS}, {SENTENCES}, {CREDIT}, {COMPARE} or {PASSK}, one that forkwise "
        "quickstart wrote, or what forkwise import reads"
    )
    if imported is None or not is_foreign(path):
        raise InputError(f"{refusal}.")
    try:
        table = imported.enter_context(open_table(path))
    except InputError as error:
        raise InputError(f"{refusal}; of this it says: {error}") from error
    folder = path if path.is_dir() else path.parent
    arms = [replace(arm, given=(path,)) for arm in _tables([table.path])]
    imports = imported_from([table])
    return ReportSource(
        path,
        path.resolve().name,
        samples=tuple(arms),
        results=_results(folder),
        notes=(imported_note(imports),) if imports else (),
    )


def find_sources(paths: Sequence[Path], imported: ExitStack | None = None) -> list[ReportSource]:
    """Finds out what all RUNs hold, and tells their arms apart where names repeat; `imported` as in `find_source`.

    Raises:
        InputError: as `find_source`; or a RUN that is given twice.
    """
    if len({path.resolve() for path in paths}) < len(paths):
        raise InputError("The same RUN is given twice: name each one once.")
    sources = [find_source(path, imported) for path in paths]
    names = [{arm.name for arm in s.samples} | {arm.name for arm in s.training} for s in sources]
    repeated = {name for i, arms in enumerate(names) for name in arms if any(name in earlier for earlier in names[:i])}
    return [
        replace(
            source,
            samples=tuple(replace(arm, name=_apart(arm.name, source, repeated)) for arm in source.samples),
            training=tuple(replace(arm, name=_apart(arm.name, source, repeated)) for arm in source.training),
        )
        for source in sources
    ]


def _apart(name: str, source: ReportSource, repeated: set[str]) -> str:
    return f"{source.path}: {name}" if name in repeated else name


def _tables(paths: Iterable[Path]) -> list[SampleArm]:
    """Makes one arm per run in the tables."""
    tables_of: dict[str, list[Path]] = {}
    for path in paths:
        for run in read_samples(path, ["run"])["run"].unique().to_pylist():
            tables_of.setdefault(str(run), []).append(path)
    return [SampleArm(run, tuple(tables), (run,)) for run, tables in tables_of.items()]


def _samples(folder: Path) -> list[SampleArm]:
    if any(folder.glob("*.parquet")):
        return _tables([folder])
    subfolder = folder / "samples"
    if any(subfolder.glob("*.parquet")):
        return _tables([subfolder])
    return _tables(sorted(path for path in subfolder.glob("*") if any(path.glob("*.parquet"))))


def _training(folder: Path) -> list[LoggedArm]:
    if metrics_file(folder):
        return [LoggedArm(folder.resolve().name, (folder,))]
    return [LoggedArm(arm.name, (arm,)) for arm in sorted((folder / "arms").glob("*")) if metrics_file(arm)]


def _results(folder: Path) -> tuple[Path, ...]:
    return tuple(folder / name for name in (COMPARE, PASSK) if (folder / name).exists())


def _with_record(source: ReportSource) -> ReportSource:
    """Adds to the source what the run recorded about itself: names of its arms, settings, conclusion."""
    results = _json(source.path / "results.json")
    settings = results.get("settings") or _json(source.path / "settings.json")
    experiment = bool(source.samples and source.training and (source.path / "arms").is_dir())
    names = _names(source, results) if experiment else {}
    samples = _grouped_samples(source.samples, names)
    title = settings.get("title") if isinstance(settings, dict) else None
    return replace(
        source,
        title=title if isinstance(title, str) else source.title,
        samples=tuple(replace(arm, shaping=_shaping(source, arm.runs)) for arm in samples),
        training=tuple(_grouped_training(source.training, names)),
        conclusion=conclusion if isinstance(conclusion := results.get("conclusion"), str) else None,
        breaks=tuple(map(str, breaks)) if isinstance(breaks := results.get("breaks"), list) else (),
        experiment=experiment,
    )


def _shaping(source: ReportSource, runs: Sequence[str]) -> Shaping | None:
    """Returns the entropy-shaping settings of all these runs; None where not known, or not the same."""
    folders = {folder.name: folder for arm in source.training for folder in arm.folders}
    parent = source.path if folders.get(source.path.resolve().name) == source.path else None  # samples in its folder
    run_folders = [folders.get(run, parent) for run in runs]
    shapings = {None if folder is None else _shaping_of(_yaml(folder / _RUN)) for folder in run_folders}
    return shapings.pop() if len(shapings) == 1 else None


def _shaping_of(record: Mapping[str, Any]) -> Shaping | None:
    alpha, kappa, methods = record.get("alpha"), record.get("kappa"), record.get("method") or []
    if not _is_number(alpha) or not _is_number(kappa) or alpha < 0 or kappa <= 1 or not isinstance(methods, list):
        return None
    return Shaping(float(alpha), float(kappa), tuple(map(str, methods)))


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _names(source: ReportSource, results: Mapping[str, Any]) -> dict[str, str]:
    """Maps each run to the name of its arm, in the order in which arms are to be shown."""
    recorded = results.get("runs")
    if isinstance(recorded, dict):
        return {str(run): str(arm) for arm, runs in recorded.items() if isinstance(runs, list) for run in runs}
    runs = {arm.name for arm in source.samples} | {arm.name for arm in source.training}
    # Shorter names first: a method with an addition has a longer name.
    ordered = sorted(runs, key=lambda run: (run != BASE, len(_SEED.sub("", run)), run))
    return {run: _SEED.sub("", run) for run in ordered}


def _grouped_samples(arms: Sequence[SampleArm], names: Mapping[str, str]) -> list[SampleArm]:
    groups: dict[str, list[SampleArm]] = {}
    for arm in sorted(arms, key=lambda arm: _position(arm.name, names)):
        groups.setdefault(names.get(arm.name, arm.name), []).append(arm)
    return [
        SampleArm(
            name,
            tuple(dict.fromkeys(table for arm in group for table in arm.tables)),
            tuple(run for arm in group for run in arm.runs),
        )
        for name, group in groups.items()
    ]


def _grouped_training(arms: Sequence[LoggedArm], names: Mapping[str, str]) -> list[LoggedArm]:
    groups: dict[str, list[Path]] = {}
    for arm in sorted(arms, key=lambda arm: _position(arm.name, names)):
        groups.setdefault(names.get(arm.name, arm.name), []).extend(arm.folders)
    return [LoggedArm(name, tuple(folders)) for name, folders in groups.items()]


def _position(run: str, names: Mapping[str, str]) -> int:
    return list(names).index(run) if run in names else len(names)


def _json(path: Path) -> dict[str, Any]:
    """Reads the object in a file that a run left, or nothing: a report does not fail over a damaged record."""
    try:
        content = parse_json(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _yaml(path: Path) -> dict[str, Any]:
    try:
        content = read_yaml(path)
    except InputError:
        return {}
    return content if isinstance(content, dict) else {}
