"""How the second embedded model learned to think: solutions of stories in sentences, by an author who errs on purpose.

For `Anna has 7 apples. Ben gives Anna 5 apples. Ben buys 3 apples. Anna sells half of the apples. How many ...`

    Step by step, Anna has 7. Gets 5, so 7 + 5 = 12. Ben buys 3, so 12 + 3 = 15. Wait, let me read that again. Ben buys
    3, but that does not count. Sells half, so 12 / 2 = 6. So that makes 6. Let me check. In short, Anna has 7,
    7 - 5 = 2, 2 / 2 = 1. Hmm, that is not the same. So the answer is 6.

Each pass over the story goes step by step or in short, which misreads more. The author takes a gift for a loss, counts
what only the friend has, slips where a sum crosses a ten, and leaves steps out. Some steps are doubted, more often
wrong ones, and most of these are then put right. Some passes are followed by another one; where the two differ the
author believes either. So a model that imitates the author is right now and then, and there are ways to be right more
often: to go step by step, to doubt, to check.
"""

from __future__ import annotations

import re
from random import Random

from forkwise.tasks.story import KINDS, LIMIT, NAMES, THINGS, Event, Story

MAX_TOKENS = 112
"""Longest solution in tokens, without the end-of-sequence token."""

_PIECE = re.compile(r"[A-Za-z]+|[0-9]+|[^\sA-Za-z0-9]")

# Probabilities of the mixture, by whether a pass goes step by step. They were set so that the author, and a model that
# imitates it, is right on a quarter to a half of the stories of four events.
_CAREFUL = 0.5
_MISREAD = {True: 0.2, False: 0.4}  # a gift counts with the wrong sign, or the friend's things count
_SLIP = {True: 0.12, False: 0.2}  # a result in another ten is wrong by one or by ten
_SKIP = {True: 0.02, False: 0.06}
_DOUBT = {True: 0.1, False: 0.35}  # by whether the step is right
_MOST_DOUBTS = 2  # in a pass, so that it stays short
_AGAIN = 0.9  # a doubted step is right when it is read again
_CHECK = 0.35  # a pass is followed by another one
_LATER = 0.6  # of two passes that differ, the later one is believed

_SAID = {
    "buys": "Buys {n}",
    "finds": "Finds {n}",
    "gets": "Gets {n}",
    "sells": "Sells {n}",
    "loses": "Loses {n}",
    "gives": "Gives {n}",
    "doubles": "Twice as many",
    "triples": "Three times as many",
    "halves": "Sells half",
    "friend buys": "{friend} buys {n}",
    "friend sells": "{friend} sells {n}",
}
_GIFTS = {"gets": "-", "gives": "+"}
_OTHERS = {"friend buys": "+", "friend sells": "-"}
_CLAIMS = (
    "Step by step, {hero} has {have}.",
    "In short, {hero} has {have},",
    "So that makes {have}.",
    "That is the same.",
    "Hmm, that is not the same.",
    "So the answer is {have}.",
    "but that does not count.",
)
_BEGIN, _SHORT, _MAKES, _SAME, _DIFFERS, _ANSWER, _NOT = _CLAIMS
_DOUBTS = ("Wait, let me read that again.", "Hmm, is that right?", "But wait.")
_CHECKS = ("Let me check.", "To be sure, once more.", "Now the other way.")

WORDS = tuple(
    sorted(
        {
            word
            for text in (
                *_CLAIMS,
                *_DOUBTS,
                *_CHECKS,
                *_SAID.values(),
                *(kind.text for kind in KINDS.values()),
                "has. How many does have?",
            )
            for word in _PIECE.findall(re.sub(r"{[a-z]+}", " ", f"{text} , so + - * / = ."))
        }
        | set(NAMES)
        | set(THINGS)
    )
)
"""Every word and sign of stories and solutions, without the numbers."""


def count_tokens(text: str) -> int:
    """Counts words, numbers and signs: what the tokens of the model are."""
    return len(_PIECE.findall(text))


def solution(story: Story, rng: Random) -> str:
    """Writes a solution of a story, of at most `MAX_TOKENS` tokens, decided by the state of `rng`."""
    text, believed = _pass(story, rng)
    text = f"{text} {_MAKES.format(have=believed)}"
    while rng.random() < _CHECK:
        again, have = _pass(story, rng)
        longer = f"{text} {rng.choice(_CHECKS)} {again} {_SAME if have == believed else _DIFFERS}"
        if count_tokens(f"{longer} {_ANSWER}") > MAX_TOKENS:
            break
        text = longer
        if have == believed:
            break
        believed = have if rng.random() < _LATER else believed
    return f"{text} {_ANSWER.format(have=believed)}"


def _pass(story: Story, rng: Random) -> tuple[str, int]:
    """Goes over the story once; returns what is written and what the hero has in the end."""
    careful = rng.random() < _CAREFUL
    said = [(_BEGIN if careful else _SHORT).format(hero=story.hero, have=story.first)]
    have, doubts = story.first, 0
    for event in story.events:
        if rng.random() < _SKIP[careful]:
            continue
        text, after = _step(event, story.friend, have, careful, rng, sure=0.0)
        said.append(text)
        if careful and doubts < _MOST_DOUBTS and rng.random() < _DOUBT[after == _exact(event, have)]:
            doubts += 1
            text, after = _step(event, story.friend, have, careful, rng, sure=_AGAIN)
            said += [rng.choice(_DOUBTS), text]
        have = after
    text = " ".join(filter(None, said))
    return text if careful else f"{text.rstrip(',')}.", have


def _exact(event: Event, have: int) -> int:
    return _result(KINDS[event.kind].operator, have, event.n)


def _result(operator: str, have: int, n: int) -> int:
    """Computes what a mistaken author may have to, too: cut to whole numbers from 0 to 99."""
    results = {"": have, "+": have + n, "-": have - n, "*": have * n, "/": have // n}
    return max(0, min(LIMIT - 1, results[operator]))


def _step(event: Event, friend: str, have: int, careful: bool, rng: Random, sure: float) -> tuple[str, int]:
    """Takes one event into account; `sure` is the chance that no mistake is made at all."""
    certain = rng.random() < sure
    operator = KINDS[event.kind].operator
    if not certain and rng.random() < _MISREAD[careful]:
        operator = (_GIFTS | _OTHERS).get(event.kind, operator)
    name = _SAID[event.kind].format(n=event.n, friend=friend)
    if not operator:
        return (f"{name}, {_NOT}" if careful else ""), have
    after = _result(operator, have, event.n)
    if not certain and have // 10 != after // 10 and rng.random() < _SLIP[careful]:
        after = max(0, min(LIMIT - 1, after + rng.choice((-10, -1, 1, 10))))
    written = f"{have} {operator} {event.n} = {after}"
    return (f"{name}, so {written}." if careful else f"{written},"), after
