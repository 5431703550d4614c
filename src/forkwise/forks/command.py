"""The command `forkwise forks`: it draws states, says what they cost, continues them, and writes `forks.json`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from forkwise.forks import analysis, reading
from forkwise.forks.analysis import StateEstimates
from forkwise.forks.cost import Cost, cost_of, refuse_too_small
from forkwise.forks.frame import Frame
from forkwise.forks.options import ForksOptions
from forkwise.forks.prepare import Prepared, continue_all, continue_later, prepare
from forkwise.forks.results import Forks, Seen, StateRow, write
from forkwise.forks.second import SecondStage, choose_again, number_again
from forkwise.forks.states import DrawnStates, draw, strata
from forkwise.forks.stored import Continued, State, count_stored
from forkwise.forks.ways import ways_of
from forkwise.samples.direct import Imported, imported_from, open_table
from forkwise.sampling.options import JudgeOptions
from forkwise.version import __version__

_TO_READ = 10
_BEFORE = 200  # characters


def run_forks(table: Path, options: ForksOptions, judging: JudgeOptions, announce: Callable[[Cost], None]) -> Forks:
    """Measures what the tokens of a table decide, and writes `forks.json` to `--out`.

    Args:
        announce: told the cost before the first continuation.

    Raises:
        InputError: something given cannot be used, or the budget is too small for any claim.
    """
    with open_table(table) as opened:
        return _forks(str(table), imported_from([opened]), prepare(opened, options, judging), announce)


def _forks(table: str, imported: Imported | None, ready: Prepared, announce: Callable[[Cost], None]) -> Forks:
    """Continues and analyses; it has more than 60 lines because the result has so many parts, each of one line."""
    options, pool, frame = ready.options, ready.pool, ready.frame
    units = frame.table.units
    stratum_N, threshold = strata(units.value_N, frame.marked_N.astype(np.int64), options.quantile)
    drawn = draw(stratum_N, units.value_N, units.problem_N, options.states, options.seed, frame.part_N)
    stored = count_stored(ready.folder, drawn.index.size)
    cost = cost_of(frame, pool, drawn, options.continuations, stored, options.level, options.further)
    refuse_too_small(cost, units.value_N.size)
    places = [(int(units.trace_N[i]), int(frame.table.position_N[i]), int(i)) for i in drawn.index]
    states = [ready.state(*token, force=True) for token in places]
    continued, cost = continue_all(ready, states, cost, announce)
    estimates = analysis.estimate_states(
        *(frame, pool, drawn, continued),
        by_answer=options.outcome == "answer",
        permutations=options.permutations,
        seed=options.seed,
        level=options.level,
    )
    again, further = None, list[Continued]()
    if options.further:
        estimates, again, further = _continue_again(ready, states, estimates)
    budget = analysis.check_budget(estimates)
    shares = budget.agrees
    rows = reading.rows(estimates, continued, pool.rows[0]["run"], again)
    forks, false_forks, hidden = (
        [_seen(i, rows, continued, frame, drawn) for i in picked]
        for picked in reading.to_read(rows, threshold, _TO_READ)
    )
    everything = np.ones(units.value_N.size, dtype=np.bool_)
    result = Forks(
        samples=table,
        model=options.model,
        outcome=options.outcome,
        inputs=ready.inputs,
        settings=ready.settings,
        lexicon=ready.lexicon.name,
        reflective=ready.reflective.name,
        problems=len(pool.problems),
        of_problems=pool.of_problems,
        always=pool.always,
        never=pool.never,
        traces=len(frame.traces),
        tokens=units.value_N.size,
        cost=cost,
        generated=sum(state.generated for state in (*continued, *further)),
        cut=sum(state.cut for state in (*continued, *further)),
        unscored=sum(state.correct.count(None) for state in (*continued, *further)),
        unscored_samples=pool.unscored,
        empty=len(pool.rows) - len(frame.traces),
        log_prob_difference=ready.engine.log_prob_difference,
        budget=budget,
        threshold=threshold,
        all=analysis.part(estimates, "all", everything, shares=False),
        by_entropy=analysis.by_entropy(estimates, shares=shares),
        by_class=analysis.by_class(estimates, shares=shares),
        by_place=analysis.by_place(estimates, shares=shares),
        by_verdict=analysis.by_verdict(estimates),
        tops=analysis.tops(estimates) if shares else [],
        forks=forks,
        false_forks=false_forks,
        hidden_forks=hidden,
        states=rows,
        strata=drawn.strata,
        entropies=frame.entropies,
        imported=imported,
        forkwise=__version__,
    )
    write(options.out, result)
    return result


def _continue_again(
    ready: Prepared, states: Sequence[State], estimates: StateEstimates
) -> tuple[StateEstimates, SecondStage, list[Continued]]:
    """Continues the states again whose F the first stage leaves most in doubt, and estimates anew."""
    options = ready.options
    number = number_again(len(states), options.further)
    again = choose_again(estimates.null_ND.std(axis=1), estimates.weight_N, number, options.seed)
    chosen = [states[n] for n in again.index]
    further = continue_later(ready, chosen, f"further-{options.further}", options.further)
    combined = analysis.with_second(
        *(estimates, again, further, options.further / (options.further + options.continuations)),
        by_answer=options.outcome == "answer",
        permutations=options.permutations,
        seed=options.seed,
    )
    return combined, again, further


def _seen(n: int, rows: Sequence[StateRow], continued: Sequence[Continued], frame: Frame, drawn: DrawnStates) -> Seen:
    i = int(drawn.index[n])
    trace = frame.traces[int(frame.table.units.trace_N[i])]
    assert trace.tokens is not None
    at = trace.tokens.spans[int(frame.table.position_N[i])].start
    return Seen(rows[n], trace.text[max(0, at - _BEFORE) : at], ways_of(continued[n], 2 * _BEFORE))
