"""Whether samples are draws of the distributions that a model gives their tokens.

Suffixes: S samples.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from forkwise.errors import InputError
from forkwise.explore.contrast import FloatArray

_FEWEST = 40  # samples: of fewer, those that happen to lack long ones lean by five errors too often
_SURE = 5.0  # standard errors
_SHARE = 0.03  # of the entropies; by less, models differ that draw with one precision and score with another


def with_their_ends(rows: Sequence[Mapping[str, Any]], ends: Collection[int]) -> bool:
    """Tells whether each sample that ended by itself has its end token; without it draws are not whole."""
    return all(row["finish_reason"] == "length" or row["token_ids"][-1] in ends for row in rows)


def refuse_other_draws(surprisal_S: FloatArray, entropy_S: FloatArray, model: str) -> None:
    """Refuses samples that a model's whole distributions did not bring forth.

    The surprisal of a token, `-log p`, is in the mean the entropy of the distribution that it was drawn from, whatever
    came before it. So sums over samples differ by 0 in the mean.

    Args:
        surprisal_S, entropy_S: sums over the tokens of each sample, the end token among them, nats.

    Raises:
        InputError: of `_FEWEST` samples or more, the sums differ by more than `_SURE` standard errors, and by more than
            the share `_SHARE`.
    """
    difference_S = surprisal_S - entropy_S
    if difference_S.size < _FEWEST:
        return
    mean, error = difference_S.mean(), difference_S.std(ddof=1) / np.sqrt(difference_S.size)
    if abs(mean) > max(_SURE * error, _SHARE * entropy_S.mean()):
        raise InputError(
            f"The samples are no draws of '{model}' at their temperature: they have {surprisal_S.mean():.1f} nats of "
            f"surprisal in the mean and {entropy_S.mean():.1f} of entropy, which would be equal. Either a server's "
            "defaults changed the draws (top_k, min_p, a penalty): sample again with --extra top_k=-1 --extra min_p=0 "
            "--extra repetition_penalty=1. Or samples were left out by their length or text: give all of them."
        )
