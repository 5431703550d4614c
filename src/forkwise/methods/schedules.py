"""Options that change in the course of a run: `0.4->0.1@linear` over its steps, or `0.4@target:0.3` by its entropy."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product

from forkwise.errors import InputError

SHAPES = ("linear", "cosine", "exponential")
_QUICKEST, _FARTHEST = 1.1, 4.0  # of a steered option: change per rollout, and distance from where it began


@dataclass(frozen=True)
class OptionSchedule:
    """How an option changes.

    Attributes:
        start: the value that it begins with.
        end: the value at the end of the run; for a steered one the entropy in nats that it is steered to.
        shape: one of `SHAPES`, or `"target"` for a steered one.
    """

    start: float
    end: float
    shape: str

    @property
    def steered(self) -> bool:
        """Tells whether the option follows the entropy, and not the steps."""
        return self.shape == "target"

    @property
    def ends(self) -> tuple[float, float]:
        """Returns the two values between which the option stays."""
        return (self.start / _FARTHEST, self.start * _FARTHEST) if self.steered else (self.start, self.end)

    def value(self, progress: float, steered_to: float | None = None) -> float:
        """Returns the option's value after a share of the run, or the one that it was steered to."""
        if self.steered:
            return self.start if steered_to is None else steered_to
        if self.shape == "exponential":
            return float(self.start * (self.end / self.start) ** progress)
        share = progress if self.shape == "linear" else (1 - math.cos(math.pi * progress)) / 2
        return self.start + (self.end - self.start) * share

    def steer(self, value: float, entropy: float) -> float:
        """Returns the next value: larger while the entropy is below the target, by at most a tenth per rollout."""
        step = min(max(self.end / max(entropy, 1e-9), 1 / _QUICKEST), _QUICKEST)
        low, high = sorted(self.ends)
        return min(max(value * step, low), high)

    def __str__(self) -> str:
        """Returns the plan as an option takes it."""
        return f"{self.start}@target:{self.end}" if self.steered else f"{self.start}->{self.end}@{self.shape}"


def values_on_the_way(plans: Mapping[str, OptionSchedule]) -> Iterator[dict[str, float]]:
    """Yields values that options may have at the same time, in 101 places of a run, steered ones at either end."""
    steered = {name: plan.ends for name, plan in plans.items() if plan.steered}
    for place in range(101):
        now = {name: plan.value(place / 100) for name, plan in plans.items() if not plan.steered}
        for ends in product(*steered.values()):
            yield {**now, **dict(zip(steered, ends, strict=True))}


_NUMBER = r"[^@>]+?"
_FORM = re.compile(rf"({_NUMBER})(?:->({_NUMBER}))?(?:@(.+))?")


def read_plan(method: str, key: str, text: str) -> OptionSchedule | None:
    """Returns the plan that an option's text gives, or None for a plain value.

    Raises:
        InputError: a text with `->` or `@` that is none.
    """
    if "->" not in text and "@" not in text:
        return None
    match = _FORM.fullmatch(text)
    start, end, shape = (part or "" for part in match.groups()) if match else ("", "", "")
    shape = shape or "linear"
    if not end and shape.startswith("target:"):
        end, shape = shape.removeprefix("target:"), "target"
    try:
        plan = OptionSchedule(float(start), float(end), shape)
    except ValueError:
        plan = None
    if plan is None or plan.shape not in (*SHAPES, "target") or (plan.steered and "->" in text):
        raise InputError(
            f"{key} of the method '{method}' must be a number, FROM->TO@SHAPE with the shape {', '.join(SHAPES)}, or "
            f"FROM@target:ENTROPY, got '{text}'."
        )
    if plan.shape in ("exponential", "target") and not (plan.start > 0 and plan.end > 0):
        raise InputError(f"{key} of the method '{method}' must be above 0 to change as in '{text}'.")
    return plan
