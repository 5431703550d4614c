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
    came before it. So both have the same sums in the mean over samples: of all tokens, and of those with less entropy
    and with more than the tokens have that hold the middle of all entropy. A penalty on repetition and a top-k may
    cancel over all tokens, but not over either half.

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
    for subject, part_N in parts.items():
        surprisal_S, entropy_S = (np.add.reduceat(x * part_N, starts) for x in (surprisal_N, entropy_N))
        difference_S = surprisal_S - entropy_S
        error = difference_S.std(ddof=1) / np.sqrt(difference_S.size)
        if abs(difference_S.mean()) > max(_SURE * error, _SHARE * entropy_N.sum() / difference_S.size):
            raise InputError(
                f"The samples are no draws of '{model}' at their temperature: {subject} have {surprisal_S.mean():.1f} "
                f"nats of surprisal in the mean over samples and {entropy_S.mean():.1f} of entropy, which would be "
                "equal. Either a server's defaults changed the draws (top_k, min_p, a penalty): sample again with "
                "--extra top_k=-1 --extra min_p=0 --extra repetition_penalty=1. Or samples were left out by their "
                "length or text: give all of them."
            )
