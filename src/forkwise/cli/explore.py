"""The command `forkwise explore`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from forkwise.cli.common import CONTINUES, long_command
from forkwise.cli.passk import Level, Seed


def explore(
    tables: Annotated[
        list[Path] | None,
        typer.Argument(metavar="TABLE", help="Samples tables, or files that forkwise import reads."),
    ] = None,
    samples: Annotated[list[Path] | None, typer.Option(help="The same, named; once for each table.")] = None,
    base: Annotated[Path | None, typer.Option(help="Table of the base model: which sentences are rare.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for explore.json, and for what --model computes.")] = None,
    model: Annotated[str | None, typer.Option(help="Hub id, folder or 'embedded': compute exact entropies.")] = None,
    temperature: Annotated[float | None, typer.Option(help="Of those entropies (default: each sample's own).")] = None,
    cross_prompts: Annotated[int, typer.Option(help="With --model: score responses under so many prompts.")] = 0,
    cross: Annotated[Path | None, typer.Option(help="Instead: .npz with logprobs (M, N) and own (M,).")] = None,
    vocabulary: Annotated[int | None, typer.Option(help="Tokens, for upper bounds from top-k log-probs.")] = None,
    quantile: Annotated[float, typer.Option(help="Tokens above it are high-entropy, over the whole run.")] = 0.8,
    lexicon: Annotated[Path | None, typer.Option(help="YAML of pivotal words (default: ours).")] = None,
    reflective: Annotated[Path | None, typer.Option(help="YAML of reflective patterns (default: ours).")] = None,
    breaks: Annotated[str, typer.Option(help="Words that begin a sentence, where there is no punctuation.")] = "",
    encoder: Annotated[str | None, typer.Option(help="sentence-transformers model (default: MiniLM-L6-v2).")] = None,
    encoder_dtype: Annotated[str, typer.Option(help="auto, float32 or bfloat16, of the default encoder.")] = "auto",
    k: Annotated[int, typer.Option(help="Nearest base sentences.")] = 5,
    rare: Annotated[float, typer.Option(help="Share of sentences that count as rare.")] = 0.1,
    max_sentences: Annotated[int, typer.Option(min=100, help="Distinct sentences per model; more: a draw.")] = 50_000,
    level: Level = 0.95,
    resamples: Annotated[int, typer.Option(min=100, max=1_000_000, help="Resamples and circular shifts.")] = 2000,
    seed: Seed = 0,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1, ...")] = "auto",
    dtype: Annotated[str, typer.Option(help="float32, bfloat16 or float16.")] = "auto",
    token_budget: Annotated[int, typer.Option(help="Tokens of a batch of --model, padding included.")] = 16_384,
    trust_remote_code: Annotated[bool, typer.Option("--trust-remote-code", help="Run the checkpoint's code.")] = False,
    brief: Annotated[bool, typer.Option("--brief", help="Print the conclusion alone.")] = False,
) -> None:
    """Where a model forks, whether it reflects, whether anything is new: each against its null and matched controls."""
    with long_command(CONTINUES):
        from forkwise.explore.command import ExploreOptions, run_explore
        from forkwise.explore.results import FILE
        from forkwise.progress import Console
        from forkwise.report import explore as said
        from forkwise.report.terminal import print_blocks, print_sentences

        explored = run_explore(
            ExploreOptions(
                [*(tables or ()), *(samples or ())],
                base=base,
                out=out,
                model=model,
                temperature=temperature,
                cross=cross,
                cross_prompts=cross_prompts,
                vocabulary=vocabulary,
                quantile=quantile,
                lexicon=lexicon,
                reflective=reflective,
                breaks=breaks,
                encoder=encoder,
                encoder_dtype=encoder_dtype,
                k=k,
                rare=rare,
                max_sentences=max_sentences,
                level=level,
                resamples=resamples,
                seed=seed,
                device=device,
                dtype=dtype,
                token_budget=token_budget,
                trust_remote_code=trust_remote_code,
            )
        )
        console = Console()
        print_sentences(map(said.conclusion, explored.runs), console)
        if brief:
            return
        console.print()
        print_blocks(said.exploration(explored), console)
        print_sentences(said.notes(explored), console, "- ")
        if out is not None:
            print_sentences([f"\nWritten: {out / FILE}"], console)
