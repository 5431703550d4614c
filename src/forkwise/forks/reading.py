"""The states that were drawn, one by one: what is known of each, and which of them are worth reading.

Suffixes: G forced tokens, R continuations.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from forkwise.forks.analysis import StateEstimates, exceeding, outcomes
from forkwise.forks.estimators import advantages, state_value, value_error
from forkwise.forks.frame import CLASSES
from forkwise.forks.results import ForcedToken, StateRow
from forkwise.forks.second import SecondStage
from forkwise.forks.stored import Continued


def rows(
    estimates: StateEstimates, continued: Sequence[Continued], run: str, again: SecondStage | None = None
) -> list[StateRow]:
    """Makes the row of each state; V and what tokens are worth are those of the first stage."""
    chance_again = {} if again is None else dict(zip(again.index.tolist(), again.chance.tolist(), strict=True))
    table, traces = estimates.frame.table, estimates.frame.traces
    state_rows = []
    for n, (i, state) in enumerate(zip(estimates.drawn.index.tolist(), continued, strict=True)):
        trace = traces[int(table.units.trace_N[i])]
        first, value, error = state.first, None, None
        worth_G: list[float | None] = [None] * first.forced
        error_G: list[float | None] = [None] * first.forced
        if None not in state.correct:
            right_R = outcomes(state.answers, state.correct, by_answer=False)[:, 0]
            found_G, variance_G = advantages(first.branches, right_R)
            worth_G, error_G = list(found_G), list(np.sqrt(np.maximum(variance_G, 0.0)))
            value = float(state_value(first.branches, right_R[:, None]).value_C[0])
            error = value_error(first.branches, right_R)
        columns = zip(first.tokens, state.texts, first.probabilities, worth_G, error_G, strict=False)
        state_rows.append(
            StateRow(
                run=run,
                problem_id=trace.problem_id,
                sample_id=trace.sample_id,
                position=int(table.position_N[i]),
                token=table.text_N[i],
                kind=CLASSES[estimates.frame.kind_N[i]],
                entropy=float(estimates.entropy_N[n]),
                chance=float(estimates.drawn.chance[n]),
                correct=trace.correct,
                value=value,
                decided=float(estimates.decided_N[n]),
                open=float(estimates.open_N[n]),
                p=exceeding(estimates.null_ND[n], float(estimates.decided_N[n])),
                forced=[ForcedToken(*column) for column in list(columns)[: first.forced]],
                value_error=error,
                again=chance_again.get(n),
            )
        )
    return state_rows


def to_read(states: Sequence[StateRow], threshold: float, most: int) -> tuple[list[int], list[int], list[int]]:
    """Picks states to read: forks, false forks, hidden forks, at most so many of each.

    Forks and hidden forks decide more than tokens of high entropy do in the mean, with a p of at most .05.
    Extremes of many noisy numbers overstate: they are to be read, not counted.
    """
    index = range(len(states))
    high = [i for i in index if states[i].entropy > threshold]
    is_open = float(np.median([states[i].open for i in high])) if high else 0.0
    usual = max(float(np.mean([states[i].decided for i in high])) if high else 0.0, 0.0)

    def decides(state: StateRow) -> bool:
        return state.p <= 0.05 and state.decided > usual

    def first(of: Sequence[int], key: Callable[[StateRow], float]) -> list[int]:
        return sorted(of, key=lambda i: (key(states[i]), i))[:most]

    return (
        first([i for i in high if decides(states[i])], lambda s: -s.decided),
        first([i for i in high if states[i].open >= max(is_open, 1e-9) and states[i].p > 0.5], lambda s: -s.entropy),
        first([i for i in index if i not in high and decides(states[i])], lambda s: -s.decided),
    )
