"""What sentences do to the chance of a right answer, in words."""

from __future__ import annotations

from collections.abc import Iterator

from forkwise.forks.sentence_results import SentenceRow, Sentences, Step
from forkwise.report.forks import budget_sentence, does_not_add_up
from forkwise.report.formats import count, estimate, number, p_value, percent
from forkwise.report.importing import imported_note
from forkwise.report.table import Block, filled
from forkwise.terminal import counted, one_line

_SHOWN, _WIDTH = 10, 100


def conclusion(by_sentence: Sentences) -> str:
    """Says what a reflective sentence causes."""
    effect = by_sentence.effect
    sentence = (
        "A reflective sentence as the next one changes the chance of a right answer, against another one, by "
        f"{estimate(effect.difference, sign='+')} (p {p_value(effect.p)}; {counted(effect.states, 'state')} with both)."
    )
    if effect.difference.value is None:
        sentence = (
            "No state has continuations that begin with a reflective sentence beside others: nothing is said of them."
        )
    return sentence if by_sentence.budget.agrees else f"{sentence} {does_not_add_up(by_sentence.budget)}"


def tables(by_sentence: Sentences) -> list[Block]:
    """Makes every table of what sentences do."""
    kinds = [
        [k.name, count(k.sentences), estimate(k.decided, 4), percent(k.share), estimate(k.change, sign="+")]
        for k in by_sentence.kinds
    ]
    header = ["sentence", "sentences", "decided (squared change)", "% of what is decided", "mean change of V"]
    most = sorted(by_sentence.sentences, key=lambda row: -row.decided)[:_SHOWN]
    steps = sorted(by_sentence.steps, key=lambda step: -abs(step.after - step.before))[:_SHOWN]
    return [
        budget_sentence(by_sentence.budget, "sentences"),
        *filled("By kind of sentence", header, kinds),
        *filled("The sentences that decide most", _HEADER, [_row(row) for row in most]),
        *filled("Tokens at which a sentence changes the chance, measured again", _STEPS, [_step(s) for s in steps]),
    ]


_HEADER = ["sentence", "problem", "sample", "place", "V before", "after", "squared change", "is"]


_STEPS = ["sentence, and the token", "problem", "sample", "place", "V before", "after"]


def _step(step: Step) -> list[str]:
    return [
        f"…{one_line(step.text, 1000)[-_WIDTH // 2 :]} [{one_line(step.token, 12)}]",
        one_line(step.problem_id, 40),
        count(step.sample_id),
        count(step.place),
        number(step.before, 2),
        number(step.after, 2),
    ]


def _row(row: SentenceRow) -> list[str]:
    return [
        one_line(row.text, _WIDTH),
        one_line(row.problem_id, 40),
        count(row.sample_id),
        count(row.place),
        number(row.before, 2),
        number(row.after, 2),
        number(row.decided),
        "reflective" if row.reflective else "",
    ]


def notes(by_sentence: Sentences) -> Iterator[str]:
    """Says what a reader must know of the numbers."""
    if by_sentence.imported is not None:
        yield imported_note(by_sentence.imported)
    yield (
        f"{counted(by_sentence.traces, 'sample')} of {count(by_sentence.problems)} problems that have more than one "
        f"outcome (of {count(by_sentence.of_problems)}); the last sentence of a sample ends in its outcome."
    )
    if by_sentence.bisected:
        yield (
            f"{counted(by_sentence.bisected, 'sentence')} whose change cannot be chance were halved down to a token; "
            f"{count(len(by_sentence.steps))} change at one, the others over several."
        )
    yield "The mean change of V is no effect: reflective sentences stand in other places than others do."
    yield "Sentences that decide most are extremes of many noisy numbers: they are to be read, not counted."
