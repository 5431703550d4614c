"""Certified sets of K: by hand, and against the outputs of passk-inference 0.3.1 on the same counts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from forkwise.passk import Arm, Interval, compare, make_arm
from forkwise.passk.certified import certify
from forkwise.report.passk import details

PEER = json.loads((Path(__file__).parent / "passk_inference_0.3.1.json").read_text())
CASES = [pytest.param(case, id=case["name"]) for case in PEER["cases"]]


def band(low: list[float], high: list[float]) -> Interval:
    return Interval((np.array(low) + high) / 2, np.array(low), np.array(high), 0.95)


def test_by_hand() -> None:
    certified = certify([1, 2, 3, 4, 5], band([0.1, 0.02, -0.1, -0.2, -0.3], [0.3, 0.2, 0.1, -0.01, -0.1]))
    assert (certified.gains, certified.losses, certified.first_loss) == ([1, 2], [4, 5], (3, 4))
    open_end = certify([1, 2, 3], band([0.1, -0.1, -0.1], [0.2, 0.1, 0.1]))
    assert (open_end.gains, open_end.losses, open_end.first_loss) == ([1], [], (2, None))
    assert certify([1, 2], band([0.1, 0.1], [0.2, 0.2])).first_loss == (3, None)
    # A gain after a loss is not part of the lead, and of K that were left out nothing is known.
    assert certify([1, 2, 3], band([-0.2, 0.1, -0.2], [-0.1, 0.2, -0.1])).first_loss == (1, 1)
    assert certify([1, 2, 4], band([0.1, 0.1, -0.2], [0.2, 0.2, -0.1])).first_loss is None


@pytest.mark.parametrize("case", CASES)
def test_a_band_is_read_as_the_peer_reads_it(case: dict[str, Any]) -> None:
    certified = certify(case["ks"], band(case["lower"], case["upper"]))
    assert certified.gains == case["certified_positive_budgets"]
    assert certified.losses == case["certified_negative_budgets"]
    assert (certified.first_loss and list(certified.first_loss)) == case["first_loss_interval"]


def arm(name: str, counts: list[int], n: int) -> Arm:
    problem = [f"p{q}" for q in range(len(counts)) for _ in range(n)]
    return make_arm(name, problem, [i < c for c in counts for i in range(n)])


@pytest.mark.parametrize("case", CASES)
def test_the_band_is_the_peers_but_for_students_quantile(case: dict[str, Any]) -> None:
    base, rl = arm("base", case["c_base"], case["n_base"]), arm("rl", case["c_rl"], case["n_rl"])
    result = compare(base, rl, ks=case["ks"])
    d = result.differences[0]
    np.testing.assert_allclose(d.band.mean, case["mean"], atol=1e-8)
    # 400 problems: Student exceeds the normal quantile by half a per cent; both critical values are drawn (+-1 %).
    ratio = (d.band.high - d.band.low) / (np.array(case["upper"]) - case["lower"])
    assert ((ratio > 0.98) & (ratio < 1.04)).all()
    mine, peer = set(d.certified.gains + d.certified.losses), set()
    peer |= set(case["certified_positive_budgets"]) | set(case["certified_negative_budgets"])
    assert len(mine ^ peer) <= 1  # a K at the very edge
    said = [block for block in details([], result) if isinstance(block, str) and "sure for all K at once" in block]
    assert len(said) == bool(mine)
    assert all(text.startswith("rl minus base, 95% sure for all K at once: better at K = ") for text in said)
