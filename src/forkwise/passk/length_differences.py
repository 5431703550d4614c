"""Differences of Pass@K with length held still, beside the raw difference; see `forkwise.passk.length`.

Suffixes: S and T runs of an arm and of the reference, Q problems, K values of k, X values at several caps or budgets.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from forkwise.passk.design import ComparisonDesign
from forkwise.passk.estimator import FloatArray
from forkwise.passk.evaluation import Measured
from forkwise.passk.length import BUDGET, CAP, MATCHED, match_curves
from forkwise.passk.notes import Note, note
from forkwise.passk.results import Difference, LengthDifference
from forkwise.passk.two_way import joint_test


def length_rows(
    measured: Sequence[Measured], design: ComparisonDesign, *, resamples: int, seed: int
) -> list[list[LengthDifference]]:
    """Computes the differences of each arm from the first under each cap, within each budget, and at equal lengths."""
    reference, *others = measured
    within = _within_budgets(reference, others, design, resamples, seed)
    return [
        [*_capped(arm, reference, design), *of_budgets, *_matched_rows(arm, reference, arm.control_ks, design)]
        for arm, of_budgets in zip(others, within, strict=True)
    ]


def _capped(arm: Measured, reference: Measured, design: ComparisonDesign) -> list[LengthDifference]:
    rows = []
    for cap, capped_SQK in arm.capped.items():
        change = _change(arm, capped_SQK, reference, reference.capped[cap], design)
        rows += [LengthDifference(CAP, cap, k, *change[i]) for i, k in enumerate(arm.control_ks)]
    return rows


def _within_budgets(
    reference: Measured, others: Sequence[Measured], design: ComparisonDesign, resamples: int, seed: int
) -> list[list[LengthDifference]]:
    """Computes the curve of the pass over tokens spent for each arm, with a band over all budgets and arms."""
    if reference.within is None or not reference.budgets:
        return [[] for _ in others]
    of_arms = [np.asarray(arm.within) for arm in others]
    name = reference.arm.name
    varied = [design.vary(arm.arm.name, w, name, reference.within) for arm, w in zip(others, of_arms, strict=True)]
    joint = joint_test(varied, resamples=resamples, seed=seed)
    rows = []
    for arm, arm_SQB, variation in zip(others, of_arms, varied, strict=True):
        change = _change(arm, arm_SQB, reference, reference.within, design)
        band = variation.interval(joint.critical(design.level), design.level)
        error = float(np.hypot(arm.within_error, reference.within_error))
        ends = zip(band.low.tolist(), band.high.tolist(), strict=True)
        rows.append(
            [
                LengthDifference(BUDGET, budget, None, *numbers, None, error, low, high)
                for budget, numbers, (low, high) in zip(reference.budgets, change, ends, strict=True)
            ]
        )
    return rows


def _change(
    arm: Measured, arm_SQX: FloatArray, reference: Measured, reference_SQX: FloatArray, design: ComparisonDesign
) -> list[tuple[int, float, float, float, float, float]]:
    """Returns for each X the problems, both values, and the difference with its interval."""
    d = design.pointwise(arm.arm.name, arm_SQX, reference.arm.name, reference_SQX)
    numbers = np.stack([reference_SQX.mean(axis=(0, 1)), arm_SQX.mean(axis=(0, 1)), d.mean, d.low, d.high], axis=1)
    return [(arm_SQX.shape[1], *row) for row in numbers.tolist()]


def _matched_rows(
    arm: Measured, reference: Measured, ks: list[int], design: ComparisonDesign
) -> list[LengthDifference]:
    arm_STQK, reference_STQK, effective_Q = match_curves(arm.arm, reference.arm, ks)
    # Where some run has no match, nothing can be said about runs.
    supported = np.isfinite(arm_STQK)
    known_QK = np.all(supported.any(axis=1), axis=0) & np.all(supported.any(axis=0), axis=0)
    rows = []
    for i, k in enumerate(ks):
        use = known_QK[:, i]
        design_of_these = design.of_some(use)
        # A number over a minority of the problems would be about other problems than the raw one.
        if use.sum() < max(2, len(use) / 2) or not design_of_these.varied_problems():
            continue
        arm_STQ1, reference_STQ1 = (x[:, :, use, i : i + 1] for x in (arm_STQK, reference_STQK))
        change = arm_STQ1 - reference_STQ1
        mean_Q = np.nanmean(change, axis=(0, 1))
        # Runs of either arm move the change of a pair: its mean for each run of the arm, and of the reference.
        by_run = np.nanmean(change, axis=1), mean_Q - np.nanmean(change, axis=0)
        varied = design_of_these.pointwise(arm.arm.name, by_run[0], reference.arm.name, by_run[1])
        centre, half = float(mean_Q.mean()), float(varied.high[0] - varied.low[0]) / 2
        row = LengthDifference(
            MATCHED,
            None,
            k,
            int(use.sum()),
            float(np.nanmean(reference_STQ1, axis=(0, 1)).mean()),
            float(np.nanmean(arm_STQ1, axis=(0, 1)).mean()),
            centre,
            max(centre - half, -1.0),
            min(centre + half, 1.0),
            float(effective_Q[use].mean()),
        )
        rows.append(row)
    return rows


def matching_notes(differences: Sequence[Difference], problems: int) -> list[Note]:
    """Notes where lengths could not be matched, or not on all problems."""
    notes = []
    for d in differences:
        matched = [row.problems for row in d.length if row.control == MATCHED]
        if not matched:
            notes.append(note("matching refused", arm=d.arm, reference=d.reference))
        elif matched[0] < problems:
            left_out = problems - matched[0]
            notes.append(
                note("matching in part", arm=d.arm, reference=d.reference, left_out=left_out, problems=problems)
            )
    return notes
