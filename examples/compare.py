"""Is the later checkpoint of an RL run better at Pass@K? The comparison of `forkwise compare`, in Python.

    python examples/compare.py

It needs no torch and takes a few seconds. The two files come from another tool: 50 answers to each of 40 problems.
"""

from __future__ import annotations

import json
from pathlib import Path

from forkwise.passk import Arm, compare, make_arm

DATA = Path(__file__).parent / "data"


def arm(name: str) -> Arm:
    """The samples of one checkpoint, from columns of one's own; `load_arm` reads a samples table instead."""
    problems = [json.loads(line) for line in (DATA / f"{name}.jsonl").read_text().splitlines()]
    return make_arm(
        name,
        problem_id=[problem["problem_id"] for problem in problems for _ in problem["correct"]],
        correct=[verdict for problem in problems for verdict in problem["correct"]],
    )


result = compare(arm("step400"), arm("step800"), ks=[1, 4, 16, 50])
[difference] = result.differences  # one per arm beside the reference

print(f"{difference.arm} minus {difference.reference}, on {result.problems} problems")
for i, k in enumerate(difference.ks):
    mean, low, high = difference.interval.mean[i], difference.band.low[i], difference.band.high[i]
    print(f"Pass@{k:<3} {mean:+.3f}  95 % band [{low:+.3f}, {high:+.3f}]  adjusted p {difference.adjusted_p[i]:.3f}")

if (difference.adjusted_p > 0.05).all():
    print("No difference that can be told from luck.")
