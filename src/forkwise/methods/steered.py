"""The part that methods share which steer the entropy to a target by drawing or scoring at another temperature."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from forkwise.methods.base import Method, State, check_range

UNKNOWN = -1.0


@dataclass(frozen=True)
class SteeredTemperature(Method):
    """A method with a temperature above the sampling one while the entropy is at most the target, and one below it.

    The entropy is that of the last rollout's updates, `UNKNOWN` in the first rollout.
    """

    target: float = 0.5
    high: float = 1.2
    low: float = 0.8

    def __post_init__(self) -> None:
        check_range(self, "target", 0, float("inf"), open_low=True)
        check_range(self, "high", 1, float("inf"), open_low=True)
        check_range(self, "low", 0, 1, open_low=True)

    @property
    def steers(self) -> bool:
        """Tells that it steers the entropy."""
        return True

    def first_state(self) -> State:
        """Returns that no entropy is known yet."""
        return {**super().first_state(), "entropy": UNKNOWN}

    def next_state(self, state: State, entropy: float, progress: float) -> State:
        """Returns the entropy of the rollout."""
        return {**super().next_state(state, entropy, progress), "entropy": entropy}

    def temperature_factor(self, states: Mapping[str, State]) -> float:
        """Returns what the sampling temperature is multiplied by."""
        return self.high if states[self.name]["entropy"] <= self.target else self.low
