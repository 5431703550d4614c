"""The tokens that states are drawn from: of samples of problems with more than one outcome, with their entropies."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from forkwise.errors import InputError
from forkwise.explore.contrast import FEWEST_PROBLEMS, BoolArray, FloatArray, IntArray
from forkwise.explore.lexicon import Lexicon, ReflectivePatterns
from forkwise.explore.spans import first_token
from forkwise.explore.tokens import TokenTable, token_table
from forkwise.explore.traces import Trace, load_traces
from forkwise.forks.estimators import variance_of_outcome
from forkwise.forks.options import ForksOptions
from forkwise.forks.states import halves, parts
from forkwise.samples import read_samples
from forkwise.sampling.recipe import Sampling
from forkwise.tasks.answers.classes import answer_classes
from forkwise.terminal import counted

COLUMNS = (
    *("run", "problem_id", "sample_id", "prompt", "completion", "answer", "correct", "n_tokens", "finish_reason"),
    *("sampling", "logprobs", "entropies", "gold"),
)
_SAMPLING = ("temperature", "top_p", "max_tokens")
OPERATORS = frozenset("+-*/×÷·^−")
CLASSES = ("pivotal", "reflective start", "operator", "other")
"""What a token is; one that is several counts as the first. Matches of the lexicon and reflective sentences count at
their first token."""


@dataclass(frozen=True)
class Pool:
    """The samples that are used: every second one of the problems whose others have more than one outcome."""

    rows: list[dict[str, Any]]
    """Rows of the samples table."""
    problems: list[str]
    """The problems, in the table's order."""
    available_Q: FloatArray
    """V0 (1 - V0) of each."""
    of_problems: int
    """How many problems the table has."""
    always: int
    never: int
    """Problems that the choosing half always, or never, solves; of `--outcome answer`, with one answer alone, and 0."""
    unscored: int
    """Samples without a verdict, which are left out."""
    sampling: Sampling
    """How the table was drawn, and so the continuations."""

    def traces_of(self) -> dict[str, int]:
        """Counts the used samples of each problem."""
        counts = dict.fromkeys(self.problems, 0)
        for row in self.rows:
            counts[row["problem_id"]] += 1
        return counts


def load_pool(path: Path, options: ForksOptions) -> Pool:
    """Reads the samples and keeps those that are used.

    Raises:
        InputError: several runs, no verdicts, nobody knows how they were drawn, or too few problems with contrast.
    """
    table = read_samples(path, COLUMNS)
    rows: list[dict[str, Any]] = table.to_pylist()
    runs = sorted({row["run"] for row in rows})
    if len(runs) != 1:
        raise InputError(
            f"'{path}' holds {len(runs)} runs ({', '.join(runs[:4])}): states are of one model, so give a table of one."
        )
    sampling = _sampling(rows, options)
    by_answer = options.outcome == "answer"
    judged = [row for row in rows if by_answer or row["correct"] is not None]
    if not judged:
        raise InputError(f"'{path}' has no verdicts: run forkwise verify on it, or give --outcome answer.")
    outcomes = _outcomes(judged, by_answer)
    problems, used = halves([row["problem_id"] for row in judged], outcomes)
    names = list(dict.fromkeys(row["problem_id"] for row in judged))
    always, never = _without_contrast(judged, outcomes, by_answer)
    if len(problems) < FEWEST_PROBLEMS:
        mixed = "more than one answer" if by_answer else "both right and wrong samples"
        others = f"{always} have one answer" if by_answer else f"{always} are always right, {never} never"
        if small := len(names) - len(problems) - always - never:
            others += f", {small} {'has' if small == 1 else 'have'} fewer than four samples"
        raise InputError(
            f"Of {counted(len(names), 'problem')} only {len(problems)} can be used, with {mixed} in the half of the "
            f"samples that chooses ({others}), and intervals over problems need {FEWEST_PROBLEMS}: draw more problems, "
            "more samples of each, or easier ones."
        )
    return Pool(
        rows=[judged[i] for i in used],
        problems=problems,
        available_Q=_available([judged[i] for i in used], [outcomes[i] for i in used], problems, by_answer),
        of_problems=len(names),
        always=always,
        never=never,
        unscored=len(rows) - len(judged),
        sampling=sampling,
    )


def _outcomes(rows: Sequence[Mapping[str, Any]], by_answer: bool) -> list[Hashable]:
    if not by_answer:
        return [bool(row["correct"]) for row in rows]
    places: dict[str, list[int]] = {}
    for i, row in enumerate(rows):
        places.setdefault(row["problem_id"], []).append(i)
    outcomes: list[Hashable] = [None] * len(rows)
    for indices in places.values():
        for i, answer in zip(indices, answer_classes([rows[i]["answer"] for i in indices]), strict=True):
            outcomes[i] = answer
    return outcomes


def _without_contrast(
    rows: Sequence[Mapping[str, Any]], outcomes: Sequence[Hashable], by_answer: bool
) -> tuple[int, int]:
    """Counts the problems whose choosing half is always right (or has one answer alone), and those never right."""
    chooses: dict[str, list[Hashable]] = {}
    for row, outcome in zip(rows, outcomes, strict=True):
        chooses.setdefault(row["problem_id"], []).append(outcome)
    single = [half[0] for whole in chooses.values() if len(set(half := whole[::2])) == 1]
    always = len(single) if by_answer else sum(map(bool, single))
    return always, len(single) - always


def _available(
    rows: Sequence[Mapping[str, Any]], outcomes: Sequence[Hashable], problems: Sequence[str], by_answer: bool
) -> FloatArray:
    counts: dict[str, dict[Hashable, int]] = {problem: {} for problem in problems}
    for row, outcome in zip(rows, outcomes, strict=True):
        counts[row["problem_id"]][outcome] = counts[row["problem_id"]].get(outcome, 0) + 1
    return np.array(
        [
            variance_of_outcome(list(c.values()) if by_answer else [c.get(True, 0)], sum(c.values()))
            for c in counts.values()
        ]
    )


def _sampling(rows: Sequence[Mapping[str, Any]], options: ForksOptions) -> Sampling:
    settled: dict[str, Any] = {}
    for name in _SAMPLING:
        chosen = getattr(options, name)
        stored = {(row["sampling"] or {}).get(name) for row in rows}
        if chosen is None and (len(stored) > 1 or (None in stored and name != "top_p")):
            option = f"--{name.replace('_', '-')}"
            fault = "do not say" if stored == {None} else f"differ in ({', '.join(map(str, stored))})"
            raise InputError(
                f"The samples {fault} {name}, and continuations must be drawn as they were: give {option}."
            )
        settled[name] = next(iter(stored)) if chosen is None else chosen
    sampling = Sampling(settled["temperature"], settled["top_p"] or 1.0, settled["max_tokens"])
    if sampling.temperature == 0:
        raise InputError("The samples were drawn greedily (temperature 0), so no token could have been another.")
    for row in rows:
        length, limit = row["n_tokens"], sampling.max_tokens
        cut_early = row["finish_reason"] == "length" and length is not None and length < limit
        if cut_early or (length or 0) > limit:
            raise InputError(
                f"Sample {row['sample_id']} of problem '{row['problem_id']}' has {length:,} tokens"
                f"{' and was cut off there' if cut_early else ''}, and the limit is {limit:,}: continuations end where "
                "the samples did, so give the --max-tokens that they were drawn with."
            )
    return sampling


@dataclass(frozen=True)
class Frame:
    """The tokens of all used samples, in the order of traces; N of them."""

    traces: list[Trace]
    table: TokenTable
    ids: list[list[int]]
    """Token ids of each trace."""
    kind_N: IntArray
    """What each token is, as an index into `CLASSES`."""
    per_trace_N: FloatArray
    """One over the number of used samples of the token's problem."""
    entropies: str = "model"
    """Origin of the entropies; `top-k` are lower bounds."""

    @property
    def part_N(self) -> IntArray:
        """Which part of its stratum each token is in, by its place in the sample and the sample's verdict."""
        trace_N = self.table.units.trace_N
        verdicts = [self.traces[t].correct for t in trace_N]
        return parts(self.table.position_N, np.bincount(trace_N)[trace_N], verdicts)

    @property
    def marked_N(self) -> BoolArray:
        """Whether the token is pivotal or starts a reflective sentence."""
        marked_N: BoolArray = self.kind_N < 2
        return marked_N


def load_frame(
    tokens: Path,
    pool: Pool,
    breaks: Sequence[str],
    lexicon: Lexicon,
    reflective: ReflectivePatterns,
    vocabulary: int,
) -> Frame:
    """Makes the frame from the pool and the table of its tokens that lies beside the continuations.

    Args:
        vocabulary: tokens of the model, for bounds from the likeliest ones.
    """
    used = {(row["problem_id"], row["sample_id"]) for row in pool.rows}
    (run,) = load_traces(tokens, breaks=breaks, source="model", vocabulary=vocabulary)
    traces = [trace for trace in run.traces if (trace.problem_id, trace.sample_id) in used]
    stored = read_samples(tokens, ["problem_id", "sample_id", "token_ids"]).to_pylist()
    ids = {(row["problem_id"], row["sample_id"]): row["token_ids"] for row in stored}
    table = token_table(traces, {problem: q for q, problem in enumerate(pool.problems)}, lexicon)
    count = pool.traces_of()
    per_trace_Q = np.array([1 / count[problem] for problem in pool.problems])
    return Frame(
        traces=traces,
        table=table,
        ids=[ids[trace.problem_id, trace.sample_id] for trace in traces],
        kind_N=_kinds(traces, table, reflective),
        per_trace_N=per_trace_Q[table.units.problem_N],
        entropies=run.source or "model",
    )


def _kinds(traces: Sequence[Trace], table: TokenTable, reflective: ReflectivePatterns) -> IntArray:
    starts_N = np.zeros(table.units.value_N.size, dtype=np.bool_)
    before = 0
    for trace in traces:
        assert trace.tokens is not None
        sentences = [s for s in trace.all_sentences if reflective.names(trace.text[s.start : s.end])]
        first = first_token(trace.tokens.spans, sentences)
        starts_N[before + first[first >= 0]] = True
        before += len(trace.tokens.text)
    operator_N = np.array([text in OPERATORS for text in table.text_N])
    kind_N: IntArray = np.select([table.pivotal_N, starts_N, operator_N], [0, 1, 2], default=3)
    return kind_N
