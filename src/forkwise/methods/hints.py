"""Methods that draw unsolved prompts again with a hint, and imitate what comes of it under the prompt without."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

from forkwise.methods.base import Need
from forkwise.methods.replay import ReplayMethod
from forkwise.methods.two_prompts import Prompt


class HintMethod(ReplayMethod):
    """A method whose completions that are drawn again are drawn with a hint.

    The engine draws `again` completions of each `hard` prompt under its hinted form. They are kept under the prompt
    without the hint. `Drawn.leaks` says which of them must not be learned from.
    """

    requires = frozenset({Need.REPLAY, Need.REDRAWN})
    of_older_policies = False  # rollouts are learned from at once, and imitation has ratios of 1
    column: str  # of the data set, that the hint is made of

    @abstractmethod
    def hinted(self, row: Mapping[str, Any]) -> Prompt:
        """Returns the prompt of a row of the data set, with the hint."""

    @abstractmethod
    def leak(self, completion: str, row: Mapping[str, Any]) -> str | None:
        """Says why a completion that was drawn with the hint must not be learned from; None where it may."""
