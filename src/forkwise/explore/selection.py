"""Choosing solutions by log-probs freed of the length of their steps: ASLEC-DROP and ASLEC-CASL, arXiv 2604.06834.

A solution that a student finds likely is said to teach it well. But the first tokens of a step are the surprising ones,
so long steps look likelier than short ones. DROP leaves those tokens out; CASL takes out what a regression over a
corpus says that their share explains.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from forkwise.errors import InputError
from forkwise.explore.sentences import Span
from forkwise.explore.spans import MisfitError, first_token, token_spans
from forkwise.progress import watch
from forkwise.samples import SCHEMA, find_shards, read_samples, write_shard

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]
Rule = Literal["casl", "drop", "plain"]

_STEP_ENDS = re.compile(r"[.?] ")
_UNKNOWN = -16.0  # nats: in place of a mean over no tokens, the authors'
_FEWEST = 5  # texts, for a regression of four numbers


@dataclass(frozen=True)
class ScoredSolution:
    """The log-probs of one solution's tokens, nats `(T,)`, and which tokens begin a step, `(T,)`."""

    logprobs: FloatArray
    heads: BoolArray


@dataclass
class Selection:
    """What was chosen from one run.

    Attributes:
        run: the run's name.
        rows: the chosen rows of the samples table.
        solutions, problems: how many there were with log-probs.
        without: solutions without log-probs or tokens.
        misfits: solutions whose tokens do not join to their text.
        slope: of CASL: nats by which the mean log-prob changes with the share of tokens that begin a step.
    """

    run: str
    rows: list[dict[str, Any]]
    solutions: int = 0
    problems: int = 0
    without: int = 0
    misfits: int = 0
    slope: float | None = None


def step_heads(tokens: Sequence[str], text: str, skip: int) -> BoolArray:
    """Marks the first `skip` tokens of each step of a text; a step ends at `. ` and `? `.

    Raises:
        MisfitError: the tokens do not join to the text.
    """
    spans = token_spans(tokens, text)
    borders = [0, *(match.end() for match in _STEP_ENDS.finditer(text)), len(text)]
    steps = [Span(a, b) for a, b in pairwise(borders) if a < b]
    first = [int(index) for index in first_token(spans, steps) if index >= 0]
    heads = np.zeros(len(spans), dtype=bool)
    for begin, end in zip(first, [*first[1:], len(spans)], strict=True):
        heads[begin : min(begin + skip, end)] = True
    return heads


def drop_score(solution: ScoredSolution) -> float:
    """Computes the mean log-prob, nats per token, of the tokens that do not begin a step; 0 without any."""
    after_heads = solution.logprobs[~solution.heads]
    return float(after_heads.mean()) if len(after_heads) else 0.0


def casl_scores(corpus: Sequence[ScoredSolution]) -> tuple[FloatArray, float]:
    """Computes each solution's mean log-prob less what the share of its step heads explains, and that slope.

    The slope is that of the share in a least-squares fit of the mean log-prob by the means over heads and over the
    rest, the share, and a constant.

    Raises:
        InputError: too few solutions for a fit.
    """
    if len(corpus) < _FEWEST:
        raise InputError(
            f"The rule casl fits four numbers to the solutions of a run, and there are {len(corpus)}: give at least "
            f"{_FEWEST}, or take --by drop."
        )
    means = np.array([solution.logprobs.mean() for solution in corpus])
    table = np.array([[*_means(s), s.heads.mean(), 1.0] for s in corpus])
    slope = float(np.linalg.lstsq(table, means, rcond=None)[0][2])
    return means - slope * table[:, 2], slope


def _means(solution: ScoredSolution) -> tuple[float, float]:
    after_heads, heads = solution.logprobs[~solution.heads], solution.logprobs[solution.heads]
    return tuple(float(part.mean()) if len(part) else _UNKNOWN for part in (after_heads, heads))  # type: ignore[return-value]


def select(samples: Path, out: Path, *, by: Rule, keep: int, skip: int, only_right: bool = False) -> list[Selection]:
    """Chooses the best solutions of each problem in each run, and writes them to `out` as a samples table.

    Args:
        samples: a samples table with tokens and their log-probs under the student.
        out: a new folder.
        by: the score: `casl`, `drop`, or `plain` for the mean log-prob.
        keep: how many of each problem; of equal scores the first.
        skip: tokens at the beginning of each step that count as its head.
        only_right: choose among solutions with the verdict "right".

    Raises:
        InputError: no log-probs, nothing to choose from, or an `out` that holds a table already.
    """
    if out.is_dir() and any(out.glob("*.parquet")):
        raise InputError(f"'{out}' holds a samples table already: give another folder.")
    find_shards(samples)
    table = read_samples(samples, SCHEMA.names)
    runs: dict[str, list[dict[str, Any]]] = {}
    for row in table.to_pylist():
        if not only_right or row["correct"]:
            runs.setdefault(row["run"], []).append(row)
    if not runs:
        raise InputError(f"'{samples}' holds no {'right ' if only_right else ''}samples to choose from.")
    chosen = [_select(run, rows, by, keep, skip) for run, rows in runs.items()]
    if not any(selection.solutions for selection in chosen):
        raise InputError(
            f"'{samples}' holds no tokens with log-probs that join to their texts: score the solutions with the "
            "student first, and import them with tokens and log-probs (docs/samples.md)."
        )
    out.mkdir(parents=True, exist_ok=True)
    for number, selection in enumerate(chosen):
        write_shard(out, f"selected-{number:03d}", selection.rows)
    return chosen


def _select(run: str, rows: Sequence[dict[str, Any]], by: Rule, keep: int, skip: int) -> Selection:
    selection = Selection(run, [])
    corpus: list[tuple[Mapping[str, Any], ScoredSolution]] = []
    for row in watch(iter(rows), "scoring", "samples", len(rows)):
        logprobs, tokens, text = row["logprobs"], row["tokens"], row["completion"]
        if not text or not tokens or not logprobs or len(tokens) != len(logprobs) or None in logprobs:
            selection.without += 1
            continue
        try:
            heads = step_heads(tokens, text, skip)
        except MisfitError:
            selection.misfits += 1
            continue
        corpus.append((row, ScoredSolution(np.array(logprobs, dtype=np.float64), heads)))
    selection.solutions = len(corpus)
    if not corpus:
        return selection
    scored = [solution for _, solution in corpus]
    if by == "casl":
        scores, selection.slope = casl_scores(scored)
    elif by == "drop":
        scores = np.array([drop_score(solution) for solution in scored])
    else:
        scores = np.array([solution.logprobs.mean() for solution in scored])
    problems: dict[str, list[int]] = {}
    for index, (solution_row, _) in enumerate(corpus):
        problems.setdefault(solution_row["problem_id"], []).append(index)
    selection.problems = len(problems)
    for places in problems.values():
        best = sorted(places, key=lambda index: -scores[index])[:keep]
        selection.rows += [dict(corpus[index][0]) for index in sorted(best)]
    return selection
