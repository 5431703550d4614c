"""Traces: completions of the samples table with their sentences and, where there are any, tokens with entropies."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc

from forkwise.errors import InputError
from forkwise.explore.bounds import LogprobError, candidate_logprobs, entropy_bounds, written_rounding
from forkwise.explore.sentences import Span, ends_whole, split_sentences
from forkwise.explore.spans import MisfitError, token_spans
from forkwise.progress import watch
from forkwise.samples import read_samples

FloatArray = npt.NDArray[np.float64]
Origin = Literal["stored", "model", "top-k"]

_COLUMNS = (
    *("run", "model", "problem_id", "sample_id", "prompt", "completion", "correct", "n_tokens", "finish_reason"),
    "sampling",
)
_TOKEN_COLUMNS = ("tokens", "entropies", "varentropies", "logprobs", "top_logprobs")
_BOUNDS_AT = 1.0  # the temperature of the log-probs that servers give


@dataclass(frozen=True)
class TraceTokens:
    """The tokens of one trace, with `(T,)` texts, spans and entropies.

    Attributes:
        text: of each token.
        spans: the characters of the completion that each stands for; empty for special tokens.
        entropy: nats; exact, or a rigorous lower bound.
        upper: upper bound, where `entropy` is a lower one.
        varentropy: variance of the surprisal over the distribution, nats squared, where it is stored.
        surprisal: of the token that was sampled, nats, where its log-prob is stored.
    """

    text: list[str]
    spans: list[Span]
    entropy: FloatArray
    upper: FloatArray | None = None
    varentropy: FloatArray | None = None
    surprisal: FloatArray | None = None


@dataclass(frozen=True)
class Trace:
    """One completion that is not empty, with its sentences and perhaps its tokens."""

    run: str
    problem_id: str
    sample_id: int
    prompt: str | None
    text: str
    correct: bool | None
    n_tokens: int | None
    sentences: list[Span]
    """The sentences that are whole."""
    tokens: TraceTokens | None
    cut_off: Span | None = None
    """What was begun of another sentence when the limit of tokens was reached."""

    @property
    def all_sentences(self) -> list[Span]:
        """Returns all sentences, with one that was cut off."""
        return self.sentences if self.cut_off is None else [*self.sentences, self.cut_off]


@dataclass
class RunTraces:
    """The traces of one run, in the order of problem and sample."""

    run: str
    model: str
    traces: list[Trace] = field(default_factory=list)
    empty: int = 0
    """Number of samples without text, which are left out."""
    source: Origin | None = None
    """Origin of the entropies; None without any."""
    candidates: int | None = None
    without_tokens: int = 0
    """Number of traces without tokens, although others of the run have them."""
    temperatures: set[float] = field(default_factory=set)
    """Temperatures of the distributions whose entropies these are; servers' log-probs are taken for those at 1."""
    cuts: set[float] = field(default_factory=set)
    """The top-p below 1 at which tokens were sampled. Entropies are those of the distribution before the cut."""


def load_traces(
    path: Path,
    *,
    breaks: Sequence[str] = (),
    vocabulary: int | None = None,
    source: Origin = "stored",
    token_data: bool = True,
    only_exact: bool = False,
    temperature: float | None = None,
) -> list[RunTraces]:
    """Loads the runs of a samples table.

    Args:
        path: a Parquet shard, or a folder of them.
        breaks: words that begin a sentence besides punctuation.
        vocabulary: tokens, for the upper bounds from top-k log-probs; None without any bounds to compute.
        source: what stored entropies are: `stored`, or `model` where forkwise computed them afterwards.
        token_data: False reads the texts alone.
        only_exact: leave out the samples that have no stored entropies.
        temperature: of the entropies, where it is not each sample's own.

    Raises:
        InputError: no samples, no text in any, tokens that do not join to their text, or log-probs that are none.
    """
    columns = [*_COLUMNS, *(_TOKEN_COLUMNS if token_data else ())]
    table = read_samples(path, columns)
    if only_exact:
        table = table.filter(pc.is_valid(table["entropies"]))
        if not table.num_rows:
            raise InputError(f"'{path}' holds no sample with stored entropies: leave out --only-exact.")
    runs: dict[str, RunTraces] = {}
    rows = (row for batch in table.to_batches(max_chunksize=256) for row in batch.to_pylist())
    for row in watch(rows, "splitting", "samples", table.num_rows):
        run = runs.setdefault(row["run"], RunTraces(row["run"], row["model"]))
        if not (row["completion"] or "").strip():
            run.empty += 1
            continue
        run.traces.append(_trace(row, run, breaks, vocabulary, source, path))
        if run.traces[-1].tokens is not None:
            sampling = row["sampling"] or {}
            drawn_at = temperature or sampling.get("temperature") or 1.0
            run.temperatures.add(_BOUNDS_AT if run.source == "top-k" else drawn_at)
            run.cuts |= {cut for cut in [sampling.get("top_p")] if cut is not None and cut < 1}
    for run in runs.values():
        if not run.traces:
            raise InputError(f"'{path}': every sample of the run '{run.run}' is empty, so there is nothing to explore.")
        run.without_tokens = sum(trace.tokens is None for trace in run.traces) if run.source else 0
    if not runs:
        raise InputError(f"'{path}' holds no samples.")
    return list(runs.values())


def check_side_by_side(runs: Sequence[tuple[str, str | None, Collection[float]]]) -> None:
    """Refuses bounds from top-k log-probs beside exact entropies of another temperature.

    Args:
        runs: the name of each, the origin of its entropies (None without any), and their temperatures.

    Raises:
        InputError: they cannot be compared.
    """
    bounded = [name for name, source, _ in runs if source == "top-k"]
    other = [(name, at) for name, source, at in runs if source not in (None, "top-k") and set(at) - {_BOUNDS_AT}]
    if bounded and other:
        name, at = other[0]
        raise InputError(
            f"The entropies of '{bounded[0]}' are bounds from a server's log-probs, at temperature 1, and those of "
            f"'{name}' exact at temperature {', '.join(f'{t:g}' for t in sorted(at))}: look at them apart, or explore "
            "with --model and --temperature 1."
        )


def _trace(
    row: dict[str, Any], run: RunTraces, breaks: Sequence[str], vocabulary: int | None, source: Origin, path: Path
) -> Trace:
    text = row["completion"]
    where = f"'{path}', sample {row['sample_id']} of problem '{row['problem_id']}' in run '{run.run}'"
    sentences = split_sentences(text, breaks)
    cut_off = sentences.pop() if row["finish_reason"] == "length" and sentences and not ends_whole(text) else None
    return Trace(
        run=run.run,
        problem_id=row["problem_id"],
        sample_id=row["sample_id"],
        prompt=row["prompt"],
        text=text,
        correct=row["correct"],
        n_tokens=row["n_tokens"],
        sentences=sentences,
        tokens=_tokens(row, run, vocabulary, source, where),
        cut_off=cut_off,
    )


def _tokens(
    row: dict[str, Any], run: RunTraces, vocabulary: int | None, source: Origin, where: str
) -> TraceTokens | None:
    tokens: list[str] | None = row.get("tokens")
    exact, top = row.get("entropies"), row.get("top_logprobs") or []
    top = top if any(top) else []
    if not tokens or (exact is None and (not top or vocabulary is None)):
        return None
    if None in tokens:
        raise InputError(f"{where}: a token is null; give --model to compute tokens and entropies anew.")
    kind: Origin = "top-k" if exact is None else source
    if run.source is not None and run.source != kind:
        raise InputError(
            f"The run '{run.run}' mixes samples with exact entropies and samples with top-k log-probs: give --model to "
            "compute the entropies of all."
        )
    upper = None
    if exact is not None:
        entropy = np.asarray(exact, dtype=np.float64)
        if entropy.size != len(tokens):
            raise InputError(f"{where}: there are {len(tokens)} tokens but {entropy.size} entropies.")
        if not np.isfinite(entropy).all() or (entropy < -1e-6).any():
            raise InputError(f"{where}: an entropy is negative or not a number; give --model to compute them anew.")
    else:
        assert vocabulary is not None
        lists = [candidate_logprobs(c) for c in top]
        sampled = row.get("logprobs") or [None] * len(tokens)
        try:
            bounds = entropy_bounds(
                lists, vocabulary, sampled, written_rounding([*sampled, *(v for c in lists for v in c)])
            )
        except LogprobError as error:
            raise InputError(f"{where}: {error}; import log-probs as the model gave them.") from error
        if len(top) != len(tokens):
            raise InputError(f"{where}: there are {len(tokens)} tokens but {len(top)} lists of candidates.")
        entropy, upper = bounds.low, bounds.high
        run.candidates = bounds.candidates
    try:
        spans = token_spans(tokens, row["completion"])
    except MisfitError as error:
        raise InputError(
            f"{where}: the tokens do not join to the text ({error}); give --model to compute tokens and entropies anew."
        ) from error
    run.source = kind
    surprisal = None if exact is None else _column(row, "logprobs", len(tokens))
    return TraceTokens(
        *(tokens, spans, entropy, upper),
        varentropy=_column(row, "varentropies", len(tokens)),
        surprisal=None if surprisal is None else -surprisal,
    )


def _column(row: dict[str, Any], name: str, length: int) -> FloatArray | None:
    """Returns a further column of numbers; None where it is not there, or not for every token."""
    values = row.get(name)
    if not values or len(values) != length or None in values:
        return None
    column = np.asarray(values, dtype=np.float64)
    return column if np.isfinite(column).all() else None
