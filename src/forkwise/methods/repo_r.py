"""REPO-R, arXiv 2603.11682: unlikely right tokens weigh more and unlikely wrong ones less, steered to an entropy.

As in the branch of SkyRL that implements it; defaults: its recipe.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from forkwise.errors import InputError
from forkwise.methods.base import Need, State, TokenMethod, Tokens, check_range, given, wide

if TYPE_CHECKING:
    from torch import Tensor

_LEAST_LOGPROB = -20.0  # nats
_SMALLEST, _LARGEST = 1e-4, 0.05  # of |zeta| under the controller


@dataclass(frozen=True)
class RepoR(TokenMethod):
    """`A (1 - zeta log pi)` where A > 0 and `A (1 + zeta log pi)` where A < 0, never across 0; log pi at least -20.

    Args:
        zeta: per nat; positive values raise the entropy, negative ones lower it.
        target: entropy in nats that zeta is steered to, once per rollout: it doubles while the entropy is too low,
            halves while it is too high, and turns its sign at 1e-4; |zeta| is at most 0.05. 0 leaves zeta as it is.
    """

    zeta: float = 0.001
    target: float = 0.0

    name = "repo_r"
    title = "Entropy-Preserving Reinforcement Learning"
    paper = "2603.11682"
    formula = "A (1 - zeta log pi) if A > 0, A (1 + zeta log pi) if A < 0, the sign kept"
    requires = frozenset({Need.LOGPROBS})
    slot = "entropy shaping"

    def __post_init__(self) -> None:
        check_range(self, "zeta", -float("inf"), float("inf"))
        check_range(self, "target", 0, float("inf"))
        if self.target and self.plans.get("zeta"):
            raise InputError("zeta of the method 'repo_r' is steered by its target already: give one of the two.")
        if self.target and abs(self.zeta) > _LARGEST:
            raise InputError(
                f"zeta of the method 'repo_r' is steered between -{_LARGEST} and {_LARGEST}: begin there, not at "
                f"{self.zeta}."
            )

    def needs(self) -> frozenset[Need]:
        """Adds zeta as it was steered to."""
        return super().needs() | {Need.STATES} if self.target else super().needs()

    @property
    def steers(self) -> bool:
        """Tells whether zeta is steered to a target."""
        return bool(self.target) or super().steers

    def first_state(self) -> State:
        """Returns zeta, where it is steered."""
        return {**super().first_state(), "zeta": self.zeta} if self.target else super().first_state()

    def next_state(self, state: State, entropy: float, progress: float) -> State:
        """Returns zeta after a rollout of this entropy."""
        steered = super().next_state(state, entropy, progress)
        return {**steered, "zeta": steer(state["zeta"], entropy, self.target)} if self.target else steered

    def advantages(self, tokens: Tokens) -> Tensor:
        """Returns the weighted advantages, `(B, T)`."""
        import torch

        zeta = self.zeta
        if self.target:
            assert tokens.states is not None
            zeta = tokens.states[self.name]["zeta"]
        a = wide(tokens.advantages)
        surprisal = -wide(given(tokens.logprobs)).clamp(min=_LEAST_LOGPROB)
        return a * torch.where(a > 0, 1 + zeta * surprisal, 1 - zeta * surprisal).clamp(min=0)


def steer(zeta: float, entropy: float, target: float) -> float:
    """Returns the controller's next zeta."""
    if entropy > target:
        if zeta < 0:
            return max(-_LARGEST, 2 * zeta)
        return zeta / 2 if zeta / 2 >= _SMALLEST else -_SMALLEST
    if entropy < target:
        if zeta > 0:
            return min(_LARGEST, 2 * zeta)
        return zeta / 2 if zeta / 2 <= -_SMALLEST else _SMALLEST
    return zeta
