"""What a comparison is about: fixed models, paired seeds, clusters, a primary endpoint; and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from forkwise.errors import InputError
from forkwise.passk import Arm, compare, load_arm, make_arm, pass_at_k
from forkwise.passk.arguments import parse_primary
from forkwise.report.passk import details, overview
from forkwise.report.passk_conclusion import conclusion, gate
from forkwise.report.passk_notes import sentences
from forkwise.report.table import Table
from forkwise.samples import write_shard

N = 16


def arm(name: str, counts: dict[str, list[int]], **more: object) -> Arm:
    """Runs by name, with the number of correct samples of each problem."""
    problem, correct, run = [], [], []
    for of_run, c in counts.items():
        for q, right in enumerate(c):
            problem += [f"p{q:03d}"] * N
            correct += [i < right for i in range(N)]
            run += [of_run] * N
    return make_arm(name, problem, correct, run=run, **more)  # type: ignore[arg-type]


def seeds(name: str, runs: int, gain: float = 0.0, spread: float = 0.15, problems: int = 60, shared: int = 9) -> Arm:
    """Runs whose skill differs; those of equal number share their luck, as seeds do."""
    rng = np.random.default_rng(shared)
    skill, luck = rng.beta(1, 1.5, problems), rng.normal(0, spread, 40)
    own = np.random.default_rng([*name.encode()])
    rate = np.clip(skill[None] + luck[:runs, None] + gain + own.normal(0, 0.02, (runs, problems)), 0, 1)
    return arm(name, {f"{name}-seed{s}": own.binomial(N, rate[s]).tolist() for s in range(runs)})


# -------------------------------------------------------------------------------------------------- runs that vary


def test_three_against_three_runs_can_show_a_difference() -> None:
    result = compare(seeds("a", 3, spread=0.01), seeds("b", 3, gain=0.2, spread=0.01), ks=[1, 4])
    d = result.differences[0]
    assert (d.runs, d.trained) == ((3, 3), (True, True))
    assert d.adjusted_p[0] < 0.01
    assert "for other training runs too" in conclusion(result.arms, result)
    assert "(3 per arm)" in sentences(result.notes)[-1]


def test_runs_that_differ_make_the_interval_wider_and_the_claim_harder() -> None:
    a, b = seeds("a", 3, shared=1), seeds("b", 3, gain=0.08, shared=2)
    trained = compare(a, b, ks=[1, 4]).differences[0]
    fixed = compare(a, b, ks=[1, 4], fixed=["a", "b"])
    models = fixed.differences[0]
    assert models.trained == (False, False)
    assert (trained.interval.high - trained.interval.low > 2 * (models.interval.high - models.interval.low)).all()
    assert models.adjusted_p[0] < 0.05 < trained.adjusted_p[0]
    assert "All arms are fixed" in sentences(fixed.notes)[-1]
    assert "training runs" not in conclusion(fixed.arms, fixed)


def test_a_fixed_base_keeps_the_variance_of_the_other_arms_runs() -> None:
    base = arm("base", {"base": np.random.default_rng(0).binomial(N, 0.2, 60).tolist()})
    runs = seeds("b", 5)
    d = compare(base, runs, ks=[1], fixed=["base"]).differences[0]
    assert d.trained == (False, True)
    by_run = runs.curves([1])[..., 0].mean(axis=1)
    # Means of runs say all about their spread; problems can only add to it.
    assert (d.interval.high - d.interval.low)[0] > 2 * stats.sem(by_run) * 1.96
    result = compare(base, seeds("b", 5, gain=0.3, spread=0.02), ks=[1], fixed=["base"])
    assert "for other training runs of b too" in conclusion(result.arms, result)
    assert any("very models of base" in note for note in sentences(result.notes))


def test_too_few_runs_are_refused_unless_the_arm_is_fixed() -> None:
    one, two, three = (seeds(name, runs) for name, runs in (("a", 1), ("b", 2), ("c", 3)))
    with pytest.raises(InputError, match=r"'a' has 1 run, .* in 3 at least: add runs, or .* \(--fixed a\)"):
        compare(one, three)
    with pytest.raises(InputError, match="'b' has 2 runs"):
        compare(three, two)
    with pytest.raises(InputError, match="'b' has 2 runs"):
        compare(one, two, fixed=["a"])
    with pytest.raises(InputError, match="no arm 'd' to be fixed"):
        compare(three, two, fixed=["d"])
    assert compare(two, one, fixed=["a", "b"], ks=[1]).differences[0].trained == (False, False)
    assert compare(one, seeds("z", 1), ks=[1]).differences[0].trained == (False, False)


# -------------------------------------------------------------------------------------------------------- paired seeds


def test_paired_seeds_are_students_t_of_the_differences_of_seeds() -> None:
    # Runs alone vary: every problem is as hard as any other, on so many that none can differ unseen.
    counts = {"a": [4, 6, 3, 9, 5], "b": [7, 8, 6, 11, 7]}
    arms = [arm(name, {f"{name}-{10 - i}": [c] * 900 for i, c in enumerate(of)}) for name, of in counts.items()]
    # Names sort as text: a-10, a-6, a-7, a-8, a-9. Pairs are by number all the same.
    d = compare(*arms, ks=[1], paired_seeds=True).differences[0]
    gains = (np.array(counts["b"]) - np.array(counts["a"])) / N
    assert d.p[0] == pytest.approx(stats.ttest_1samp(gains, 0).pvalue)
    assert compare(*arms, ks=[1]).differences[0].p[0] > 5 * d.p[0]


def test_seeds_that_share_their_luck_give_narrower_intervals_when_paired() -> None:
    a, b = seeds("a", 6), seeds("b", 6, gain=0.05)
    apart, paired = (compare(a, b, ks=[1], paired_seeds=p).differences[0].interval for p in (False, True))
    assert (paired.high - paired.low)[0] < (apart.high - apart.low)[0] / 2
    np.testing.assert_allclose(paired.mean, apart.mean)


def test_seeds_that_do_not_pair_are_refused() -> None:
    a, b = seeds("a", 6), seeds("b", 5)
    with pytest.raises(InputError, match="'a' has the seeds 0, 1, 2, 3, 4, 5 and 'b' 0, 1, 2, 3, 4: only runs of the"):
        compare(a, b, paired_seeds=True)
    with pytest.raises(InputError, match="'x' is a fixed model and shares no seeds"):
        compare(a, seeds("x", 4), paired_seeds=True, fixed=["x"])
    with pytest.raises(InputError, match="every arm has one run"):
        compare(seeds("a", 1), seeds("b", 1), paired_seeds=True)
    with pytest.raises(InputError, match="'a' has 4 runs, and pairs of seeds take at least 5"):
        compare(seeds("a", 4), seeds("b", 4), paired_seeds=True)
    unnamed = arm("c", {run: [1, 2, 3] for run in ("red", "green", "blue", "white", "black")})
    with pytest.raises(InputError, match="do not end in their seeds"):
        compare(unnamed, arm("d", {f"s{i}": [1, 2, 3] for i in range(5)}), paired_seeds=True)


# ------------------------------------------------------------------------------------------------------------ clusters


def clustered(name: str, gain_of_topic: list[int], per_topic: int = 6) -> Arm:
    counts = [4 + gain for gain in gain_of_topic for _ in range(per_topic)]
    topics = [f"topic {t}" for t in range(len(gain_of_topic)) for _ in range(per_topic)]
    return arm(name, {name: counts}, cluster=[topic for topic in topics for _ in range(N)])


def test_clusters_are_what_varies() -> None:
    gains = [5, -2, 6, 1, 7]
    d = compare(clustered("a", [0] * 5), clustered("b", gains), ks=[1]).differences[0]
    peer = stats.ttest_1samp(np.array(gains) / N, 0)
    assert d.p[0] == pytest.approx(peer.pvalue)
    bare = [make_arm(x.name, x.problem_N, x.correct_N) for x in (clustered("a", [0] * 5), clustered("b", gains))]
    assert compare(*bare, ks=[1]).differences[0].p[0] < peer.pvalue / 10


def test_what_is_said_of_clusters() -> None:
    result = compare(clustered("a", [0] * 5), clustered("b", [5, -2, 6, 1, 7]), ks=[1])
    assert any("in 5 clusters (0 of one problem)" in note for note in sentences(result.notes))
    each = compare(clustered("a", [0] * 5, 1), clustered("b", [5, -2, 6, 1, 7], 1), ks=[1])
    assert any("Every cluster holds one problem" in note for note in sentences(each.notes))


@pytest.mark.parametrize(("topics", "equivalent"), [(30, False), (71, False), (72, True)])
def test_clusters_are_what_must_be_many_for_arms_to_be_equivalent(topics: int, equivalent: bool) -> None:
    """A share of .05 of the topics that differs wholly goes unseen with a chance of .95^topics, .0249 for 72."""
    gains = [1 if topic % 2 else -1 for topic in range(topics)]
    arms = (clustered("a", [0] * topics, 8), clustered("b", gains, 8))
    result = compare(*arms, ks=[1], primary=1, margin=0.05, resamples=100)
    primary = result.differences[0].primary
    assert primary is not None
    assert max(abs(primary.interval.low), abs(primary.interval.high)) < 0.05
    assert (primary.equivalent, result.not_worse(0.05)) == (equivalent, equivalent)
    assert len(arms[0].problems) > 72
    few = f"{8 * topics} problems, no more than {topics} that weigh the same and stand for themselves, are too few"
    assert (few in gate(result, 0.05)) is not equivalent


def test_clusters_that_cannot_be_are_refused() -> None:
    with pytest.raises(InputError, match="All problems of 'a' are in one cluster, 'topic 0'"):
        compare(clustered("a", [0]), clustered("b", [3]))
    with pytest.raises(InputError, match="different clusters"):
        compare(clustered("a", [0, 0]), clustered("b", [1, 2], per_topic=4), intersect=True)
    with pytest.raises(InputError, match="Problem 'p' is in two clusters, 'x' and 'y'"):
        make_arm("a", ["p", "p", "q"], [1, 0, 1], cluster=["x", "y", "x"])
    with pytest.raises(InputError, match="Problem 'q' is in no cluster while others are"):
        make_arm("a", ["p", "p", "q"], [1, 0, 1], cluster=["x", None, None])


def test_clusters_come_from_the_samples_table(tmp_path: Path) -> None:
    records = [
        {"run": "a", "model": "m", "problem_id": f"p{q}", "sample_id": i, "correct": i > 0, "cluster": f"t{q % 2}"}
        for q in range(4)
        for i in range(2)
    ]
    write_shard(tmp_path / "s", "0", records)
    loaded = load_arm(tmp_path / "s")
    assert loaded.clusters == ("t0", "t1", "t0", "t1")
    assert loaded.keep(["p1", "p2"]).clusters == ("t1", "t0")


def test_a_fixed_arm_is_called_by_its_name_or_by_its_table(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for name, runs in (("base", ["base-seed0"]), ("tuned", ["t-seed0", "t-seed1", "t-seed2"])):
        for run in runs:
            rows = [{"problem_id": f"p{q}", "correct": rng.integers(0, 2, 4).tolist()} for q in range(12)]
            (tmp_path / name).mkdir(exist_ok=True)
            (tmp_path / name / f"{run}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    base, tuned = (load_arm(tmp_path / name) for name in ("base", "tuned"))
    assert base.name == "base-seed0"
    for name in ("base", "base-seed0", str(tmp_path / "base")):
        assert compare(base, tuned, ks=[1], fixed=[name]).differences[0].trained == (False, True)
    with pytest.raises(InputError, match="There is no arm 'bse' to be fixed: there are base-seed0, tuned"):
        compare(base, tuned, ks=[1], fixed=["bse"])


# ---------------------------------------------------------------------------------------------------- primary endpoint


def test_a_primary_k_is_tested_alone() -> None:
    a, b = seeds("a", 5), seeds("b", 5, gain=0.05, shared=9)
    result = compare(a, b, primary=4, resamples=500)
    d = result.differences[0]
    assert d.primary is not None
    i = d.ks.index(4)
    assert d.primary.p == pytest.approx(d.p[i])  # one number, one arm: nothing to adjust for
    assert d.primary.p < d.adjusted_p[i]
    assert float(d.primary.interval.low) == pytest.approx(d.interval.low[i])
    said = conclusion(result.arms, result)
    assert said.startswith("On 60 problems, at the primary endpoint (Pass@4), the only one that is tested, b against a")
    captions = [block.caption for block in details([], result) if isinstance(block, Table)]
    assert any("exploratory, not the primary endpoint" in caption for caption in captions)
    (row,) = [row for row in result.rows() if row["metric"] == "primary: pass@k"]
    assert (row["k"], row["adjusted_p"]) == (4, d.primary.p)
    assert overview(result.arms, result)


def test_the_curve_is_the_mean_over_powers_of_two() -> None:
    counts = {"a": [1, 5, 9, 0, 16], "b": [2, 8, 7, 1, 16]}
    arms = [arm(name, {name: c}) for name, c in counts.items()]
    d = compare(*arms, primary="curve", resamples=100).differences[0]
    mean = {name: pass_at_k(N, c, [1, 2, 4, 8, 16]).mean(axis=1) for name, c in counts.items()}
    assert d.primary is not None
    assert (d.primary.metric, d.primary.k) == ("curve", 16)
    assert float(d.primary.interval.mean) == pytest.approx((mean["b"] - mean["a"]).mean())
    few = compare(*arms, ks=[1, 4], primary="curve", resamples=100)  # what is shown changes nothing
    assert few.differences[0].primary == d.primary
    assert few.differences[0].others["curve"].ks == [16]
    said = conclusion([], few)
    assert "at the primary endpoint (the mean of Pass@K over K = 1, 2, 4, ..., 16), the only one" in said


def test_a_primary_endpoint_is_adjusted_for_the_arms() -> None:
    arms = [seeds(name, 4, gain) for name, gain in (("a", 0), ("b", 0.03), ("c", 0.02))]
    alone, both = (compare(*arms[:n], ks=[1], primary=1).differences[0] for n in (2, 3))
    assert alone.primary is not None
    assert both.primary is not None
    assert alone.primary.p < both.primary.p <= 2 * alone.primary.p + 0.02


def test_primary_endpoints_on_the_command_line() -> None:
    assert [parse_primary(text) for text in (None, "16", "curve")] == [None, 16, "curve"]
    with pytest.raises(InputError, match="--primary takes one K, such as 16, or curve, not '1,2'"):
        parse_primary("1,2")
    with pytest.raises(InputError, match="Pass@64 needs at least 64"):
        compare(seeds("a", 3), seeds("b", 3), primary=64)
