"""Methods that choose which completions are learned from: those of the newest rollout, of earlier ones, or both.

An engine draws rollouts and keeps the completions that the method still wants, each with the log-probs of the policy
that drew it, so that the ratio of a loss is right whenever it is learned from. A **lesson** is as many completions as a
rollout has; each takes the place of a rollout in the engine's loop. What the method remembers is the same on all
processes and is kept in checkpoints.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, NamedTuple, TypeAlias

from forkwise.methods.base import Method, Need, Scope

if TYPE_CHECKING:
    import torch
    from torch import Tensor

Memory: TypeAlias = "Mapping[str, Tensor]"
"""What a method remembers: tensors by name, the same on all processes."""


class Redraw(NamedTuple):
    """How prompts are drawn again: how many completions each, at which multiple of the temperature, from which nucleus.

    `number` 0 means that nothing is drawn again; `top_p` None, that of the run.
    """

    number: int = 0
    factor: float = 1.0
    top_p: float | None = None


@dataclass(frozen=True)
class Drawn:
    """Completions that were drawn, over all processes: those of a rollout, and behind them those drawn again for it.

    Attributes:
        rows: `(N,)` int64, the number of each completion; larger than those of all before.
        rewards: `(N,)`, total rewards.
        advantages: `(N,)`, means over a completion's tokens.
        cut: `(N,)` bool, whether the completion fills the length that is allowed.
        again: `(N,)` bool, whether it was drawn again; or stands here a second time, under the second prompt.
        leaks: `(N,)` bool, whether it must not be imitated, by `HintMethod.leak`; None without hints.
        seed: of random choices, another one for each rollout.
    """

    rows: Tensor
    rewards: Tensor
    advantages: Tensor
    cut: Tensor
    again: Tensor
    leaks: Tensor | None = None
    seed: int = 0


@dataclass(frozen=True)
class Lesson:
    """Completions to be learned from.

    Attributes:
        rows: `(M,)` int64, their numbers; at most as many as a rollout has.
        weights: `(M,)`, by which their advantages are multiplied.
        imitation: whether they are imitated: with weights for advantages, and ratios of 1, which makes the policy loss
            one of likelihood.
        rate: what the learning rate is multiplied by.
    """

    rows: Tensor
    weights: Tensor
    imitation: bool = False
    rate: float = 1.0


class ReplayMethod(Method):
    """A method that chooses which completions are learned from.

    Attributes:
        draws: how many rollouts are drawn for one lesson, until the method has enough; at least 1.
        of_older_policies: whether lessons may be of completions that an older policy drew, so that ratios are not 1
            even with one update per rollout.
    """

    scope = Scope.ROLLOUT
    slot = "replay"
    requires = frozenset({Need.REPLAY})
    draws: ClassVar[int] = 1
    of_older_policies: ClassVar[bool] = True

    @property
    def again(self) -> Redraw:
        """How prompts that are `hard` are drawn again."""
        return Redraw()

    def hard(self, rewards: Tensor, advantages: Tensor) -> Tensor:
        """Tells which prompts are drawn again, `(Q,)` bool, from what their completions got, `(Q, G)` each."""
        return rewards.new_zeros(len(rewards)).bool()

    @abstractmethod
    def note(self, memory: Memory, drawn: Drawn) -> Memory:
        """Returns the memory after a rollout was drawn; it is empty before the first one."""

    @abstractmethod
    def lesson(
        self, memory: Memory, size: int, generator: torch.Generator, *, whole: bool = True
    ) -> tuple[Lesson | None, Memory]:
        """Returns the next lesson and the memory after it.

        Args:
            memory: what is remembered.
            size: how many completions a rollout has.
            generator: for random choices, on the CPU.
            whole: whether the lesson must have `size` completions; else the method gives what it has.

        Returns:
            The lesson; None where a rollout must be drawn first.
        """

    @abstractmethod
    def kept(self, memory: Memory) -> Tensor:
        """Returns the numbers of the completions that may still be learned from, `(K,)`."""

    def measures(self, memory: Memory) -> dict[str, float]:
        """Returns what is logged with each lesson, as `method/NAME/KEY`."""
        return {}
