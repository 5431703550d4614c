"""Comparison of arms: the pieces against independent references, and the conclusions on data made to have one."""

from __future__ import annotations

from math import log2

import numpy as np
import pytest

from forkwise.errors import InputError
from forkwise.passk import Arm, Comparison, compare, make_arm, pass_at_k
from forkwise.passk.crossing import find_crossing
from forkwise.report.passk_conclusion import conclusion
from forkwise.report.passk_notes import sentences


def arm(name: str, rates: np.ndarray, n: int = 16, *, runs: int = 1, seed: int = 0, length: int | None = None) -> Arm:
    """n samples per problem and run at the given success rates, `(Q,)` or, one row per run, `(S, Q)`."""
    rng = np.random.default_rng([seed, *name.encode()])
    rates_SQ = np.broadcast_to(rates, (runs, np.shape(rates)[-1]))
    problem, correct, run = [], [], []
    for s in range(runs):
        for q, rate in enumerate(rates_SQ[s]):
            problem += [f"p{q:04d}"] * n
            correct += list(rng.random(n) < rate)
            run += [f"{name}{s}"] * n
    lengths = None if length is None else np.full(len(problem), float(length))
    return make_arm(name, problem, correct, run=run, length=lengths)


def exact(name: str, c: list[int], n: int, **more: object) -> Arm:
    problem = [f"p{q}" for q in range(len(c)) for _ in range(n)]
    correct = [i < solved for solved in c for i in range(n)]
    return make_arm(name, problem, correct, **more)  # type: ignore[arg-type]


def sentence(result: Comparison) -> str:
    return conclusion(result.arms, result)


RATES = np.random.default_rng(4).beta(0.5, 1.5, size=120)


# ------------------------------------------------------------------------------------------------- numbers by hand


def test_the_difference_is_that_of_the_paired_means() -> None:
    a, b = exact("a", [1, 0, 3, 2], 4), exact("b", [2, 0, 3, 4], 4)
    d = compare(a, b, ks=[1, 2, 4]).differences[0]
    expected = (pass_at_k(4, [2, 0, 3, 4], [1, 2, 4]) - pass_at_k(4, [1, 0, 3, 2], [1, 2, 4])).mean(axis=0)
    np.testing.assert_allclose(d.interval.mean, expected)
    assert (d.arm, d.reference) == ("b", "a")


def test_pairing_is_by_id_and_not_by_order() -> None:
    forwards = make_arm("a", ["x", "x", "y", "y"], [1, 1, 0, 0])
    backwards = make_arm("b", ["y", "y", "x", "x"], [0, 0, 1, 1])
    d = compare(forwards, backwards).differences[0]
    assert d.interval.mean.tolist() == [0, 0]
    assert d.p.tolist() == [1, 1]


# ------------------------------------------------------------------------------------------------------- crossing


def test_crossing_by_hand() -> None:
    # +0.1 at K = 1, -0.1 at K = 4: zero half way in log K, at 2. The draws cross at 2, never (both signs), backwards.
    draws = np.array([[0.1, -0.1], [0.1, 0.1], [-0.1, -0.1], [-0.1, 0.1]])
    got = find_crossing([1, 4], [0.1, -0.1], draws)
    assert got.k == pytest.approx(2)
    assert (got.low, got.high) == (0.0, None)
    assert (got.no_crossing, got.reversed) == (0.5, 0.25)


def test_of_several_changes_of_sign_the_last_counts() -> None:
    # + - + - at K = 1, 2, 4, 8: the last change lies half way between 4 and 8 in log K
    got = find_crossing([1, 2, 4, 8], [0.1, -0.1, 0.1, -0.1], np.array([[0.1, -0.1, 0.1, -0.1]]))
    assert got.k == pytest.approx(2**2.5)


def test_no_crossing() -> None:
    got = find_crossing([1, 2, 4], [0.1, 0.0, 0.1], np.array([[0.1, 0.0, 0.2], [0.1, -0.1, -0.1]]))
    assert got.k is None
    assert got.no_crossing == 0.5
    flat = find_crossing([1, 2], [0.0, 0.0], np.zeros((3, 2)))
    assert (flat.k, flat.no_crossing) == (None, 1.0)


def test_a_sure_crossing_has_a_finite_interval() -> None:
    ks = [1, 2, 4, 8, 16]
    slope = np.log2(ks) - 2.0  # crosses at K = 4
    draws = -(slope + np.random.default_rng(0).normal(0, 0.2, size=(4000, 1)))
    got = find_crossing(ks, -slope, draws)
    assert got.k == pytest.approx(4)
    # zero of log2 K - 2 + e is at 2 - e, e ~ N(0, 0.2)
    assert log2(got.low) == pytest.approx(2 - 1.96 * 0.2, abs=0.03)
    assert log2(got.high) == pytest.approx(2 + 1.96 * 0.2, abs=0.03)
    assert got.no_crossing == 0.0


# ------------------------------------------------------------------------------------------------------ conclusions


def test_a_real_difference_is_found_and_named() -> None:
    result = compare(arm("base", RATES), arm("better", np.clip(RATES + 0.15, 0, 1)))
    d = result.differences[0]
    assert d.adjusted_p[0] < 0.001
    assert d.band.low[0] > 0
    assert sentence(result).startswith("On 120 problems, better against base is better at K = 1–")
    assert "crossing" not in sentence(result)


def test_equal_arms_are_called_equivalent_when_the_band_is_narrow() -> None:
    rates = np.tile(RATES, 8)
    result = compare(arm("a", rates, n=64), arm("b", rates, n=64), ks=[1, 8], margin=0.04)
    assert result.differences[0].equivalent_up_to == 8
    assert "equivalent within ±0.04 at every K" in sentence(result)


def test_equal_arms_on_few_problems_are_not_called_equivalent() -> None:
    result = compare(arm("a", RATES[:20]), arm("b", RATES[:20]))
    assert "too wide to call them equivalent within ±0.05" in sentence(result)


def test_a_proved_crossing() -> None:
    # The reference solves half of the problems for sure and no other; the arm solves all of them once in six.
    sure = np.where(np.arange(400) < 200, 1.0, 0.0)
    result = compare(arm("narrow", sure, n=32), arm("broad", np.full(400, 1 / 6), n=32))
    d = result.differences[0]
    # 1 - (5/6)^K = 1/2 at K = 3.8
    assert d.crossing.k == pytest.approx(3.8, abs=0.3)
    assert 3 < d.crossing.low < d.crossing.high < 5
    assert "with a proved lead on either side" in sentence(result)
    assert "better at K = 5–32" in sentence(result)
    assert "worse at K = 1–3" in sentence(result)


def test_a_visible_crossing_on_few_problems_is_no_evidence() -> None:
    a, b = exact("a", [8, 0, 0, 0, 1, 1], 16), exact("b", [4, 1, 1, 0, 1, 1], 16)
    said = sentence(compare(a, b))
    assert "is not proved" in said
    assert said.count(". ") == 0


def test_many_arms_widen_the_bands_and_raise_p() -> None:
    base, other = arm("base", RATES), arm("x", np.clip(RATES + 0.05, 0, 1))
    alone = compare(base, other, ks=[1, 4]).differences[0]
    crowd = compare(base, other, *(arm(f"y{i}", RATES) for i in range(3)), ks=[1, 4])
    with_others = crowd.differences[0]
    assert (with_others.band.high > alone.band.high).all()
    assert (with_others.adjusted_p >= alone.adjusted_p).all()
    # The arms share no more than the reference, so a p of one comparison is at most multiplied by their number.
    assert (with_others.adjusted_p <= 4 * alone.adjusted_p + 0.02).all()
    np.testing.assert_allclose(with_others.interval.low, alone.interval.low)
    assert "none of the others (y0, y1, y2) shows a difference from base" in sentence(crowd)


def test_of_many_arms_those_without_a_difference_are_said_together() -> None:
    others = [arm(name, RATES) for name in ("b", "c", "d")]
    better = arm("e", np.clip(RATES + 0.25, 0, 1))
    quiet = compare(arm("a", RATES), *others, arm("f", RATES), ks=[1, 8], resamples=500)
    largest = max((abs(d.interval.mean[i]), d.arm, d.ks[i]) for d in quiet.differences for i in range(2))
    assert sentence(quiet).startswith("On 120 problems, none of 4 arms shows a difference from a that can be told from")
    assert f"at K = {largest[2]}, {largest[1]})" in sentence(quiet)
    said = sentence(compare(arm("a", RATES), *others, better, ks=[1, 8], resamples=500))
    assert "e against a is better at K = 1–8" in said
    assert "none of the others (b, c, d) shows a difference" in said
    same = compare(*(exact(name, [2, 1] * 30, 4) for name in "abcde"), ks=[1, 4], resamples=500, margin=0.3)
    assert sentence(same).endswith("and all are equivalent to it within ±0.3 at every K.")


def test_length_control_stands_beside_the_raw_number() -> None:
    # Same answers, but the arm writes twice as much: equal raw and capped at 20, worse under a cap or a budget of 10.
    result = compare(
        arm("a", RATES, length=10), arm("a2", RATES, length=20), ks=[1, 4], caps=[10, 20], budgets=[10, 40]
    )
    rows = {(row.control, row.at, row.k): row for row in result.differences[0].length}
    assert rows["cap", 10, 1].value == 0
    assert rows["cap", 10, 1].difference < -0.15
    assert abs(rows["cap", 20, 1].difference) < 0.05
    assert rows["budget", 10, None].value == 0
    # 40 buys 4 samples of the one and 2 of the other
    d = result.arms[0].pass_at_k.mean[1]
    assert rows["budget", 40, None].reference_value == pytest.approx(d)
    assert rows["budget", 40, None].difference < -0.05
    assert not any(row.control == "matched" for row in result.differences[0].length)
    assert any("Length matching is refused" in note for note in sentences(result.notes))


def test_matching_on_a_minority_of_problems_is_not_shown() -> None:
    problem = [f"p{q}" for q in range(6) for _ in range(4)]
    reference = make_arm("a", problem, [True, False] * 12, length=np.full(24, 10))
    for alike, shown in ((3, True), (2, False)):  # problems, of six, in which the arm writes 10 too
        ours = make_arm("b", problem, [True, False] * 12, length=np.where(np.arange(24) < 4 * alike, 10, 40))
        result = compare(reference, ours, ks=[1])
        assert any(row.control == "matched" for row in result.differences[0].length) is shown
        assert any("Length matching" in note for note in sentences(result.notes))


def test_no_lengths_no_length_control_and_it_is_said() -> None:
    result = compare(arm("a", RATES[:10]), arm("b", RATES[:10], length=3), ks=[1])
    assert result.differences[0].length == []
    assert any("nothing here is controlled for length" in note for note in sentences(result.notes))


def test_rows_hold_every_number_and_pandas_takes_them() -> None:
    pandas = pytest.importorskip("pandas", reason="to_pandas needs pandas")
    result = compare(arm("a", RATES, length=5), arm("b", RATES, length=5), ks=[1, 2])
    frame = result.to_pandas()
    assert isinstance(frame, pandas.DataFrame)
    mine = frame[(frame.metric == "pass@k") & (frame.reference == "a")]
    np.testing.assert_allclose(mine.value, result.differences[0].interval.mean)
    np.testing.assert_allclose(mine.band_high, result.differences[0].band.high)


# ----------------------------------------------------------------------------------------------------------- refusals


def test_different_problems_are_refused_or_intersected_aloud() -> None:
    a, b = exact("a", [1, 1, 0], 2), make_arm("b", ["p0", "p0", "p2", "p2", "p9", "p9"], [1, 0, 1, 0, 1, 0])
    with pytest.raises(InputError, match="--intersect"):
        compare(a, b)
    result = compare(a, b, intersect=True)
    assert result.problems == 2
    assert "2 dropped, such as 'p1'" in sentences(result.notes)[0]
    with pytest.raises(InputError, match="share no problem"):
        compare(a, make_arm("b", ["z", "z"], [1, 0]), intersect=True)


def test_other_refusals() -> None:
    a, b = exact("a", [1, 1, 0], 2), exact("b", [1, 2, 0], 2)
    with pytest.raises(InputError, match="at least two arms"):
        compare(a)
    with pytest.raises(InputError, match="same name"):
        compare(a, a)
    with pytest.raises(InputError, match="Pass@3 needs at least 3"):
        compare(a, b, ks=[3])
    with pytest.raises(InputError, match="margin"):
        compare(a, b, margin=0)
    with pytest.raises(InputError, match="margin"):
        compare(a, b, margin=float("nan"))
    for wide in (1.0, float("inf")):  # no difference of Pass@K is larger
        with pytest.raises(InputError, match=f"The margin is {wide}: .* above 0 and below 1"):
            compare(a, b, margin=wide)
        with pytest.raises(InputError, match=f"gate's margin is {wide}"):
            compare(a, b).not_worse(wide)
    with pytest.raises(InputError, match="level"):
        compare(a, b, level=95)
    with pytest.raises(InputError, match="at least two problems"):
        compare(exact("a", [1], 2), exact("b", [1], 2))


@pytest.mark.parametrize("c", [0, 4], ids=["all wrong", "all right"])
def test_arms_without_variation_are_compared_without_a_warning(c: int) -> None:
    with np.errstate(all="raise"):
        result = compare(exact("a", [c] * 5, 4), exact("b", [c] * 5, 4))
    d = result.differences[0]
    assert d.adjusted_p.tolist() == [1.0] * 4
    # Up to 1 - 0.025^(1/5) = 52 % of such problems could differ: no spread among five is no proof of equality.
    np.testing.assert_allclose(d.interval.low, -(1 - 0.025 ** (1 / 5)))
    assert (d.band.high >= d.interval.high).all()
    assert d.equivalent_up_to is None
    assert "too wide to call them equivalent" in sentence(result)


def test_different_numbers_of_samples_limit_k_aloud() -> None:
    result = compare(exact("a", [1, 1, 0], 2), exact("b", [1, 2, 0], 4))
    assert result.differences[0].ks == [1, 2]
    assert any("K goes up to 2" in note for note in sentences(result.notes))
