"""Rarity on texts whose strangeness is planted, with an encoder whose distances are known: one axis per word."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import numpy as np
import pytest

from forkwise.errors import InputError
from forkwise.explore.contrast import Resampling
from forkwise.explore.findings import Rarity
from forkwise.explore.lexicon import load_lexicon, load_reflective
from forkwise.explore.rarity import is_comparable, rarity
from forkwise.explore.sentences import split_sentences
from forkwise.explore.traces import Trace

FEW = Resampling(resamples=300)


class BagOfWords:
    """Counts of words on hashed axes, unit length."""

    name = "bag of words"

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        rows = np.zeros((len(texts), 256), dtype=np.float32)
        for row, text in zip(rows, texts, strict=True):
            for word in text.lower().split():
                row[zlib.crc32(word.encode()) % 256] += 1
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)


USUAL = (
    *("we", "find", "the", "sum", "product", "of", "two", "small", "numbers", "then", "add", "it", "up", "again"),
    *("slowly", "and", "carefully", "to", "get", "one", "result"),
)
STRANGE = ("suppose", "instead", "some", "wholly", "unforeseen", "symmetry", "argument", "contradicts", "everything")


def sentences(rng: np.random.Generator, words: Sequence[str], count: int, length: tuple[int, int] = (6, 10)) -> str:
    made = [" ".join(rng.choice(words, rng.integers(*length))).capitalize() + "." for _ in range(count)]
    return " ".join(made)


def trace(run: str, problem: int, sample: int, text: str) -> Trace:
    return Trace(run, f"p{problem}", sample, f"prompt {problem}", text, None, None, split_sentences(text), None)


def make(
    seed: int, run: str, *, strange: int = 0, problems: int = 10, samples: int = 2, length: tuple[int, int] = (6, 10)
) -> list[Trace]:
    rng = np.random.default_rng(seed)
    made = []
    for q in range(problems):
        for s in range(samples):
            text = sentences(rng, USUAL, 16 - strange, length)
            if strange:
                text += " " + sentences(rng, STRANGE, strange)
            made.append(trace(run, q, s, text))
    return made


def found(target: list[Trace], base: list[Trace], **options: object) -> Rarity:
    result, _ = rarity(target, base, BagOfWords(), load_lexicon(), load_reflective(), resampling=FEW, **options)
    return result


def test_a_run_like_its_base_has_a_tenth_beyond_the_null() -> None:
    result = found(make(1, "t"), make(0, "b"))
    top, beyond, of_length = result.groups
    assert top.share.value == pytest.approx(0.1, abs=0.01)  # by definition, whatever the run
    assert beyond.share.low < 0.1 < beyond.share.high + 0.02
    assert of_length.share.value == pytest.approx(0.1, abs=0.05)
    assert result.auc == pytest.approx(0.5, abs=0.06)
    assert result.difference.low < 0 < result.difference.high


def test_planted_strange_sentences_are_the_rare_ones() -> None:
    target = make(1, "t", strange=4)
    result, texts = rarity(target, make(0, "b"), BagOfWords(), load_lexicon(), load_reflective(), resampling=FEW)
    assert result.groups[1].share.low > 0.2  # a quarter is planted, and the base's tenth besides
    assert result.auc > 0.55
    assert all(set(text.lower().rstrip(".").split()) <= set(STRANGE) for text in texts)
    by_sample = {(t.problem_id, t.sample_id): t for t in target}
    for span in result.rare:
        text = by_sample[span.problem_id, span.sample_id].text[span.start : span.end]
        assert text in texts
    assert len(result.rare) >= len(texts)


def test_short_sentences_alone_are_not_rare_once_length_is_controlled() -> None:
    # Same words, half of the target's sentences short: a bag of few words is far from every other one.
    base, target = make(0, "b", length=(3, 14)), make(1, "t", length=(3, 5))
    result = found(target, base)
    _, beyond, of_length = result.groups
    assert beyond.share.value > 0.2
    assert of_length.share.value < beyond.share.value - 0.08
    assert of_length.share.value == pytest.approx(0.1, abs=0.08)


def test_copies_count_once_and_folds_keep_a_sentence_from_itself() -> None:
    base = make(0, "b")
    result = found([*base, *base], base)  # the target is the base, twice
    assert result.distinct == result.base_distinct
    assert result.sentences == 2 * result.base_sentences
    # Against the half of the base that it is not in, the base is as far from itself as the null says.
    assert result.mean_distance == pytest.approx(result.base_mean_distance, abs=0.02)
    assert result.mean_distance > 0.05
    assert result.folds == "sample"


def test_one_sample_per_problem_keeps_problems_apart() -> None:
    result = found(make(1, "t", samples=1, problems=20), make(0, "b", samples=1, problems=20))
    assert result.folds == "problem"


def test_too_little_to_compare() -> None:
    with pytest.raises(InputError, match="Rarity needs more sentences: the base has"):
        found(make(1, "t"), make(0, "b", problems=1, samples=1))
    with pytest.raises(InputError, match="and the run 1;"):
        found([trace("t", 0, 0, "Only one sentence here.")], make(0, "b"))


def test_formulas_are_not_compared() -> None:
    assert not is_comparable("x = 3 + y")
    assert not is_comparable("So then")
    assert is_comparable("So x is 3")


def test_the_limit_draws_from_the_distinct_sentences() -> None:
    result = found(make(1, "t"), make(0, "b"), limit=120)
    assert result.distinct == 120
    assert result.base_distinct == 120
