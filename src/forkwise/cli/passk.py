"""The commands `forkwise passk` and `forkwise compare`: they load arms, compute, print and write files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from forkwise.cli.common import long_command
from forkwise.cli.options import with_options
from forkwise.errors import InputError
from forkwise.parameters import Brief, Intersect, Level, PairedSeeds
from forkwise.progress import Meter
from forkwise.terminal import echo

if TYPE_CHECKING:
    from forkwise.passk import Arm, Comparison, Evaluation
    from forkwise.passk.intervals import Row
    from forkwise.report.table import Block


@dataclass(frozen=True)
class MeasureOptions:
    """The options that `forkwise passk` and `forkwise compare` share, but for where results go."""

    k: Annotated[str | None, "Values of K, such as 1,8,64, or all (default: all up to 100)."] = None
    caps: Annotated[str | None, "Length caps, such as 1000,2000 (default: chosen from the samples)."] = None
    budgets: Annotated[str | None, "Length budgets per problem (default: chosen from the samples)."] = None
    diversity: Annotated[bool, "Measure the diversity of the texts too."] = False
    embed: Annotated[bool, "Measure diversity in embeddings too (sbert extra; first 256 tokens of a text)."] = False
    level: Level = 0.95
    resamples: Annotated[
        int | None, "Resamples (default: 10,000; fewer above 2,000 problems).", {"min": 100, "max": 1_000_000}
    ] = None
    seed: Annotated[int, "Seed of the resamples.", {"min": 0}] = 0

    @property
    def texts(self) -> bool:
        """Whether the texts of the samples are needed."""
        return self.diversity or self.embed

    def arguments(self) -> dict[str, Any]:
        """Returns what `evaluate` and `compare` take, but for K, with None for what they choose themselves."""
        from forkwise.explore.encoder import SentenceEncoder

        return {
            "caps": _numbers(self.caps, "--caps"),
            "budgets": _numbers(self.budgets, "--budgets"),
            "texts": self.texts,
            "embed": SentenceEncoder().encode if self.embed else None,
            "level": self.level,
            "resamples": self.resamples,
            "seed": self.seed,
        }


@dataclass(frozen=True)
class PasskOptions(MeasureOptions):
    """The options of `forkwise passk`."""

    tau: Annotated[float, "Share of K that must be correct in G-Pass@K."] = 0.5
    extrapolate: Annotated[str | None, "K above n, such as 1024,4096, answered by a model that is labelled as one."] = (
        None
    )


@dataclass(frozen=True)
class CompareOptions(MeasureOptions):
    """The options of `forkwise compare`."""

    metric: Annotated[list[str] | None, "Pair this statistic beside Pass@K, such as pass^k; repeatable."] = None
    fixed: Annotated[list[str] | None, "This arm is the very model, such as a base model; repeatable."] = None
    paired_seeds: PairedSeeds = False
    primary: Annotated[str | None, "The K named beforehand, or curve (mean over K = 1, 2, 4, ...): tested alone."] = (
        None
    )
    intersect: Intersect = False
    margin: Annotated[float, "Differences within +-margin count as equivalent."] = 0.05
    look_shares: Annotated[str | None, "Shares of a planned study at its looks, the last now, such as 0.5,1."] = None
    scorio: Annotated[bool, "Add Bayesian intervals and places by scorio (extra scorio)."] = False
    gate: Annotated[float | None, "Exit with 1 unless every arm is shown to be worse by less than this."] = None

    def over_benchmarks(self) -> dict[str, Any]:
        """Returns what `compare_over` takes besides what is about both.

        Raises:
            InputError: an option that is about a single benchmark.
        """
        for name in ("metric", "caps", "budgets", "diversity", "embed", "scorio"):
            if getattr(self, name):
                raise InputError(f"--{name} is for one benchmark at a time: compare the tables of one alone for it.")
        return {"level": self.level, "resamples": self.resamples, "seed": self.seed}


@dataclass(frozen=True)
class MeasureOutputs:
    """Where results go. None is nowhere; with `-` as path of JSON or CSV, the standard output holds that alone."""

    brief: Brief = False
    json: Annotated[Path | None, "Write the result here, for forkwise report; - prints it alone."] = None
    csv: Annotated[Path | None, "Write every number here as CSV; - prints them alone."] = None
    figure: Annotated[Path | None, "Write the curves with their bands here (.png, .svg or .pdf)."] = None

    def __post_init__(self) -> None:
        """Refuses what would mix two results in the standard output."""
        if str(self.json) == str(self.csv) == "-":
            raise InputError("--json - and --csv - both print their result alone: give one of them a file.")

    def give(
        self,
        settings: dict[str, Any],
        arms: Sequence[Arm],
        sentence: str,
        blocks: Sequence[Block],
        result: list[Evaluation] | Comparison,
    ) -> None:
        """Writes the files, and then prints the conclusion, with tables and notes unless `brief` is set.

        Whoever reads what is printed may stop, as `head` does; and a file that cannot be written keeps nothing back.
        """
        from forkwise.folders.results import result_text
        from forkwise.passk.files import csv_text, result_file
        from forkwise.progress import Console
        from forkwise.report.terminal import print_blocks, print_sentences

        single, comparison = (result, None) if isinstance(result, list) else ([], result)
        content: Any = None
        if self.json:
            tables = dict.fromkeys(table for arm in arms for table in arm.tables)
            content = result_file(settings, tables, sentence, single, comparison)
        try:
            self._write(content, single, comparison)
        finally:
            if str(self.json) == "-":
                echo(result_text(content), end="")
            elif str(self.csv) == "-":
                echo(csv_text(_rows(single, comparison)), end="")
            else:
                console = Console()
                print_sentences([sentence], console)
                print_blocks([] if self.brief else blocks, console)

    def _write(self, content: Any, single: list[Evaluation], comparison: Comparison | None) -> None:
        from forkwise.folders.results import write_result
        from forkwise.passk.files import write_csv

        if self.json and str(self.json) != "-":
            write_result(self.json, content)
        if self.csv and str(self.csv) != "-":
            write_csv(self.csv, _rows(single, comparison))
        if self.figure:
            from forkwise.report.passk_figures import comparison_figure, evaluation_figure, save

            save(comparison_figure(comparison) if comparison else evaluation_figure(single), self.figure)


def _rows(single: list[Evaluation], comparison: Comparison | None) -> list[Row]:
    """Returns the lines of the CSV table."""
    return comparison.rows() if comparison else [row for evaluation in single for row in evaluation.rows()]


@with_options
def passk(
    samples: Annotated[list[str], typer.Argument(help="Samples tables, or files that forkwise import reads.")],
    options: PasskOptions,
    outputs: MeasureOutputs,
) -> None:
    """Pass@K, Pass^K, G-Pass@K, maj@K of scored samples, with intervals over problems and length control."""
    with long_command("run it again"):
        from forkwise.passk import evaluate
        from forkwise.passk.arguments import parse_ks, parse_runs
        from forkwise.passk.length import default_budgets, default_caps, have_common_lengths
        from forkwise.report import passk as report
        from forkwise.report.passk_conclusion import conclusion

        with Meter(phase="reading the samples (1 of 2)"):
            arms = parse_runs(samples, texts=options.texts)
        arguments = options.arguments()
        if have_common_lengths(arms):
            arguments["caps"] = arguments["caps"] or default_caps(arms)
            arguments["budgets"] = arguments["budgets"] or default_budgets(arms)
        arguments |= {"tau": options.tau, "beyond": _numbers(options.extrapolate, "--extrapolate") or ()}
        with Meter(phase="computing (2 of 2)"):
            evaluations = [evaluate(arm, ks=parse_ks(options.k, [arm]), **arguments) for arm in arms]
        sentence = conclusion(evaluations)
        blocks = [block for e in evaluations for block in (*report.details([e]), *report.listed(e.notes))]
        outputs.give({"samples": samples, **asdict(options)}, arms, sentence, blocks, evaluations)


@with_options
def compare(
    arms: Annotated[
        list[str],
        typer.Argument(
            help="[NAME=]TABLE[,TABLE...] per arm, the reference first; or other tools' files; or, for several "
            "benchmarks, NAME=BENCHMARK:TABLE,BENCHMARK:TABLE..."
        ),
    ],
    options: CompareOptions,
    outputs: MeasureOutputs,
) -> None:
    """Whether arms differ in Pass@K: paired differences, simultaneous band, adjusted p, length control."""
    with long_command("run it again"):
        from forkwise import passk as numbers
        from forkwise.passk.arguments import parse_arms, parse_benchmarks, parse_ks, parse_primary, parse_shares
        from forkwise.report import passk as report
        from forkwise.report.passk_conclusion import conclusion, gate

        with Meter(phase="reading the samples (1 of 2)"):
            benchmarks = parse_benchmarks(arms)
            loaded = [arm for on_one in benchmarks.values() for arm in on_one]
            loaded = loaded or parse_arms(arms, texts=options.texts)
        settings: dict[str, Any] = {
            "ks": parse_ks(options.k, loaded),
            "fixed": options.fixed or (),
            "paired_seeds": options.paired_seeds,
            "primary": parse_primary(options.primary),
            "look_shares": parse_shares(options.look_shares),
            "intersect": options.intersect,
            "margin": options.margin,
        }
        with Meter(phase="computing (2 of 2)"):
            if benchmarks:
                comparison = numbers.compare_over(benchmarks, **settings, **options.over_benchmarks())
            else:
                settings |= {"metrics": options.metric, **options.arguments()}
                comparison = numbers.compare(*loaded, **settings)
            if options.scorio:
                comparison = _with_scorio(comparison, loaded, options)
        sentence, passed = conclusion(comparison.arms, comparison), True
        if options.gate is not None:
            passed, sentence = comparison.not_worse(options.gate), f"{sentence} {gate(comparison, options.gate)}"
        tables = [*report.overview(comparison.arms, comparison), *report.details([], comparison)]
        blocks = [*tables, *report.listed(comparison.notes)]
        outputs.give({"arms": arms, **asdict(options)}, loaded, sentence, blocks, comparison)
    if not passed:
        raise typer.Exit(1)


def _with_scorio(comparison: Comparison, arms: Sequence[Arm], options: CompareOptions) -> Comparison:
    from forkwise.passk.bayesian import by_scorio
    from forkwise.passk.estimator import grid_of
    from forkwise.passk.outcomes import common_problems

    shared, _ = common_problems(arms, intersect=options.intersect)
    ks = grid_of(comparison.differences[0].ks)
    return replace(comparison, bayesian=by_scorio(shared, ks, level=options.level, seed=options.seed))


def _numbers(text: str | None, option: str) -> list[int] | None:
    from forkwise.passk.arguments import parse_numbers

    return parse_numbers(text, option) if text else None
