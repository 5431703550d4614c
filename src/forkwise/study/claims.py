"""What a study could never claim, refused before it is registered or run; plans that were recorded stay readable."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from forkwise.errors import InputError
from forkwise.passk.intervals import problems_needed, unseen
from forkwise.study.spec import Study
from forkwise.terminal import counted

EffectiveSettings = dict[str, Any]
"""What decides how an arm trains, by name."""

# Where a run is kept, and the texts that became methods.
_ASIDE = frozenset({"output_dir", "logging_dir", "run_name", "alpha", "kappa", "method"})


def check_claims(study: Study) -> None:
    """Refuses K that are named twice, and a margin within which so few problems can show no arms to be equivalent.

    Raises:
        InputError: the study has one of these.
    """
    primary, problems = study.primary, study.evaluation.problems
    if primary is None:
        return
    if len(set(primary.secondary)) < len(primary.secondary):
        raise InputError(f"secondary is {primary.secondary}, with a K more than once: name each K once.")
    needed = problems_needed(primary.level, primary.margin)
    if problems < needed:
        share = unseen(problems, primary.level)
        least = math.ceil(share * 1000) / 1000
        wider = f", or a margin of {least:g} or more" if least < 1 else ""
        raise InputError(
            f"On {counted(problems, 'problem')} no arms can be shown to be equivalent within the margin of "
            f"{primary.margin:g}, since {share:.1%} of such problems could differ unseen: give evaluation.problems "
            f"{needed:,} or more{wider}."
        )


def effective(algorithm: str, *settings: Any) -> EffectiveSettings:
    """Returns what decides how an arm trains: every setting with its default, and the methods that act in the end."""
    by_name: EffectiveSettings = {"algorithm": algorithm}
    for group in settings:
        by_name |= {f.name: getattr(group, f.name) for f in fields(group) if f.name not in _ASIDE}
        by_name["methods"] = getattr(group, "methods", by_name.get("methods"))
    return by_name


def refuse_same(arms: Mapping[str, EffectiveSettings]) -> None:
    """Refuses two arms that would train alike, whatever their settings are called.

    Raises:
        InputError: there are such arms.
    """
    names = list(arms)
    for i, name in enumerate(names):
        for other in names[:i]:
            if arms[name] == arms[other]:
                raise InputError(
                    f"The arms '{other}' and '{name}' would train alike, by the same settings: change one or leave it "
                    "out, since its runs would be the other's over again."
                )
