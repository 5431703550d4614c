"""The `forkwise` command: parses, calls, prints. A mistake of the user's ends in one sentence and exit code 2."""

from __future__ import annotations

import os
import signal
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from forkwise import __version__
from forkwise.errors import InputError, RunError
from forkwise.terminal import complain, echo, guard_libraries

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Entropy-shaped advantages for reasoning models, and measurements of what they do.",
)


class Split(str, Enum):
    """What `--split` takes."""

    train = "train"
    validation = "validation"
    test = "test"


_PASS_THROUGH = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}

_EXTRAS = dict.fromkeys(("torch", "transformers", "trl", "accelerate", "datasets", "peft"), "train")
_EXTRAS |= {"math_verify": "math", "reasoning_gym": "tasks", "vllm": "vllm", "verl": "verl"}

_CONTINUES = "what was written stays, and the same command continues"


@contextmanager
def _long_command(again: str = "the same command with --resume continues") -> Iterator[None]:
    """Turns a missing extra into a sentence, and Ctrl-C into exit code 130 with a word on how to go on."""
    try:
        yield
    except ImportError as error:
        if (error.name or "").startswith("forkwise"):
            raise
        extra = _EXTRAS.get((error.name or "").partition(".")[0])
        if extra is None:  # a library misses one of its own, and says which
            raise InputError(f"A package is missing: {str(error).strip().splitlines()[0]}") from error
        raise InputError(
            f'This command needs packages that are not installed ({error}): pip install "forkwise[{extra}]".'
        ) from error
    except KeyboardInterrupt:
        echo(f"\nforkwise: interrupted; {again}.", error=True)
        raise typer.Exit(130) from None


def _cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@app.callback(invoke_without_command=True)
def _root(version: Annotated[bool, typer.Option("--version", help="Print the version and stop.")] = False) -> None:
    if version:
        echo(f"forkwise {__version__}")
        raise typer.Exit


@app.command(context_settings=_PASS_THROUGH)
def grpo(ctx: typer.Context) -> None:
    """Train with GRPO and entropy-shaped advantages (every TRL GRPOConfig field is a flag; see grpo --help)."""
    with _long_command():
        from forkwise.training import grpo as training

        training.main(ctx.args)


@app.command(context_settings=_PASS_THROUGH)
def ppo(ctx: typer.Context) -> None:
    """Train with PPO, a critic and entropy-shaped advantages (flags as for grpo, and the critic's; see ppo --help)."""
    with _long_command():
        from forkwise.training import ppo as training

        training.main(ctx.args)


@app.command()
def quickstart(
    out: Annotated[Path, typer.Option(help="Run folder to write.")] = Path("runs/quickstart"),
    algorithm: Annotated[str, typer.Option(help="grpo, or ppo with a critic.")] = "grpo",
    steps: Annotated[int, typer.Option(min=1, help="Training steps per arm.")] = 70,
    seeds: Annotated[int, typer.Option(min=1, help="Training seeds per arm (0, 1, ...).")] = 1,
    alpha: Annotated[
        float | None,
        typer.Option(help="Entropy coefficient of the shaped arm (default: the paper's 0.4; ppo: 0.1)."),
    ] = None,
    kappa: Annotated[float, typer.Option(help="Cap: the bonus is at most |advantage| / kappa (> 1).")] = 2.0,
    problems: Annotated[int, typer.Option(min=2, help="Held-out problems for Pass@K.")] = 64,
    samples: Annotated[int, typer.Option(min=1, help="Samples per held-out problem: the largest K.")] = 256,
    jobs: Annotated[int, typer.Option(min=0, help="Processes side by side (0: one per core, at most 8).")] = 0,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run in --out, or start it.")] = False,
) -> None:
    """Train the embedded model by GRPO or PPO without and with the entropy-shaped advantage, and compare by Pass@K."""
    with _long_command():
        from forkwise.lab import experiment
        from forkwise.lab.quickstart import quickstart as arms

        wanted = arms(algorithm, alpha=alpha, kappa=kappa, seeds=seeds, steps=steps, problems=problems, samples=samples)
        experiment.run(out, wanted, jobs=jobs or min(_cores(), 8), resume=resume)


lab_app = typer.Typer(no_args_is_help=True, help="Experiments on the embedded model.")
app.add_typer(lab_app, name="lab")


@lab_app.command("compare")
def lab_compare(
    out: Annotated[Path, typer.Option(help="Folder of the experiment to write.")],
    study: Annotated[str | None, typer.Option(help="A YAML file, or the name of a study of ours.")] = None,
    methods: Annotated[
        list[str] | None, typer.Option(help="Instead: NAME[:key=value,...][+NAME...] of one arm; repeatable.")
    ] = None,
    algorithm: Annotated[str, typer.Option(help="Of --methods: grpo or ppo.")] = "grpo",
    only: Annotated[list[str] | None, typer.Option(help="Only this arm, against the reference; repeatable.")] = None,
    seeds: Annotated[int | None, typer.Option(min=1, help="Training seeds per arm.")] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Training steps per arm.")] = None,
    problems: Annotated[int | None, typer.Option(min=2, help="Held-out problems.")] = None,
    samples: Annotated[int | None, typer.Option(min=1, help="Samples per problem: the largest K.")] = None,
    split: Annotated[Split | None, typer.Option(help="Of the task (default test).")] = None,
    reuse: Annotated[
        list[Path] | None, typer.Option(help="Folder of another experiment whose equal runs are taken; repeatable.")
    ] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, or auto: the GPUs if there are any.")] = "auto",
    jobs: Annotated[int, typer.Option(min=0, help="Processes side by side (0: one per core).")] = 0,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the experiment in --out, or start it.")] = False,
) -> None:
    """Train arms x seeds on the embedded model with equal rollouts, and compare them by Pass@K."""
    with _long_command():
        from forkwise.lab import arms, experiment
        from forkwise.lab.study import choose

        if device == "auto":
            device = "cuda" if arms.gpus() else "cpu"
        sizes = {"seeds": seeds, "steps": steps, "problems": problems, "samples": samples}
        wanted = choose(
            study, methods or [], algorithm, only or [], **sizes, device=device, split=split.value if split else None
        )
        experiment.run(out, wanted, jobs=jobs or _cores(), resume=resume, reuse=reuse or [])


@app.command("import")
def import_(
    files: Annotated[list[Path], typer.Argument(help="Files of other tools; .gz is fine.", show_default=False)],
    out: Annotated[Path, typer.Option(help="Folder of the samples table; one shard per file is added to it.")],
    format_: Annotated[str, typer.Option("--format", help="Their format; docs/samples.md lists them.")] = "auto",
    run: Annotated[str | None, typer.Option(help="Name of the run (default: the file's name).")] = None,
    model: Annotated[str | None, typer.Option(help="Name of the model (default: what the file says).")] = None,
    threshold: Annotated[float | None, typer.Option(help="Correct from this score on (fractional scores).")] = None,
    score: Annotated[str | None, typer.Option(help="Which of several scores decides.")] = None,
    map_: Annotated[list[str] | None, typer.Option("--map", help="COLUMN=FIELD, for plain files.")] = None,
) -> None:
    """Import samples that other tools wrote into a samples table, and say what was found and what was not taken."""
    with _long_command("the files reported above stay imported; import the others again"):
        from forkwise.samples.importers import Options, import_files, parse_columns

        options = Options(run, model, threshold, score, parse_columns(map_ or []))
        for report in import_files(files, out, format_=format_, options=options):
            echo(str(report))


@app.command()
def sample(
    model: Annotated[str, typer.Option(help="Hub id, folder or 'embedded'; with --server, the name it has there.")],
    out: Annotated[Path, typer.Option(help="Folder of the samples table; the same command continues in it.")],
    task: Annotated[str | None, typer.Option(help="countdown, aime24, math500, reasoning-gym:NAME, ...")] = None,
    dataset: Annotated[str | None, typer.Option(help="Instead of a task: file or Hub id, prompt and answer.")] = None,
    preset: Annotated[str | None, typer.Option(help="'paper': n, temperature, top-p, length of 2506.14758.")] = None,
    n: Annotated[int | None, typer.Option("-n", help="Completions per problem (default 16).")] = None,
    temperature: Annotated[float | None, typer.Option(help="0 is greedy (default 1).")] = None,
    top_p: Annotated[float | None, typer.Option(help="Nucleus (default 1: everything).")] = None,
    max_tokens: Annotated[int | None, typer.Option(help="Longest completion (default 1024).")] = None,
    split: Annotated[Split, typer.Option(help="Of the task.")] = Split.test,
    problems: Annotated[int | None, typer.Option(min=1, help="Only so many problems.")] = None,
    seed: Annotated[int, typer.Option(help="Same seed, same samples.")] = 0,
    run: Annotated[str | None, typer.Option(help="Name of the run (default: the model's).")] = None,
    batch_size: Annotated[int, typer.Option(help="Completions of a problem side by side, and per shard.")] = 64,
    engine: Annotated[str, typer.Option(help="transformers or vllm.")] = "transformers",
    server: Annotated[str | None, typer.Option(help="Address of an OpenAI-compatible server.")] = None,
    concurrency: Annotated[int, typer.Option(help="Requests at a time.")] = 32,
    timeout: Annotated[float, typer.Option(help="Seconds for one request to the server, all in all.")] = 1800.0,
    retries: Annotated[int, typer.Option(help="Further tries when the server fails.")] = 6,
    extra: Annotated[
        list[str] | None, typer.Option(help="key=value for the server's requests, as --extra top_k=20; repeatable.")
    ] = None,
    chat: Annotated[bool, typer.Option("--chat", help="Send prompts through the chat template.")] = False,
    token_data: Annotated[bool, typer.Option(help="Store tokens with log-probs and entropies.")] = True,
    top_logprobs: Annotated[int, typer.Option(help="Candidates per token; vllm and servers.")] = 20,
    verify: Annotated[bool, typer.Option(help="Verify completions as they arrive.")] = True,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1, ...")] = "auto",
    dtype: Annotated[str, typer.Option(help="float32, bfloat16 or float16.")] = "auto",
    tensor_parallel: Annotated[int, typer.Option(help="GPUs that share the model (vllm).")] = 1,
    trust_remote_code: Annotated[bool, typer.Option("--trust-remote-code", help="Run the checkpoint's code.")] = False,
) -> None:
    """Draw completions of a task's problems into a samples table; killed anywhere, the same command continues."""
    with _long_command(_CONTINUES):
        from forkwise.samples import sampling
        from forkwise.samples.server import parse_extra

        further = parse_extra(extra or [])
        job = sampling.plan(
            model=model,
            task=task,
            dataset=dataset,
            preset=preset,
            n=n,
            temperature=temperature,
            top_p=top_p,
            max_tokens=max_tokens,
            batch_size=batch_size,
            seed=seed,
            split=split.value,
            run=run,
            engine="server" if server is not None else engine,
            verify=verify,
        )
        source = sampling.open_task(task, dataset)
        summary = sampling.sample(
            job,
            source,
            source.problems(split.value, problems),
            lambda: sampling.make_engine(
                job,
                server=server,
                chat=chat,
                token_data=token_data,
                top_logprobs=top_logprobs,
                device=device,
                dtype=dtype,
                tensor_parallel=tensor_parallel,
                concurrency=concurrency,
                timeout=timeout,
                retries=retries,
                extra=further,
                trust_remote_code=trust_remote_code,
            ),
            out,
        )
        echo(f"{out}: {summary}")


@app.command()
def verify(
    samples: Annotated[Path, typer.Argument(help="Samples table: a Parquet file or a folder of them.")],
    task: Annotated[str | None, typer.Option(help="Task with the gold answers, paired by problem_id.")] = None,
    dataset: Annotated[str | None, typer.Option(help="Instead of a task: file or Hub id.")] = None,
    answers: Annotated[Path | None, typer.Option(help="File with problem_id and answer.")] = None,
    gold_column: Annotated[str | None, typer.Option(help="Column of the table with gold answers.")] = None,
    verifier: Annotated[str | None, typer.Option(help="math, exact, or the name of a task.")] = None,
    last_number: Annotated[
        bool, typer.Option("--last-number", help="Where no answer is stated, the last number is the answer.")
    ] = False,
    split: Annotated[Split | None, typer.Option(help="Of the task (default test).")] = None,
    problems: Annotated[int | None, typer.Option(min=1, help="How many, for generated tasks.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Verify again what has a verdict.")] = False,
    workers: Annotated[int, typer.Option(min=1, help="Processes for LaTeX answers.")] = 1,
    timeout: Annotated[float, typer.Option(help="Seconds per answer.")] = 5.0,
    memory_mb: Annotated[int, typer.Option(help="MiB of address space per process.")] = 1024,
) -> None:
    """Verify the samples of any table against gold answers; killed anywhere, the same command continues."""
    with _long_command(_CONTINUES):
        from forkwise.samples import verify as verification

        judge = verification.find_judge(
            samples,
            task=task,
            dataset=dataset,
            answers=answers,
            gold_column=gold_column,
            verifier=verifier,
            last_number=last_number,
            split=split.value if split else None,
            n_problems=problems,
            workers=workers,
            timeout=timeout,
            memory_mb=memory_mb,
        )
        echo(f"{samples}: {verification.verify(samples, judge, force=force)}")


_Samples = Annotated[list[str], typer.Argument(help="Samples tables: a Parquet shard or a folder of shards each.")]
_K = Annotated[str | None, typer.Option("--k", help="Values of K, such as 1,8,64, or all (default: all up to 100).")]
_Caps = Annotated[str | None, typer.Option(help="Length caps, such as 1000,2000 (default: chosen from the samples).")]
_Budgets = Annotated[str | None, typer.Option(help="Length budgets per problem (default: chosen from the samples).")]
_Texts = Annotated[bool, typer.Option("--diversity", help="Measure the diversity of the texts too.")]
_Embed = Annotated[
    bool, typer.Option("--embed", help="Measure it in embeddings too (sbert extra; first 256 tokens of a text).")
]
_Level = Annotated[float, typer.Option(help="Coverage of the intervals.")]
_Resamples = Annotated[
    int | None, typer.Option(min=100, max=1_000_000, help="Resamples (default: 10,000; fewer above 2,000 problems).")
]
_Seed = Annotated[int, typer.Option(min=0, help="Seed of the resamples.")]
_Json = Annotated[Path | None, typer.Option("--json", help="Write every number here as JSON; - prints JSON only.")]
_Csv = Annotated[Path | None, typer.Option("--csv", help="Write every number here as CSV.")]
_Figure = Annotated[Path | None, typer.Option(help="Write the curves with their bands here (.png or .svg).")]


def _encoder() -> Any:
    from forkwise.samples.embed import SentenceEncoder

    return SentenceEncoder().encode


@app.command()
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
    level: _Level = 0.95,
    resamples: _Resamples = None,
    seed: _Seed = 0,
    json: _Json = None,
    csv: _Csv = None,
    figure: _Figure = None,
) -> None:
    """Pass@K, Pass^K, G-Pass@K, maj@K of scored samples, with intervals over problems and length control."""
    with _long_command("run it again"):
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


@app.command()
def compare(
    arms: Annotated[list[str], typer.Argument(help="[NAME=]TABLE[,TABLE...] per arm, the reference first.")],
    k: _K = None,
    intersect: Annotated[bool, typer.Option("--intersect", help="Compare on the shared problems.")] = False,
    margin: Annotated[float, typer.Option(help="Differences within +-margin count as equivalent.")] = 0.05,
    caps: _Caps = None,
    budgets: _Budgets = None,
    diversity: _Texts = False,
    embed: _Embed = False,
    level: _Level = 0.95,
    resamples: _Resamples = None,
    seed: _Seed = 0,
    json: _Json = None,
    csv: _Csv = None,
    figure: _Figure = None,
) -> None:
    """Whether arms differ in Pass@K: paired differences, simultaneous band, adjusted p, length control."""
    with _long_command("run it again"):
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


@app.command()
def methods(
    names: Annotated[list[str] | None, typer.Argument(help="Only these (default: all).", show_default=False)] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the methods for --method of grpo and ppo: paper, formula, what they require, options with defaults."""
    from forkwise.methods import listing

    echo(listing.as_json(names or []) if json else listing.as_table(names or []), end="")


@app.command()
def report(
    runs: Annotated[list[Path], typer.Argument(help="Run folders, samples, explorations.", show_default=False)],
    out: Annotated[Path | None, typer.Option(help="HTML file (default: report.html in the first RUN).")] = None,
    figures: Annotated[Path | None, typer.Option(help="Write the figures into this folder too, PNG and SVG.")] = None,
    text: Annotated[bool, typer.Option("--text", help="Print a summary, for logs.")] = False,
    open_page: Annotated[bool, typer.Option("--open", help="Show the page in the browser.")] = False,
) -> None:
    """Write one self-contained HTML page about runs, samples and explorations: curves, tables, traces."""
    from forkwise.report.command import run_report

    run_report(runs, out=out, figure_folder=figures, text=text, open_page=open_page)


doctor_app = typer.Typer(no_args_is_help=True, help="Says what is wrong, and what to do.")
app.add_typer(doctor_app, name="doctor")


@doctor_app.command("verl")
def doctor_verl() -> None:
    """Say whether verl finds the forkwise plugin, with which verl, and why not; exit code 2 if not."""
    from forkwise.engines import verl_doctor

    echo(verl_doctor.report())


@doctor_app.command("run")
def doctor_run(
    folder: Annotated[Path, typer.Argument(help="Run folder of forkwise grpo or ppo.", show_default=False)],
) -> None:
    """Explain a run's curves in words: what they say, what is alarming, what to try, and how to go on."""
    from forkwise.training import doctor

    echo(doctor.report(folder))


@app.command()
def explore(
    tables: Annotated[
        list[Path] | None,
        typer.Argument(metavar="TABLE", help="Samples tables: a Parquet shard or a folder of shards each."),
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
    level: _Level = 0.95,
    resamples: Annotated[int, typer.Option(min=100, max=1_000_000, help="Resamples and circular shifts.")] = 2000,
    seed: _Seed = 0,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1, ...")] = "auto",
    dtype: Annotated[str, typer.Option(help="float32, bfloat16 or float16.")] = "auto",
    token_budget: Annotated[int, typer.Option(help="Tokens of a batch of --model, padding included.")] = 16_384,
    trust_remote_code: Annotated[bool, typer.Option("--trust-remote-code", help="Run the checkpoint's code.")] = False,
) -> None:
    """Where a model forks, whether it reflects, whether anything is new: each against its null and matched controls."""
    with _long_command(_CONTINUES):
        from forkwise.explore.command import Options, run_explore

        run_explore(
            Options(
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


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def main() -> None:
    """Runs the command; exit codes: 0 done, 1 a run cannot go on, 2 the user must change something, 130 interrupted."""
    # TRL's own defaults set a field that transformers has renamed; nothing that a user of forkwise could change.
    warnings.filterwarnings("ignore", message=".*gradient_checkpointing.*", category=FutureWarning)
    # A closed terminal or a batch system's end is handled like Ctrl-C: child processes are ended, and a word is said.
    for name in ("SIGTERM", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), _interrupt)
    guard_libraries()
    run()


def run(argv: Sequence[str] | None = None) -> NoReturn:
    """Ends with the exit code of the command with the words `argv` (default: those of the process)."""
    try:
        try:
            app(argv)
        finally:
            sys.stdout.flush()
    except InputError as error:
        complain(error)
        sys.exit(2)
    except RunError as error:
        complain(error)
        sys.exit(1)
    except OSError as error:
        if error.errno is None:
            raise
        # Nothing but the standard output is written to without a sentence of its own.
        complain(f"{error.filename or 'The standard output'} cannot be used: {error.strerror}.")
        sys.exit(2)
    sys.exit(0)
