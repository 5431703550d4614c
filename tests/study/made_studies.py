"""Studies and receipts made by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from forkwise.study.reading import parse_study
from forkwise.study.receipts import SCHEMA, Receipt, write_receipt
from forkwise.study.spec import BASE, Study

TINY = {
    **{"num_generations": 4, "per_device_train_batch_size": 8, "steps_per_generation": 2, "max_steps": 2},
    **{"gradient_accumulation_steps": 1, "max_completion_length": 40},
}

_SIZES = {
    "a": 4,
    "b": 2,
    "c": 3,
    "d": 1,
    "e": 3,
    "f": 2,
    "g": 4,
    "h": 2,
    "i": 3,
    "j": 1,
    "k": 2,
    "l": 3,
    "m": 4,
    "n": 2,
}
CLUSTERS = [name for name, size in _SIZES.items() for _ in range(size)]
"""Topics of 36 problems: 14 of unequal sizes."""


def content(**changes: Any) -> dict[str, Any]:
    """What a small study file holds; None leaves a key out."""
    plan = {
        "model": "embedded",
        "task": "countdown:4",
        "problems": 8,
        "recipe": {"like": "quickstart", **TINY},
        "arms": {"GRPO": {"alpha": 0}, "shaped": {"alpha": 0.4}, "placebo": "placebo_permuted:alpha=0.4"},
        "seeds": "0-5",
        "evaluation": {"problems": 3, "n": 4},
        "primary": {"arm": "shaped", "endpoint": 1, "margin": 0.75},
        **changes,
    }
    return {key: value for key, value in plan.items() if value is not None}


def study(**changes: Any) -> Study:
    return parse_study(content(**changes), "made.yaml")


def receipt(plan: Study, arm: str, seed: int | None, c: Sequence[int], **changes: Any) -> Receipt:
    """The receipt of a run that solved `c` of the samples of each problem."""
    run = BASE if seed is None else plan.arm(arm).run(seed)
    made = Receipt(
        schema=SCHEMA,
        forkwise="0",
        plan=plan.sha256(),
        run=run,
        arm=arm,
        seed=seed,
        attempts=[{"time": "t", "host": "h", "device": "cpu"}],
        collapsed=None,
        seconds={"training": 60.0, "sampling": 30.0},
        versions={},
        hashes={},
        training={"reward": 0.25, "num_tokens": 2e6},
        curves={},
        problems=[f"p{q}" for q in range(len(c))],
        n=[plan.evaluation.n] * len(c),
        c=list(c),
        tokens=[10.0] * len(c),
        cut=0.0,
    )
    return replace(made, **changes)


def write_all(
    folder: Path, plan: Study, solved: Mapping[str, Sequence[Sequence[int]]], base: Sequence[int] = ()
) -> None:
    """Writes `study.yaml` and the receipts of each arm, seed by seed."""
    from forkwise.study.registration import PLAN, write_plan

    if not (folder / PLAN).exists():
        write_plan(folder / PLAN, plan)
    for arm, runs in solved.items():
        for seed, c in zip(plan.seeds, runs, strict=False):
            write_receipt(folder, receipt(plan, arm, seed, c))
    if base:
        write_receipt(folder, receipt(plan, BASE, None, base))
