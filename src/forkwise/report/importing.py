"""What an import imports: file by file, or in short beside a result that was computed from other tools' files."""

from __future__ import annotations

from collections.abc import Mapping

from forkwise.samples.direct import Imported
from forkwise.samples.importers import FileReport
from forkwise.terminal import counted

_MOST_RUNS = 20
_MOST_SIZES = 4


def imported_file(report: FileReport) -> str:
    """Says in full what was found in a file, and what was not taken."""
    lines = [f"{report.path} ({report.format}) -> {report.shard}"]
    for name, run in list(report.runs.items())[:_MOST_RUNS]:
        lines.append(f"  run {name}: {_samples(run.samples, run.correct, run.unscored, run.sizes())}")
    if len(report.runs) > _MOST_RUNS:
        lines.append(f"  and {len(report.runs) - _MOST_RUNS} more runs")
    lines += [f"  dropped: {count:,} {reason}" for reason, count in report.dropped.items()]
    lines += [f"  note: {remark}" for remark in report.remarks]
    lines += [f"  note: {counted(count, 'sample')} {about}" for about, count in report.notes.items()]
    if report.fields_left_out:
        lines.append(f"  fields left out: {', '.join(report.fields_left_out)}")
    return "\n".join(lines)


def imported_note(imports: Imported) -> str:
    """Says in a sentence what was imported, and in another what the importers remarked."""
    source = f"'{imports.given}'" + (f" and {imports.more} more" if imports.more else "")
    if len(imports.runs) == 1:
        sizes = {int(n): problems for n, problems in imports.problems_by_n.items()}
        samples = f"run {imports.runs[0]}: {_samples(imports.samples, imports.correct, imports.unscored, sizes)}"
    else:
        samples = f"{counted(imports.samples, 'sample')} in {len(imports.runs)} runs"
    sentence = f"{source} {'were' if imports.more else 'was'} imported ({', '.join(imports.formats)}): {samples}."
    remarks = [f"dropped {count:,} {reason}" for reason, count in imports.dropped.items()]
    remarks += [*imports.remarks, *(f"{counted(count, 'sample')} {about}" for about, count in imports.noted.items())]
    return f"{sentence} {source}: {'; '.join(remarks)}." if remarks else sentence


def _samples(samples: int, correct: int, unscored: int, problems_by_n: Mapping[int, int]) -> str:
    """Says how many samples a run has, of how many problems, and how many are correct."""
    if len(problems_by_n) == 1:
        each = f"{next(iter(problems_by_n))} each"
    else:
        shown = [f"{n} for {counted(problems, 'problem')}" for n, problems in problems_by_n.items()]
        each = f"n differs: {', '.join(shown[:_MOST_SIZES])}{', ...' if len(shown) > _MOST_SIZES else ''}"
    scored = samples - unscored
    verdicts = f"{correct:,} of {scored:,} correct" if scored else "no verdicts"
    verdicts += f", {unscored:,} unscored" if unscored and scored else ""
    return f"{counted(samples, 'sample')} of {counted(sum(problems_by_n.values()), 'problem')} ({each}), {verdicts}"
