"""Which first tokens the continuations of a prefix get: the likeliest are forced, the others drawn."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from forkwise.explore.contrast import FloatArray
from forkwise.forks.estimators import Branches
from forkwise.forks.options import FEWEST

_NO_MASS = 1e-9  # of a tail that is rounding


@dataclass(frozen=True)
class FirstTokens:
    """The first tokens of a prefix's continuations, forced ones first."""

    tokens: list[int]
    probabilities: list[float]
    weights: list[float]
    """Weight of each token: a forced one's probability; for a drawn one, the mass drawn from over the number drawn."""
    sizes: list[int]
    """How many continuations each token has."""
    forced: int
    """How many were forced; the first of them is that of the trace."""

    @property
    def rows(self) -> list[int]:
        """Returns the first token of each continuation."""
        return [token for token, size in zip(self.tokens, self.sizes, strict=True) for _ in range(size)]

    @property
    def branches(self) -> Branches:
        """Returns the design that estimates need."""
        forced_G = np.arange(len(self.tokens)) < self.forced
        return Branches(np.array(self.weights), forced_G, np.array(self.sizes, dtype=np.int64))


def drawn_tokens(probs_V: FloatArray, number: int, rng: np.random.Generator) -> list[int]:
    """Draws tokens independently, with probabilities that need not add up to 1."""
    cdf = probs_V.cumsum()
    picked = np.searchsorted(cdf, rng.random(number) * cdf[-1], side="right").clip(max=probs_V.size - 1)
    return [int(token) for token in picked]


def first_tokens(probs_V: FloatArray, token: int, continuations: int, rng: np.random.Generator) -> FirstTokens:
    """Chooses the first tokens of `continuations` continuations.

    Forced are the token that the trace has, and the likeliest tokens as far as each gets two continuations; of the mass
    that is left, tokens are drawn independently, two continuations after each. The others go where they lower the
    error of F most if no token decides anything: to weights in proportion to `(p (1 - p))^(2/3)`.

    Args:
        probs_V: with which the next token is drawn.
        token: of the trace; forced even where it is unlikely.
    """
    if continuations < FEWEST:
        raise ValueError(f"{continuations} continuations are fewer than {FEWEST}")
    likeliest = np.argsort(-probs_V, kind="stable")[: continuations // 2]
    forced = [int(a) for a in likeliest if a != token and probs_V[a] >= 0.5 / continuations][: continuations // 2 - 3]
    forced = [token, *forced]
    rest_V = probs_V.copy()
    rest_V[forced] = 0.0
    tail = float(rest_V.sum())
    has_tail = tail > _NO_MASS
    probs = [float(probs_V[a]) for a in forced]
    share = [*probs, tail] if has_tail else [p / sum(probs) for p in probs]
    size = [2] * len(forced) + [4] * has_tail
    gain = np.array([(p * max(1 - p, 1e-12)) ** (2 / 3) for p in share])
    while (missing := continuations - sum(size)) > 0:
        possible = [i for i in range(len(size)) if i < len(forced) or missing >= 2]
        best = max(possible, key=lambda i: gain[i] / size[i])
        size[best] += 1 if best < len(forced) else 2
    drawn = size.pop() // 2 if has_tail else 0
    tokens = [*forced, *drawn_tokens(rest_V, drawn, rng)]
    weight = np.array([*share[: len(forced)], *([tail / drawn] * drawn if drawn else [])])
    return FirstTokens(
        tokens=tokens,
        probabilities=[float(probs_V[a]) for a in tokens],
        weights=(weight / weight.sum()).tolist(),
        sizes=[*size, *[2] * drawn],
        forced=len(forced),
    )


def no_token_forced(probs_V: FloatArray, continuations: int, rng: np.random.Generator) -> FirstTokens:
    """Draws the first token of each continuation, all alike."""
    tokens = drawn_tokens(probs_V, continuations, rng)
    probs = [float(probs_V[a]) for a in tokens]
    return FirstTokens(tokens, probs, [1 / continuations] * continuations, [1] * continuations, forced=0)
