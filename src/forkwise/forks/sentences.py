"""`forkwise forks --unit sentence`: the chance of a right answer at the ends of sentences, and what a sentence does.

Samples of each problem are drawn at random, and continued from their start and from the end of every sentence, without
forcing anything. What a sentence decides is the square of the change of the chance across it; the squares add up, in
the mean, to `V0 (1 - V0)`. What a reflective sentence causes is told inside each state: the model itself draws the next
sentence at random, so continuations that begin with a reflective one are compared with the others of the state.

Suffixes: C answers, K states of a sample, Q problems, R continuations.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from scipy import stats

from forkwise.errors import InputError
from forkwise.explore.contrast import BoolArray, FloatArray, IntArray, cluster_t
from forkwise.explore.findings import Estimate
from forkwise.explore.sentences import split_sentences
from forkwise.explore.spans import first_token
from forkwise.forks.analysis import outcomes
from forkwise.forks.bisection import STAGE, Place, TokenInterval, bisected, worth_halving
from forkwise.forks.cost import Cost, refuse_too_small
from forkwise.forks.estimators import binomial_error, budget, share_of, weighted_mean
from forkwise.forks.options import ForksOptions
from forkwise.forks.prepare import Prepared, continue_all, continue_later, prepare
from forkwise.forks.sentence_results import Effect, Point, SentenceKind, SentenceRow, Sentences, Step, write
from forkwise.forks.stored import Continued, State, count_stored
from forkwise.samples.direct import Imported, imported_from, open_table
from forkwise.sampling.options import JudgeOptions
from forkwise.terminal import one_line
from forkwise.version import __version__

_LONGEST = 300  # characters of a sentence that are kept


@dataclass(frozen=True)
class _Profile:
    """A sample with the places of its states: token 0 and the first token behind each sentence but the last."""

    trace: int
    problem: int
    starts: list[int]


def run_sentences(
    table: Path, options: ForksOptions, judging: JudgeOptions, announce: Callable[[Cost], None]
) -> Sentences:
    """Measures what sentences do, and writes `sentences.json` to `--out`; arguments and errors as of `run_forks`."""
    with open_table(table) as opened:
        return _sentences(str(table), imported_from([opened]), prepare(opened, options, judging), announce)


def _sentences(table: str, imported: Imported | None, ready: Prepared, announce: Callable[[Cost], None]) -> Sentences:
    options, pool = ready.options, ready.pool
    profiles = _draw(ready)
    states, of_profile = _states(ready, profiles)
    cost = _cost(ready, profiles, states)
    refuse_too_small(cost, len(states) * len(ready.frame.traces) // len(profiles))
    continued, cost = continue_all(ready, states, cost, announce)
    rows, weight, problem = [], [], []
    for profile, places in zip(profiles, of_profile, strict=True):
        of_sample = _rows(ready, profile, [continued[i] for i in places])
        rows += of_sample
        weight += [1 / sum(p.problem == profile.problem for p in profiles)] * len(of_sample)
        problem += [profile.problem] * len(of_sample)
    weight_S, problem_S = np.array(weight), np.array(problem)
    decided_S = np.array([row.decided for row in rows])
    decided_Q = np.bincount(problem_S, weights=weight_S * decided_S, minlength=len(pool.problems)).astype(np.float64)
    bisection, steps, points = _bisect(ready, profiles, rows) if options.bisect else (0, [], [])
    found_budget = budget(decided_Q, pool.available_Q, options.level, weight_S)
    result = Sentences(
        samples=table,
        model=options.model,
        outcome=options.outcome,
        inputs=ready.inputs,
        settings=ready.settings,
        reflective=ready.reflective.name,
        problems=len(pool.problems),
        of_problems=pool.of_problems,
        traces=len(profiles),
        cost=cost,
        budget=found_budget,
        kinds=kinds_of(rows, weight_S, problem_S, options.level, shares=found_budget.agrees),
        effect=_effect(ready, states, continued),
        sentences=rows,
        run=pool.rows[0]["run"],
        bisected=bisection,
        steps=steps,
        points=points,
        imported=imported,
        forkwise=__version__,
    )
    write(options.out, result)
    return result


def _draw(ready: Prepared) -> list[_Profile]:
    """Draws as many samples of each problem as the states allow, all alike."""
    frame = ready.frame
    problem_of = {problem: q for q, problem in enumerate(ready.pool.problems)}
    profiles = []
    for t, trace in enumerate(frame.traces):
        assert trace.tokens is not None
        starts = first_token(trace.tokens.spans, trace.all_sentences[1:])
        places = [0, *dict.fromkeys(int(i) for i in starts if i > 0)]
        profiles.append(_Profile(t, problem_of[trace.problem_id], places))
    problems = len(ready.pool.problems)
    each = int((ready.options.states - problems) / (problems * max(np.mean([len(p.starts) for p in profiles]) - 1, 1)))
    if each < 1:
        needed = problems + int(np.ceil(sum(len(p.starts) - 1 for p in profiles) / len(profiles) * problems))
        raise InputError(
            f"{ready.options.states} states do not suffice for the sentences of one sample of each of {problems} "
            f"problems: give about --states {needed}."
        )
    rng = np.random.default_rng([ready.options.seed, 13])
    chosen: list[_Profile] = []
    for q in range(problems):
        of_problem = [profile for profile in profiles if profile.problem == q]
        picked = sorted(rng.permutation(len(of_problem))[:each].tolist())
        chosen += [of_problem[i] for i in picked]
    return chosen


def _states(ready: Prepared, profiles: Sequence[_Profile]) -> tuple[list[State], list[list[int]]]:
    """Returns all states, the start of a problem once, and which of them each sample has."""
    states: list[State] = []
    start: dict[int, int] = {}
    of_profile = []
    for profile in profiles:
        places = []
        for at in profile.starts:
            if at == 0 and profile.problem in start:
                places.append(start[profile.problem])
                continue
            places.append(len(states))
            states.append(ready.state(profile.trace, at, len(states), force=False))
        start.setdefault(profile.problem, places[0])
        of_profile.append(places)
    return states, of_profile


def _cost(ready: Prepared, profiles: Sequence[_Profile], states: Sequence[State]) -> Cost:
    options, pool = ready.options, ready.pool
    length = np.bincount(ready.frame.table.units.trace_N)
    stored = count_stored(ready.folder, len(states))
    remaining = [int(length[p.trace]) - at for p in profiles for at in p.starts]
    available = np.maximum(pool.available_Q, 0.0)
    count_Q = np.bincount([p.problem for p in profiles], minlength=available.size)
    steps_Q = np.bincount([p.problem for p in profiles], weights=[len(p.starts) for p in profiles])
    # Of a sample the sum of squares varies about as much as it is large; of a sentence, the error of a square.
    one_Q = available**2 + 8 * (available / options.continuations) ** 2 * steps_Q / np.maximum(count_Q, 1)
    error = float(np.sqrt((one_Q / np.maximum(count_Q, 1)).sum()) / available.size)
    half = float(stats.t.ppf((1 + options.level) / 2, available.size - 1)) * error
    tokens = int(np.mean(remaining) * (len(states) - stored + options.bisect) * options.continuations)
    return Cost(
        *(len(states), options.continuations, stored, tokens, half, float(pool.available_Q.mean())),
        again=options.bisect,
        further=options.continuations if options.bisect else 0,
    )


def _rows(ready: Prepared, profile: _Profile, continued: Sequence[Continued]) -> list[SentenceRow]:
    trace = ready.frame.traces[profile.trace]
    by_answer = ready.options.outcome == "answer"
    share_KC, error_K = _shares(ready, profile, continued, by_answer)
    squares = ((np.diff(share_KC, axis=0) ** 2).sum(axis=1) - error_K[:-1] - error_K[1:]).tolist()
    right = [None if None in c.correct else c.correct.count(True) / len(c.correct) for c in continued]
    right.append(None if trace.correct is None else float(trace.correct))
    errors = [None if v is None else binomial_error(v, len(c.correct)) for v, c in zip(right, continued, strict=False)]
    assert trace.tokens is not None
    ends = [*(trace.tokens.spans[at].start for at in profile.starts[1:]), len(trace.text)]
    begins = [0, *ends[:-1]]
    rows = []
    for k, decided in enumerate(squares):
        text = trace.text[begins[k] : ends[k]].strip()
        rows.append(
            SentenceRow(
                problem_id=trace.problem_id,
                sample_id=trace.sample_id,
                place=k,
                text=one_line(text, _LONGEST),
                reflective=bool(ready.reflective.names(text)),
                before=right[k],
                after=right[k + 1],
                decided=decided,
                position=profile.starts[k],
                before_error=errors[k],
            )
        )
    return rows


def _shares(
    ready: Prepared, profile: _Profile, continued: Sequence[Continued], by_answer: bool
) -> tuple[FloatArray, FloatArray]:
    """Returns the share of each answer at each state and at the end, and the variance of their errors, summed."""
    trace = ready.frame.traces[profile.trace]
    sizes = [len(c.answers) for c in continued]
    row = next(r for r in ready.pool.rows if (r["problem_id"], r["sample_id"]) == (trace.problem_id, trace.sample_id))
    ended_RC = outcomes(
        [*(a for c in continued for a in c.answers), row["answer"]],
        [*(v for c in continued for v in c.correct), trace.correct],
        by_answer,
    )
    pieces = np.split(ended_RC, np.cumsum(sizes))
    share_KC = np.array([piece.mean(axis=0) for piece in pieces])
    error_K = (share_KC * (1 - share_KC)).sum(axis=1) / np.array([*(n - 1 for n in sizes), 1])
    return share_KC, error_K  # the last is of one sample, and known: its share is 0 or 1


def _bisect(
    ready: Prepared, profiles: Sequence[_Profile], rows: Sequence[SentenceRow]
) -> tuple[int, list[Step], list[Point]]:
    """Looks for the tokens at which sentences change the chance; returns also how many sentences were halved."""
    number = ready.options.continuations
    intervals, at = [], 0
    for profile in profiles:
        tokens = ready.frame.traces[profile.trace].tokens
        assert tokens is not None
        for start, end in pairwise([*profile.starts, len(tokens.text)]):
            row = rows[at]
            if row.before is not None and row.after is not None:
                counts = (round(row.before * number), round(row.after * number), number)
                intervals.append(TokenInterval(at, profile.trace, start, end, *counts))
            at += 1

    begins = np.searchsorted(ready.frame.table.units.trace_N, np.arange(len(ready.frame.traces)))

    def measure(stage: str, places: Sequence[Place]) -> list[int]:
        states = [ready.state(t, token, int(begins[t]) + token, force=False) for t, token in places]
        folder = f"{stage}-of-{ready.options.bisect}"  # other states are other sentences
        return [state.correct.count(True) for state in continue_later(ready, states, folder, number)]

    result = bisected(worth_halving(intervals, ready.options.bisect), measure)
    ends = [(i.trace, token) for i in result.tokens for token in (i.start, i.end)]
    length = {t: len(ready.frame.ids[t]) for t, _ in ends}
    going = [end for end in ends if end[1] < length[end[0]]]
    again = dict(zip(going, measure(f"{STAGE}-again", going), strict=True))
    steps, points = [], []
    for interval in result.tokens:
        trace, row = ready.frame.traces[interval.trace], rows[interval.row]
        before = again[interval.trace, interval.start] / number
        after = again.get((interval.trace, interval.end), number * bool(trace.correct)) / number
        assert trace.tokens is not None
        begin = trace.tokens.spans[row.position or 0].start
        steps.append(
            Step(
                *(row.problem_id, row.sample_id, row.place, interval.start, trace.tokens.text[interval.start]),
                text=trace.text[begin : trace.tokens.spans[interval.start].start][-_LONGEST:],
                before=before,
                before_error=binomial_error(before, number),
                after=after,
                after_error=binomial_error(after, number),
            )
        )
    for (t, token), right in result.points:
        trace = ready.frame.traces[t]
        share = right / number
        points.append(Point(trace.problem_id, trace.sample_id, token, share, binomial_error(share, number)))
    return result.searched, steps, points


def kinds_of(
    rows: Sequence[SentenceRow], weight_S: FloatArray, problem_S: IntArray, level: float, *, shares: bool
) -> list[SentenceKind]:
    """Describes reflective sentences and others.

    Args:
        weight_S: of a sample, one over the samples of its problem.
        shares: whether shares mean anything, since the budget adds up.
    """
    decided_S = np.array([row.decided for row in rows])
    reflective_S = np.array([row.reflective for row in rows])
    changes = [None if None in (r.before, r.after) else float(r.after or 0) - float(r.before or 0) for r in rows]
    known_S, change_S = np.array([c is not None for c in changes]), np.array([c or 0.0 for c in changes])
    states = (weight_S, problem_S)
    kinds = []
    for name, of in (("reflective", reflective_S), ("other", ~reflective_S)):
        share = share_of(of.astype(np.float64), decided_S, *states, np.ones(of.size), level)
        kinds.append(
            SentenceKind(
                name=name,
                sentences=int(of.sum()),
                decided=weighted_mean(decided_S, of, *states, (0.0, 1.0), level),
                change=weighted_mean(change_S, of & known_S, *states, None, level),
                share=share if shares else Estimate(None),
            )
        )
    return kinds


def _effect(ready: Prepared, states: Sequence[State], continued: Sequence[Continued]) -> Effect:
    problems = {problem: q for q, problem in enumerate(ready.pool.problems)}

    def compared() -> Iterator[tuple[int, BoolArray, FloatArray]]:
        for state, continuation in zip(states, continued, strict=True):
            first = [_begins_reflective(ready, text) for text in continuation.continuations]
            goes_on = np.array([reflective is not None for reflective in first])
            begins = np.array([reflective is True for reflective in first])[goes_on]
            right = np.array([verdict is True for verdict in continuation.correct], dtype=np.float64)[goes_on]
            yield problems[state.problem.id], begins, right

    return effect_of(compared(), len(problems), ready.options.level)


def effect_of(compared: Iterable[tuple[int, BoolArray, FloatArray]], problems: int, level: float) -> Effect:
    """Compares continuations of a state that begin with a reflective sentence with those that begin with another one
    (Mantel and Haenszel).

    Args:
        compared: the problem of each state, and of each of its continuations whether it begins with a reflective
            sentence, and whether it is right.
    """
    sum_Q, size_Q = np.zeros(problems), np.zeros(problems)
    count = np.zeros(3, dtype=np.int64)
    for q, begins, right in compared:
        mine, plain = int(begins.sum()), int((~begins).sum())
        if not mine or not plain:
            continue
        weight = mine * plain / (mine + plain)
        sum_Q[q] += weight * (right[begins].mean() - right[~begins].mean())
        size_Q[q] += weight
        count += [1, mine, plain]
    if not size_Q.any():
        return Effect(Estimate(None), None, 0, 0, 0)
    difference = float(sum_Q.sum() / size_Q.sum())
    estimate, p = cluster_t(difference, sum_Q - difference * size_Q, size_Q, level)
    return Effect(estimate, p, *count.tolist())


def _begins_reflective(ready: Prepared, text: str) -> bool | None:
    """Says whether the first sentence is reflective; None where no sentence comes any more."""
    sentences = split_sentences(text, ready.breaks)
    return bool(ready.reflective.names(text[sentences[0].start : sentences[0].end])) if sentences else None
