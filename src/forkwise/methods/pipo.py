"""PIPO (PIRL), arXiv 2604.00860: what a rollout taught is taught again, or undone, by how the next rollout turns out.

Formula from secondary sources. The window and lambda are not published there: their defaults are ours.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from forkwise.methods.base import check_range, wide
from forkwise.methods.replay import Drawn, Lesson, Memory, ReplayMethod

if TYPE_CHECKING:
    import torch
    from torch import Tensor

EPS = 1e-6  # added to the deviation; ours
_EQUAL = 1e-9  # a smaller deviation is rounding


@dataclass(frozen=True)
class Pipo(ReplayMethod):
    """Before each rollout is learned from, the one before it is learned from once more, times `phi(xi)`.

    `xi` is the mean reward of the new rollout, standardised by those of the last `window` rollouts; `phi` is `xi`, and
    `lam xi` where it is negative, which undoes what was learned. It begins when there are `window` rollouts. While
    their mean rewards are all the same, `xi` counts as 0.

    Args:
        window: rollouts, at least 2.
        lam: weight of negative `xi`, at least 0; 0 never undoes anything.
    """

    window: int = 8
    lam: float = 1.0

    name = "pipo"
    title = "PIPO: policy improvement reinforcement learning (arXiv 2604.00860)"
    paper = "2604.00860"
    formula = "the last rollout again with A phi(xi), xi = (mean r - mu)/sigma over the last rollouts' means"

    def __post_init__(self) -> None:
        check_range(self, "window", 2, float("inf"))
        check_range(self, "lam", 0, float("inf"))

    def first_rollout(self) -> int:
        """Returns the first one that there is a whole window before."""
        return self.window + 1

    def xi(self, mean: Tensor, history: Tensor) -> Tensor:
        """Standardises a mean reward by those before, `(window,)`; 0 where there are fewer or they do not differ."""
        spread = history.std() if len(history) == self.window else mean.new_zeros(())
        return (mean - history.mean()) / (spread + EPS) if float(spread) > _EQUAL else mean.new_zeros(())

    def phi(self, xi: Tensor) -> Tensor:
        """Returns the factor of the advantages."""
        return xi if float(xi) >= 0 else self.lam * xi

    def note(self, memory: Memory, drawn: Drawn) -> Memory:
        """Puts the rollout's mean reward into the history, and the rollout beside the last one."""
        mean = wide(drawn.rewards).mean().cpu()
        history = memory.get("history", mean.new_zeros(0))
        xi = self.xi(mean, history)
        return {
            "history": _cat(history, mean[None])[-self.window :],
            "xi": xi[None],
            "phi": self.phi(xi)[None],
            "last": memory.get("last", drawn.rows[:0]),
            "fresh": drawn.rows,
        }

    def lesson(
        self, memory: Memory, size: int, generator: torch.Generator, *, whole: bool = True
    ) -> tuple[Lesson | None, Memory]:
        """Returns the last rollout with its factor, if that is not 0; then the new one; then None."""
        fresh, last = memory.get("fresh"), memory.get("last")
        if fresh is None or last is None or not len(fresh):
            return None, memory
        if len(last) and float(memory["phi"]) != 0:
            again = Lesson(last, memory["phi"].expand(len(last)))
            return again, {**memory, "phi": memory["phi"] * 0}
        return Lesson(fresh, wide(fresh) * 0 + 1), {**memory, "fresh": fresh[:0], "last": fresh}

    def kept(self, memory: Memory) -> Tensor:
        """Returns the last and the new rollout."""
        return _cat(memory["last"], memory["fresh"])

    def measures(self, memory: Memory) -> dict[str, float]:
        """Returns the newest xi."""
        return {"xi": float(memory["xi"])}


def _cat(*parts: Tensor) -> Tensor:
    import torch

    return torch.cat(parts)
