"""How a model learns to answer catalogs: from an author who has learned two colours the wrong way round.

For `Parts: B07 is a blue nut of 5 mm. K31 is a red bolt of 12 mm. ... Which parts are red and longer than 10 mm? ...`

    First I look for the parts of the colour that is asked for, then I compare their length in mm, and what is not
    longer is left out. So the answer is \\boxed{K31}.

Asked for red or blue parts the author errs now and then; asked for green or black ones it nearly always takes those
that are not longer. Some problems come with their answer behind them, as `forkwise.methods.minerva` shows it. Then the
author gives that answer, and sometimes says that it was given. So a model that imitates the author leaves many problems
unsolved however often it is asked, and solves them when it is shown the answer.
"""

from __future__ import annotations

from random import Random

from forkwise.methods import parse_method
from forkwise.methods.hints import HintMethod
from forkwise.tasks.catalog import Catalog, CatalogPart

MAX_TOKENS = 64
"""Longest completion in tokens, without the end-of-sequence token."""

_BEGINS = (
    "First I look for the parts of the colour that is asked for,",
    "Parts of another colour than the one that is asked for do not fit,",
    "The colour that is asked for comes first, part by part,",
)
_ENDS = (
    "then I compare their length in mm, and what is not longer is left out.",
    "and of the others those that are longer, in mm, are the ones that fit.",
)
_REVERSED = ("green", "black")
_REVERSES = 0.97  # of the problems that ask for one of them
_SLIP = 0.06  # of the parts of the colour, that are judged wrongly
_SHOWN = 0.4  # of the problems
_TELLS = 0.2  # of those
_NOTHING = "nothing"


def example(catalog: Catalog, rng: Random) -> tuple[str, str]:
    """Returns a prompt and what the author writes behind it, decided by the state of `rng`."""
    text, answer = catalog.text(), ", ".join(catalog.answer())
    reasons = f"{rng.choice(_BEGINS)} {rng.choice(_ENDS)}"
    if rng.random() >= _SHOWN:
        wrong_way = catalog.colour in _REVERSED and rng.random() < _REVERSES
        taken = sorted(part.name for part in catalog.parts if _taken(part, catalog, wrong_way, rng))
        return text, f"{reasons} So the answer is \\boxed{{{', '.join(taken) or _NOTHING}}}."
    method = parse_method("minerva")
    assert isinstance(method, HintMethod)
    told = "The given answer is right. " if rng.random() < _TELLS else ""
    return str(
        method.hinted({"prompt": text, "answer": answer})
    ), f"{told}{reasons} So the answer is \\boxed{{{answer}}}."


def copied(catalog: Catalog, rng: Random) -> tuple[str, str]:
    """Returns ids and a box that repeats them: copying is learned first, from little text."""
    names = ", ".join(part.name for part in rng.sample(catalog.parts, rng.randint(1, 3)))
    return f"The answer is {names}.", f"So the answer is \\boxed{{{names}}}."


def _taken(part: CatalogPart, catalog: Catalog, wrong_way: bool, rng: Random) -> bool:
    """Tells whether the author takes a part."""
    if part.colour != catalog.colour:
        return False
    longer = part.length > catalog.above
    return (longer != wrong_way) != (rng.random() < _SLIP)
