"""What the analysis of a run is set to."""

from __future__ import annotations

from dataclasses import dataclass, field

from forkwise.errors import InputError
from forkwise.explore.contrast import Resampling
from forkwise.explore.lexicon import Lexicon, ReflectivePatterns


@dataclass(frozen=True)
class ExploreSettings:
    """Settings of the analysis.

    Attributes:
        lexicon, reflective: what counts as pivotal and reflective.
        quantile: tokens above it, over the whole run, are high-entropy.
        k, rare_quantile, limit: of `rarity`.
        vocabulary, vocabulary_source: for bounds from top-k log-probs, and how the number is known.
        threshold: nats above which tokens are high; None is the quantile of the run's own.
        resampling: of every interval and null.
    """

    lexicon: Lexicon
    reflective: ReflectivePatterns
    quantile: float = 0.8
    k: int = 5
    rare_quantile: float = 0.9
    limit: int = 50_000
    vocabulary: int | None = None
    vocabulary_source: str | None = None
    threshold: float | None = None
    resampling: Resampling = field(default_factory=Resampling)

    def __post_init__(self) -> None:
        for name in ("quantile", "rare_quantile"):
            if not 0 < getattr(self, name) < 1:
                raise InputError(f"{name.replace('_', ' ')} is {getattr(self, name)}: it must be between 0 and 1.")
        if self.k < 1:
            raise InputError(f"k is {self.k}: it must be at least 1.")
