"""MEDS, arXiv 2604.11297: a mistake costs more, the more often the run has made its like on the same prompt.

Formula and constants as in the authors' code (Linxi000/MEDS).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from forkwise.methods.base import Need, RewardMethod, Rollout, check_range, given, wide

if TYPE_CHECKING:
    from torch import Tensor

EPS = 1e-6  # added to the deviation, verl's


@dataclass(frozen=True)
class Meds(RewardMethod):
    """GRPO on rewards from which `weight min(ln(size + 1), 2)` is taken; size is that of the answer's cluster.

    An answer is known by the logits that its first token has after each layer. Those of earlier rollouts are kept for
    each prompt, right and wrong ones apart, and clustered (HDBSCAN) after each rollout; a new answer belongs to the
    cluster of most of its three nearest. What belongs to none counts as one cluster. Prompts must come more than once.

    Args:
        target: whose reward is lowered: `wrong` (`R - q`), `right` (`R / (1 + q)`), or `both`.
        weight: of the logarithm, above 0.
        layers: the last ones, at least 1.
        marker: the text that stands before the answer. The last one in a completion counts.
    """

    target: Literal["wrong", "right", "both"] = "wrong"
    weight: float = 0.1
    layers: int = 14
    marker: str = "\\boxed{"

    name = "meds"
    title = "MEDS: memory-enhanced reward shaping (arXiv 2604.11297)"
    paper = "2604.11297"
    formula = "GRPO on R - weight min(ln(n + 1), 2) if wrong, n remembered answers to the prompt in its cluster"
    requires = frozenset({Need.GROUPS, Need.CORRECT, Need.ANSWER_LOGITS, Need.PROMPT_KEYS, Need.MEMORY})
    packages = ("sklearn",)

    def __post_init__(self) -> None:
        check_range(self, "weight", 0, float("inf"), open_low=True)
        check_range(self, "layers", 1, float("inf"))

    def advantages(self, rollout: Rollout) -> Tensor:
        """Computes the advantages of all completions, `(N,)`."""
        from forkwise.core import group_advantages

        lowered = self.lowered(wide(rollout.rewards), given(rollout.correct), self.sizes(rollout))
        return group_advantages(lowered, group_ids=given(rollout.groups), eps=EPS)

    def lowered(self, rewards: Tensor, correct: Tensor, sizes: Tensor) -> Tensor:
        """Returns the rewards `(N,)` less what the sizes of their clusters cost."""
        import torch

        cost = self.weight * (wide(sizes) + 1).log().clamp(max=2)
        wrong = torch.where(~correct, rewards - cost, rewards) if self.target != "right" else rewards
        return torch.where(correct, wrong / (1 + cost), wrong) if self.target != "wrong" else wrong

    def sizes(self, rollout: Rollout) -> Tensor:
        """Counts the remembered answers in each answer's cluster, `(N,)` int64."""
        import torch

        sizes = torch.zeros(len(rollout.rewards), dtype=torch.int64)
        for entry, rows, vectors in self._known(rollout):
            if entry in (rollout.memory or {}):
                kept, labels = (rollout.memory or {})[entry]
                belongs = _nearest_label(vectors, kept, labels)
                sizes[rows] = (labels[None] == belongs[:, None]).sum(dim=1)
        return sizes.to(rollout.rewards.device)

    def remember(self, rollout: Rollout) -> dict[str, Any]:
        """Returns the memory with the answers of this rollout in it: vectors `(n, layers)` and labels `(n,)` each."""
        import torch

        memory = dict(rollout.memory or {})
        for entry, _, vectors in self._known(rollout):
            kept = torch.cat([memory[entry][0], vectors]) if entry in memory else vectors
            memory[entry] = (kept, clusters(kept))
        return memory

    def _known(self, rollout: Rollout) -> list[tuple[str, Tensor, Tensor]]:
        """Sorts the answers that were found by prompt and verdict: the entry, their rows, and their vectors."""
        logits = given(rollout.answer_logits).double().cpu()[:, -self.layers :]
        keys, correct = given(rollout.prompt_keys).cpu(), given(rollout.correct).cpu()
        usable, entries = ~logits.isnan().any(dim=1), []
        for key in keys.unique():
            for right in (False, True):
                rows = (usable & (keys == key) & (correct == right)).nonzero(as_tuple=True)[0]
                rows = rows[logits[rows].sum(dim=1).argsort(stable=True)]  # whatever order the completions stand in
                if len(rows):
                    entries.append((f"{int(key)}:{int(right)}", rows, logits[rows]))
        return entries


def clusters(vectors: Tensor) -> Tensor:
    """Clusters vectors `(n, layers)` by their direction, `(n,)` int64; -1 for those that belong to none."""
    import torch

    if len(vectors) < 2:
        return torch.full((len(vectors),), -1)
    from sklearn.cluster import HDBSCAN

    directions = torch.nn.functional.normalize(vectors, dim=1).numpy()
    labels = HDBSCAN(min_cluster_size=2, min_samples=1, metric="euclidean", copy=True).fit_predict(directions)
    return torch.from_numpy(labels).long()


def _nearest_label(vectors: Tensor, kept: Tensor, labels: Tensor) -> Tensor:
    """Returns the label that most of each vector's three nearest have, by cosine; of equals the smallest."""
    import torch

    unit, unit_kept = (torch.nn.functional.normalize(x, dim=1) for x in (vectors, kept))
    near = (unit @ unit_kept.t()).topk(min(3, len(kept)), dim=1).indices
    names = labels.unique()
    votes = (labels[near][:, :, None] == names).sum(dim=1)
    most: Tensor = names[votes.argmax(dim=1)]
    return most
