"""Statistics are declared once: evaluate, compare, rows and tables all follow the declaration."""

from __future__ import annotations

import numpy as np
import pytest

from forkwise.errors import InputError
from forkwise.passk import Arm, compare, evaluate, make_arm, metrics
from forkwise.passk.metrics import METRICS, Metric
from forkwise.report.passk import details
from forkwise.report.table import Table


def arm(name: str, answers: dict[str, str], right: str = "7", **more: object) -> Arm:
    """One sample per letter and problem."""
    problem = [p for p, letters in answers.items() for _ in letters]
    letters = [letter for letters in answers.values() for letter in letters]
    return make_arm(name, problem, [a == right for a in letters], answer=letters, **more)  # type: ignore[arg-type]


A = {"p": "7711", "q": "1117", "r": "1234"}
B = {"p": "7777", "q": "7711", "r": "1237"}


def test_other_statistics_are_paired_too() -> None:
    d = compare(arm("a", A), arm("b", B), resamples=100).differences[0]
    assert list(d.others) == ["mean@n", "curve", "maj@k"]
    # Rates: 2/4, 1/4, 0 against 4/4, 2/4, 1/4.
    np.testing.assert_allclose(d.others["mean@n"].interval.mean, [np.mean([0.5, 0.25, 0.25])])
    assert d.others["mean@n"].ks == [4]
    # Of all four votes: a has a tie (1/2), a loss, and four answers once, none of them right; b wins, ties, and has
    # its right answer among four with one vote each.
    maj = d.others["maj@k"]
    assert maj.ks == [1, 2, 4]
    np.testing.assert_allclose(maj.interval.mean[2], np.mean([1 - 0.5, 0.5 - 0, 0.25 - 0]))
    # Pass@1, 2, 4: (1/2, 5/6, 1), (1/4, 1/2, 1), 0 against 1, (1/2, 5/6, 1), (1/4, 1/2, 1).
    curve = d.others["curve"]
    assert curve.ks == [4]
    of_a, of_b = np.array([7 / 3, 7 / 4, 0]) / 3, np.array([3, 7 / 3, 7 / 4]) / 3
    np.testing.assert_allclose(curve.interval.mean, [(of_b - of_a).mean()])


def test_any_statistic_can_be_paired_by_name() -> None:
    d = compare(arm("a", A), arm("b", B), metrics=["pass^k", "pass@k"], resamples=100).differences[0]
    assert list(d.others) == ["pass^k"]  # Pass@K is the comparison itself
    # All of two right: a 1 of 6 pairs in p, none else; b all in p, 1 of 6 in q.
    np.testing.assert_allclose(d.others["pass^k"].interval.mean[1], np.mean([1 - 1 / 6, 1 / 6, 0]))
    assert compare(arm("a", A), arm("b", B), metrics=[], resamples=100).differences[0].others == {}
    with pytest.raises(InputError, match=r"no statistic 'pas\^k'.*Did you mean 'pass\^k'"):
        compare(arm("a", A), arm("b", B), metrics=["pas^k"])


def test_votes_are_not_paired_where_an_arm_has_no_answers() -> None:
    bare = make_arm("b", [p for p in B for _ in range(4)], [x == "7" for letters in B.values() for x in letters])
    assert list(compare(arm("a", A), bare, resamples=100).differences[0].others) == ["mean@n", "curve"]


def test_arms_with_different_numbers_of_samples_are_paired_at_their_common_k() -> None:
    longer = arm("b", {p: letters + letters for p, letters in B.items()})
    d = compare(arm("a", A), longer, resamples=100).differences[0]
    assert (d.others["maj@k"].ks, d.others["mean@n"].ks) == ([1, 2, 4], [4])
    np.testing.assert_allclose(d.others["mean@n"].interval.mean, [np.mean([0.5, 0.25, 0.25])])


def test_a_new_statistic_is_one_declaration(monkeypatch: pytest.MonkeyPatch) -> None:
    def failures(arm: Arm, ks: object, options: object) -> tuple[np.ndarray, None]:
        n_SQ, c_SQ = arm.counts()
        return ((n_SQ - c_SQ) / n_SQ)[..., None], None

    declared = Metric("fail@n", "fail@n", failures, "n", compared=True)
    for module in (metrics, __import__("forkwise.passk.evaluation", fromlist=["METRICS"])):
        monkeypatch.setattr(module, "METRICS", (*METRICS, declared))
    e = evaluate(arm("a", A), resamples=100)
    # 2/4, 3/4 and 4/4 fail.
    np.testing.assert_allclose(e.curves["fail@n"].interval.mean, [0.75])
    assert any(row["metric"] == "fail@n" and row["k"] == 4 for row in e.rows())
    result = compare(arm("a", A), arm("b", B), resamples=100)
    np.testing.assert_allclose(result.differences[0].others["fail@n"].interval.mean, [-np.mean([0.5, 0.25, 0.25])])
    (table,) = [t for t in details([], result) if isinstance(t, Table) and "other statistics" in t.caption]
    assert [row[0] for row in table.rows] == ["mean@4", "mean of Pass@1, 2, 4, ..., K", "maj@K", "fail@4"]
    assert "fail@n" in next(t for t in details([e]) if isinstance(t, Table)).header
