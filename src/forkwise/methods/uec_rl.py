"""UEC-RL, arXiv 2604.14646: prompts that nothing solves are drawn again, and rare right answers are learned from again.

Rules and constants as in a public copy of the authors' trainer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from forkwise.errors import InputError
from forkwise.methods.base import Need, check_range
from forkwise.methods.replay import Drawn, Lesson, Memory, Redraw, ReplayMethod

if TYPE_CHECKING:
    import torch
    from torch import Tensor

_FLAT = 0.01  # a prompt is hard if no reward and no |advantage| of its completions reaches it
_WAITING, _REPLAYED = 4, 2  # rollouts' worth of completions


@dataclass(frozen=True)
class UecRl(ReplayMethod):
    """GRPO on a queue: completions of mixed groups, and right ones that hard prompts gave when they were drawn again.

    A prompt of which no completion is right is drawn `group` times more, at the sampling temperature times `high`. The
    rollout's completions with `|A| > least`, and those drawn again with `|A| > explored` among their own, wait in a
    queue; not those that fill the length that is allowed and were good. Whenever a rollout's worth of completions
    waits, it is learned from; until then rollouts are drawn. Of what was learned from, completions with `A > rare` are
    kept, at most two rollouts' worth, and after every `every` rollouts they are learned from once more.

    Args:
        group: completions of a hard prompt, at least 2.
        high: times the sampling temperature, above 0.
        least: of |A|, at least 0.
        explored: of |A|, at least 0.
        rare: of A, at least 0.
        every: rollouts, at least 1.
    """

    group: int = 20
    high: float = 1.1
    least: float = 0.05
    explored: float = 0.5
    rare: float = 1.0
    every: int = 5

    name = "uec_rl"
    title = "UEC-RL: unified entropy control for reinforcement learning (arXiv 2604.14646)"
    paper = "2604.14646"
    formula = "GRPO where |A| > least; unsolved prompts again at T high, |A| > explored; A > rare replayed"
    requires = frozenset({Need.REPLAY, Need.REDRAWN})
    draws: ClassVar[int] = 10

    def __post_init__(self) -> None:
        check_range(self, "group", 2, float("inf"))
        check_range(self, "high", 0, float("inf"), open_low=True)
        for field in ("least", "explored", "rare"):
            check_range(self, field, 0, float("inf"))
        check_range(self, "every", 1, float("inf"))
        largest = (self.group - 1) / self.group**0.5  # of one right completion, by the deviation with n - 1
        if self.explored >= largest:
            raise InputError(
                f"explored of the method 'uec_rl' must be below {largest:.2f}, the largest advantage among "
                f"{self.group} completions, got {self.explored}."
            )

    def check_group_size(self, size: int) -> None:
        """Refuses groups in which no advantage is large enough."""
        largest = (size - 1) / size**0.5
        if largest <= self.least:
            raise InputError(
                f"The method 'uec_rl' learns from advantages above {self.least}, and among {size} completions none is "
                f"above {largest:.2f}: make num_generations larger."
            )

    @property
    def again(self) -> Redraw:
        """How hard prompts are drawn again."""
        return Redraw(self.group, self.high)

    def hard(self, rewards: Tensor, advantages: Tensor) -> Tensor:
        """Finds the prompts of which all completions are equally wrong, `(Q,)` bool."""
        hard: Tensor = ((advantages.abs() < _FLAT) & (rewards < _FLAT)).all(dim=1)
        return hard

    def note(self, memory: Memory, drawn: Drawn) -> Memory:
        """Puts the completions that are worth it into the queue."""
        import torch

        a = drawn.advantages
        enough = torch.where(drawn.again, a.abs() > self.explored, a.abs() > self.least)
        wanted = enough & ~(drawn.cut & (a > 0))
        before = memory or _empty(drawn)
        most = _WAITING * int((~drawn.again).sum())
        return {
            **before,
            "queue": torch.cat([before["queue"], drawn.rows[wanted]])[-most:],
            "good": torch.cat([before["good"], a[wanted] > self.rare])[-most:],
            "rollouts": before["rollouts"] + 1,
            "kept": wanted.double().sum()[None] / (~drawn.again).sum(),
        }

    def lesson(
        self, memory: Memory, size: int, generator: torch.Generator, *, whole: bool = True
    ) -> tuple[Lesson | None, Memory]:
        """Returns what is to be replayed; else what waits, if it is enough; else None."""
        import torch

        if len(memory["replay"]):
            return _plain(memory["replay"][:size]), {**memory, "replay": memory["replay"][size:]}
        queue, good, rare = memory["queue"], memory["good"], memory["rare"]
        if len(queue) >= size or not whole:
            rare = torch.cat([rare, queue[:size][good[:size]]])[-_REPLAYED * size :]
            return _plain(queue[:size]), {**memory, "queue": queue[size:], "good": good[size:], "rare": rare}
        rollouts, last = int(memory["rollouts"]), int(memory["replayed"])
        if rollouts % self.every or rollouts == last or len(rare) < size:
            return None, memory
        # All of them if they are all that can be kept, else as many whole lessons as there are, at random.
        full = len(rare) == _REPLAYED * size
        some = rare if full else rare[torch.randperm(len(rare), generator=generator)[: len(rare) // size * size]]
        after = {**memory, "replayed": memory["rollouts"], "replay": some}
        return self.lesson(after, size, generator)

    def kept(self, memory: Memory) -> Tensor:
        """Returns what waits, what may be replayed, and what is about to be."""
        import torch

        return torch.cat([memory["queue"], memory["rare"], memory["replay"]])

    def measures(self, memory: Memory) -> dict[str, float]:
        """Returns how many completions the newest rollout gave, what waits, and what may be replayed.

        The first is a share of the rollout's size, the others are numbers of completions.
        """
        waiting, rare = len(memory["queue"]), len(memory["rare"])
        return {"kept": float(memory["kept"]), "waiting": float(waiting), "rare": float(rare)}


def _empty(drawn: Drawn) -> dict[str, Tensor]:
    import torch

    none, zero = drawn.rows[:0], torch.zeros(1, dtype=torch.int64)
    return {"queue": none, "good": none.bool(), "rare": none, "replay": none, "rollouts": zero, "replayed": zero}


def _plain(rows: Tensor) -> Lesson:
    import torch

    return Lesson(rows, torch.ones(len(rows), dtype=torch.float64))
