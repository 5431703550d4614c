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


def verified(done: Verification) -> str:
    """Says how many samples were verified, by whom, and what was left as it was."""
    paths = ", ".join(f"{count:,} {path}" for path, count in sorted(done.by.items(), key=lambda item: -item[1]))
    decided = done.correct + done.wrong + done.unscored
    parts = [f"{decided:,} of {counted(done.rows, 'sample')} verified in {duration(done.seconds)}"]
    if decided:
        parts.append(f"{done.correct:,} correct, {done.wrong:,} wrong, {done.unscored:,} unscored (by: {paths})")
    if done.turned_right or done.turned_wrong:
        parts.append(f"{done.turned_right:,} wrong ones are now correct, {done.turned_wrong:,} correct ones now wrong")
    if done.kept:
        parts.append(f"{done.kept:,} had a verdict already (--force verifies them again)")
    if done.unknown:
        parts.append(f"{done.unknown:,} are of problems without a gold answer and were left as they are")
    if done.empty:
        parts.append(f"{done.empty:,} have neither completion nor answer and were left as they are")
    return "; ".join(parts) + "."
