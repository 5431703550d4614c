"""Several benchmarks: what the mean over them varies with, how often better, places, and what cannot be compared."""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from forkwise.cli import app
from forkwise.errors import InputError
from forkwise.passk import Arm, compare, compare_over, make_arm
from forkwise.passk.benchmark_results import effective
from forkwise.passk.files import read_results
from forkwise.passk.ordering import probability_of_improvement
from forkwise.passk.two_way import Stratum, vary_over
from forkwise.samples import write_shard


def arm(name: str, counts: np.ndarray, n: int, runs: list[str] | None = None, prefix: str = "p") -> Arm:
    """An arm with `counts[s, q]` right samples of `n`."""
    counts = np.atleast_2d(counts)
    runs = runs or [f"{name}-seed{s}" for s in range(len(counts))]
    rows = [(f"{prefix}{q}", i < c, run) for run, row in zip(runs, counts, strict=True) for q, c in enumerate(row)
            for i in range(n)]  # fmt: skip
    problems, correct, of_run = zip(*rows, strict=True)
    return make_arm(name, problems, correct, run=of_run)


def test_the_mean_over_benchmarks_weighs_them_alike_and_varies_as_they_do() -> None:
    """Two fixed models, n = 2, K = 1: by hand from the differences of the problems."""
    aime = [arm("base", np.array([0, 1, 2]), 2), arm("rl", np.array([1, 1, 1]), 2)]
    math = [arm("base", np.array([0, 0, 1, 1, 2]), 2), arm("rl", np.array([1, 2, 1, 2, 2]), 2)]
    compared = compare_over({"aime": aime, "math": math}, ks=[1], margin=0.9).differences[0]
    with pytest.raises(InputError, match="The margin is 0: "):
        compare_over({"aime": aime, "math": math}, ks=[1], margin=0)
    on_aime, on_math = np.array([0.5, 0, -0.5]), np.array([0.5, 1, 0, 0.5, 0])
    assert compared.band.mean[0] == pytest.approx((on_aime.mean() + on_math.mean()) / 2)
    variances = [x.var(ddof=1) / x.size / 4 for x in (on_aime, on_math)]
    strata = [Stratum(x[None, :, None], np.zeros((1, x.size, 1))) for x in (on_aime, on_math)]
    varied = vary_over(strata)
    # Fewer than six problems differ on each: the standard error is raised, but never lowered.
    assert varied.se[0] >= np.sqrt(sum(variances))
    many = [np.tile(x, 4) for x in (on_aime, on_math)]
    exact = vary_over([Stratum(x[None, :, None], np.zeros((1, x.size, 1))) for x in many])
    variances = [x.var(ddof=1) / x.size / 4 for x in many]
    assert exact.se[0] == pytest.approx(np.sqrt(sum(variances)))
    satterthwaite = sum(variances) ** 2 / sum(v**2 / (x.size - 1) for v, x in zip(variances, many, strict=True))
    assert exact.freedom[0] == pytest.approx(satterthwaite)


def test_the_curve_goes_to_the_largest_k_that_all_benchmarks_have_whichever_are_shown() -> None:
    sets = {
        "aime": [arm("base", np.array([0, 1, 2, 3]), 8), arm("rl", np.array([1, 2, 2, 5]), 8)],
        "math": [arm("base", np.array([0, 1, 2]), 4), arm("rl", np.array([1, 3, 2]), 4)],
    }
    by_hand = []
    for arms in sets.values():
        base, rl = (x.curves([1, 2, 4]).mean() for x in arms)
        by_hand.append(rl - base)
    for ks in (None, [1], [1, 2]):
        compared = compare_over(sets, ks=ks, primary="curve", resamples=200)
        endpoint = compared.differences[0].primary
        assert endpoint is not None
        assert (endpoint.metric, endpoint.k) == ("curve", 4)
        assert float(endpoint.interval.mean) == pytest.approx(np.mean(by_hand))
        assert compared.benchmarks is not None
        assert {m.k for m in (*compared.benchmarks.improvements, *compared.benchmarks.standings)} == {4}


def test_the_variance_with_runs_is_that_of_studies_that_are_made_again() -> None:
    """1,000 studies: five runs per arm, the same runs on benchmarks of 20 and 60 problems, K of different noise."""
    rng = np.random.default_rng(0)
    means, variances, covered, runs = [], [], [], 5
    for _ in range(1000):
        effect = rng.normal(0, 0.05, (2, runs))
        strata = []
        for b, q in enumerate((20, 60)):
            x = effect[:, :, None] + rng.normal(0, 0.3, q) + rng.normal(0, 0.1, (2, runs, q))
            x[0] += rng.normal(0, 0.2, q)
            strata.append(Stratum(x[0][:, :, None], x[1][:, :, None], name=f"problems of {b}"))
        varied = vary_over(strata)
        means.append(varied.mean[0])
        variances.append(varied.se[0] ** 2)
        bounds = varied.pointwise(0.95)
        covered.append(bounds.low[0] <= 0 <= bounds.high[0])
    assert np.mean(variances) / np.var(means) == pytest.approx(1, abs=0.13)
    assert 0.935 < np.mean(covered) < 0.965


def test_probability_of_improvement_is_that_of_its_paper() -> None:
    rng = np.random.default_rng(1)
    x, y = rng.integers(0, 4, (5, 3)) / 4, rng.integers(0, 4, (4, 3)) / 4
    brute = np.mean([[(a > b) + (a == b) / 2 for a, b in product(x[:, t], y[:, t])] for t in range(3)])
    assert probability_of_improvement(list(x.T), list(y.T)) == pytest.approx(brute)
    metrics = pytest.importorskip("rliable.metrics")
    assert probability_of_improvement(list(x.T), list(y.T)) == pytest.approx(metrics.probability_of_improvement(x, y))


def study(shift: float, runs: int, seed: int = 0) -> dict[str, list[Arm]]:
    """Three arms on two benchmarks: `good` is better than `base` by the shift, `same` is not."""
    rng = np.random.default_rng(seed)
    benchmarks = {}
    for name, q in (("aime", 30), ("math", 60)):
        rate = rng.uniform(0.1, 0.6, q)
        counts = {a: rng.binomial(16, np.clip(rate + s, 0, 1), (runs, q))
                  for a, s in (("base", 0.0), ("good", shift), ("same", 0.0))}  # fmt: skip
        benchmarks[name] = [arm(a, c, 16, prefix=name) for a, c in counts.items()]
    return benchmarks


def test_a_clear_winner_is_first_and_the_rest_share_what_is_left() -> None:
    benchmarks = compare_over(study(0.3, 1), ks=[1, 16], resamples=2000).benchmarks
    assert benchmarks is not None
    places = {s.arm: (s.place, s.low, s.high) for s in benchmarks.standings if s.k == 1}
    assert places["good"] == (1, 1, 1)
    assert {places["base"][1:], places["same"][1:]} == {(2, 3)}
    assert {places["base"][0], places["same"][0]} == {2, 3}
    for s in benchmarks.standings:
        assert sum(s.shares) == pytest.approx(1)
    best = next(m for m in benchmarks.improvements if m.arm == "good" and m.k == 1)
    assert (best.value, best.low, best.high) == (1.0, 1.0, 1.0)


def test_claims_are_about_the_mean_and_each_benchmark_has_a_band_of_its_own() -> None:
    sets = study(0.1, 4)
    compared = compare_over(sets, ks=[1, 16], resamples=2000)
    assert compared.differences[0].adjusted_p[0] < 0.05
    assert compared.effective_problems == pytest.approx(effective([30, 60])) == pytest.approx(4 / (1 / 30 + 1 / 60))
    assert compared.benchmarks is not None
    alone = compare(*sets["math"], ks=[1, 16], resamples=2000).differences[0]
    on_math = next(o for o in compared.benchmarks.on if (o.benchmark, o.arm) == ("math", "good"))
    np.testing.assert_allclose(on_math.interval.low, alone.interval.low)
    assert (on_math.band.low <= alone.band.low + 1e-3).all()  # over more at once, so wider, but for the draws
    # The joint band belongs to the adjusted p, on each benchmark too.
    for o in compared.benchmarks.on:
        assert ((o.adjusted_p <= 0.05) == ((o.band.low > 0) | (o.band.high < 0))).all()


def test_runs_correspond_by_name_or_seed_and_not_by_the_order_of_their_names() -> None:
    """A run that is good on one benchmark is good on the other: pairing it with another would hide that runs differ."""
    rng = np.random.default_rng(3)
    rates = np.array([0.2, 0.35, 0.5, 0.65])
    counts = {b: rng.binomial(8, rates[:, None], (4, 40)) for b in ("aime", "math")}
    same = ["rl-seed0", "rl-seed1", "rl-seed2", "rl-seed3"]
    other = ["d-seed0", "c-seed1", "b-seed2", "a-seed3"]  # sorted, they come the other way round
    widths = []
    for names in (same, other):
        sets = {
            "aime": [arm("base", counts["aime"][0] * 0 + 3, 8), arm("rl", counts["aime"], 8, same)],
            "math": [arm("base", counts["math"][0] * 0 + 3, 8), arm("rl", counts["math"], 8, names)],
        }
        band = compare_over(sets, ks=[1], fixed=["base"]).differences[0].band
        widths.append(band.high[0] - band.low[0])
    assert widths[0] == pytest.approx(widths[1])
    sets["math"][1] = arm("rl", counts["math"], 8, ["u", "v", "w", "x"])
    with pytest.raises(InputError, match="do not correspond .*aime: rl-seed0.*same seed"):
        compare_over(sets, ks=[1], fixed=["base"])


def test_paired_seeds_and_the_primary_endpoint_hold_over_benchmarks() -> None:
    sets = study(0.1, 5)
    compared = compare_over(sets, primary="curve", paired_seeds=True, resamples=1000)
    endpoint = compared.differences[0].primary
    assert endpoint is not None
    assert endpoint.metric == "curve"
    ks = [1, 2, 4, 8, 16]
    by_hand = np.mean([a[1].curves(ks).mean() - a[0].curves(ks).mean() for a in sets.values()])
    assert float(endpoint.interval.mean) == pytest.approx(by_hand)
    assert compared.benchmarks is not None
    assert [m.k for m in compared.benchmarks.improvements] == [16, 16]
    assert any(note.topic == "covered" and note.facts["paired"] for note in compared.notes)


def test_what_cannot_be_compared_is_refused() -> None:
    sets = study(0.1, 1)
    with pytest.raises(InputError, match="at least two benchmarks"):
        compare_over({"aime": sets["aime"]})
    with pytest.raises(InputError, match="'aime' has the arms base, good, same and 'math' has base, same"):
        compare_over({"aime": sets["aime"], "math": [sets["math"][0], sets["math"][2]]})
    with pytest.raises(InputError, match="On math: 'base' has 1 run, and"):
        compare_over({"aime": sets["aime"], "math": [sets["math"][0], *study(0.1, 2)["math"][1:]]})


def tables(folder: Path) -> list[str]:
    """Arguments of the command: two arms with tables of two benchmarks."""
    words = []
    for name, more in (("base", 0), ("rl", 2)):
        for benchmark in ("aime", "math"):
            rows = [
                {
                    "run": name, "model": "m", "problem_id": f"{benchmark}{q}", "sample_id": i, "prompt": "?",
                    "completion": "so", "answer": None, "correct": i < q % 4 + more, "verdict_by": "test",
                    "n_tokens": 10, "finish_reason": "stop", "seed": 0,
                    "sampling": {"temperature": 1.0, "top_p": 1.0, "max_tokens": 64},
                }
                for q in range(8)
                for i in range(8)
            ]  # fmt: skip
            write_shard(folder / f"{name}-{benchmark}", "0", rows)
        words.append(f"{name}=aime:{folder}/{name}-aime,math:{folder}/{name}-math")
    return words


def run(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


def test_the_command_names_benchmarks_and_writes_them(tmp_path: Path) -> None:
    files = [tmp_path / name for name in ("c.json", "c.csv", "c.png")]
    said = run("compare", *tables(tmp_path), "--json", files[0], "--csv", files[1], "--figure", files[2]).output
    said = " ".join(said.split())
    assert "In the mean over 2 benchmarks (16 problems), rl against base is better" in said
    assert "Minus base on each benchmark" in said
    stored = read_results(files[0]).comparison
    assert stored is not None
    assert stored.benchmarks is not None
    assert stored.benchmarks.names == ["aime", "math"]
    assert {"pass@k, aime", "pass@k, math", "place, pass@k"} <= {row["metric"] for row in stored.rows()}
    assert len(json.loads(files[0].read_text())["inputs"]) == 4
    assert files[1].stat().st_size > 1000
    assert files[2].stat().st_size > 1000


def test_the_command_refuses_what_is_half_named(tmp_path: Path) -> None:
    base, rl = tables(tmp_path)
    half = run("compare", base, f"rl={tmp_path}/rl-aime").exception
    assert isinstance(half, InputError)
    assert "names no benchmarks while another arm does" in str(half)
    assert "--caps is for one benchmark at a time" in str(run("compare", base, rl, "--caps", "10").exception)
