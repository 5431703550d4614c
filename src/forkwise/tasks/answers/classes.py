"""Classes of equal answers: what votes together in maj@K and counts once among distinct answers."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from functools import lru_cache

from forkwise.tasks.answers.comparing import compare
from forkwise.tasks.answers.equality import rational_value
from forkwise.tasks.answers.grammar import read_expression
from forkwise.tasks.answers.limits import LONGEST_ANSWER
from forkwise.tasks.answers.notation import tidy

_MOST_MEMBERS = 20  # of a class, with which a new answer is compared


def answer_classes(answers: Sequence[str | None], *, by_text: bool = False) -> list[int | None]:
    r"""Gives each answer a number, the same for answers that are equal, such as `\\frac12`, `0.5` and `1/2`.

    Two answers are equal where each is right if the other is the gold answer, by the comparison that verdicts use; what
    that cannot tell without algebra counts as different. An answer joins a class whose members all equal it: `5`,
    `5 m` and `5 km` are two classes. None and blank text are no answer (None).

    Args:
        answers: of samples of one problem.
        by_text: answers are equal only where their texts are, blanks aside.
    """
    texts = [None if answer is None or not answer.strip() else answer for answer in answers]
    distinct = frozenset(text for text in texts if text is not None)
    if by_text:
        spellings = {text: "".join(text.split()) for text in distinct}
        numbers = {spelling: number for number, spelling in enumerate(sorted(set(spellings.values())))}
        classes = {text: numbers[spelling] for text, spelling in spellings.items()}
    else:
        classes = _classes(distinct)
    return [None if text is None else classes[text] for text in texts]


@lru_cache(256)
def _classes(texts: frozenset[str]) -> dict[str, int]:
    classes: dict[str, int] = {}
    spellings: dict[str, int] = {}
    numbers: dict[Fraction, int] = {}
    members: list[list[tuple[str, bool]]] = []  # texts of each class, and whether they are plain numbers
    for text in sorted(texts, key=lambda text: (len(text), text)):
        spelling = tidy(text) if len(text) <= LONGEST_ANSWER else text.strip()
        number = _plain_number(spelling)
        known = spellings.get(spelling) if number is None else numbers.get(number)
        if known is None:
            known = _equal_to(spelling, number is not None, members)
            if known is None:
                known = len(members)
                members.append([])
            members[known].append((spelling, number is not None))
        classes[text] = spellings[spelling] = known
        if number is not None:
            numbers.setdefault(number, known)
    return classes


def _plain_number(spelling: str) -> Fraction | None:
    if "%" in spelling or "°" in spelling or len(spelling) > 200:
        return None
    expression = read_expression(spelling)
    return None if expression is None else rational_value(expression)


def _equal_to(text: str, is_number: bool, classes: Sequence[Sequence[tuple[str, bool]]]) -> int | None:
    if len(text) > LONGEST_ANSWER:
        return None
    for index, members in enumerate(classes):
        if all(
            not (is_number and other_is_number)  # different numbers
            and len(other) <= LONGEST_ANSWER
            and compare(other, text)
            and compare(text, other)
            for other, other_is_number in members[:_MOST_MEMBERS]
        ):
            return index
    return None
