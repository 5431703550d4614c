"""The ways on from a state: what each first token led to, to be read."""

from __future__ import annotations

from collections import Counter

from forkwise.forks.results import End, FirstToken
from forkwise.forks.stored import Continued
from forkwise.terminal import one_line


def ways_of(state: Continued, longest: int) -> list[FirstToken]:
    """Lists the first tokens of a state, the likeliest first, each with a continuation for every verdict it came to.

    Args:
        longest: characters of a continuation that are kept.
    """
    first, start = state.first, 0
    rows_of: dict[tuple[int, bool], list[int]] = {}  # a drawn token may be drawn again
    for g, size in enumerate(first.sizes):
        rows_of.setdefault((first.tokens[g], g < first.forced), []).extend(range(start, start + size))
        start += size
    text = dict(zip(first.tokens, state.texts, strict=True))
    probability = dict(zip(first.tokens, first.probabilities, strict=True))
    ways = []
    for (token, forced), rows in rows_of.items():
        correct = [state.correct[r] for r in rows]
        shown = {state.correct[r]: r for r in reversed(rows)}  # the first of each verdict
        ways.append(
            FirstToken(
                token=text[token],
                probability=probability[token],
                forced=forced,
                continuations=len(rows),
                right=None if None in correct else correct.count(True) / len(correct),
                text=one_line(state.continuations[rows[0]], longest),
                ends=[
                    End(state.continuations[r][:longest], state.answers[r], verdict)
                    for verdict, r in sorted(shown.items(), key=lambda item: item[1])
                ],
                answers=[answer for answer, _ in Counter(state.answers[r] for r in rows).most_common()],
            )
        )
    return sorted(ways, key=lambda way: -way.probability)
