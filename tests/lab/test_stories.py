"""The author of the stories' solutions errs as said, ends with an answer, and writes what its tokenizer holds."""

from __future__ import annotations

import re
from itertools import islice
from random import Random

from base_languages import LANGUAGES
from base_stories import MAX_TOKENS, count_tokens, solution

from forkwise.tasks.story import Event, Stories, Story

STEP = re.compile(r"(\d+) ([-+*/]) (\d+) = (\d+)")


def test_solutions_are_seeded_short_and_often_wrong() -> None:
    task = Stories((4,))
    stories, problems = task.stories("train", 1500), task.problems("train", 1500)
    texts = [solution(story, Random(i)) for i, story in enumerate(stories)]
    assert texts == [solution(story, Random(i)) for i, story in enumerate(stories)]
    assert max(map(count_tokens, texts)) <= MAX_TOKENS
    verdicts = task.verify(texts, problems)
    assert all(verdict.answer is not None for verdict in verdicts)
    assert 0.35 < sum(bool(verdict.correct) for verdict in verdicts) / len(texts) < 0.55
    sums = [(int(a), sign, int(b), int(c)) for text in texts for a, sign, b, c in STEP.findall(text)]
    exact = [c == max(0, min(99, {"+": a + b, "-": a - b, "*": a * b, "/": a // b}[s])) for a, s, b, c in sums]
    assert 0.85 < sum(exact) / len(exact) < 0.97


def test_going_step_by_step_and_doubting_pay() -> None:
    """What training can find: the author is right more often where it is careful."""
    task = Stories((4,))
    stories, problems = task.stories("train", 4000), task.problems("train", 4000)
    rng = Random(0)
    texts = [solution(story, rng) for story in stories]
    right = [bool(verdict.correct) for verdict in task.verify(texts, problems)]

    def share(careful: bool) -> float:
        chosen = [r for r, text in zip(right, texts, strict=True) if ("In short" not in text) is careful]
        return sum(chosen) / len(chosen)

    assert share(True) > share(False) + 0.1


def test_a_doubted_step_is_written_again_from_where_it_began() -> None:
    story = Story("Anna", "Ben", "apples", 7, (Event("gets", 5), Event("halves", 2)))
    texts = [solution(story, Random(seed)) for seed in range(400)]
    doubted = [text for text in texts if "Wait, let me read that again. Gets 5" in text]
    assert len(doubted) > 10
    for text in doubted:
        before, after = text.split("Wait, let me read that again. ")[:2]
        assert STEP.findall(before)[-1][0] == STEP.findall(after)[0][0] == "7"


def test_the_tokenizer_gives_the_very_text_back() -> None:
    language = LANGUAGES["story"]
    tokenizer = language.tokenizer()
    for prompt, completion in islice(language.examples(Random(0), 0), 300):
        ids, more = tokenizer([prompt, completion])["input_ids"]
        assert tokenizer.unk_token_id not in [*ids, *more]
        assert tokenizer.decode(ids + more) == f" {prompt} {completion}"
        assert ids + more == tokenizer(f"{prompt} {completion}")["input_ids"]
        assert len(more) == count_tokens(completion) <= language.max_tokens
