"""The command `forkwise forks`: it draws states, says what they cost, continues them, and writes `forks.json`."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from forkwise.errors import InputError
from forkwise.explore.lexicon import load_lexicon, load_reflective
from forkwise.explore.teacher import Scorer, load_scorer, write_entropies
from forkwise.explore.tokenisation import prompt_ids
from forkwise.folders import only_process
from forkwise.folders.results import inputs_of
from forkwise.folders.settings import same_settings
from forkwise.forks import analysis
from forkwise.forks.continuing import Continued, Continuer, State, continue_states, refuse_random, states_there
from forkwise.forks.cost import Cost, cost_of, refuse_too_small
from forkwise.forks.frame import Frame, Pool, load_frame, load_pool
from forkwise.forks.options import ForksOptions
from forkwise.forks.results import Forks, Seen, StateRow, Way, write
from forkwise.forks.states import Drawn, draw, strata
from forkwise.passk.intervals import check_level
from forkwise.progress import Meter
from forkwise.samples import read_samples
from forkwise.samples.direct import OpenTable, imported_from, open_table, source_files
from forkwise.sampling.forward import check_length
from forkwise.sampling.options import JudgeOptions
from forkwise.sampling.verify import Judge, find_judge
from forkwise.tasks import Problem
from forkwise.terminal import one_line
from forkwise.version import __version__

_SETTINGS = "continuations.json"
_ELSEWHERE = 0.05  # nats: so far apart, on the average, log-probs are of another model
_TO_READ = 10
_BEFORE = 200  # characters


def run_forks(table: Path, options: ForksOptions, judging: JudgeOptions, announce: Callable[[Cost], None]) -> Forks:
    """Measures what the tokens of a table decide, and writes `forks.json` to `--out`.

    Args:
        announce: told the cost before the first continuation.

    Raises:
        InputError: something given cannot be used, or the budget is too small for any claim.
    """
    _check(options)
    with open_table(table) as opened:
        pool = load_pool(opened.path, options)
        judge = find_judge(opened.path, judging)
        golds = _golds(opened.path, judge)
        _check_judge(pool, judge, golds)
        with Meter(what="loading the model"):
            scorer = load_scorer(
                options.model,
                device=options.device,
                dtype=options.dtype,
                budget=options.token_budget,
                trust_remote_code=options.trust_remote_code,
            )
        return _forks(opened, pool, judge, golds, scorer, options, judging, announce)


def _forks(
    table: OpenTable,
    pool: Pool,
    judge: Judge,
    golds: Mapping[str, Any],
    scorer: Scorer,
    options: ForksOptions,
    judging: JudgeOptions,
    announce: Callable[[Cost], None],
) -> Forks:
    lexicon, reflective = load_lexicon(options.lexicon), load_reflective(options.reflective)
    inputs = inputs_of(source_files(table.given))
    tokens = options.out / "tokens"
    write_entropies(table.path, tokens, scorer, name=options.model, temperature=pool.sampling.temperature)
    difference = _check_policy(pool, tokens, options.model)
    breaks = [word.strip() for word in options.breaks.split(",") if word.strip()]
    frame = load_frame(tokens, pool, breaks, lexicon, reflective)
    units = frame.table.units
    stratum_N, threshold = strata(units.value_N, frame.marked_N.astype(np.int64), options.quantile)
    drawn = draw(stratum_N, units.value_N, units.problem_N, options.states, options.seed)
    folder = options.out / "continuations"
    there = states_there(folder, drawn.index.size)
    cost = cost_of(frame, pool, drawn, options.continuations, there, options.level)
    refuse_too_small(cost, frame)
    states = _states(frame, pool, drawn, judge, golds, scorer)
    settings = _settings(options, judging)
    recorded = {"inputs": [i.sha256 for i in inputs], "lexicon": lexicon.name, "reflective": reflective.name}
    with only_process(options.out):
        same_settings(
            folder / _SETTINGS,
            {**_of_drawing(settings), **recorded},
            what="continuations",
            remedy="give another --out, or delete that folder",
        )
        with Meter(len(states), there, what="continuing", unit="states") as meter:
            made: list[Continuer] = []

            def continuer() -> Continuer:
                if not made:
                    made.append(
                        Continuer(
                            *(
                                scorer.model,
                                scorer.tokenizer,
                                pool.sampling,
                                options.continuations,
                                options.seed,
                                judge,
                            ),
                            meter.say,
                        )
                    )
                return made[0]

            if there < len(states):
                cost = replace(cost, seconds=_seconds(cost, states[there:], continuer()))
            announce(cost)
            continued = continue_states(folder, states, continuer, meter)
    found = analysis.find(
        *(frame, pool, drawn, continued),
        by_answer=options.outcome == "answer",
        permutations=options.permutations,
        seed=options.seed,
        level=options.level,
    )
    budget = analysis.check_budget(found)
    shares = budget.agrees
    rows = analysis.rows(found, continued, pool.rows[0]["run"])
    forks, false_forks, hidden = (
        [_seen(i, rows, continued, frame, drawn) for i in picked]
        for picked in analysis.to_read(rows, threshold, _TO_READ)
    )
    everything = np.ones(units.value_N.size, dtype=np.bool_)
    result = Forks(
        samples=str(table.given),
        model=options.model,
        outcome=options.outcome,
        inputs=inputs,
        settings=settings,
        lexicon=lexicon.name,
        reflective=reflective.name,
        problems=len(pool.problems),
        of_problems=pool.of_problems,
        always=pool.always,
        never=pool.never,
        traces=len(frame.traces),
        tokens=units.value_N.size,
        cost=cost,
        generated=sum(state.generated for state in continued),
        cut=sum(state.cut for state in continued),
        unscored=sum(state.correct.count(None) for state in continued),
        unscored_samples=pool.unscored,
        empty=len(pool.rows) - len(frame.traces),
        log_prob_difference=difference,
        budget=budget,
        threshold=threshold,
        all=analysis.part(found, "all", everything, shares=False),
        by_entropy=analysis.by_entropy(found, shares=shares),
        by_class=analysis.by_class(found, shares=shares),
        by_place=analysis.by_place(found, shares=shares),
        by_verdict=analysis.by_verdict(found),
        tops=analysis.tops(found) if shares else [],
        forks=forks,
        false_forks=false_forks,
        hidden_forks=hidden,
        states=rows,
        imported=imported_from([table]),
        forkwise=__version__,
    )
    write(options.out, result)
    return result


def _check(options: ForksOptions) -> None:
    check_level(options.level)
    if options.server is not None:
        raise InputError(
            "--server: forks are not measured through servers yet, which hardly any continue from tokens; give the "
            "model to transformers with --model, and leave --server out."
        )
    if not 0 < options.quantile < 1:
        raise InputError(f"--quantile is {options.quantile}: it must be between 0 and 1.")


def _golds(path: Path, judge: Judge) -> dict[str, Any]:
    """Returns the gold answers of the table's own column by problem, where the judge wants them."""
    if judge.gold_column is None:
        return {}
    if judge.gold_column != "gold":
        raise InputError(
            f"--gold-column is '{judge.gold_column}': continuations can be judged by the column gold alone."
        )
    return {row["problem_id"]: row["gold"] for row in read_samples(path, ["problem_id", "gold"]).to_pylist()}


def _problem(judge: Judge, golds: Mapping[str, Any], problem_id: str) -> Problem:
    problem = judge.problem(problem_id, golds.get(problem_id))
    if problem is None:
        raise InputError(
            f"The problem '{problem_id}' of the table is not among those with gold answers, so its continuations "
            "cannot be judged: give the --task, --dataset or --answers that it is from."
        )
    return problem


def _check_judge(pool: Pool, judge: Judge, golds: Mapping[str, Any]) -> None:
    """Judges the used samples twice: a verifier must agree with itself, and with the verdicts of the table."""
    problems = [_problem(judge, golds, row["problem_id"]) for row in pool.rows]
    texts = [row["completion"] or "" for row in pool.rows]
    first, second = judge.verify(texts, problems), judge.verify(texts, problems)
    for row, *verdicts in zip(pool.rows, first, second, strict=True):
        what = f"sample {row['sample_id']} of problem '{row['problem_id']}'"
        refuse_random([row["completion"]] * 2, verdicts, what)
    other = [
        row
        for row, verdict in zip(pool.rows, first, strict=True)
        if None not in (row["correct"], verdict.correct) and row["correct"] != verdict.correct
    ]
    if other:
        row = other[0]
        raise InputError(
            f"The verdicts of the table are not those of the verifier: it judges {len(other)} of {len(pool.rows)} "
            f"samples otherwise, such as sample {row['sample_id']} of problem '{row['problem_id']}'. Name the task "
            "that the table is from, or run forkwise verify --force on it."
        )


def _check_policy(pool: Pool, tokens: Path, model: str) -> float | None:
    """Compares stored log-probs with the model's: continuations of another model's texts would mean nothing."""
    columns = ["problem_id", "sample_id", "logprobs"]
    ours = {(row["problem_id"], row["sample_id"]): row["logprobs"] for row in read_samples(tokens, columns).to_pylist()}
    apart: list[float] = []
    for row in pool.rows:
        stored, now = row["logprobs"], ours.get((row["problem_id"], row["sample_id"]))
        if stored and now and len(stored) == len(now) and None not in stored:
            apart += np.abs(np.array(stored) - np.array(now)).tolist()
    if not apart:
        return None
    mean = float(np.mean(apart))
    if mean > _ELSEWHERE:
        raise InputError(
            f"The model '{model}' did not draw these samples: their stored log-probs differ from its own by {mean:.2f} "
            "nats on the average. Give the model that drew them, or samples of this one."
        )
    return mean


def _states(
    frame: Frame, pool: Pool, drawn: Drawn, judge: Judge, golds: Mapping[str, Any], scorer: Scorer
) -> list[State]:
    table, prompts = frame.table, {row["problem_id"]: row["prompt"] for row in pool.rows}
    ids = {problem: prompt_ids(scorer.tokenizer, prompt) for problem, prompt in prompts.items()}
    longest = max(map(len, ids.values())) + pool.sampling.max_tokens - 1
    check_length(scorer.model, longest, "The longest prompt, with a completion of the limit,")
    states = []
    for i in drawn.index.tolist():
        trace = int(table.units.trace_N[i])
        sample, at = frame.traces[trace], int(table.position_N[i])
        states.append(
            State(
                index=i,
                name=f"{sample.problem_id}/{sample.sample_id}/{at}",
                prompt=ids[sample.problem_id],
                prefix=frame.ids[trace][:at],
                token=frame.ids[trace][at],
                problem=_problem(judge, golds, sample.problem_id),
            )
        )
    return states


def _seconds(cost: Cost, left: Sequence[State], continuer: Continuer) -> float:
    """Estimates how long the rest takes, from one state in the middle, whose continuations are drawn again later."""
    middle = sorted(left, key=lambda state: len(state.prefix))[len(left) // 2]
    start = time.monotonic()
    continuer.draw(middle)
    return (time.monotonic() - start) * (cost.states - cost.there)


def _settings(options: ForksOptions, judging: JudgeOptions) -> dict[str, Any]:
    """Returns the options that `forks.json` records: all but `out`."""
    given = {f.name: getattr(options, f.name) for f in fields(options) if f.name != "out"}
    given |= {f.name: getattr(judging, f.name) for f in fields(judging)}
    return {name: str(value) if isinstance(value, Path) else value for name, value in given.items()}


_OF_ANALYSIS = ("level", "permutations", "token_budget", "workers", "timeout", "memory_mb")


def _of_drawing(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the settings that decide what is drawn; the others may differ in a folder that is continued."""
    return {name: value for name, value in settings.items() if name not in _OF_ANALYSIS}


def _seen(n: int, rows: Sequence[StateRow], continued: Sequence[Continued], frame: Frame, drawn: Drawn) -> Seen:
    i = int(drawn.index[n])
    trace = frame.traces[int(frame.table.units.trace_N[i])]
    assert trace.tokens is not None
    state, at = continued[n], trace.tokens.spans[int(frame.table.position_N[i])].start
    starts = np.cumsum(state.sizes) - state.sizes
    ways = []
    for g, start in enumerate(starts.tolist()):
        correct = state.correct[start : start + state.sizes[g]]
        ways.append(
            Way(
                token=state.texts[g],
                probability=state.probabilities[g],
                forced=g < state.forced,
                continuations=state.sizes[g],
                right=None if None in correct else float(np.mean([c is True for c in correct])),
                text=one_line(state.continuations[start], 2 * _BEFORE),
            )
        )
    ways.sort(key=lambda way: -way.probability)
    return Seen(rows[n], trace.text[max(0, at - _BEFORE) : at], ways)
