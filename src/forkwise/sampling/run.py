"""Sampling completions of problems into a samples table that survives being killed at any moment.

Work is cut into blocks: one problem and a fixed range of sample ids. Every block becomes a shard, written whole or not
at all, and what is drawn for a sample depends on the run's seed, its problem and its index alone. So the same command
continues where a killed one stopped, and its table is that of a run that was never interrupted.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from forkwise.bounded import bounded
from forkwise.errors import InputError, first_line
from forkwise.folders import only_process, write_json
from forkwise.progress import Console, Meter, duration
from forkwise.reading import parse_json
from forkwise.samples.store import read_samples, write_shard
from forkwise.sampling.options import SamplingOptions
from forkwise.tasks import Problem, Split, Task, Verdict, load_task
from forkwise.version import __version__

MANIFEST = "sampling.json"


@dataclass(frozen=True)
class Sampling:
    """How completions are drawn.

    Attributes:
        temperature: divides the logits; 0 always takes the likeliest token.
        top_p: keeps the smallest set of likeliest tokens that holds this probability; 1 keeps all.
        max_tokens: longest completion, in tokens.
        batch_size: completions of one problem per block, and with the transformers engine generated side by side. Float
            rounding depends on it, so it belongs to the recipe.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    max_tokens: int = 512
    batch_size: int = 64

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < math.inf:
            raise InputError(f"temperature is {self.temperature}: it must be 0 (greedy) or a positive number.")
        if not 0 < self.top_p <= 1:
            raise InputError(f"top-p is {self.top_p}: it must be more than 0 and at most 1.")
        for name in ("max_tokens", "batch_size"):
            if getattr(self, name) < 1:
                raise InputError(f"{name.replace('_', '-')} is {getattr(self, name)}: it must be at least 1.")


@dataclass(frozen=True)
class Job:
    """What a samples folder holds; recorded in its `sampling.json` and compared before anything is added.

    Attributes:
        run: name of the run, the first key of the samples table.
        model: as the user gave it.
        task: name of the task, or None with `dataset`.
        dataset: file or Hub id, instead of a task.
        split: of the task.
        n: completions per problem.
        seed: of the run.
        sampling: how they are drawn.
        engine: which engine draws them.
        verify: whether they are verified as they arrive.
    """

    run: str
    model: str
    task: str | None
    n: int
    seed: int
    sampling: Sampling
    dataset: str | None = None
    split: Split = "test"
    engine: str = "transformers"
    verify: bool = True

    def __post_init__(self) -> None:
        if self.n < 1:
            raise InputError(f"n is {self.n}: ask for at least one completion per problem.")


@dataclass(frozen=True)
class Block:
    """The unit of work: samples `sample_ids` of one problem; `index` is the problem's place in the run."""

    index: int
    problem: Problem
    sample_ids: range

    @property
    def name(self) -> str:
        return f"{self.index:05d}-{self.sample_ids.start:06d}"


class TopToken(NamedTuple):
    """A candidate at one position, and its log-probability in nats."""

    token: str
    logprob: float


@dataclass(frozen=True)
class Completion:
    """What an engine drew for one sample. Token-level fields have one entry per generated token, or are None.

    Attributes:
        text: without the end-of-sequence token.
        prompt: the text the model continued; of a conversation sent to a server, its messages as JSON.
        n_tokens: generated tokens, the end-of-sequence token included.
        finish_reason: "stop" or "length".
        token_ids, tokens: what was generated, as ids and as text.
        logprobs: of those tokens, in nats.
        entropies: of the distributions they were drawn from, in nats.
        top_logprobs: the likeliest candidates at each position.
    """

    text: str
    prompt: str
    n_tokens: int | None
    finish_reason: str | None
    token_ids: list[int] | None = None
    tokens: list[str] | None = None
    logprobs: list[float] | None = None
    entropies: list[float] | None = None
    top_logprobs: list[list[TopToken]] | None = None


class Engine(Protocol):
    """Draws completions. The same block gives the same completions, whatever else is asked for before or beside it."""

    def settings(self) -> Mapping[str, Any]:
        """What decides its output besides the job; two runs with different settings are not mixed."""
        ...

    def draw(self, blocks: Sequence[Block], meter: Meter) -> Iterator[tuple[Block, list[Completion]]]:
        """Each block once, in any order, as soon as it is complete; progress in between goes to `meter`."""
        ...


def sample_seed(seed: int, problem_id: str, sample_id: int) -> int:
    """The seed of one sample: it depends on the run's seed, the problem and the index, and on nothing else."""
    digest = hashlib.sha256(f"{seed}\x00{problem_id}\x00{sample_id}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def request_seed(seed: int, problem_id: str, sample_id: int) -> int:
    """Like `sample_seed`, in the 31 bits that every server takes; the samples of a problem never share one."""
    return (sample_seed(seed, problem_id, 0) + sample_id) % 2**31


def chat_messages(problem: Problem, chat: bool) -> list[dict[str, str]] | None:
    """The conversation to continue; None for a problem that is plain text, unless `chat` asks for a conversation."""
    if isinstance(problem.prompt, str):
        return [{"role": "user", "content": problem.prompt}] if chat else None
    return problem.prompt


def prompt_text(problem: Problem, tokenizer: Any, chat: bool) -> tuple[str, bool]:
    """The text to continue, and whether a chat template made it (so that its special tokens are already there)."""
    messages = chat_messages(problem, chat)
    if messages is None:
        assert isinstance(problem.prompt, str)
        return problem.prompt, False
    return render_chat(tokenizer, messages, f"the conversation of problem '{problem.id}'"), True


def render_chat(tokenizer: Any, messages: Sequence[Mapping[str, str]], what: str, **options: Any) -> str:
    """A conversation as the text that the model continues.

    Args:
        tokenizer: the model's.
        messages: the conversation.
        what: how messages to the user call it.
        options: of the template.

    Raises:
        InputError: there is no chat template, it refuses the conversation, or it does not come to an end.
    """
    name = getattr(tokenizer, "name_or_path", "") or "the model"
    if not tokenizer.chat_template:
        raise InputError(
            f"The tokenizer of '{name}' has no chat template for {what}: choose a model that was tuned on "
            "conversations, or give prompts as text without --chat."
        )
    try:
        with bounded():
            return str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True, **options))
    except Exception as error:  # a template refuses what it likes, in kinds of its own
        raise InputError(
            f"The chat template of '{name}' refuses {what} ({first_line(error)}): change the prompt, or choose another "
            "model."
        ) from error


def open_task(task: str | None, dataset: str | None, verifier: Any = None) -> Task:
    """The task of that name, or all of a dataset (file or Hub id) as one.

    Raises:
        InputError: both or neither is given, or it cannot be found.
    """
    if (task is None) == (dataset is None):
        raise InputError("Give either --task or --dataset.")
    if task is not None:
        return load_task(task, verifier=verifier)
    from forkwise.tasks.dataset import DatasetTask

    return DatasetTask(str(dataset), test_fraction=1.0, math_verifier=verifier)


def table_row(
    job: Job, problem_id: str, sample_id: int, completion: Completion, verdict: Verdict | None
) -> dict[str, Any]:
    """One row of the samples table; token-level columns only where the engine gives them."""
    row = {
        "run": job.run,
        "model": job.model,
        "problem_id": problem_id,
        "sample_id": sample_id,
        "prompt": _storable(completion.prompt),
        "completion": _storable(completion.text),
        "answer": verdict.answer if verdict else None,
        "correct": verdict.correct if verdict else None,
        "verdict_by": verdict.by if verdict else None,
        "n_tokens": completion.n_tokens,
        "finish_reason": completion.finish_reason,
        "seed": job.seed,
        "sampling": {key: asdict(job.sampling)[key] for key in ("temperature", "top_p", "max_tokens")},
    }
    if completion.token_ids is not None:
        row["token_ids"] = completion.token_ids
    if completion.tokens is not None:
        row["tokens"] = [_storable(token) for token in completion.tokens]
    if completion.logprobs is not None:
        row["logprobs"] = completion.logprobs
    if completion.entropies is not None:
        row["entropies"] = completion.entropies
    if completion.top_logprobs is not None:
        row["top_logprobs"] = [
            [{"token": _storable(token), "logprob": logprob} for token, logprob in place]
            for place in completion.top_logprobs
        ]
    return row


def _storable(text: str) -> str:
    return text.encode("utf-8", "replace").decode()  # a lone surrogate cannot be stored as UTF-8


def plan(options: SamplingOptions) -> Job:
    """A job from what the user gave; what was left out comes from the preset, or from the defaults.

    Without a preset: 16 completions, temperature 1, the whole distribution, up to 1,024 tokens. The run is named after
    the model.

    Raises:
        InputError: no such preset, or it says nothing of this task; or a value is out of range.
    """
    from forkwise.sampling.server import parse_extra
    from forkwise.tasks.benchmarks import Protocol, protocol

    parse_extra(options.extra)  # refused now, and not when the engine is made
    settled = Protocol(n=16, temperature=1.0, top_p=1.0, max_tokens=1024)
    if options.preset is not None:
        settled = protocol(options.preset, options.task or str(options.dataset))

    def chosen(name: str) -> Any:
        return getattr(settled if getattr(options, name) is None else options, name)

    return Job(
        run=options.run or Path(options.model).name or options.model,
        model=options.model,
        task=options.task,
        dataset=options.dataset,
        split=options.split,
        n=chosen("n"),
        seed=options.seed,
        sampling=Sampling(
            temperature=chosen("temperature"),
            top_p=chosen("top_p"),
            max_tokens=chosen("max_tokens"),
            batch_size=options.batch_size,
        ),
        engine=options.engine if options.server is None else "server",
        verify=options.verify,
    )


def make_engine(job: Job, options: SamplingOptions) -> Engine:
    """The engine that `job.engine` names (`"transformers"`, `"vllm"`, or `"server"` at the address `server`).

    Raises:
        InputError: no such engine, its package is missing, or it cannot load the model.
    """
    what = (job.model, job.seed, job.sampling)
    top_logprobs = options.top_logprobs if options.token_data else 0
    if job.engine == "server":
        from forkwise.sampling.server import Patience, ServerEngine, parse_extra

        return ServerEngine(
            options.server or "",
            *what,
            chat=options.chat,
            top_logprobs=top_logprobs,
            concurrency=options.concurrency,
            patience=Patience(timeout=options.timeout, retries=options.retries),
            extra=parse_extra(options.extra),
        )
    if options.extra:
        raise InputError("--extra goes into the requests to a server: give --server too, or leave it out.")
    if job.engine == "vllm":
        from forkwise.sampling.vllm import VllmEngine

        return VllmEngine(
            *what,
            chat=options.chat,
            top_logprobs=top_logprobs,
            dtype=options.dtype,
            tensor_parallel=options.tensor_parallel,
        )
    if job.engine != "transformers":
        raise InputError(f"There is no engine '{job.engine}': use transformers or vllm, or --server URL.")
    from forkwise.sampling.generate import TransformersEngine

    return TransformersEngine(
        *what,
        chat=options.chat,
        token_data=options.token_data,
        device=options.device,
        dtype=options.dtype,
        trust_remote_code=options.trust_remote_code,
    )


# ------------------------------------------------------------------------------------------------------------- running


@dataclass(frozen=True)
class Summary:
    """What is in the folder now. `drawn` of its `samples` were drawn by this call, in `seconds`."""

    samples: int
    drawn: int
    problems: int
    correct: float | None
    """Share of correct completions among those with a verdict; None without any."""
    unscored: int
    mean_tokens: float | None
    at_the_limit: float
    """Share of completions that were cut at max_tokens."""
    seconds: float

    def __str__(self) -> str:
        parts = [f"{self.samples:,} samples of {self.problems:,} problems"]
        parts.append(f"{self.drawn:,} of them drawn now, in {duration(self.seconds)}" if self.drawn else "all there")
        if self.correct is not None:
            parts.append(f"{100 * self.correct:.1f} % correct")
        if self.unscored:
            parts.append(f"{self.unscored:,} without a verdict")
        if self.mean_tokens is not None:
            parts.append(f"{self.mean_tokens:.0f} tokens on average, {100 * self.at_the_limit:.1f} % cut at the limit")
        return "; ".join(parts) + "."


def sample(
    job: Job,
    task: Task,
    problems: Sequence[Problem],
    engine: Callable[[], Engine],
    out: Path,
    *,
    console: Console | None = None,
) -> Summary:
    """Fills the folder `out` with `job.n` completions of each problem, or with what is still missing there.

    Args:
        job, task, problems: what is sampled; `task` verifies.
        engine: makes the engine; called only if something is left to draw.
        out: folder of the samples table. Shards that are there already are kept.
        console: where progress goes; standard error by default.

    Raises:
        InputError: `out` holds other samples, a damaged shard or someone else's files; another process is filling it;
            or the engine cannot go on. What was written stays, and the same call continues.
    """
    if len({problem.id for problem in problems}) != len(problems):
        raise InputError("Two problems have the same id, so their samples could not be told apart.")
    settings = {**asdict(job), "problems": len(problems), "problems_sha256": _digest(problems)}
    blocks = [
        Block(index, problem, range(first, min(first + job.sampling.batch_size, job.n)))
        for index, problem in enumerate(problems)
        for first in range(0, job.n, job.sampling.batch_size)
    ]
    _check(out, {"settings": settings})
    missing = _missing(out, blocks)
    start = time.monotonic()
    drawn = 0
    if missing:
        made = engine()
        manifest = {"settings": settings, "engine": dict(made.settings())}
        with only_process(out):
            _check(out, manifest)  # again: another process may have just left
            missing = _missing(out, blocks)
            if not (out / MANIFEST).exists():
                write_json(out / MANIFEST, {**manifest, "forkwise": __version__, "versions": _versions()}, indent=2)
            total = sum(len(block.sample_ids) for block in blocks)
            left = sum(len(block.sample_ids) for block in missing)
            try:
                with Meter(total, total - left, console) as meter:
                    for block, completions in made.draw(missing, meter):
                        write_shard(out, block.name, _rows(job, task, block, completions))
                        drawn += len(block.sample_ids)
            except InputError as error:
                raise InputError(
                    f"{error} ({total - left + drawn:,} of {total:,} samples are safe in '{out}'; the same command "
                    "draws the rest.)"
                ) from error
    return _summary(out, drawn, time.monotonic() - start)


def _rows(job: Job, task: Task, block: Block, completions: Sequence[Completion]) -> list[dict[str, Any]]:
    verdicts: Sequence[Verdict | None] = [None] * len(completions)
    if job.verify:
        verdicts = task.verify([completion.text for completion in completions], [block.problem] * len(completions))
    return [
        table_row(job, block.problem.id, sample_id, completion, verdict)
        for sample_id, completion, verdict in zip(block.sample_ids, completions, verdicts, strict=True)
    ]


def _digest(problems: Sequence[Problem]) -> str:
    """A name for these problems in this order, prompts included."""
    text = json.dumps([[problem.id, problem.prompt] for problem in problems])
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()[:16]


def _versions() -> dict[str, str]:
    """What rounding may depend on. Recorded, not compared: an update in the middle of a run is the user's decision."""
    from importlib.metadata import PackageNotFoundError, version

    found = {}
    for package in ("torch", "transformers", "vllm"):
        with suppress(PackageNotFoundError):
            found[package] = version(package)
    return found


def _check(out: Path, manifest: Mapping[str, Any]) -> None:
    """Refuses a folder that holds anything but shards of this very job."""
    if out.exists() and not out.is_dir():
        raise InputError(f"'{out}' is a file; give another --out.")
    path = out / MANIFEST
    if not path.exists():
        if out.is_dir() and any(out.glob("*.parquet")):
            raise InputError(f"'{out}' holds Parquet files but no {MANIFEST}: give another --out.")
        return
    there = read_manifest(out)
    for part, wanted in manifest.items():
        ours, theirs = _flat(wanted), _flat(there.get(part, {}))
        for key in sorted(ours.keys() | theirs.keys()):
            if ours.get(key) != theirs.get(key):
                raise InputError(
                    f"'{out}' holds samples with {key} = {_short(theirs.get(key))}, not {_short(ours.get(key))}: give "
                    f"another --out, or the settings in {path}."
                )


def read_manifest(out: Path) -> dict[str, Any]:
    """The `sampling.json` of a samples folder; InputError where it cannot be read."""
    try:
        manifest: dict[str, Any] = parse_json((out / MANIFEST).read_bytes())
        settings = manifest["settings"]
        _flat(settings["sampling"])
        kinds = {"task": str | None, "dataset": str | None, "split": str, "problems": int}
        wrong = [name for name, kind in kinds.items() if not isinstance(settings[name], kind)]
        if wrong:
            raise ValueError(f"{wrong[0]} is {settings[wrong[0]]}")
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise InputError(f"'{out / MANIFEST}' cannot be read ({error}): restore it, or give another --out.") from error
    return manifest


def _flat(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Nested settings under their own names."""
    flat: dict[str, Any] = {}
    for key, value in json.loads(json.dumps(settings)).items():
        flat |= _flat(value) if isinstance(value, dict) else {key: value}
    return flat


def _short(value: Any) -> str:
    return "no value" if value is None else str(value)


def _missing(out: Path, blocks: Sequence[Block]) -> list[Block]:
    missing = []
    for block in blocks:
        shard = out / f"{block.name}.parquet"
        if not shard.exists():
            missing.append(block)
            continue
        try:
            whole = pq.read_metadata(shard).num_rows == len(block.sample_ids)
        except (pa.ArrowException, OSError, UnicodeDecodeError):
            whole = False
        if not whole:
            raise InputError(f"'{shard}' is damaged: delete it, and the same command draws its samples again.")
    return missing


def _summary(out: Path, drawn: int, seconds: float) -> Summary:
    table = read_samples(out, ["problem_id", "correct", "n_tokens", "finish_reason"])
    cut = pc.sum(pc.equal(table["finish_reason"], "length")).as_py() or 0
    return Summary(
        samples=table.num_rows,
        drawn=drawn,
        problems=len(pc.unique(table["problem_id"])),
        correct=pc.mean(table["correct"]).as_py(),
        unscored=table["correct"].null_count,
        mean_tokens=pc.mean(table["n_tokens"]).as_py(),
        at_the_limit=cut / table.num_rows,
        seconds=seconds,
    )


# ------------------------------------------------------------------------------------------------------------ progress
