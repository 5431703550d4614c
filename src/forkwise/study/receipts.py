"""Receipts: what a finished run leaves behind, small enough to be committed, and enough to analyse the study from.

`RUN.json` is the receipt; while a run is at work, `RUN.started` has a line for each time that it was started.
"""

from __future__ import annotations

import hashlib
import json
import platform
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from forkwise.errors import InputError
from forkwise.folders.results import inputs_of, numerical_versions, read_result, write_result
from forkwise.passk import Arm, diversity, make_arm
from forkwise.passk.outcomes import number_clusters
from forkwise.reading import parse_json
from forkwise.samples import read_samples
from forkwise.tasks import Problem
from forkwise.terminal import counted
from forkwise.version import __version__

SCHEMA = 1
STARTED = ".started"
LAST = 10  # logged steps averaged
TEXTS = 64  # samples per problem whose texts are compared: self-BLEU and distinct texts depend on the number
_POINTS = 48  # of each curve
_WHOLE = "clip_ratio/"  # averaged over the whole run: it moves from update to update of a rollout
_CURVES = ("reward", "entropy", "completions/mean_length")
_PACKAGES = ("forkwise", "torch", "transformers", "trl", "accelerate", "vllm")


@dataclass(frozen=True)
class Receipt:
    """What a finished run leaves behind.

    Attributes:
        plan: SHA-256 of the study that the run belongs to.
        arm: name of the arm; `base` is the model before training.
        seed: None for the model before training.
        attempts: when, where and on which device the run was started, each time.
        collapsed: why training could not go on, in the run's words. Such a run counts with no problem solved.
        seconds: of training and of sampling, in this attempt and those before as far as they are known.
        hashes: SHA-256 of the configuration (but its places) and of the samples; fingerprint of the weights.
        training: mean of each logged metric over the last 10 lines that have it, of clip ratios over all; and totals.
        curves: a few metrics over the steps, thinned out.
        problems: ids, in the order of the task; `n` samples of each, of which `c` are right, `tokens` on average.
        cut: share of samples that reached the longest length.
        diversity: means over problems, of the first samples of each.
        clusters: what each problem shares with others, such as its topic; None where the problems do not say.
    """

    schema: int
    forkwise: str
    plan: str
    run: str
    arm: str
    seed: int | None
    attempts: list[dict[str, str]]
    collapsed: str | None
    seconds: dict[str, float]
    versions: dict[str, str]
    hashes: dict[str, str]
    training: dict[str, float]
    curves: dict[str, list[float]]
    problems: list[str]
    n: list[int]
    c: list[int]
    tokens: list[float] | None
    cut: float | None
    diversity: dict[str, float] = field(default_factory=dict)
    clusters: list[str] | None = None

    def __post_init__(self) -> None:
        sizes = {len(x) for x in (self.n, self.c, self.problems, self.tokens or self.n, self.clusters or self.n)}
        if len(sizes) > 1 or not all(0 <= c <= n for n, c in zip(self.n, self.c, strict=True)):
            raise ValueError("its counts do not fit together")


def receipt_file(folder: Path, run: str) -> Path:
    """Returns where the receipt of the run is."""
    return folder / f"{run}.json"


def note_start(folder: Path, run: str, device: str) -> None:
    """Adds a line to `RUN.started`, so that every start is known, whatever becomes of it."""
    note = {"time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "host": platform.node(), "device": device}
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f"{run}{STARTED}").open("a", encoding="utf-8") as file:
        file.write(json.dumps(note) + "\n")


def starts(folder: Path, run: str) -> list[dict[str, str]]:
    """Returns the starts of a run that has no receipt yet."""
    attempts = []
    with suppress(OSError):
        for line in (folder / f"{run}{STARTED}").read_text(encoding="utf-8").splitlines():
            with suppress(ValueError):
                attempts.append({key: str(value) for key, value in parse_json(line).items()})
    return attempts


def write_receipt(folder: Path, receipt: Receipt) -> None:
    """Writes the receipt whole, and removes the note of its starts, which it holds."""
    write_result(receipt_file(folder, receipt.run), receipt)
    (folder / f"{receipt.run}{STARTED}").unlink(missing_ok=True)


def read_receipt(path: Path) -> Receipt:
    """Reads a receipt.

    Raises:
        InputError: there is none, or it is damaged.
    """
    return read_result(path, Receipt, schema=SCHEMA, command="forkwise study run")


def versions() -> dict[str, str]:
    """Returns the versions that a run depends on."""
    packages = numerical_versions()
    for name in _PACKAGES:
        with suppress(PackageNotFoundError):
            packages[name] = version(name)
    return packages | {"forkwise": __version__}


def sha256_of(content: Any) -> str:
    """Hashes what JSON can hold."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


# ------------------------------------------------------------------------------------------------------------ contents


def training_summary(log: Sequence[Mapping[str, Any]]) -> tuple[dict[str, float], dict[str, list[float]]]:
    """Summarises the logged lines of a run: the mean of each metric at the end, totals, and a few thin curves."""
    keys = dict.fromkeys(key for row in log for key, value in row.items() if _is_number(value))
    values = {key: [float(row[key]) for row in log if _is_number(row.get(key))] for key in keys}
    summary = {key: float(np.mean(v if key.startswith(_WHOLE) else v[-LAST:])) for key, v in values.items()}
    summary |= {
        key: max(float(row[key]) for row in log if _is_number(row.get(key))) for key in {"num_tokens"} & set(keys)
    }
    summary["step"] = float(log[-1]["step"]) if log else 0.0
    summary["minutes"] = sum(float(row["step_time"]) for row in log if _is_number(row.get("step_time"))) / 60
    curves: dict[str, list[float]] = {}
    for key in _CURVES:
        rows = [row for row in log if _is_number(row.get(key))]
        some = rows[:: max(1, -(-len(rows) // _POINTS))]
        if some:
            curves |= {f"{key}, step": [float(row["step"]) for row in some], key: [round(row[key], 5) for row in some]}
    return summary, curves


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def clusters_of(problems: Sequence[Problem], source: str) -> list[str] | None:
    """Returns the cluster of each problem; None where no problem says one.

    Raises:
        InputError: some problems are in a cluster and others in none, or all are in one.
    """
    ids, clusters = [problem.id for problem in problems], [problem.cluster for problem in problems]
    arm = make_arm(source, ids, [False] * len(ids), cluster=clusters)
    return None if number_clusters(arm) is None else list(map(str, clusters))


def counts(samples: Path, problems: Sequence[str]) -> dict[str, Any]:
    """Counts the samples of a run per problem, as the fields of a receipt.

    Raises:
        InputError: a sample without a verdict, or of another problem.
    """
    table = read_samples(samples, ["problem_id", "correct", "n_tokens", "finish_reason"])
    if unscored := table["correct"].null_count:
        raise InputError(
            f"'{samples}' holds {counted(unscored, 'sample')} without a verdict: run forkwise verify on it."
        )
    columns = {"problem_id": table["problem_id"].cast(pa.string()), "correct": pc.cast(table["correct"], pa.int64())}
    grouped = (
        pa.table({**columns, "n_tokens": table["n_tokens"]})
        .group_by("problem_id")
        .aggregate([("correct", "count"), ("correct", "sum"), ("n_tokens", "mean")])
        .to_pylist()
    )
    by_problem = {row["problem_id"]: row for row in grouped}
    if set(by_problem) != set(problems):
        raise InputError(f"'{samples}' holds other problems than the study: give another --out.")
    rows = [by_problem[problem] for problem in problems]
    tokens = [row["n_tokens_mean"] for row in rows]
    return {
        "problems": list(problems),
        "n": [row["correct_count"] for row in rows],
        "c": [row["correct_sum"] for row in rows],
        "tokens": None if None in tokens else [round(value, 2) for value in tokens],
        "cut": pc.mean(pc.cast(pc.equal(table["finish_reason"], "length"), pa.float64())).as_py(),
        "diversity": _diversity(samples),
    }


def _diversity(samples: Path) -> dict[str, float]:
    table = read_samples(samples, ["problem_id", "correct", "completion", "sample_id", "verdict_by"])
    table = table.filter(pc.less(table["sample_id"], TEXTS))
    arm = make_arm(
        "run",
        *(table[key].to_pylist() for key in ("problem_id", "correct")),
        completion=table["completion"].to_pylist(),
    )
    if arm.largest_k() < 2:
        return {}
    (measured,) = diversity([arm])
    return {name: float(np.nanmean(v)) for name, v in measured.values.items() if np.isfinite(v).any()}


def samples_sha256(samples: Path) -> str:
    """Hashes the shards of a samples table."""
    digest = hashlib.sha256()
    for shard in sorted(samples.glob("*.parquet")):
        digest.update(shard.name.encode() + hashlib.sha256(shard.read_bytes()).digest())
    return digest.hexdigest()


# ------------------------------------------------------------------------------------------------------------- reading


def read_receipts(folder: Path, plan: str, runs: Iterable[str]) -> dict[str, Receipt]:
    """Reads the receipts of those runs that have one.

    Raises:
        InputError: one belongs to another plan, is damaged, or is about other problems than the others.
    """
    receipts: dict[str, Receipt] = {}
    for run in runs:
        file = receipt_file(folder, run)
        if not file.exists():
            continue
        receipt = read_receipt(file)
        if receipt.plan != plan:
            raise InputError(f"'{file}' is the receipt of another plan: a study goes on under the one it began with.")
        if receipt.run != run:
            raise InputError(f"'{file}' is the receipt of the run '{receipt.run}': give it its name back.")
        receipts[run] = receipt
        first = next(iter(receipts.values()))
        if (receipt.problems, receipt.n) != (first.problems, first.n):
            raise InputError(f"The runs '{first.run}' and '{run}' were sampled on different problems.")
        told = next((other for other in receipts.values() if other.clusters is not None), receipt)
        if receipt.clusters not in (None, told.clusters):
            raise InputError(f"The runs '{told.run}' and '{run}' put the same problems into different clusters.")
    return receipts


def arm_of(name: str, receipts: Sequence[Receipt]) -> Arm:
    """Makes an arm for `forkwise.passk` from the counts of its runs; lengths are not known of single samples.

    Receipts of forkwise 0.1 hold no clusters: one that does speaks for all runs.
    """
    order = np.argsort(np.array(receipts[0].problems, dtype=object), kind="stable")
    n_SQ = np.array([receipt.n for receipt in receipts], dtype=np.int64)[:, order]
    c_SQ = np.array([receipt.c for receipt in receipts], dtype=np.int64)[:, order]
    cells = np.repeat(np.arange(n_SQ.size), n_SQ.ravel())
    start = np.cumsum(n_SQ.ravel()) - n_SQ.ravel()
    clusters = next((receipt.clusters for receipt in receipts if receipt.clusters is not None), None)
    return Arm(
        name,
        tuple(receipts[0].problems[i] for i in order),
        tuple(receipt.run for receipt in receipts),
        problem_N=cells % n_SQ.shape[1],
        run_N=cells // n_SQ.shape[1],
        correct_N=np.arange(cells.size) - start[cells] < c_SQ.ravel()[cells],
        clusters=None if clusters is None else tuple(clusters[i] for i in order),
    )


def hashes_of(folder: Path, runs: Iterable[str]) -> dict[str, str]:
    """Returns the SHA-256 of the receipts of these runs, by the names of their files."""
    return {Path(i.path).name: i.sha256 for i in inputs_of(receipt_file(folder, run) for run in runs)}
