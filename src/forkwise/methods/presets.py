"""Methods that settings make, nearly all of them TRL's: each sets fields under one name and computes nothing.

A field that the user has set to something else than its default or the method's value is a conflict, not overridden.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from forkwise.errors import InputError
from forkwise.methods.base import Condition, SettingsMethod, check_range


@dataclass(frozen=True)
class Grpo(SettingsMethod):
    """GRPO's advantages and nothing else. How the loss is averaged is another choice: TRL's default is per token."""

    name = "grpo"
    title = "DeepSeekMath: Pushing the Limits of Mathematical Reasoning in Open Language Models"
    paper = "2402.03300"
    formula = "A = (r - mean)/(std + 1e-4) of the group"

    def settings(self) -> Mapping[str, Any]:
        """Sets advantages scaled by the group's deviation, and ratios per token."""
        return {"scale_rewards": "group", "importance_sampling_level": "token"}


@dataclass(frozen=True)
class DrGrpo(SettingsMethod):
    """Dr. GRPO: no deviation in the advantage, no response length in the loss."""

    name = "dr_grpo"
    title = "Understanding R1-Zero-Like Training: A Critical Perspective"
    paper = "2503.20783"
    formula = "A = r - mean; loss = sum over tokens / (completions x max_completion_length)"

    def settings(self) -> Mapping[str, Any]:
        """Returns the settings that TRL's guide to the paper names."""
        return {"scale_rewards": "none", "loss_type": "dr_grpo"}


@dataclass(frozen=True)
class ClipHigher(SettingsMethod):
    """DAPO's wider upper clip.

    Args:
        low: ratios below 1 - low are clipped; > 0.
        high: ratios above 1 + high are clipped; > 0.
    """

    low: float = 0.2
    high: float = 0.28

    name = "clip_higher"
    title = "DAPO: An Open-Source LLM Reinforcement Learning System at Scale"
    paper = "2503.14476"
    formula = "clip(r, 1 - low, 1 + high)"
    conditions = frozenset({Condition.OFF_POLICY})

    def __post_init__(self) -> None:
        for field in ("low", "high"):
            check_range(self, field, 0, float("inf"), open_low=True)

    def settings(self) -> Mapping[str, Any]:
        """Sets TRL's two clip ranges."""
        return {"epsilon": self.low, "epsilon_high": self.high}


@dataclass(frozen=True)
class TokenLevelLoss(SettingsMethod):
    """DAPO's mean over all tokens of the batch instead of one per completion."""

    name = "token_level_loss"
    title = "DAPO: An Open-Source LLM Reinforcement Learning System at Scale"
    paper = "2503.14476"
    formula = "loss = sum over tokens / tokens of the batch"

    def settings(self) -> Mapping[str, Any]:
        """Sets TRL's default loss."""
        return {"loss_type": "dapo"}


@dataclass(frozen=True)
class DynamicSampling(SettingsMethod):
    """DAPO's dynamic sampling: prompts whose answers earn all the same are replaced by further ones.

    Args:
        draws: how often a rollout may be drawn until every group has a spread of rewards; at least 2. 10 is verl's.
    """

    draws: int = 10

    name = "dynamic_sampling"
    title = "DAPO: An Open-Source LLM Reinforcement Learning System at Scale"
    paper = "2503.14476"
    formula = "groups with max r = min r are drawn again, from further prompts"
    of_trl = False

    def __post_init__(self) -> None:
        check_range(self, "draws", 2, float("inf"))

    def settings(self) -> Mapping[str, Any]:
        """Sets our `max_draws`: TRL draws once."""
        return {"max_draws": self.draws}


@dataclass(frozen=True)
class Gspo(SettingsMethod):
    """GSPO: one importance ratio per completion.

    Args:
        low: ratios below 1 - low are clipped; > 0.
        high: ratios above 1 + high are clipped; > 0.
    """

    low: float = 3e-4
    high: float = 4e-4

    name = "gspo"
    title = "Group Sequence Policy Optimization"
    paper = "2507.18071"
    formula = "s_i = exp(mean_t(log pi - log pi_old)), clipped; mean over completions"

    def __post_init__(self) -> None:
        for field in ("low", "high"):
            check_range(self, field, 0, float("inf"), open_low=True)

    def settings(self) -> Mapping[str, Any]:
        """Returns the settings that TRL's guide to the paper names."""
        return {
            "importance_sampling_level": "sequence",
            "loss_type": "grpo",
            "epsilon": self.low,
            "epsilon_high": self.high,
        }


@dataclass(frozen=True)
class Cispo(SettingsMethod):
    """CISPO: the ratio is clipped from above and detached, so that no token loses its gradient.

    Args:
        largest: largest ratio, > 0. TRL clips there and not at 1 + largest; 5 is its recommendation (ScaleRL).
    """

    largest: float = 5.0

    name = "cispo"
    title = "MiniMax-M1: Scaling Test-Time Compute Efficiently with Lightning Attention"
    paper = "2506.13585"
    formula = "-sg(min(r, largest)) A log pi"
    conditions = frozenset({Condition.OFF_POLICY})

    def __post_init__(self) -> None:
        check_range(self, "largest", 0, float("inf"), open_low=True)

    def settings(self) -> Mapping[str, Any]:
        """Sets TRL's loss of that name."""
        return {"loss_type": "cispo", "epsilon_high": self.largest}


@dataclass(frozen=True)
class EntropyBonus(SettingsMethod):
    """A fixed entropy bonus. It adds the entropy's gradient, which the entropy-shaped advantage does not.

    Args:
        coef: weight of the bonus per nat, > 0. The entropy paper compares with a bonus but gives no coefficient.
    """

    coef: float = 0.001

    name = "entropy_bonus"
    title = "Entropy bonus of fixed weight"
    formula = "loss - coef mean(H)"

    def __post_init__(self) -> None:
        check_range(self, "coef", 0, float("inf"), open_low=True)

    def settings(self) -> Mapping[str, Any]:
        """Sets TRL's `entropy_coef`."""
        return {"entropy_coef": self.coef}


@dataclass(frozen=True)
class AdaptiveEntropyBonus(SettingsMethod):
    """Skywork-OR1's controller: the bonus acts, and its weight grows, only while the entropy is below the target.

    Args:
        target: entropy in nats, > 0.
        step: by which the weight grows or shrinks with every update.
        largest: largest weight, at least `step`.
    """

    target: float = 0.2
    step: float = 1e-4
    largest: float = 0.005

    name = "adaptive_entropy_bonus"
    title = "Skywork Open Reasoner 1 Technical Report"
    paper = "2505.22312"
    formula = "loss - c mean(H) while H <= target; c += step while H <= target, else c -= step; c in [0, largest]"

    def __post_init__(self) -> None:
        for field in ("target", "step", "largest"):
            check_range(self, field, 0, float("inf"), open_low=True)
        if self.largest < self.step:
            raise InputError(
                f"largest of the method 'adaptive_entropy_bonus' must be at least step ({self.step}), "
                f"got {self.largest}."
            )

    @property
    def steers(self) -> bool:
        """Tells that it steers the entropy."""
        return True

    def settings(self) -> Mapping[str, Any]:
        """Sets TRL's adaptive entropy control."""
        return {
            "use_adaptive_entropy": True,
            "entropy_coef": 0.0,
            "entropy_coef_min": 0.0,
            "entropy_coef_max": self.largest,
            "entropy_coef_delta": self.step,
            "entropy_target": self.target,
        }
