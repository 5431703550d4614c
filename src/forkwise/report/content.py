"""Everything a report says, computed once; the page, the figures and the text summary only show it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from forkwise.credit.results import Credit
from forkwise.credit.results import read as read_credit
from forkwise.explore import results as explored
from forkwise.explore.lexicon import load_lexicon, load_reflective
from forkwise.explore.results import Exploration, RunExploration
from forkwise.explore.sentences import words_of
from forkwise.explore.traces import check_side_by_side
from forkwise.folders.metrics import read_metrics
from forkwise.forks.results import Forks
from forkwise.forks.results import read as read_forks
from forkwise.forks.sentence_results import Sentences
from forkwise.forks.sentence_results import read as read_sentences
from forkwise.forks.stored import TOKENS
from forkwise.passk import Comparison, Evaluation
from forkwise.progress import Meter
from forkwise.report import credit, explore, forks, forks_sentences
from forkwise.report.distributions import Distribution, explored_entropies, stored_entropies
from forkwise.report.explore_notes import notes as exploration_notes
from forkwise.report.forked import SampleForks, measured
from forkwise.report.passk_conclusion import conclusion
from forkwise.report.passk_source import PasskNumbers, passk_numbers
from forkwise.report.problems import Solved, count_solved
from forkwise.report.selection import list_samples
from forkwise.report.series import series_panels
from forkwise.report.sources import ReportSource, SampleArm, Shaping
from forkwise.report.trace import Marker
from forkwise.report.traces import Traces, pack_traces
from forkwise.samples.direct import is_foreign
from forkwise.samples.store import Key

TRACE_BYTES = 2_000_000
"""Most bytes of packed traces in a page, which keeps the quickstart's below 3 MB; `--trace-mb` changes it."""

Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class Content:
    """What a report shows. Names of arms are the keys, in the order in which they are shown."""

    title: str
    conclusion: list[str]
    """Sentences of the conclusion, and those that the exploration adds."""
    evaluations: list[Evaluation]
    comparison: Comparison | None
    training: dict[str, list[Rows]]
    """Logged rows of each run (seed) of each arm."""
    distributions: dict[str, Distribution]
    explorations: list[Exploration]
    forks: list[Forks]
    """What tokens decide."""
    sentences: list[Sentences]
    """What sentences decide."""
    credit: list[Credit]
    """What methods see of a token's worth."""
    traces: Traces | None
    solved: list[Solved]
    """How often each arm solved each problem."""
    shaping: dict[str, Shaping | None]
    """Entropy-shaping settings of each arm with samples; None where they are not known."""
    notes: list[str]
    sources: list[str]

    def arms(self) -> list[str]:
        """Returns every name that a chart may show."""
        names = [e.arm for e in self.evaluations] + list(self.training) + list(self.distributions)
        names += [run.run for run in self.explored()]
        names += [line.name for panel in series_panels(self.explorations) for line in panel.lines]
        return list(dict.fromkeys(names))

    def explored(self) -> list[RunExploration]:
        """Returns the runs of all explorations."""
        return [run for exploration in self.explorations for run in exploration.runs]


def gather(
    sources: Sequence[ReportSource], imported: ExitStack | None = None, *, trace_bytes: float = TRACE_BYTES
) -> Content:
    """Reads and computes everything that the sources allow; what cannot be computed becomes a note.

    Args:
        imported: as in `find_source`, for the samples that an exploration read.

    Raises:
        InputError: an `explore.json` or a samples table that cannot be read.
    """
    notes: list[str] = [note for source in sources for note in source.notes]
    explorations = _explorations(sources)
    forked = [(path, read_forks(path)) for source in sources for path in source.forks]
    by_sentence = [read_sentences(path) for source in sources for path in source.sentences]
    credited = [read_credit(path) for source in sources for path in source.credit]
    summaries = [(run.run, run.entropy) for run in _runs(explorations) if run.entropy is not None]
    check_side_by_side([(name, entropy.source, entropy.temperatures) for name, entropy in summaries])
    notes += [note for exploration in explorations for note in exploration_notes(exploration)]
    notes += [note for _, one in forked for note in forks.notes(one)]
    notes += [note for one in by_sentence for note in forks_sentences.notes(one)]
    notes += [note for one in credited for note in credit.notes(one)]
    arms = [arm for source in sources for arm in source.samples]
    arms = arms or _explored_arms(sources, explorations, imported, notes) or _forked_arms(sources)
    explorations = [_renamed(exploration, arms) for exploration in explorations]
    holding = [source for source in sources if source.samples or source.training]
    run = holding[0] if len(holding) == 1 else None  # what a run says of itself holds for no other
    with Meter(phase="reading or computing Pass@K"):
        numbers = passk_numbers(sources, arms, run is not None and run.experiment)
    notes += numbers.notes
    training = {arm.name: [read_metrics(f) for f in arm.folders] for s in sources for arm in s.training}
    with Meter(phase="reading token entropies"):
        distributions, traced = _distributions(arms, explorations)
    of_samples = measured(forked, by_sentence, notes)
    breaks = [word for source in sources for word in source.breaks]
    breaks += [word for exploration in explorations for word in exploration.breaks]
    of_forks = [one.settings for _, one in forked] + [one.settings for one in by_sentence]
    breaks += [word for settings in of_forks for word in words_of(settings["breaks"])]
    traces = _traces(arms, traced, sources, explorations, breaks, of_samples, trace_bytes, notes) if arms else None
    recorded = run.conclusion if run is not None else None
    concluded = [recorded or _conclusion(numbers, training), *map(explore.conclusion, _runs(explorations))]
    concluded += [forks.conclusion(one) for _, one in forked]
    concluded += map(forks_sentences.conclusion, by_sentence)
    concluded += [sentence for one in credited for sentence in credit.conclusions(one)]
    return Content(
        title="forkwise: " + ", ".join(dict.fromkeys(source.title for source in holding or sources)),
        conclusion=[sentence for sentence in concluded if sentence],
        evaluations=numbers.evaluations,
        comparison=numbers.comparison,
        training={name: runs for name, runs in training.items() if any(runs)},
        distributions=distributions,
        explorations=explorations,
        forks=[one for _, one in forked],
        sentences=by_sentence,
        credit=credited,
        traces=traces,
        solved=count_solved(arms),
        shaping={arm.name: arm.shaping for arm in arms},
        notes=list(dict.fromkeys(notes)),
        sources=list(dict.fromkeys(map(str, [*(source.path for source in sources), *numbers.files]))),
    )


def _explorations(sources: Sequence[ReportSource]) -> list[Exploration]:
    """Reads the explorations; what an experiment found about its own runs gives way to what was given about them."""
    read = [(source.experiment, explored.read(path)) for source in sources for path in source.explorations]
    given_runs = {run.run for of_experiment, exploration in read if not of_experiment for run in exploration.runs}
    return [
        replace(
            exploration,
            runs=[run for run in exploration.runs if not (of_experiment and run.run in given_runs)],
            series=[row for row in exploration.series if not (of_experiment and row.run in given_runs)],
        )
        for of_experiment, exploration in read
    ]


def _renamed(exploration: Exploration, arms: Sequence[SampleArm]) -> Exploration:
    """Renames the runs of an exploration after their arms."""
    names = {}
    for arm in arms:
        for run in arm.runs:
            names[run] = arm.name if len(arm.runs) == 1 else f"{arm.name} ({run})"
    return replace(
        exploration,
        runs=[replace(run, run=names.get(run.run, run.run)) for run in exploration.runs],
        series=[replace(row, run=names.get(row.run, row.run)) for row in exploration.series],
    )


def _runs(explorations: Sequence[Exploration]) -> list[RunExploration]:
    return [run for exploration in explorations for run in exploration.runs]


def _explored_arms(
    sources: Sequence[ReportSource],
    explorations: Sequence[Exploration],
    imported: ExitStack | None,
    notes: list[str],
) -> list[SampleArm]:
    """Finds the samples that the explorations read, as far as they are still there."""
    from forkwise.report.sources import find_source

    files = [path for source in sources for path in source.explorations]
    arms: dict[str, SampleArm] = {}
    for file, exploration in zip(files, explorations, strict=True):
        for table in exploration.samples:
            found_at = next((p for p in (Path(table), file.parent / table) if p.exists()), None)
            if found_at is None:
                notes.append(
                    f"The samples '{table}' that were explored are not there any more, so no traces are shown."
                )
                continue
            for arm in find_source(found_at, imported).samples:
                arms.setdefault(arm.name, arm)
    return list(arms.values())


def _forked_arms(sources: Sequence[ReportSource]) -> list[SampleArm]:
    """Finds the samples that forks were measured on, which lie beside their results."""
    from forkwise.report.sources import find_source

    folders = [path.parent / TOKENS for source in sources for path in (*source.forks, *source.sentences)]
    arms: dict[str, SampleArm] = {}
    for folder in folders:
        if any(folder.glob("*.parquet")):
            for arm in find_source(folder).samples:
                arms.setdefault(arm.name, arm)
    return list(arms.values())


def _conclusion(numbers: PasskNumbers, training: dict[str, list[Rows]]) -> str:
    if numbers.evaluations:
        return conclusion(numbers.evaluations, numbers.comparison)
    trends = []
    for name, runs in training.items():
        rewards = [[row["reward"] for row in rows if _is_number(row.get("reward"))] for rows in runs]
        if all(rewards):
            start, end = (float(np.mean([np.mean(r[steps]) for r in rewards])) for steps in (slice(5), slice(-5, None)))
            trends.append(f"{name} went from reward {start:.3f} to {end:.3f} in {max(map(len, rewards))} logged steps")
    if trends:
        return (
            f"{'; '.join(trends)} (means of the first and last five). Rewards in training are no evidence about a "
            "method: sample held-out problems, and compare Pass@K."
        )
    return ""


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


# ------------------------------------------------------------------------------------------------- entropies, traces


def _distributions(
    arms: Sequence[SampleArm], explorations: Sequence[Exploration]
) -> tuple[dict[str, Distribution], dict[int, set[Key]]]:
    """Returns the distribution of each run, explored or from stored entropies, and which samples have entropies."""
    from_explore = {run.run: run.entropy for run in _runs(explorations) if run.entropy is not None}
    distributions: dict[str, Distribution] = {}
    traced: dict[int, set[Key]] = {}
    for a, arm in enumerate(arms):
        stored, traced[a] = stored_entropies(arm)
        summary = from_explore.pop(arm.name, None)
        if summary is not None:
            distributions[arm.name] = explored_entropies(summary)
        elif stored is not None:
            distributions[arm.name] = stored
    return {**distributions, **{run: explored_entropies(summary) for run, summary in from_explore.items()}}, traced


def _traces(
    arms: Sequence[SampleArm],
    traced: dict[int, set[Key]],
    sources: Sequence[ReportSource],
    explorations: Sequence[Exploration],
    breaks: Sequence[str],
    of_samples: dict[Key, SampleForks],
    limit: float,
    notes: list[str],
) -> Traces | None:
    lexicon, reflective = load_lexicon(), load_reflective()
    rare: dict[Key, list[tuple[int, int]]] = {}
    tables: list[Path] = []
    files = [path for source in sources for path in source.explorations]
    for file, exploration in zip(files, explorations, strict=True):
        for run in exploration.runs:
            for span in run.rarity.rare if run.rarity is not None else ():
                rare.setdefault((span.run, span.problem_id, span.sample_id), []).append((span.start, span.end))
        for used, shipped in ((exploration.lexicon, lexicon.name), (exploration.reflective, reflective.name)):
            if used != shipped:
                notes.append(f"Traces are marked with forkwise's own {shipped}; the figures of {file} used {used}.")
        for samples, table in zip(exploration.samples, exploration.token_data, strict=True):
            found_at = next((p for p in (file.parent / table, Path(table)) if p.exists()), None)
            if table != samples and found_at is not None and not is_foreign(found_at):
                tables.append(found_at)
    beside = [path.parent / TOKENS for source in sources for path in (*source.forks, *source.sentences)]
    shown = {table.resolve() for arm in arms for table in arm.tables}
    tables += [folder for folder in beside if any(folder.glob("*.parquet")) and folder.resolve() not in shown]
    if tables:
        traced = {
            a: keys | stored_entropies(SampleArm(arm.name, tuple(tables), arm.runs))[1]
            for (a, keys), arm in zip(traced.items(), arms, strict=True)
        }
    marker = Marker(lexicon, reflective, tuple(dict.fromkeys(breaks)), rare, of_samples)
    listed = list_samples(arms, traced, of_samples.keys())
    traces = pack_traces(arms, listed, marker, limit=limit, token_tables=tables)
    return traces if traces.shown else None
