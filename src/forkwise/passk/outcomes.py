"""An arm: the scored samples of one model, or of several training runs of one method, as flat arrays.

Suffixes: N samples, S runs (training seeds), Q problems, K values of k.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from forkwise.errors import InputError
from forkwise.passk.estimator import FloatArray, IntArray, pass_at_k
from forkwise.passk.notes import Note, note

BoolArray = npt.NDArray[np.bool_]
Texts = npt.NDArray[np.object_]


@dataclass(frozen=True)
class Arm:
    """Scored samples of one arm. Build it with `make_arm` or `load_arm`, which check what they are given."""

    name: str
    problems: tuple[str, ...]
    """Problem ids, sorted; every run has samples of every one."""
    runs: tuple[str, ...]
    """Training runs (seeds) of the arm, sorted."""
    problem_N: IntArray
    run_N: IntArray
    correct_N: BoolArray
    length_N: FloatArray | None = None
    """Length of each sample in `length_unit`, or None where it is not known of all."""
    length_unit: str = "tokens"
    answer_N: Texts | None = None
    completion_N: Texts | None = None
    notes: tuple[Note, ...] = ()
    """Notes for readers about the samples: left-out ones, unequal n, and so on."""
    clusters: tuple[str, ...] | None = None
    """What each problem shares with others, such as its topic; None where that is not recorded."""
    by_text: bool = False
    """Whether answers are equal only as texts: those of a verifier that checks solutions, as Countdown's does."""
    tables: tuple[Path, ...] = ()
    """The samples tables, or files of other tools, that the arm was read from."""

    def _cells(self) -> IntArray:
        return self.run_N * len(self.problems) + self.problem_N

    def counts(self, max_length: float | None = None) -> tuple[IntArray, IntArray]:
        """Counts samples, and correct ones no longer than `max_length`: `(n, c)`, each `(S, Q)`."""
        shape = (len(self.runs), len(self.problems))
        passed = self.correct_N
        if max_length is not None:
            passed = passed & (self.lengths() <= max_length)
        cells = self._cells()
        n = np.bincount(cells, minlength=shape[0] * shape[1]).reshape(shape)
        c = np.bincount(cells[passed], minlength=shape[0] * shape[1]).reshape(shape)
        return n, c

    def curves(self, ks: Sequence[int], max_length: float | None = None) -> FloatArray:
        """Computes Pass@K of every run and problem, `(S, Q, K)`."""
        n_SQ, c_SQ = self.counts(max_length)
        return pass_at_k(n_SQ.ravel(), c_SQ.ravel(), ks).reshape(*n_SQ.shape, len(ks))

    def largest_k(self) -> int:
        """Returns the smallest number of samples that any problem has in any run."""
        return int(self.counts()[0].min())

    def lengths(self) -> FloatArray:
        if self.length_N is None:
            raise InputError(f"'{self.name}' has no lengths: the samples table needs n_tokens for length control.")
        return self.length_N

    def groups(self) -> list[list[IntArray]]:
        """Groups the indices of samples by run and then by problem, in order."""
        cells = self._cells()
        order = np.argsort(cells, kind="stable")
        ends = np.searchsorted(cells[order], np.arange(1, len(self.runs) * len(self.problems)))
        indices = np.split(order, ends)
        q = len(self.problems)
        return [indices[s * q : (s + 1) * q] for s in range(len(self.runs))]

    def _take(self, chosen_N: BoolArray) -> dict[str, Any]:
        columns = ("problem_N", "run_N", "correct_N", "length_N", "answer_N", "completion_N")
        return {c: None if getattr(self, c) is None else getattr(self, c)[chosen_N] for c in columns}

    def keep(self, problems: Iterable[str]) -> Arm:
        """Returns the arm on some of its problems."""
        shared = sorted(set(problems) & set(self.problems))
        position = np.full(len(self.problems), -1)
        position[[self.problems.index(p) for p in shared]] = np.arange(len(shared))
        fields = self._take(position[self.problem_N] >= 0)
        fields["problem_N"] = position[fields["problem_N"]]
        if self.clusters is not None:
            fields["clusters"] = tuple(np.array(self.clusters, dtype=object)[position >= 0].tolist())
        return replace(self, problems=tuple(shared), **fields)

    def split(self) -> list[Arm]:
        """Splits the arm into one for each run, named after the run."""
        arms = []
        for s, run in enumerate(self.runs):
            fields = self._take(self.run_N == s)
            fields["run_N"] = np.zeros_like(fields["run_N"])
            arms.append(replace(self, name=run, runs=(run,), **fields))
        return arms


def _texts(values: Sequence[Any] | npt.NDArray[Any] | None) -> Texts | None:
    return None if values is None else np.asarray(values, dtype=object)


def _verdicts(correct: Sequence[Any] | npt.NDArray[Any]) -> npt.NDArray[np.int8]:
    """Turns verdicts into 1 (correct), 0 (wrong) and -1 (unscored); refuses anything that is not a verdict."""
    values = correct if isinstance(correct, np.ndarray) else np.array(list(correct), dtype=object)
    if values.dtype == bool:
        return values.astype(np.int8)
    verdict_N = np.full(values.shape, -1, dtype=np.int8)
    for i, value in enumerate(values.tolist()):
        if value is None:
            continue
        if isinstance(value, float) and math.isnan(value):
            raise InputError("A score is NaN: mark a sample without a verdict as unscored (None), or verify it.")
        if value not in (0, 1):
            raise InputError(
                f"A score is {value!r}, neither right nor wrong: set a threshold when you import the samples."
            )
        verdict_N[i] = int(value)
    return verdict_N


def make_arm(
    name: str,
    problem_id: Sequence[Any] | npt.NDArray[Any],
    correct: Sequence[Any] | npt.NDArray[Any],
    *,
    run: Sequence[Any] | npt.NDArray[Any] | None = None,
    length: Sequence[float] | npt.NDArray[Any] | None = None,
    length_unit: str = "tokens",
    answer: Sequence[str | None] | npt.NDArray[Any] | None = None,
    completion: Sequence[str | None] | npt.NDArray[Any] | None = None,
    cluster: Sequence[str | None] | npt.NDArray[Any] | None = None,
    notes: Iterable[Note] = (),
) -> Arm:
    """Makes an arm from columns with one entry per sample.

    Args:
        problem_id: which problem each sample answers; the ids pair arms in `compare`.
        correct: True, False (or 1, 0), or None where there is no verdict; those samples are left out and counted.
        run: training run (seed) of each sample, if the arm has several.
        length: in tokens or words, see `length_unit`.
        answer: final answers, None where there is none; for maj@K and answer entropy.
        completion: whole texts, for the diversity measures.
        cluster: what the problem of each sample shares with other problems: topic, source or template.

    Raises:
        InputError: no samples, none with a verdict, NaN or fractional scores, runs that cover different problems, or a
            problem in two clusters, or in none while others are in one.
    """
    ids_N = np.array([str(p) for p in problem_id], dtype=object)
    runs_N = np.array([str(r) for r in run], dtype=object) if run is not None else np.full(ids_N.size, name, object)
    if ids_N.size == 0:
        raise InputError(f"'{name}' holds no samples.")
    verdict_N = _verdicts(correct)
    if not verdict_N.size == runs_N.size == ids_N.size:
        raise InputError(f"The columns of '{name}' have different lengths: {ids_N.size} ids, {verdict_N.size} scores.")
    if (verdict_N < 0).all():
        raise InputError(f"No sample of '{name}' has a verdict: run `forkwise verify` on the samples first.")
    runs, run_N = np.unique(runs_N, return_inverse=True)
    problems, problem_N = np.unique(ids_N, return_inverse=True)
    return build_arm(
        name,
        [str(p) for p in problems],
        [str(r) for r in runs],
        problem_N,
        run_N,
        verdict_N,
        length=None if length is None else np.asarray(length, dtype=np.float64),
        length_unit=length_unit,
        answer=_texts(answer),
        completion=_texts(completion),
        cluster=_texts(cluster),
        notes=list(notes),
    )


def build_arm(
    name: str,
    problems: list[str],
    runs: list[str],
    problem_N: npt.NDArray[Any],
    run_N: npt.NDArray[Any],
    verdict_N: npt.NDArray[np.int8],
    *,
    length: FloatArray | None,
    length_unit: str,
    answer: Texts | None,
    completion: Texts | None,
    cluster: Texts | None,
    notes: list[Note],
) -> Arm:
    """Builds an arm from coded columns; see `make_arm`."""
    scored = verdict_N >= 0
    if not scored.all():
        notes.append(note("unscored", unscored=int((~scored).sum()), samples=scored.size))
    if length is not None and not np.isfinite(length[scored]).all():
        missing = int((~np.isfinite(length[scored])).sum())
        notes.append(note("lengths missing", missing=missing, samples=int(scored.sum())))
        length = None
    cells = np.bincount(run_N[scored] * len(problems) + problem_N[scored], minlength=len(runs) * len(problems)).reshape(
        len(runs), len(problems)
    )
    everywhere = (cells > 0).all(axis=0)
    if not everywhere.all():
        bare = [problems[i] for i in np.flatnonzero(~everywhere)]
        if (cells[:, ~everywhere] > 0).any():
            raise InputError(
                f"The runs of '{name}' do not cover the same problems ({len(bare)} of {len(problems)} lack a scored "
                f"sample in some run, such as '{bare[0]}'): compare runs over one problem set."
            )
        notes.append(note("bare problems", problems=len(bare), example=bare[0]))
    n_cells = cells[:, everywhere]
    if n_cells.min() != n_cells.max():
        notes.append(note("unequal samples", fewest=int(n_cells.min()), most=int(n_cells.max())))
    arm = Arm(
        name,
        tuple(problems),
        tuple(runs),
        problem_N[scored].astype(np.int64),
        run_N[scored].astype(np.int64),
        verdict_N[scored] > 0,
        None if length is None else length[scored],
        length_unit,
        None if answer is None else answer[scored],
        None if completion is None else completion[scored],
        tuple(notes),
        _clusters_of(problems, problem_N, cluster),
    )
    return arm if everywhere.all() else arm.keep(problems[i] for i in np.flatnonzero(everywhere))


def _clusters_of(
    problems: Sequence[str], problem_N: npt.NDArray[Any], cluster_N: Texts | None
) -> tuple[str, ...] | None:
    """Finds the cluster of each problem; None where no sample names one."""
    if cluster_N is None or all(name is None for name in set(cluster_N.tolist())):
        return None
    clusters: list[str | None] = [None] * len(problems)
    for q, name in {(int(q), name) for q, name in zip(problem_N, cluster_N, strict=True) if name is not None}:
        if clusters[q] is not None:
            raise InputError(
                f"Problem '{problems[q]}' is in two clusters, '{min(name, clusters[q])}' and "
                f"'{max(name, clusters[q])}': a problem belongs to one."
            )
        clusters[q] = name
    if None in clusters:
        raise InputError(
            f"Problem '{problems[clusters.index(None)]}' is in no cluster while others are: name the cluster of every "
            "problem, or of none."
        )
    return tuple(str(name) for name in clusters)


def number_clusters(arm: Arm) -> IntArray | None:
    """Numbers the clusters of an arm's problems; None where it has none.

    Raises:
        InputError: there is a single cluster, which says nothing about others.
    """
    if arm.clusters is None:
        return None
    names, cluster_Q = np.unique(np.array(arm.clusters, dtype=object), return_inverse=True)
    if names.size == 1:
        raise InputError(
            f"All problems of '{arm.name}' are in one cluster, '{names[0]}', which says nothing about others: leave "
            "the column cluster empty, or take problems of several."
        )
    return cluster_Q.reshape(-1)


def common_problems(arms: Sequence[Arm], *, intersect: bool = False) -> tuple[list[Arm], list[Note]]:
    """Brings the arms to one set of problems, and notes what was dropped.

    Raises:
        InputError: the sets differ and `intersect` is False, or nothing is shared.
    """
    sets = [set(arm.problems) for arm in arms]
    shared, union = set.intersection(*sets), set.union(*sets)
    if shared == union:
        return list(arms), []
    gaps = ", ".join(f"'{arm.name}' has {len(s)}" for arm, s in zip(arms, sets, strict=True))
    example = sorted(union - shared)[0]
    if not shared:
        raise InputError(f"The arms share no problem ({gaps}): problem ids must match to pair them.")
    if not intersect:
        raise InputError(
            f"The arms cover different problems ({gaps}; {len(shared)} shared; '{example}' is not in all): "
            "pass --intersect to compare on the shared ones."
        )
    dropped = note("shared problems", shared=len(shared), dropped=len(union - shared), example=example)
    return [arm.keep(shared) for arm in arms], [dropped]


def check_ks(arms: Sequence[Arm], ks: Sequence[int]) -> list[int]:
    """Returns `ks` sorted and without repeats; InputError where an arm cannot answer one."""
    largest = min(arm.largest_k() for arm in arms)
    distinct = sorted({int(k) for k in ks})
    if not distinct or distinct[0] < 1:
        raise InputError("k must be at least 1.")
    if distinct[-1] > largest:
        raise InputError(
            f"Pass@{distinct[-1]} needs at least {distinct[-1]} samples of every problem, but one has only {largest}: "
            "draw more samples, ask for a smaller k, or use --extrapolate for a labelled model."
        )
    return distinct
