"""The settings that forkwise adds to an engine's own, with their help; loaded without torch."""

from __future__ import annotations

from dataclasses import dataclass, field

from forkwise.constants import ALPHA, KAPPA


@dataclass
class ShapingSettings:
    """The two constants of the entropy-shaped advantage, the methods to train with, and who computes entropies."""

    alpha: float = field(
        default=ALPHA, metadata={"help": "Weight of the entropy term added to the advantages; 0 turns shaping off."}
    )
    kappa: float = field(
        default=KAPPA, metadata={"help": "The entropy term is capped at |advantage| / kappa; must be greater than 1."}
    )
    method: list[str] = field(
        default_factory=list,
        metadata={
            "help": "Methods to train with, NAME[:key=value,...]; may be repeated. 'forkwise methods' lists them. "
            "alpha and kappa then count only as options of entropy_advantage."
        },
    )
    entropy_backend: str = field(
        default="forkwise",
        metadata={
            "help": "Who computes log-probs and entropies in training: 'forkwise' (exact, cheaper; where its operator "
            "cannot stand in for a model's head, TRL or the full logits do), or 'trl'."
        },
    )
