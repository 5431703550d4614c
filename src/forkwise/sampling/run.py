"""Sampling completions of problems into a samples table that survives being killed at any moment.

Work is cut into blocks: one problem and a fixed range of sample ids. Every block becomes a shard, written whole or not
at all, and what is drawn for a sample depends on the run's seed, its problem and its index alone. So the same command
continues where a killed one stopped, and its table is that of a run that was never interrupted.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from forkwise.errors import InputError
from forkwise.folders import only_process, write_json
from forkwise.progress import Console, Meter
from forkwise.samples.store import read_samples, write_shard
from forkwise.sampling.engine import Block, Completion, SamplingEngine
from forkwise.sampling.manifest import MANIFEST, check_manifest
from forkwise.sampling.recipe import Job
from forkwise.sampling.rows import table_row
from forkwise.tasks import Problem, Task, Verdict
from forkwise.version import __version__


@dataclass(frozen=True)
class Summary:
    """What a samples folder holds now: `samples`, of which this call drew `drawn` in `seconds`.

    `forkwise.report.sampling` says it.
    """

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


def sample(
    job: Job,
    task: Task,
    problems: Sequence[Problem],
    engine: Callable[[], SamplingEngine],
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
    if not job.first_problem:
        del settings["first_problem"]  # as in folders from before it was known
    blocks = [
        Block(index, problem, range(first, min(first + job.sampling.batch_size, job.n)))
        for index, problem in enumerate(problems)
        for first in range(0, job.n, job.sampling.batch_size)
    ]
    check_manifest(out, {"settings": settings})
    missing = _missing(out, blocks)
    start = time.monotonic()
    drawn = 0
    if missing:
        loaded_engine = engine()
        manifest = {"settings": settings, "engine": dict(loaded_engine.settings())}
        with only_process(out):
            check_manifest(out, manifest)  # again: another process may have just left
            missing = _missing(out, blocks)
            if not (out / MANIFEST).exists():
                write_json(out / MANIFEST, {**manifest, "forkwise": __version__, "versions": _versions()}, indent=2)
            total = sum(len(block.sample_ids) for block in blocks)
            todo = sum(len(block.sample_ids) for block in missing)
            try:
                with Meter(total, total - todo, console) as meter:
                    for block, completions in loaded_engine.draw(missing, meter):
                        write_shard(out, block.name, _rows(job, task, block, completions))
                        drawn += len(block.sample_ids)
            except InputError as error:
                raise InputError(
                    f"{error} ({total - todo + drawn:,} of {total:,} samples are safe in '{out}'; the same command "
                    "draws the rest.)"
                ) from error
    return _summary(out, drawn, time.monotonic() - start)


def _rows(job: Job, task: Task, block: Block, completions: Sequence[Completion]) -> list[dict[str, Any]]:
    verdicts: Sequence[Verdict | None] = [None] * len(completions)
    if job.verify:
        verdicts = task.verify([completion.text for completion in completions], [block.problem] * len(completions))
    return [
        table_row(job, block.problem, sample_id, completion, verdict)
        for sample_id, completion, verdict in zip(block.sample_ids, completions, verdicts, strict=True)
    ]


def _digest(problems: Sequence[Problem]) -> str:
    """Digests the problems, their order and their prompts into a short name."""
    text = json.dumps([[problem.id, problem.prompt] for problem in problems])
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()[:16]


def _versions() -> dict[str, str]:
    """Lists the versions that rounding may depend on; recorded, not compared, since updating is up to the user."""
    from importlib.metadata import PackageNotFoundError, version

    versions = {}
    for package in ("torch", "transformers", "vllm"):
        with suppress(PackageNotFoundError):
            versions[package] = version(package)
    return versions


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
