"""Whether samples are draws of the distributions that a model gives their tokens.

Suffixes: S samples, N tokens of all of them, in their order.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from forkwise.errors import InputError
from forkwise.explore.contrast import FloatArray

_FEWEST = 100  # samples: of fewer, those that happen to lack rare tokens lean by five standard errors too often
_SURE = 5.0  # standard errors
_SHARE = 0.02  # of the entropies; by less, models differ that draw with one precision and score with another


def with_their_ends(rows: Sequence[Mapping[str, Any]], ends: Collection[int]) -> bool:
    """Tells whether each sample that ended by itself has its end token; without it draws are not whole."""
    return all(row["finish_reason"] == "length" or row["token_ids"][-1] in ends for row in rows)


def refuse_other_draws(surprisal_N: FloatArray, entropy_N: FloatArray, length_S: Sequence[int], model: str) -> None:
    """Refuses samples that a model's whole distributions did not bring forth.

    The surprisal of a token, `-log p`, is in the mean the entropy of the distribution that it was drawn from, whatever
    came before it. So both have the same sums in the mean over samples: of all tokens, and of those with less and with
    more entropy, each with half of all entropy. A penalty on repetition and a top-k that cancel over all tokens hardly
    do so in both halves. Where surprises are rare, samples without any are alike by chance; so the standard error is at
    least that of tokens with two ways each and their entropy.

    Args:
        surprisal_N, entropy_N: nats.
        length_S: tokens of each sample, the end token among them.

    Raises:
        InputError: of `_FEWEST` samples or more, one of these sums differs by more than `_SURE` standard errors, and by
            more than the share `_SHARE` of all entropy.
    """
    if len(length_S) < _FEWEST:
        return
    starts = np.cumsum([0, *length_S[:-1]])
    ordered = np.sort(entropy_N)
    middle = ordered[np.searchsorted(np.cumsum(ordered), ordered.sum() / 2)]
    parts = {
        "they": np.ones(entropy_N.size, dtype=np.bool_),
        f"their tokens with less than {middle:.2f} nats": entropy_N < middle,
        f"their tokens with {middle:.2f} nats and more": entropy_N >= middle,
    }
    varentropy_N = _varentropy_of_two(entropy_N)
    for subject, part_N in parts.items():
        surprisal_S, entropy_S, varentropy_S = (
            np.add.reduceat(x * part_N, starts) for x in (surprisal_N, entropy_N, varentropy_N)
        )
        difference_S = surprisal_S - entropy_S
        error = np.sqrt(max(difference_S.var(ddof=1), varentropy_S.mean()) / difference_S.size)
        if abs(difference_S.mean()) > max(_SURE * error, _SHARE * entropy_N.sum() / difference_S.size):
            raise InputError(
                f"The samples are no draws of '{model}' at their temperature: {subject} have {surprisal_S.mean():.3g} "
                f"nats of surprisal in the mean over samples and {entropy_S.mean():.3g} of entropy, and draws have as "
                "much of both. Another model, temperature, top-p or prompt drew them; or a server's defaults did "
                "(top_k, min_p, a penalty), which --extra top_k=-1 --extra min_p=0 --extra repetition_penalty=1 turn "
                "off for forkwise sample --server; or samples were left out by their length or text."
            )


def _varentropy_of_two(entropy_N: FloatArray) -> FloatArray:
    """Returns the varentropies of choices between two tokens with these entropies, nats squared; 0 beyond log 2."""
    q = np.geomspace(1e-15, 0.5, 2000)
    entropy, spread = -q * np.log(q) - (1 - q) * np.log1p(-q), q * (1 - q) * (np.log1p(-q) - np.log(q)) ** 2
    varentropy_N: FloatArray = np.interp(entropy_N, entropy, spread, left=0.0, right=0.0)
    return varentropy_N
