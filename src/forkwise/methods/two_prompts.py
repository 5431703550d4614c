"""Methods that draw half of each prompt's completions under a second prompt, and learn each under both."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, TypeAlias

from forkwise.errors import InputError
from forkwise.methods.base import Need, Tokens
from forkwise.methods.replay import Drawn, Lesson, Memory, ReplayMethod

if TYPE_CHECKING:
    import torch
    from torch import Tensor

Prompt: TypeAlias = "str | list[dict[str, object]]"
"""A text, or the messages of a conversation."""


class TwoPromptMethod(ReplayMethod):
    """A method with a second prompt for every problem.

    Of the completions of a problem every second one is drawn under the second prompt. Each is then a completion of
    either prompt, with the log-probs that the policy which drew it gives it there. The method makes the advantages of
    both. A rollout makes two lessons: half of the completions, under both prompts, in each.
    """

    requires = frozenset({Need.REPLAY, Need.OLD_LOGPROBS, Need.OTHER_LOGPROBS, Need.GROUPS})

    @abstractmethod
    def second(self, prompt: Prompt) -> Prompt:
        """Returns the second prompt of a problem."""

    @abstractmethod
    def advantages(self, tokens: Tokens) -> Tensor:
        """Computes the advantages `(B, T)` of completions under one prompt each.

        `second` says which. `old_logprobs` are those under that prompt, `other_logprobs` those under the other one,
        both of the policy that drew them.
        """

    def check_group_size(self, size: int) -> None:
        """Refuses groups that cannot be halved."""
        if size % 2:
            raise InputError(
                f"The method '{self.name}' draws half of each prompt's completions under a second prompt: set "
                f"num_generations to an even number, not {size}."
            )

    def note(self, memory: Memory, drawn: Drawn) -> Memory:
        """Puts the completions into a queue, so that what is one completion under two prompts stands together."""
        import torch

        first, second = drawn.rows[~drawn.again], drawn.rows[drawn.again]
        pairs = torch.stack([first, second], dim=1).flatten() if len(first) == len(second) else drawn.rows
        return {"queue": torch.cat([memory["queue"], pairs]) if memory else pairs}

    def lesson(
        self, memory: Memory, size: int, generator: torch.Generator, *, whole: bool = True
    ) -> tuple[Lesson | None, Memory]:
        """Returns what has waited longest; None where nothing waits."""
        import torch

        queue = memory["queue"]
        if not len(queue):
            return None, memory
        lesson = Lesson(queue[:size], torch.ones(len(queue[:size]), dtype=torch.float64))
        return lesson, {"queue": queue[size:]}

    def kept(self, memory: Memory) -> Tensor:
        """Returns what waits."""
        return memory["queue"]
