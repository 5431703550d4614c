"""The commands `forkwise passk` and `forkwise compare`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from forkwise.cli.common import long_command

_Samples = Annotated[list[str], typer.Argument(help="Samples tables: a Parquet shard or a folder of shards each.")]
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
_Json = Annotated[Path | None, typer.Option("--json", help="Write every number here as JSON; - prints JSON only.")]
_Csv = Annotated[Path | None, typer.Option("--csv", help="Write every number here as CSV.")]
_Figure = Annotated[Path | None, typer.Option(help="Write the curves with their bands here (.png or .svg).")]


def _encoder() -> Any:
    from forkwise.samples.embed import SentenceEncoder

    return SentenceEncoder().encode


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
    json: _Json = None,
    csv: _Csv = None,
    figure: _Figure = None,
) -> None:
    """Pass@K, Pass^K, G-Pass@K, maj@K of scored samples, with intervals over problems and length control."""
    with long_command("run it again"):
        from forkwise.passk.command import Files, run_passk

        run_passk(
            samples,
            k=k,
            tau=tau,
            beyond=extrapolate,
            caps=caps,
            budgets=budgets,
            texts=diversity or embed,
            embed=_encoder() if embed else None,
            level=level,
            resamples=resamples,
            seed=seed,
            files=Files(json, csv, figure),
        )


def compare(
    arms: Annotated[list[str], typer.Argument(help="[NAME=]TABLE[,TABLE...] per arm, the reference first.")],
    k: _K = None,
    intersect: Annotated[bool, typer.Option("--intersect", help="Compare on the shared problems.")] = False,
    margin: Annotated[float, typer.Option(help="Differences within +-margin count as equivalent.")] = 0.05,
    caps: _Caps = None,
    budgets: _Budgets = None,
    diversity: _Texts = False,
    embed: _Embed = False,
    level: Level = 0.95,
    resamples: _Resamples = None,
    seed: Seed = 0,
    json: _Json = None,
    csv: _Csv = None,
    figure: _Figure = None,
) -> None:
    """Whether arms differ in Pass@K: paired differences, simultaneous band, adjusted p, length control."""
    with long_command("run it again"):
        from forkwise.passk.command import Files, run_compare

        run_compare(
            arms,
            k=k,
            intersect=intersect,
            margin=margin,
            caps=caps,
            budgets=budgets,
            texts=diversity or embed,
            embed=_encoder() if embed else None,
            level=level,
            resamples=resamples,
            seed=seed,
            files=Files(json, csv, figure),
        )
