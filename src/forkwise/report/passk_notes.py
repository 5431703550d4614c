"""The notes of Pass@K results in words: one sentence for each topic of `forkwise.passk.notes`."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from forkwise.errors import InputError
from forkwise.passk.notes import Note
from forkwise.report.formats import coverage
from forkwise.report.importing import imported_note
from forkwise.samples.direct import Imported
from forkwise.terminal import counted

_MISMATCH = "has no samples of some lengths that the other has"

SENTENCES: dict[str, Callable[..., str]] = {
    "imported": lambda **facts: imported_note(Imported(**facts)),
    "unscored": lambda unscored, samples: (
        f"{unscored:,} of {counted(samples, 'sample')} have no verdict and are left out (not counted wrong)."
    ),
    "lengths missing": lambda missing, samples: (
        f"Lengths are missing for {missing:,} of {counted(samples, 'sample')}, so there is no length control."
    ),
    "lengths in words": lambda: "The samples carry no token counts, so lengths are in words.",
    "no lengths": lambda: "The samples carry neither token counts nor texts, so there is no length control.",
    "bare problems": lambda problems, example: (
        f"Left out: {counted(problems, 'problem')} without a scored sample, such as '{example}'."
    ),
    "unequal samples": lambda fewest, most: (
        f"Problems have between {fewest} and {most} scored samples; K goes up to {fewest}."
    ),
    "simulated": lambda title, exact, error: (
        f"{title} is {exact}; here it is simulated, with a standard error of at most {error:.4f}."
    ),
    "all alike": lambda right, unseen: (
        f"Every sample is {'right' if right else 'wrong'}, so the bootstrap interval has no width; by the exact "
        f"binomial bound up to {unseen:.1%} of such problems could still be {'failed' if right else 'solved'}."
    ),
    "one sample": lambda: "There is one sample per problem, so only Pass@1 can be estimated.",
    "few problems": lambda problems, level: (
        f"With {problems} problems a nominal {coverage(level)} interval covers less at small K when success rates are "
        "skewed (docs/statistics.md has the measured coverage)."
    ),
    "several runs": lambda runs: f"Mean of {runs} runs; the intervals cover the choice of problems, not of runs.",
    "embeddings": lambda: (
        "An embedding is of the beginning of a text: what lies beyond the encoder's limit (256 tokens for "
        "all-MiniLM-L6-v2) does not count."
    ),
    "shared problems": lambda shared, dropped, example: (
        f"Compared on the {counted(shared, 'problem')} that all arms share; {dropped} dropped, such as '{example}'."
    ),
    "unequal n": lambda largest: f"The arms have different numbers of samples; K goes up to {largest}, the smallest.",
    "no common length": lambda: "Some arm has no lengths in the common unit, so nothing here is controlled for length.",
    "diversity and runs": lambda: "The intervals of diversity cover problems, not training runs.",
    "matching refused": lambda arm, reference: (
        f"Length matching is refused: in most problems one of {arm} and {reference} {_MISMATCH}."
    ),
    "matching in part": lambda arm, reference, left_out, problems: (
        f"Length matching leaves out {left_out} of {problems} problems, where one of {arm} and {reference} {_MISMATCH}."
    ),
    "all fixed": lambda single: (
        f"{'One run per arm' if single else 'All arms are fixed'}: this compares these models, and says nothing about "
        "training them again."
    ),
    "some fixed": lambda fixed: (
        f"Differences are about these very models of {', '.join(fixed)}, and about other training runs of the rest."
    ),
    "covered": lambda runs, paired: (
        f"The intervals of differences cover problems and training runs ({' and '.join(runs)} per arm"
        f"{', paired by seed' if paired else ''})."
    ),
    "clusters of one": lambda: "Every cluster holds one problem, so clusters change nothing.",
    "clusters": lambda clusters, single: (
        f"The problems are in {clusters} clusters ({single} of one problem): differences are about other clusters "
        "like these."
    ),
    "look": lambda look, share, alpha: (
        f"This is look {look}, at {share:g} of the study: a difference is claimed at p <= {alpha:.3g}, so that all "
        "looks together err no more often than was planned."
    ),
    "benchmarks": lambda benchmarks, sizes: (
        f"Pass@K and its differences are means over {benchmarks} benchmarks of equal weight, whatever their numbers of "
        f"problems ({', '.join(sizes)}); they are about other problems of these benchmarks, not about other benchmarks."
    ),
    "benchmarks of unequal n": lambda largest: (
        f"The benchmarks have different numbers of samples; K goes up to {largest}, the smallest."
    ),
}


def sentences(notes: Iterable[Note]) -> list[str]:
    """Says each note in a sentence, with the names of its arms before it where it is not about all.

    Raises:
        InputError: a note from a file lacks facts, or has others.
    """
    sentences = []
    for note in notes:
        try:
            sentence = SENTENCES[note.topic](**note.facts)
        except (TypeError, ValueError) as error:
            raise InputError(f"The note '{note.topic}' of a result file is damaged: write the file again.") from error
        sentences.append(f"{', '.join(note.arms)}: {sentence}" if note.arms else sentence)
    return sentences
