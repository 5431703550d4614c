"""What `forkwise sample` drew and `forkwise verify` decided, in a sentence each."""

from __future__ import annotations

from forkwise.progress import duration
from forkwise.report.formats import share
from forkwise.sampling.run import Summary
from forkwise.sampling.verify import Verification
from forkwise.terminal import counted


def drawn(summary: Summary) -> str:
    """Says what a samples folder holds, and what of it was drawn now."""
    parts = [f"{counted(summary.samples, 'sample')} of {counted(summary.problems, 'problem')}"]
    parts.append(
        f"{summary.drawn:,} of them drawn now, in {duration(summary.seconds)}" if summary.drawn else "all there"
    )
    if summary.correct is not None:
        parts.append(f"{share(summary.correct)} % correct")
    if summary.unscored:
        parts.append(f"{summary.unscored:,} without a verdict")
    if summary.mean_tokens is not None:
        cut = share(summary.at_the_limit)
        parts.append(f"{summary.mean_tokens:.0f} tokens on average, {cut} % cut at the limit")
    return "; ".join(parts) + "."


def verified(found: Verification) -> str:
    """Says how many samples were verified, by whom, and what was left as it was."""
    paths = ", ".join(f"{count:,} {path}" for path, count in sorted(found.by.items(), key=lambda item: -item[1]))
    decided = found.correct + found.wrong + found.unscored
    parts = [f"{decided:,} of {counted(found.rows, 'sample')} verified in {duration(found.seconds)}"]
    if decided:
        parts.append(f"{found.correct:,} correct, {found.wrong:,} wrong, {found.unscored:,} unscored (by: {paths})")
    if found.turned_right or found.turned_wrong:
        parts.append(
            f"{found.turned_right:,} wrong ones are now correct, {found.turned_wrong:,} correct ones now wrong"
        )
    if found.kept:
        parts.append(f"{found.kept:,} had a verdict already (--force verifies them again)")
    if found.unknown:
        parts.append(f"{found.unknown:,} are of problems without a gold answer and were left as they are")
    if found.empty:
        parts.append(f"{found.empty:,} have neither completion nor answer and were left as they are")
    return "; ".join(parts) + "."
