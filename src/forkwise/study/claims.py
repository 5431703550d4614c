"""What a study could never claim, refused before it is registered or run; plans that were recorded stay readable."""

from __future__ import annotations

import math

from forkwise.errors import InputError
from forkwise.passk.intervals import problems_needed, unseen
from forkwise.study.spec import Study
from forkwise.terminal import counted


def check_margin(study: Study) -> None:
    """Refuses a margin within which so few problems can show no two arms to be equivalent.

    Raises:
        InputError: the study has one.
    """
    if study.primary is None:
        return
    margin, level, problems = study.primary.margin, study.primary.level, study.evaluation.problems
    needed = problems_needed(level, margin)
    if problems < needed:
        share = unseen(problems, level)
        least = math.ceil(share * 1000) / 1000
        raise InputError(
            f"On {counted(problems, 'problem')} no arms can be shown to be equivalent within the margin of {margin:g}, "
            f"since {share:.1%} of such problems could differ unseen: give evaluation.problems {needed:,} or more"
            + (f", or a margin of {least:g} or more." if least < 1 else ".")
        )
