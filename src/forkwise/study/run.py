"""Runs a study: every run to its receipt, stage by stage, with the registered look at the end of each stage.

The folder of a study holds `study.yaml`, the training runs in `arms/`, their samples in `samples/`, and the receipts
in `receipts/`, which can be elsewhere.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from pathlib import Path
from statistics import fmean
from typing import Any

import yaml

from forkwise.errors import InputError, RunError, first_line
from forkwise.folders import only_process
from forkwise.folders.metrics import read_metrics
from forkwise.progress import Console, Meter
from forkwise.study.claims import EffectiveSettings, check_claims, effective, refuse_same
from forkwise.study.looks import look_at
from forkwise.study.places import RunPlace
from forkwise.study.receipts import clusters_of, read_receipts, receipt_file
from forkwise.study.registration import PLAN, read_plan, refuse_other_plan, write_plan
from forkwise.study.spec import Study, TrainingArm
from forkwise.study.work import Work
from forkwise.tasks import problem_range
from forkwise.terminal import counted
from forkwise.training.folder import check_folder, create_folder

_TRIES = 3  # starts of a run under one command, before the study goes on without it
_EVERY = 0.5  # seconds


def check_study(study: Study) -> None:
    """Raises what `forkwise grpo`, `ppo` or `sample` would refuse, and what could claim nothing, before any run."""
    check_claims(study)
    from forkwise.engines.trl import EntropyShapedGRPOConfig
    from forkwise.sampling.recipe import open_task
    from forkwise.training.arguments import parse_run
    from forkwise.training.ppo_config import EntropyShapedPPOConfig

    by_arm: dict[str, EffectiveSettings] = {}
    for arm in study.arms:
        config = EntropyShapedPPOConfig if arm.algorithm == "ppo" else EntropyShapedGRPOConfig
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "arm.yaml"
            settings = study.configuration(arm, study.seeds[0], Path(folder) / "out")
            file.write_text(yaml.safe_dump(settings), encoding="utf-8")
            try:
                run, trainer, model = parse_run(["--config", str(file)], config, arm.algorithm)
            except InputError as error:
                reason = str(error).replace(f"'{file}'", "it")
                raise InputError(f"The arm '{arm.name}' cannot be trained: {reason}") from error
        by_arm[arm.name] = effective(arm.algorithm, run, trainer, model)
        warmup = getattr(trainer, "critic_warmup_steps", 0) if arm.algorithm == "ppo" else 0
        if study.steps <= warmup:
            raise InputError(
                f"With {study.steps} steps the policy of '{arm.name}' would not learn: the first {warmup} are the "
                "critic's alone."
            )
    refuse_same(by_arm)
    work = Work(study, "", None, None, Path(), Path())
    e = study.evaluation
    evaluated = problem_range(open_task(*work.evaluated()), e.split, e.problems, first=e.first_problem)
    clusters_of(evaluated, work.evaluated_on())
    if study.task is not None and study.problems is not None:
        problem_range(open_task(study.task, None), "train", study.problems, first=study.first_problem)


def works(study: Study, seeds: Sequence[int], out: Path, receipts: Path, workers: RunPlace) -> list[Work]:
    """Returns the runs with these seeds, all arms of a seed together, and with the first the model before training."""
    pairs: list[tuple[TrainingArm | None, int | None]] = [*study.pairs(seeds)]
    if study.evaluation.base and study.seeds[0] in seeds:
        pairs.append((None, None))
    plan = study.sha256()
    out, receipts = out.resolve(), receipts.resolve()
    return [Work(study, plan, *pair, out, receipts, workers.device, workers.threads) for pair in pairs]


def prepare(study: Study, out: Path, receipts: Path, registered: str | None = None) -> None:
    """Makes the folders, and refuses those that hold another study.

    Raises:
        InputError: another plan, something that is no study, or a folder that cannot be written.
    """
    check_folder(out, resume=True, mark=PLAN, flag="--out")
    for folder in (out, receipts):
        file = folder / PLAN
        if file.exists():
            refuse_other_plan(study, read_plan(file)[0], folder)
    for folder in (out, receipts):
        create_folder(folder)
        if not (folder / PLAN).exists():
            write_plan(folder / PLAN, study, registered=registered)


def run_stage(works: Sequence[Work], workers: RunPlace, console: Console, phase: str) -> None:
    """Brings runs to their receipts; a run that fails is tried again, and then the others go on without it.

    Raises:
        InputError: what a run refuses: all others are ended, since they would refuse it too.
        RunError: runs that could not be brought to their end; the same command tries again.
    """
    _refuse_mixed_devices(works)
    meter_units = [_units(work) for work in works]
    waiting: dict[Future[None], Work] = {
        workers.submit(work): work for work in works if not receipt_file(work.receipts, work.run).exists()
    }
    if not waiting:
        return
    tries: dict[str, int] = {}
    failed: list[str] = []
    with Meter(sum(meter_units), _done(works), console, phase, "steps and problems") as meter:
        while waiting:
            ended, _ = wait(waiting, timeout=_EVERY, return_when=FIRST_COMPLETED)
            for future in ended:
                work = waiting.pop(future)
                error = future.exception()
                if error is None:
                    continue
                if isinstance(error, InputError):
                    raise _plain(error)
                tries[work.run] = tries.get(work.run, 0) + 1
                if tries[work.run] < _TRIES:
                    meter.say(f"{_sentence(work, error)} It is started again.")
                    waiting[workers.submit(work)] = work
                else:
                    failed.append(_sentence(work, error))
            meter.reach(_done(works), _note(waiting.values()))
    if failed:
        raise RunError(
            f"{len(failed)} of {counted(len(works), 'run')} could not be brought to an end; the same command tries "
            f"again. The first: {failed[0]}"
        )


def _plain(error: InputError) -> InputError:
    """Returns the error without what Ray wraps it in."""
    return InputError(str(getattr(error, "cause", error)))


def _sentence(work: Work, error: BaseException) -> str:
    cause = getattr(error, "cause", None) or error
    text = str(cause) if isinstance(cause, RunError) else f"The run '{work.run}' ended ({first_line(cause)})"
    return text if text.endswith(".") else f"{text}."


def _refuse_mixed_devices(works: Sequence[Work]) -> None:
    """Refuses to go on with a study on another kind of device than it began on: rounding would differ between runs."""
    first = works[0]
    receipts = read_receipts(first.receipts, first.plan, [work.run for work in works])
    for receipt in receipts.values():
        used = receipt.attempts[-1].get("device", first.device) if receipt.attempts else first.device
        if used != first.device:
            raise InputError(
                f"The run '{receipt.run}' of this study ran on {used}, and this would go on on {first.device}: give "
                f"--device {used}."
            )


# ------------------------------------------------------------------------------------------------------------ progress


def _units(work: Work) -> int:
    return (0 if work.arm is None else work.study.steps) + work.study.evaluation.problems


def _done(works: Sequence[Work]) -> int:
    """Counts training steps that were logged and problems that were sampled."""
    done = 0
    for work in works:
        if receipt_file(work.receipts, work.run).exists():
            done += _units(work)
            continue
        e = work.study.evaluation
        shards = len(list(work.samples.glob("*.parquet"))) if work.samples.is_dir() else 0
        done += shards // -(-e.n // e.batch_size)
        log: Sequence[Mapping[str, Any]] = [] if work.arm is None else read_metrics(work.folder)
        done += min(int(log[-1]["step"]), work.study.steps) if log else 0
    return done


def _note(works: Any) -> str:
    """Says how many runs wait or work, and their reward, averaged over all arms."""
    logs = [read_metrics(work.folder) for work in works if work.arm is not None]
    rewards = [log[-1]["reward"] for log in logs if log and "reward" in log[-1]]
    reward = f", newest reward {fmean(rewards):.3f} in the mean" if rewards else ""
    return f"{counted(len(works), 'run')} to go{reward}"


# ----------------------------------------------------------------------------------------------------------- the study


def run(
    study: Study,
    out: Path,
    workers: RunPlace,
    *,
    receipts: Path | None = None,
    registered: str | None = None,
    console: Console | None = None,
) -> str:
    """Runs what is missing of a study, and returns the sentence that it ends with.

    Args:
        out: folder of the study; with Ray, one that all nodes see.
        workers: where the runs go; it is closed at the end.
        receipts: folder of the receipts; None is `receipts` in `out`.
        registered: date of the registration, for the records.

    Raises:
        InputError: the folders hold another plan, or a run refuses its settings.
        RunError: some runs could not be brought to their end.
    """
    console = console or Console(stderr=True)
    receipts = receipts or out / "receipts"
    start = time.monotonic()
    prepare(study, out, receipts, registered)
    with only_process(out, "running a study in"):
        done: list[int] = []
        for number, seeds in enumerate(study.stages, 1):
            phase = "study" if len(study.stages) == 1 else f"study, stage {number} of {len(study.stages)}"
            run_stage(works(study, seeds, out, receipts, workers), workers, console, phase)
            done += seeds
            if number < len(study.stages):
                stop = look_at(study, receipts, done)
                if stop is not None:
                    return stop
    return f"Done: {counted(len(study.runs()) - 1, 'run')} ({time.monotonic() - start:.0f} s)."
