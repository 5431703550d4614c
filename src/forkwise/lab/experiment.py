"""The quickstart's study from start to end: run, compared with all lengths and texts at hand, and put on one page.

The folder holds what a study's does (`arms/`, `samples/`, `receipts/`), and what was found: `summary.txt` and `.md`,
`compare.json`, `compare.csv`, perhaps `explore/`, figures and one HTML page.
"""

from __future__ import annotations

import io
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from forkwise.errors import InputError
from forkwise.explore.command import run_explore
from forkwise.explore.options import ExploreOptions
from forkwise.folders import write_json, write_text
from forkwise.folders.results import write_result
from forkwise.passk import Comparison, Evaluation, compare, evaluate, k_grid, load_arm
from forkwise.passk.design import FEWEST_RUNS
from forkwise.passk.files import COMPARE, read_results, result_file, write_csv
from forkwise.passk.length import default_budgets, default_caps, have_common_lengths, largest_budget
from forkwise.progress import Console, Meter
from forkwise.report.command import write_report
from forkwise.report.figures import training_figure
from forkwise.report.markdown import markdown_blocks
from forkwise.report.passk import FEW, details, listed, matched, overview
from forkwise.report.passk_conclusion import conclusion
from forkwise.report.passk_figures import comparison_figure, save
from forkwise.report.table import Block, Table
from forkwise.report.terminal import print_blocks, print_sentences, print_tables
from forkwise.study.places import LocalPlace
from forkwise.study.receipts import read_receipts, receipt_file, samples_sha256
from forkwise.study.registration import PLAN, read_plan, refuse_other_plan
from forkwise.study.run import check_study
from forkwise.study.run import run as run_study
from forkwise.study.spec import BASE, Study
from forkwise.study.words import beside
from forkwise.terminal import complain, counted
from forkwise.training.folder import check_folder, read_metrics

CLAUSES = ("try", "maybe", "because", "check", "wait", "hmm", "instead", "so")
"""Words with which the embedded model begins a new step; no punctuation ends its sentences."""

EXPLORED = "explore"
"""Folder in which the exploration of the samples lies."""

_WIDE = 170  # columns of a terminal that has room for every K that is shown


@dataclass(frozen=True)
class Results:
    """What an experiment found. The seeds of an arm are averaged per problem."""

    base: Evaluation
    comparison: Comparison
    seeds: int

    def evaluations(self) -> list[Evaluation]:
        """Returns the evaluations of the base model and of the arms."""
        return [self.base, *self.comparison.arms]

    def conclusion(self) -> str:
        """Says what the paired differences are, and whether they are evidence of anything."""
        sentence = conclusion(self.evaluations(), self.comparison)
        if self.seeds > 1:
            return sentence
        return f"{sentence} Each arm was trained with one seed: other seeds may say otherwise."


def run(
    folder: Path,
    study: Study,
    *,
    jobs: int,
    resume: bool,
    console: Console | None = None,
    explore: bool = False,
) -> Results:
    """Runs the study on this machine's cores, and writes the comparison into `folder`; every stage can be resumed.

    Args:
        explore: look also for behaviours and fork tokens in the samples of base and arms, those of the first seed.

    Raises:
        InputError: the folder is in use (without `resume`) or holds another study, or an arm cannot be trained.
        RunError: an arm stopped before its end.
    """
    console = console or Console()
    start = time.monotonic()
    if check_folder(folder, resume=resume, mark=PLAN, flag="--out"):
        refuse_other_plan(study, read_plan(folder / PLAN)[0], folder)
    check_study(study)
    _forget_lost_samples(folder, study)
    workers = LocalPlace(jobs, "cpu")
    try:
        run_study(study, folder, workers, console=console)
    finally:
        workers.close()
    with Meter(None, 0, console, "comparing"):
        results = analyse(folder, study)
    if explore:
        _explore(folder, study)
    _write(folder, study, results, time.monotonic() - start, console)
    return results


def _forget_lost_samples(folder: Path, study: Study) -> None:
    """Removes the receipts of runs whose samples are no longer those that were counted: they are drawn again."""
    receipts = folder / "receipts"
    for run_name, receipt in read_receipts(receipts, study.sha256(), study.runs()).items():
        if receipt.hashes.get("samples") != samples_sha256(folder / "samples" / run_name):
            receipt_file(receipts, run_name).unlink()


def _explore(folder: Path, study: Study) -> None:
    """Writes `explore.json` about the samples of the base model and of each arm's first seed that have entropies."""
    runs = [runs[0] for runs in _runs(study).values()]
    tables = [folder / "samples" / run for run in runs]
    try:
        run_explore(ExploreOptions(tables, out=folder / EXPLORED, breaks=",".join(CLAUSES), only_exact=True))
    except InputError as error:
        complain(f"behaviours and fork tokens were not explored: {error}")


def analyse(folder: Path, study: Study) -> Results:
    """Computes Pass@K of all and the comparison with the first arm, or reads them from a compare.json that fits."""
    runs, n = _runs(study), study.evaluation.n
    tables = [folder / "samples" / run for arm in runs.values() for run in arm]
    file = folder / COMPARE
    if file.exists():
        with suppress(InputError):  # damaged, or of another version: written again
            stored = read_results(file)
            fits = stored.is_about(tables, runs) and stored.settings == _settings(study)
            if fits and stored.comparison is not None and [e.arm for e in stored.single] == [BASE]:
                return Results(stored.single[0], stored.comparison, len(study.seeds))
    base_arm, *arms = (load_arm([folder / "samples" / run for run in arm], name=name) for name, arm in runs.items())
    common = have_common_lengths([base_arm, *arms])
    caps, budgets = (default_caps(arms), default_budgets(arms)) if common else ([], [])
    fixed = [arm.name for arm in arms if len(arm.runs) < FEWEST_RUNS]
    comparison = compare(*arms, ks=k_grid(n), fixed=fixed, caps=caps, budgets=budgets)
    affordable = [budget for budget in budgets if budget <= largest_budget([base_arm])]
    results = Results(evaluate(base_arm, ks=k_grid(n), caps=caps, budgets=affordable), comparison, len(study.seeds))
    write_csv(folder / "compare.csv", [*results.base.rows(), *comparison.rows()])
    write_result(file, result_file(_settings(study), tables, results.conclusion(), [results.base], comparison))
    return results


def _runs(study: Study) -> dict[str, list[str]]:
    """Returns the runs of the base model and of every arm."""
    return {BASE: [BASE]} | {arm.name: [arm.run(seed) for seed in study.seeds] for arm in study.arms}


def _settings(study: Study) -> dict[str, Any]:
    """Returns the options of `compare`; null is the default."""
    defaults = {"margin": None, "caps": None, "budgets": None, "level": None, "resamples": None, "seed": None}
    return {"arms": [arm.name for arm in study.arms], "k": k_grid(study.evaluation.n), **defaults}


def _write(folder: Path, study: Study, results: Results, seconds: float, console: Console) -> None:
    tables = overview(results.evaluations(), results.comparison)
    if len(study.seeds) > 1:
        tables += [block for block in details([], results.comparison) if isinstance(block, Table)]
    text = io.StringIO()
    print_blocks([results.conclusion(), *tables, *listed(results.comparison.notes)], Console(width=_WIDE, file=text))
    write_text(folder / "summary.txt", text.getvalue())
    receipts = read_receipts(folder / "receipts", study.sha256(), study.runs())
    compared = [*overview(results.evaluations(), results.comparison), *matched(results.comparison)]
    blocks: list[Block] = [results.conclusion(), *compared, *beside(study, study.seeds, receipts)]
    write_text(folder / "summary.md", markdown_blocks(blocks))
    record = {"seconds": round(seconds, 1), "conclusion": results.conclusion(), "runs": _runs(study), "breaks": CLAUSES}
    write_json(folder / "results.json", {"settings": {"title": study.title, **study.plain()}, **record})

    caption = (
        f"{results.comparison.problems} held-out {study.task} problems x {study.evaluation.n} samples, T = 1; "
        f"{study.steps} steps, {counted(len(study.seeds), 'seed')}"
    )
    save(comparison_figure(results.comparison, beside=[results.base], caption=caption), folder / "passk.png")
    runs = _runs(study)
    logs = {name: [read_metrics(folder / "arms" / run) for run in runs[name]] for name in runs if name != BASE}
    save(training_figure(logs, arms=list(runs)), folder / "training.png")
    write_report([folder], folder / "report.html")
    print_sentences([results.conclusion()], console)
    print_tables(overview(results.evaluations(), results.comparison, FEW if console.width >= _WIDE else 2), console)
    print_sentences([f"\nReport: {folder / 'report.html'}   ({seconds:.0f} s)"], console)
