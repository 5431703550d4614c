"""What a comparison generalises over: which arms training would change, which runs share a seed, which problems belong.

Suffixes: S runs (training seeds) of an arm, Q problems, K values of k.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from forkwise.errors import InputError, nearest
from forkwise.passk.estimator import FloatArray, IntArray
from forkwise.passk.intervals import Interval, cluster_count
from forkwise.passk.notes import Note, note
from forkwise.passk.outcomes import Arm, number_clusters
from forkwise.passk.two_way import Stratum, Variation, vary_over
from forkwise.terminal import counted

FEWEST_RUNS = 3
"""Runs of an arm from which the spread of its training can be told."""

FEWEST_PAIRS = 5
"""Seeds from which pairs are tested: with three, one study in ten claims something falsely (docs/statistics.md)."""

_NUMBER_AT_THE_END = re.compile(r"(\d+)\D*$")


@dataclass(frozen=True)
class ComparisonDesign:
    """How the arms of a comparison were made.

    Attributes:
        fixed: arms that are these very models: their runs are averaged, and training them again is not asked about.
        seeds: for each arm the order of its runs in which they share seeds with the other arms'; None: not paired.
        cluster_Q: number of the cluster of each problem; None where every problem stands for itself.
        level: of the intervals.
    """

    fixed: frozenset[str]
    seeds: dict[str, IntArray] | None
    cluster_Q: IntArray | None
    level: float

    def trained(self, arm: str) -> bool:
        """Whether claims about the arm are about training it again."""
        return arm not in self.fixed

    def varied_problems(self) -> bool:
        """Whether the problems are in more than one cluster, so that they say something about others."""
        return self.cluster_Q is None or bool((self.cluster_Q != self.cluster_Q[0]).any())

    def effective(self, problems: int) -> float:
        """Returns how many problems that stand for themselves say as much: clusters of equal size, where there are."""
        return cluster_count(problems, self.cluster_Q)

    def stratum(
        self, arm: str, arm_SQK: FloatArray, reference: str, reference_SQK: FloatArray, name: str = "problems"
    ) -> tuple[Stratum, tuple[str, str]]:
        """Returns what the difference of two arms varies with under this design, and the names of their runs."""
        names = (arm, reference)
        if self.seeds is not None and arm_SQK.shape[0] > 1:
            arm_SQK = arm_SQK[self.seeds[arm]] - reference_SQK[self.seeds[reference]]
            reference_SQK, names = np.zeros_like(arm_SQK[:1]), ("all arms", "")
        arm_SQK, reference_SQK = (
            x.mean(axis=0, keepdims=True) if name in self.fixed else x
            for name, x in ((arm, arm_SQK), (reference, reference_SQK))
        )
        return Stratum(arm_SQK, reference_SQK, self.cluster_Q, name), names

    def vary(self, arm: str, arm_SQK: FloatArray, reference: str, reference_SQK: FloatArray) -> Variation:
        """Returns how the mean difference of two arms varies under this design."""
        stratum, names = self.stratum(arm, arm_SQK, reference, reference_SQK)
        return vary_over([stratum], level=self.level, names=names)

    def pointwise(self, arm: str, arm_SQK: FloatArray, reference: str, reference_SQK: FloatArray) -> Interval:
        """Returns the Student t interval of the mean difference at each K by itself."""
        return self.vary(arm, arm_SQK, reference, reference_SQK).pointwise(self.level)

    def of_some(self, chosen_Q: npt.NDArray[np.bool_]) -> ComparisonDesign:
        """Returns the design for some of the problems, runs not paired."""
        clusters = self.cluster_Q
        if clusters is not None:
            clusters = np.unique(clusters[chosen_Q], return_inverse=True)[1].reshape(-1)
        return replace(self, seeds=None, cluster_Q=clusters)


def make_design(arms: Sequence[Arm], fixed: Collection[str], paired_seeds: bool, level: float) -> ComparisonDesign:
    """Checks what is said about the arms.

    One run in every arm makes all of them fixed.

    Args:
        fixed: arms by their names, or by those of their tables: an arm of one run is named after the run.

    Raises:
        InputError: no such arm, too few runs of one that is not fixed, runs that cannot be paired, or one cluster.
    """
    fixed = [_arm_called(name, arms) for name in fixed]
    if all(len(arm.runs) == 1 for arm in arms):
        if paired_seeds:
            raise InputError("Seeds cannot be paired: every arm has one run, and its spread takes at least three.")
        fixed = [arm.name for arm in arms]
    for arm in arms:
        if arm.name not in fixed and len(arm.runs) < FEWEST_RUNS:
            raise InputError(
                f"'{arm.name}' has {counted(len(arm.runs), 'run')}, and how training varies shows in "
                f"{FEWEST_RUNS} at least: add runs, or say that it is this very model (--fixed {arm.name})."
            )
    if fixed and paired_seeds:
        raise InputError(
            f"'{sorted(fixed)[0]}' is a fixed model and shares no seeds: leave out --paired-seeds or --fixed."
        )
    if paired_seeds and len(arms[0].runs) < FEWEST_PAIRS:
        raise InputError(
            f"'{arms[0].name}' has {len(arms[0].runs)} runs, and pairs of seeds take at least {FEWEST_PAIRS}: add "
            "runs, or leave out --paired-seeds."
        )
    return ComparisonDesign(frozenset(fixed), seed_order(arms) if paired_seeds else None, shared_clusters(arms), level)


def _arm_called(name: str, arms: Sequence[Arm]) -> str:
    """Returns the name of the arm that is called so, or whose table is."""
    names = [arm.name for arm in arms]
    of_table = [arm.name for arm in arms if any(name in (table.name, table.stem, str(table)) for table in arm.tables)]
    if name in names:
        return name
    if len(of_table) != 1:
        raise InputError(f"There is no arm '{name}' to be fixed: there are {', '.join(names)}.{nearest(name, names)}")
    return of_table[0]


def seed_order(arms: Sequence[Arm]) -> dict[str, IntArray]:
    """Orders the runs of every arm by the last number in their names, which must be the same numbers in all arms.

    Raises:
        InputError: a run without a number, or other numbers in one arm than in another.
    """
    orders: dict[str, IntArray] = {}
    for arm in arms:
        numbers = [_NUMBER_AT_THE_END.search(run) for run in arm.runs]
        seeds = [int(match.group(1)) for match in numbers if match]
        if len(seeds) < len(numbers) or len(set(seeds)) < len(seeds):
            raise InputError(
                f"The runs of '{arm.name}' ({', '.join(arm.runs)}) do not end in their seeds, so nothing pairs them: "
                "name them as in grpo-seed0, grpo-seed1, or leave out --paired-seeds."
            )
        first = sorted(int(_NUMBER_AT_THE_END.search(run).group(1)) for run in arms[0].runs)  # type: ignore[union-attr]
        if sorted(seeds) != first:
            raise InputError(
                f"'{arms[0].name}' has the seeds {_listed(first)} and '{arm.name}' {_listed(sorted(seeds))}: only runs "
                "of the same seeds can be paired."
            )
        orders[arm.name] = np.argsort(seeds)
    return orders


def _listed(seeds: Sequence[int]) -> str:
    return ", ".join(map(str, seeds))


def shared_clusters(arms: Sequence[Arm]) -> IntArray | None:
    """Numbers the clusters of the problems, if all arms that say anything say the same.

    Raises:
        InputError: arms that disagree, or a single cluster.
    """
    clustered = [arm for arm in arms if arm.clusters is not None]
    if not clustered:
        return None
    for arm in clustered[1:]:
        if arm.clusters != clustered[0].clusters:
            raise InputError(f"'{clustered[0].name}' and '{arm.name}' put the same problems into different clusters.")
    return number_clusters(clustered[0])


def design_notes(arms: Sequence[Arm], design: ComparisonDesign) -> list[Note]:
    """Notes what the intervals of differences cover, and what not."""
    trained = [arm for arm in arms if design.trained(arm.name)]
    notes = []
    if not trained:
        notes.append(note("all fixed", single=all(len(arm.runs) == 1 for arm in arms)))
    elif len(trained) < len(arms):
        notes.append(note("some fixed", fixed=[arm.name for arm in arms if not design.trained(arm.name)]))
    if trained:
        runs = [str(n) for n in dict.fromkeys(len(arm.runs) for arm in trained)]
        notes.append(note("covered", runs=runs, paired=design.seeds is not None))
    if design.cluster_Q is not None:
        sizes = np.bincount(design.cluster_Q)
        alone = int((sizes == 1).sum())
        notes.append(
            note("clusters of one") if sizes.max() == 1 else note("clusters", clusters=sizes.size, single=alone)
        )
    return notes
