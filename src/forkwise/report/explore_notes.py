"""What a reader must know of an exploration's numbers: what is left out, and what they cannot show."""

from __future__ import annotations

from collections.abc import Iterator

from forkwise.explore.results import Exploration, RunExploration
from forkwise.report.formats import few_problems, p_value
from forkwise.report.importing import imported_note
from forkwise.terminal import counted

_LARGE_P = 0.01  # a test whose smallest p is above it is said to be one


def notes(explored: Exploration) -> list[str]:
    """Says what a reader must know of the numbers: what is left out, and what they cannot show."""
    sentences = [] if explored.imported is None else [imported_note(explored.imported)]
    if not explored.settings.get("base"):
        sentences.append("Without --base there is nothing that sentences could be rare against.")
    if explored.settings.get("only_exact"):
        sentences.append("Of every run the samples with stored entropies were explored, and no others.")
    if explored.full_logits:
        sentences.append(f"The model is scored by its full logits, which need more memory: {explored.full_logits}.")
    limit = explored.settings.get("max_sentences")
    temperatures = {t for run in explored.runs if run.entropy for t in run.entropy.temperatures}
    if len(temperatures) > 1:
        sentences.append(
            "Entropies are of several temperatures and cannot be compared with each other "
            f"({', '.join(f'{t:g}' for t in sorted(temperatures))}); --model with --temperature computes them at one."
        )
    return [*sentences, *(f"{run.run}: {note}" for run in explored.runs for note in _notes(run, limit))]


def _notes(run: RunExploration, limit: int | None) -> Iterator[str]:
    if run.empty:
        yield f"Left out: {counted(run.empty, 'sample')} without text."
    if run.without_tokens:
        yield (
            f"{run.without_tokens:,} of {run.samples - run.empty:,} samples have no token data: they count for words "
            "and sentences, not for entropies."
        )
    if run.problems == 1:
        yield "There is only one problem, and intervals are over problems, so there are none."
    else:
        yield from few_problems(run.problems)
    if run.cut_off:
        yield f"Left out: {counted(run.cut_off, 'sentence')} that the limit of tokens cut off."
    if run.sentences <= 1:
        yield "There is at most one sentence, so sentences cannot be compared."
    if run.entropy is None:
        yield (
            "There are no entropies: what follows counts words and sentences. --model computes them for any causal "
            "language model."
        )
    elif run.entropy.source == "top-k":
        yield (
            "Entropies are lower bounds from top-k log-probs, as the server gave them (temperature 1); every "
            "difference says in which range it lies for certain. Ranks of tokens survive bounding, levels do not."
        )
    if run.entropy is not None and run.entropy.cuts:
        yield (
            f"Tokens were sampled with top-p {', '.join(f'{cut:g}' for cut in run.entropy.cuts)}; entropies are those "
            "of the whole distribution, before that cut, which leaves less."
        )
    if run.rarity is not None and run.rarity.problems < run.problems:
        yield (
            f"Rare sentences were looked for in the {run.rarity.problems:,} problems that the base has too; the other "
            f"{run.problems - run.rarity.problems:,} are left out (--intersect)."
        )
    for tested in run.dependence:
        if tested.smallest_p > _LARGE_P:
            yield (
                f"With {tested.prompts} prompts the p of input dependence cannot be below about "
                f"{p_value(tested.smallest_p)}, whatever the responses are: take more prompts."
            )
    if run.rarity_refused:
        yield run.rarity_refused
    if run.rarity and limit in (run.rarity.distinct, run.rarity.base_distinct):
        yield (
            f"Rare sentences were looked for among {limit:,} distinct sentences of a model, drawn at random; "
            "occurrences of all others do not count as rare (--max-sentences)."
        )
    if not any(dependence.method == "text" for dependence in run.dependence):
        yield "There are fewer than two different prompts, so input dependence cannot be measured."
