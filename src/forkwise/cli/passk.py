"""The commands `forkwise passk` and `forkwise compare`: they load arms, compute, print and write files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from forkwise.cli.common import long_command
from forkwise.terminal import echo

if TYPE_CHECKING:
    from forkwise.passk import Arm, Comparison, Evaluation
    from forkwise.passk.results import Row
    from forkwise.report.table import Block

_Samples = Annotated[list[str], typer.Argument(help="Samples tables, or files that forkwise import reads.")]
_K = Annotated[str | None, typer.Option("--k", help="Values of K, such as 1,8,64, or all (default: all up to 100).")]
_Caps = Annotated[str | None, typer.Option(help="Length caps, such as 1000,2000 (default: chosen from the samples).")]
_Budgets = Annotated[str | None, typer.Option(help="Length budgets per problem (default: chosen from the samples).")]
_Texts = Annotated[bool, typer.Option("--diversity", help="Measure the diversity of the texts too.")]
_Embed = Annotated[
    bool, typer.Option("--embed", help="Measure it in embeddings too (sbert extra; first 256 tokens of a text).")
]
Level = Annotated[float, typer.Option(help="Coverage of the intervals.")]
_Resamples = Annotated[
    int | None, typer.Option(min=100, max=1_000_000, help="Resamples (default: 10,000; fewer above 2,000 problems).")
]
Seed = Annotated[int, typer.Option(min=0, help="Seed of the resamples.")]
_Brief = Annotated[bool, typer.Option("--brief", help="Print the conclusion alone.")]
_Json = Annotated[
    Path | None, typer.Option("--json", help="Write the result here, for forkwise report; - prints it alone.")
]
_Csv = Annotated[Path | None, typer.Option("--csv", help="Write every number here as CSV.")]
_Figure = Annotated[Path | None, typer.Option(help="Write the curves with their bands here (.png or .svg).")]


def passk(
    samples: _Samples,
    k: _K = None,
    tau: Annotated[float, typer.Option(help="Share of K that must be correct in G-Pass@K.")] = 0.5,
    extrapolate: Annotated[
        str | None, typer.Option(help="K above n, such as 1024,4096, answered by a labelled beta-binomial model.")
    ] = None,
    caps: _Caps = None,
    budgets: _Budgets = None,
    diversity: _Texts = False,
    embed: _Embed = False,
    level: Level = 0.95,
    resamples: _Resamples = None,
    seed: Seed = 0,
    brief: _Brief = False,
    json: _Json = None,
    csv: _Csv = None,
    figure: _Figure = None,
) -> None:
    """Pass@K, Pass^K, G-Pass@K, maj@K of scored samples, with intervals over problems and length control."""
    settings = {"samples": samples, "k": k, "tau": tau, "extrapolate": extrapolate, "caps": caps, "budgets": budgets}
    settings |= {"diversity": diversity, "embed": embed, "level": level, "resamples": resamples, "seed": seed}
    with long_command("run it again"):
        from forkwise.passk import evaluate
        from forkwise.passk.arguments import parse_ks, parse_numbers, parse_runs
        from forkwise.passk.length import default_budgets, default_caps, have_common_lengths
        from forkwise.report import passk as report

        arms = parse_runs(samples, texts=diversity or embed)
        common, encode = have_common_lengths(arms), _encoder() if embed else None
        evaluations = [
            evaluate(
                arm,
                ks=parse_ks(k, [arm]),
                tau=tau,
                beyond=_numbers(extrapolate, "--extrapolate") or (),
                caps=parse_numbers(caps, "--caps") if caps else default_caps(arms) if common else None,
                budgets=parse_numbers(budgets, "--budgets") if budgets else default_budgets(arms) if common else None,
                texts=diversity or embed,
                embed=encode,
                level=level,
                resamples=resamples,
                seed=seed,
            )
            for arm in arms
        ]
        sentence = report.conclusion(evaluations)
        blocks = [block for e in evaluations for block in (*report.details([e]), *(f"- {note}" for note in e.notes))]
        rows = [row for evaluation in evaluations for row in evaluation.rows()]
        outputs = _Outputs(settings, arms, brief, json, csv, figure)
        outputs.give(sentence, blocks, rows, evaluations, None)


def compare(
    arms: Annotated[
        list[str], typer.Argument(help="[NAME=]TABLE[,TABLE...] per arm, the reference first; or other tools' files.")
    ],
    k: _K = None,
    metric: Annotated[
        list[str] | None, typer.Option(help="Pair this statistic beside Pass@K, such as pass^k; repeatable.")
    ] = None,
    intersect: Annotated[bool, typer.Option("--intersect", help="Compare on the shared problems.")] = False,
    margin: Annotated[float, typer.Option(help="Differences within +-margin count as equivalent.")] = 0.05,
    caps: _Caps = None,
    budgets: _Budgets = None,
    diversity: _Texts = False,
    embed: _Embed = False,
    level: Level = 0.95,
    resamples: _Resamples = None,
    seed: Seed = 0,
    brief: _Brief = False,
    json: _Json = None,
    csv: _Csv = None,
    figure: _Figure = None,
) -> None:
    """Whether arms differ in Pass@K: paired differences, simultaneous band, adjusted p, length control."""
    settings = {"arms": arms, "k": k, "metric": metric, "intersect": intersect, "margin": margin, "caps": caps}
    settings |= {"budgets": budgets, "diversity": diversity, "embed": embed, "level": level, "resamples": resamples}
    settings |= {"seed": seed}
    with long_command("run it again"):
        from forkwise import passk as numbers
        from forkwise.passk.arguments import parse_arms, parse_ks
        from forkwise.report import passk as report

        loaded = parse_arms(arms, texts=diversity or embed)
        comparison = numbers.compare(
            *loaded,
            ks=parse_ks(k, loaded),
            metrics=metric,
            intersect=intersect,
            margin=margin,
            caps=_numbers(caps, "--caps"),
            budgets=_numbers(budgets, "--budgets"),
            texts=diversity or embed,
            embed=_encoder() if embed else None,
            level=level,
            resamples=resamples,
            seed=seed,
        )
        sentence = report.conclusion(comparison.arms, comparison)
        tables = [*report.overview(comparison.arms, comparison), *report.details([], comparison)]
        blocks = [*tables, *(f"- {note}" for note in comparison.notes)]
        outputs = _Outputs(settings, loaded, brief, json, csv, figure)
        outputs.give(sentence, blocks, comparison.rows(), [], comparison)


@dataclass(frozen=True)
class _Outputs:
    """Where results go. None is nowhere; with `-` as JSON path, the standard output holds the JSON alone."""

    settings: dict[str, Any]
    arms: Sequence[Arm]
    brief: bool
    json: Path | None
    csv: Path | None
    figure: Path | None

    def give(
        self,
        sentence: str,
        blocks: Sequence[Block],
        rows: list[Row],
        single: list[Evaluation],
        comparison: Comparison | None,
    ) -> None:
        """Prints the conclusion, then tables and notes unless `brief` is set, and writes the files."""
        from forkwise.folders.results import result_text, write_result
        from forkwise.passk.files import result_file, write_csv
        from forkwise.report.terminal import print_blocks, print_sentences, wide_console

        if str(self.json) != "-":
            console = wide_console()
            print_sentences([sentence], console)
            print_blocks([] if self.brief else blocks, console)
        if self.json:
            tables = dict.fromkeys(table for arm in self.arms for table in arm.tables)
            content = result_file(self.settings, tables, sentence, single, comparison)
            if str(self.json) == "-":
                echo(result_text(content), end="")
            else:
                write_result(self.json, content)
        if self.csv:
            write_csv(self.csv, rows)
        if self.figure:
            from forkwise.report.passk_figures import comparison_figure, evaluation_figure, save

            save(comparison_figure(comparison) if comparison else evaluation_figure(single), self.figure)


def _numbers(text: str | None, option: str) -> list[int] | None:
    from forkwise.passk.arguments import parse_numbers

    return parse_numbers(text, option) if text else None


def _encoder() -> Any:
    from forkwise.explore.encoder import SentenceEncoder

    return SentenceEncoder().encode
