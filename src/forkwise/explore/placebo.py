"""What any words would show: the difference of a lexicon among those of lexicons made of other words.

Entropy depends on the word, whichever it is, so most lists of words differ from the rest. What a lexicon shows that
others do not is its place among lexicons of other words that occur as often, word by word.

Suffixes: N units of a design, W words, R lexicons, B blocks (problems; of a matched design traces), S strata.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy import sparse

from forkwise.explore.contrast import ContrastDesign, FloatArray, IntArray
from forkwise.explore.findings import PlaceboNull
from forkwise.progress import watch

_ALIKE = 1.6
"""Words are like each other whose counts differ by at most this factor."""
_MOST = 256  # words among which one is drawn
_FEWEST = 12  # words that must be like an entry, for its own null
_BLOCK = 1 << 22  # numbers at a time


def draw_lexicons(count_W: IntArray, counts: Sequence[int], lexicons: int, seed: int) -> sparse.csr_array | None:
    """Draws lexicons of words as frequent as the entries of the real one, `(R, W)`, 1 where it has a word.

    Args:
        count_W: occurrences of the words that may be drawn; none of the real lexicon.
        counts: occurrences of the real lexicon's entries.

    Returns:
        None where words are too few: for most of the occurrences no other word is as frequent as the entry.
    """
    rng = np.random.default_rng([seed, 8])
    taken_RW = np.zeros((lexicons, count_W.size), dtype=bool)
    alone = 0
    for count in sorted(counts, reverse=True):
        alike = _alike(count_W, count)
        if alike.size < 2:
            alone += count
            continue
        alike = rng.permutation(alike)[:_MOST]
        chance = np.where(taken_RW[:, alike], -1.0, rng.random((lexicons, alike.size)))
        chosen = alike[chance.argmax(axis=1)]
        taken_RW[np.arange(lexicons), chosen] = True
    return None if alone * 2 > sum(counts) or not taken_RW.any() else sparse.csr_array(taken_RW.astype(np.float64))


def single_words(count_W: IntArray, count: int) -> sparse.csr_array | None:
    """Takes every word that occurs about as often as an entry as a lexicon of its own; None if there are hardly any."""
    alike = _alike(count_W, count)
    if alike.size < _FEWEST:
        return None
    return sparse.csr_array((np.ones(alike.size), (np.arange(alike.size), alike)), shape=(alike.size, count_W.size))


def _alike(count_W: IntArray, count: int) -> IntArray:
    return np.flatnonzero((count_W * _ALIKE >= count) & (count_W <= count * _ALIKE))


class WordEffects:
    """What a design's words add to the difference of any lexicon that holds them.

    Args:
        word_N: the word that begins with each of all units, as an index from 0; -1 where none does.
        words: their number.
    """

    def __init__(self, design: ContrastDesign, word_N: IntArray, words: int) -> None:
        word = word_N[design.member_N]
        at = np.flatnonzero(word >= 0)
        self._design = design

        def by_word(column: IntArray, columns: int, summed: FloatArray) -> sparse.csr_array:
            return sparse.csr_array((summed, (word[at], column[at])), shape=(words, columns))

        ones = np.ones(at.size)
        self._left_WB = by_word(design.block, design.blocks, design.left[at])
        self._marks_WB = by_word(design.block, design.blocks, ones)
        self._marks_WS = by_word(design.stratum, design.strata, ones)

    def differences(self, lexicon_RW: sparse.csr_array) -> FloatArray:
        """Computes the difference of each lexicon, as `contrast` does for the real one; NaN where too few are left."""
        rows = max(1, _BLOCK // max(self._marks_WB.shape[1], self._marks_WS.shape[1]))
        pieces: list[npt.NDArray[np.float64]] = []
        lexicons = lexicon_RW.shape[0]
        starts = range(0, lexicons, rows)
        for first in watch(starts, "lexicons of other words", "lexicons", lexicons, lambda: len(pieces) * rows):
            piece_RW = lexicon_RW[first : first + rows]
            sums = ((piece_RW @ by_word).toarray() for by_word in (self._left_WB, self._marks_WB, self._marks_WS))
            pieces.append(self._design.differences(*sums))
        return np.concatenate(pieces)


def placebo_null(words: WordEffects, lexicon_RW: sparse.csr_array | None, observed: float | None) -> PlaceboNull | None:
    """Places an observed difference among those of the lexicons; p is two-sided about their mean."""
    if lexicon_RW is None or observed is None:
        return None
    drawn = words.differences(lexicon_RW)
    drawn = drawn[np.isfinite(drawn)]
    if drawn.size < _FEWEST:
        return None
    mean = float(drawn.mean())
    low, high = np.quantile(drawn, [0.025, 0.975])
    extreme = int((np.abs(drawn - mean) >= abs(observed - mean) - 1e-12).sum())
    return PlaceboNull(mean, float(low), float(high), (1 + extreme) / (drawn.size + 1), drawn.size)
