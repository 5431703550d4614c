"""What the embedded models speak: for each the problems, the author of its training data, and its tokenizer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from random import Random

import base_catalogs as catalogs
import base_stories as stories
import base_traces as traces
from base_stories import solution
from base_traces import trace
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from forkwise.tasks.base import Task
from forkwise.tasks.catalog import Catalogs
from forkwise.tasks.countdown import Countdown
from forkwise.tasks.story import LIMIT, Stories

_SPECIAL = {"pad_token": "<pad>", "eos_token": "<eos>", "unk_token": "<unk>"}

Example = tuple[str, str]
"""A prompt and a completion."""


@dataclass(frozen=True)
class Language:
    """What a model is trained to write.

    Attributes:
        hardest: what it is measured on.
        max_tokens: longest completion of the training data, its end-of-sequence token not counted.
        examples: endless training data of train problems, decided by the state of the generator; the second argument is
            the stage of the training.
        stages: for each stage of the training its share of the steps of the config, and of its learning rate.
        tokenizer: a new tokenizer.
        half: whether weights are stored in 16 bits.
    """

    hardest: Task
    max_tokens: int
    examples: Callable[[Random, int], Iterator[Example]]
    stages: tuple[tuple[float, float], ...]
    tokenizer: Callable[[], PreTrainedTokenizerFast]
    half: bool = False

    @property
    def max_new_tokens(self) -> int:
        """Returns a limit of generation that fits every completion of the training data, with its end."""
        return self.max_tokens + 4


def _countdown(rng: Random, stage: int) -> Iterator[Example]:
    """Four of five problems have four numbers. In the second stage, traces give up only when they run out of room."""
    pools = [Countdown(sizes=(size,)).problems("train") for size in (3, 4)]
    while True:
        problem = rng.choice(pools[rng.random() < 0.8])
        yield str(problem.prompt), trace(problem, rng, patience=8 if stage else None)


def _stories(rng: Random, stage: int) -> Iterator[Example]:
    """Stories of all sizes are equally many."""
    pool = Stories().stories("train")
    while True:
        story = rng.choice(pool)
        yield story.text(), solution(story, rng)


def _catalogs(rng: Random, stage: int) -> Iterator[Example]:
    """First ids to be copied; then catalogs of which one part fits, or several do, equally many."""
    pool = Catalogs().catalogs("train")
    while True:
        yield (catalogs.example if stage else catalogs.copied)(rng.choice(pool), rng)


def _words_apart() -> PreTrainedTokenizerFast:
    """Builds a tokenizer with a token per word, sign or number; decoding joins with spaces."""
    return _word_level(traces.VOCABULARY, pre_tokenizers.Whitespace())


def _words_of_a_text() -> PreTrainedTokenizerFast:
    """Builds a tokenizer whose tokens bring the space before them, as GPT-2's do: decoding gives the very text."""
    space = "\u0120"  # how byte-level tokens write it
    words = [space + word if word.isalnum() or word in "+-*/=" else word for word in stories.WORDS]
    return _word_level(
        [*words, *(f"{space}{number}" for number in range(LIMIT))],
        pre_tokenizers.ByteLevel(add_prefix_space=True),
        decoders.ByteLevel(),
    )


def _pieces_of_a_text() -> PreTrainedTokenizerFast:
    """Builds a tokenizer of the pieces that catalogs and their reasoning have; an id is a letter and a number."""
    before = pre_tokenizers.ByteLevel(add_prefix_space=True)
    rng, pool = Random(0), Catalogs().catalogs("train")
    texts = [text for catalog in pool for _ in range(2) for text in catalogs.example(catalog, rng)]
    pieces = {piece for text in texts for piece, _ in before.pre_tokenize_str(text)}
    return _word_level(sorted(pieces), before, decoders.ByteLevel())


def _word_level(
    vocabulary: tuple[str, ...] | list[str],
    before: pre_tokenizers.PreTokenizer,
    after: decoders.Decoder | None = None,
) -> PreTrainedTokenizerFast:
    words = [*_SPECIAL.values(), *vocabulary]
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token=_SPECIAL["unk_token"]))
    backend.pre_tokenizer = before
    if after is not None:
        backend.decoder = after
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        padding_side="left",
        clean_up_tokenization_spaces=False,
        model_max_length=256,
        **_SPECIAL,
    )


LANGUAGES: Mapping[str, Language] = {
    "countdown": Language(Countdown(sizes=(4,)), traces.MAX_TOKENS, _countdown, ((1, 1), (0.2, 0.5)), _words_apart),
    "story": Language(Stories(sizes=(4,)), stories.MAX_TOKENS, _stories, ((1, 1),), _words_of_a_text, half=True),
    "catalog": Language(Catalogs(("set",)), catalogs.MAX_TOKENS, _catalogs, ((1, 1), (0.2, 0.5)), _pieces_of_a_text),
}
"""The languages by the names of their tasks."""
