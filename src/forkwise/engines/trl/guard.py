"""Guards on the way from a rollout to TRL's loss: nothing reads advantages that the methods have not made."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from forkwise.engines.base import reward_methods, rollout_methods
from forkwise.engines.trl.release import not_shaped
from forkwise.engines.trl.update import EARLY_ADVANTAGES, POSITIONS
from forkwise.errors import NotFiniteError
from forkwise.methods import Method, Need, Scope


@contextmanager
def finite_draws(trainer: Any) -> Iterator[None]:
    """Names the step in which no token can be drawn, since the model gives NaN or infinity."""
    try:
        yield
    except RuntimeError as error:
        if not str(error).startswith("probability tensor contains"):  # torch.multinomial's answer to NaN
            raise
        advice = getattr(trainer, "advice", "Try a lower learning_rate, or float32.")
        raise NotFiniteError(
            f"Step {trainer.state.global_step + 1}: the probabilities of the next token are not finite: weights are no "
            f"numbers, or have grown too large. {advice}"
        ) from error


_OF_ROLLOUTS = {Need.OLD_ENTROPY, Need.GROUPS, Need.CORRECT}


class GuardedBatch(dict[str, Any]):
    """A micro-batch that holds no `"advantages"` until they are shaped, and notes whether the loss read them.

    Taking the key out, instead of hiding it, makes `dict(batch)`, `**batch` and `.items()` as safe as indexing.
    The batch it is made from is never written to: TRL reuses it for `num_iterations` updates.
    """

    def __init__(self, batch: dict[str, Any], methods: Sequence[Method]) -> None:
        if "advantages" not in batch:
            raise not_shaped("TRL's micro-batch has no 'advantages'", methods)
        super().__init__(batch)
        self.methods = methods
        self.unshaped: torch.Tensor = self.pop("advantages")
        self.shaped = self.read = False
        self.why_not = "no per-token entropies were computed before, by `_get_per_token_logps_and_entropies`"

    def shape(self, advantages: torch.Tensor) -> None:
        super().__setitem__("advantages", advantages)
        self.shaped = True

    def __getitem__(self, key: str) -> Any:
        if key == "advantages":
            if not self.shaped:
                raise not_shaped(f"the loss read the advantages, but {self.why_not}", self.methods)
            self.read = True
        return super().__getitem__(key)

    def get(self, key: str, default: Any = None) -> Any:
        return self[key] if key == "advantages" else super().get(key, default)

    def __setitem__(self, key: str, value: Any) -> None:
        if key == "advantages":
            raise not_shaped("the loss replaced the advantages; change them before the loss", self.methods)
        super().__setitem__(key, value)


def sees_rollouts(methods: Sequence[Method]) -> bool:
    """Tells whether any method needs more than one token at a time, or how and by which policy tokens were drawn."""
    return any(m.scope in (Scope.UPDATE, Scope.ROLLOUT) or m.needs() & _OF_ROLLOUTS for m in methods)


def check_rollout_acted(batch: dict[str, Any], methods: Sequence[Method]) -> None:
    """Raises an error unless the methods of the rollout made the advantages of this micro-batch."""
    if sees_rollouts(methods) and POSITIONS not in batch:
        raise not_shaped("the rollout bypassed the mixin; a method overridden without super()?", methods)
    early = [*reward_methods(methods), *rollout_methods(methods)]
    if early and not (EARLY_ADVANTAGES in batch and torch.equal(batch[EARLY_ADVANTAGES], batch["advantages"])):
        raise not_shaped("the advantages were replaced after the rollout", methods)
