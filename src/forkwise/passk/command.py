"""The commands `forkwise passk` and `forkwise compare`: from what was typed to tables and files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from forkwise.errors import InputError
from forkwise.passk.comparison import compare
from forkwise.passk.diversity import Embed
from forkwise.passk.evaluation import evaluate
from forkwise.passk.length import default_budgets, default_caps
from forkwise.passk.outcomes import Arm, load_arm
from forkwise.passk.output import (
    comparison_content,
    evaluations_content,
    print_comparison,
    print_evaluation,
    write_csv,
    write_json,
)
from forkwise.progress import Console


@dataclass(frozen=True)
class Files:
    """Where results go besides the terminal; None is nowhere, and a JSON path of `-` is the standard output alone."""

    json: Path | None = None
    csv: Path | None = None
    figure: Path | None = None


def parse_numbers(text: str, option: str) -> list[int]:
    """`"1,8,64"` as numbers.

    Raises:
        InputError: anything else.
    """
    try:
        return [int(part) for part in text.split(",")]
    except ValueError as error:
        raise InputError(f"{option} takes whole numbers with commas, such as 1,8,64, not '{text}'.") from error


def _ks(text: str | None, arms: Sequence[Arm]) -> list[int] | None:
    if text is None:
        return None
    largest = min(arm.largest_k() for arm in arms)
    return list(range(1, largest + 1)) if text == "all" else parse_numbers(text, "--k")


def parse_arm(text: str, *, texts: bool = False) -> Arm:
    """`[NAME=]PATH[,PATH...]` as an arm; several paths, or several runs in one, are its training runs."""
    name, equals, rest = text.partition("=")
    if not equals or Path(text).exists():
        name, rest = "", text
    paths = [rest] if Path(rest).exists() else rest.split(",")
    return load_arm(paths, name=name or None, texts=texts)


def _apart(arms: Sequence[Arm], sources: Sequence[str]) -> list[Arm]:
    """The arms, those of one name told apart by where they came from."""
    seen = Counter(arm.name for arm in arms)
    return [
        replace(arm, name=f"{Path(source).stem}/{arm.name}") if seen[arm.name] > 1 else arm
        for arm, source in zip(arms, sources, strict=True)
    ]


def _console() -> Console:
    return Console(width=max(Console().width, 150))  # a table cut at the terminal's edge would lose numbers


def run_passk(
    samples: Sequence[str],
    *,
    k: str | None,
    tau: float,
    beyond: str | None,
    caps: str | None,
    budgets: str | None,
    texts: bool,
    embed: Embed | None,
    level: float,
    resamples: int | None,
    seed: int,
    files: Files,
) -> None:
    """Evaluates every run in every table, prints the tables and writes the files."""
    loaded = [(text, arm) for text in samples for arm in parse_arm(text, texts=texts).split()]
    arms = _apart([arm for _, arm in loaded], [text for text, _ in loaded])
    shared = all(arm.length_N is not None for arm in arms) and len({arm.length_unit for arm in arms}) == 1
    evaluations = [
        evaluate(
            arm,
            ks=_ks(k, [arm]),
            tau=tau,
            beyond=parse_numbers(beyond, "--extrapolate") if beyond else (),
            caps=parse_numbers(caps, "--caps") if caps else default_caps(arms) if shared else None,
            budgets=parse_numbers(budgets, "--budgets") if budgets else default_budgets(arms) if shared else None,
            texts=texts,
            embed=embed,
            level=level,
            resamples=resamples,
            seed=seed,
        )
        for arm in arms
    ]
    if str(files.json) != "-":
        console = _console()
        for evaluation in evaluations:
            print_evaluation(evaluation, console)
    if files.json:
        write_json(files.json, evaluations_content(evaluations))
    if files.csv:
        write_csv(files.csv, [row for evaluation in evaluations for row in evaluation.rows()])
    if files.figure:
        from forkwise.passk.figures import evaluation_figure, save

        save(evaluation_figure(evaluations), files.figure)


def run_compare(
    samples: Sequence[str],
    *,
    k: str | None,
    intersect: bool,
    margin: float,
    caps: str | None,
    budgets: str | None,
    texts: bool,
    embed: Embed | None,
    level: float,
    resamples: int | None,
    seed: int,
    files: Files,
) -> None:
    """Compares the arms with the first one, prints the tables and writes the files."""
    arms = [parse_arm(text, texts=texts) for text in samples]
    if len(arms) == 1:
        if len(arms[0].runs) == 1:
            raise InputError("A comparison needs at least two arms: name two tables, or one that holds several runs.")
        arms = arms[0].split()
    else:
        arms = _apart(arms, samples)
    comparison = compare(
        *arms,
        ks=_ks(k, arms),
        intersect=intersect,
        margin=margin,
        caps=parse_numbers(caps, "--caps") if caps else None,
        budgets=parse_numbers(budgets, "--budgets") if budgets else None,
        texts=texts,
        embed=embed,
        level=level,
        resamples=resamples,
        seed=seed,
    )
    if str(files.json) != "-":
        print_comparison(comparison, _console())
    if files.json:
        write_json(files.json, comparison_content(comparison))
    if files.csv:
        write_csv(files.csv, comparison.rows())
    if files.figure:
        from forkwise.passk.figures import comparison_figure, save

        save(comparison_figure(comparison), files.figure)
