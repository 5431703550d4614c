"""What forkwise adds to a verl configuration. verl loads this in every process: it imports nothing."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from forkwise.methods import Method, TokenMethod

MODES = {
    "entropy_sync": "sync",
    "entropy_colocate_async": "colocate_async",
    "entropy_separate_async": "separate_async",
}
"""Our trainer modes, and the mode of verl that each extends."""

SECTIONS = {"forkwise": ("method", "policy", "seed"), "entropy_shaping": ("alpha", "kappa", "entropy")}
"""Our sections of `algorithm`, and their keys. The second is the shorthand of one method."""


class Place(str, Enum):
    """The place where the methods act that TRL runs just before the loss."""

    NOWHERE = "nowhere"  # there are none
    DRIVER = "driver"  # after the advantage stage, with the old policy's quantities
    LOSS = "loss"  # in each micro-batch's loss, on the workers
    UPDATE = "update"  # before each mini-batch, on the workers, which gather its tokens


@dataclass(frozen=True)
class Settings:
    """The methods of a run, and what they need to know.

    Attributes:
        methods: in the order in which they act; those that only set keys of verl are left out.
        policy: whose entropies and log-probabilities the methods get that TRL runs just before the loss. `"old"`: the
            policy's that verl recomputes old log-probabilities with, once per rollout. `"current"`: the policy's under
            update, as on TRL. They agree in the first update after a rollout.
        seed: of random choices.
    """

    methods: tuple[Method, ...] = ()
    policy: str = "old"
    seed: int = 0

    @property
    def late(self) -> list[TokenMethod]:
        """Returns the methods that TRL runs just before the loss."""
        from forkwise.engines.base import update_methods

        return update_methods(self.methods)

    @property
    def place(self) -> Place:
        """Tells where these methods act."""
        from forkwise.methods import Scope

        if not self.late:
            return Place.NOWHERE
        if any(method.scope is Scope.UPDATE for method in self.late):
            return Place.UPDATE
        return Place.DRIVER if self.policy == "old" else Place.LOSS


def asked_section(algorithm: Any) -> str | None:
    """Returns the name of our section in a configuration's `algorithm`, None where there is none."""
    get = getattr(algorithm, "get", None)
    return next((name for name in SECTIONS if get(name) is not None), None) if callable(get) else None
