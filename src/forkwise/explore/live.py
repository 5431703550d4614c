"""Behaviours of a batch of completions while a model trains: counts and entropies that add up over batches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from forkwise.explore.lexicon import Lexicon, ReflectivePatterns, load_lexicon, load_reflective
from forkwise.explore.sentences import Span, ends_whole, split_sentences
from forkwise.explore.spans import MisfitError, first_token, token_spans, tokens_in
from forkwise.passk.diversity import repetition_rate

TOTALS = (
    *("responses", "words", "pivotal", "pivotal_tokens", "pivotal_entropy", "other_tokens", "other_entropy"),
    *("sentences", "reflective", "reflective_measured", "reflective_entropy", "repetition"),
)
"""Names of the counts and sums of a completion, in the order of the array that holds them."""


@dataclass
class BehaviourCounter:
    """Counts pivotal words and reflective sentences in completions, and sums their entropies.

    Args:
        decode: token ids to text, special tokens left out.
        decode_one: one token id to its text.
        breaks: words that begin a sentence besides punctuation.
        end: id that ends a completion; one without it was cut off, and the sentence that it began is left out.
    """

    decode: Callable[[Sequence[int]], str]
    decode_one: Callable[[int], str]
    breaks: Sequence[str] = ()
    end: int | None = None
    lexicon: Lexicon = field(default_factory=load_lexicon)
    reflective: ReflectivePatterns = field(default_factory=load_reflective)
    _texts: dict[int, str] = field(default_factory=dict)

    def count(self, ids: Sequence[int], entropies: npt.NDArray[np.floating] | None) -> npt.NDArray[np.float64]:
        """Returns `TOTALS` of one completion, which add up over several; `entropies` (T,) are in nats, one per id."""
        text = self.decode(ids)
        matches = self.lexicon.matches(text)
        sentences = split_sentences(text, self.breaks)
        if self.end is not None and (not ids or ids[-1] != self.end) and not ends_whole(text):
            sentences = sentences[:-1]
        marked = [i for i, s in enumerate(sentences) if self.reflective.names(text[s.start : s.end])]
        total = dict.fromkeys(TOTALS, 0.0)
        total |= {
            "responses": 1,
            "words": len(text.split()),
            "pivotal": len(matches),
            "sentences": len(sentences),
            "reflective": len(marked),
            "repetition": repetition_rate([text.split()]),
        }
        spans = None if entropies is None else self._spans(ids, text)
        if entropies is not None and spans is not None:
            first_tokens = first_token(spans, [Span(m.start, m.end) for m in matches])
            pivotal = np.zeros(len(ids), dtype=bool)
            pivotal[first_tokens[first_tokens >= 0]] = True
            owner = tokens_in(spans, sentences, text)
            size = np.bincount(owner[owner >= 0], minlength=len(sentences))
            sums = np.bincount(owner[owner >= 0], weights=entropies[owner >= 0], minlength=len(sentences))
            measured = [i for i in marked if size[i]]
            total |= {
                "pivotal_tokens": pivotal.sum(),
                "pivotal_entropy": entropies[pivotal].sum(),
                "other_tokens": (~pivotal).sum(),
                "other_entropy": entropies[~pivotal].sum(),
                "reflective_measured": len(measured),
                "reflective_entropy": sum(sums[i] / size[i] for i in measured),
            }
        return np.array([float(total[name]) for name in TOTALS])

    def _spans(self, ids: Sequence[int], text: str) -> list[Span] | None:
        """Returns the tokens' spans; None, so that only counts are logged, where tokens do not join to the text."""
        for i in ids:
            if i not in self._texts:
                self._texts[i] = self.decode_one(i)
        try:
            return token_spans([self._texts[i] for i in ids], text)
        except MisfitError:
            return None


def metrics(totals: npt.NDArray[np.float64]) -> dict[str, float]:
    """Turns summed `TOTALS` into the metrics that are logged; entropies only where there are any."""
    t = dict(zip(TOTALS, totals.tolist(), strict=True))
    responses = max(t["responses"], 1.0)
    logged = {
        "pivotal_per_response": t["pivotal"] / responses,
        "pivotal_per_1000_words": 1000 * t["pivotal"] / max(t["words"], 1.0),
        "reflective_per_response": t["reflective"] / responses,
        "reflective_share": t["reflective"] / max(t["sentences"], 1.0),
        "repetition": t["repetition"] / responses,
    }
    for name, total, size in (
        ("pivotal_entropy", "pivotal_entropy", "pivotal_tokens"),
        ("other_entropy", "other_entropy", "other_tokens"),
        ("reflective_entropy", "reflective_entropy", "reflective_measured"),
    ):
        if t[size]:
            logged[name] = t[total] / t[size]
    return logged
