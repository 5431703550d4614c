"""What receipts made by hand say: counts, the registered comparison, looks, and what is not compared."""

from __future__ import annotations

import hashlib
import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from made_studies import CLUSTERS, content, receipt, study, write_all
from scipy import optimize, stats

from forkwise import cli
from forkwise.errors import InputError
from forkwise.passk import compare
from forkwise.passk.estimator import FloatArray
from forkwise.progress import Console
from forkwise.report.table import Table
from forkwise.report.terminal import print_blocks
from forkwise.study.analysis import progress, read_study_folder
from forkwise.study.contrasts import SeedContrast, contrast
from forkwise.study.looks import conditional_power, decide, look_at, look_file
from forkwise.study.receipts import arm_of, note_start, read_receipt, read_receipts, write_receipt
from forkwise.study.spec import BASE
from forkwise.study.spending import boundary
from forkwise.study.words import design, report

# Of 4 samples of each of 12 problems, per seed 0-5.
PLAIN = [c * 4 for c in [(0, 1, 2), (1, 1, 2), (0, 2, 2), (0, 1, 3), (1, 1, 1), (0, 1, 2)]]
BETTER = [c * 4 for c in [(2, 3, 4), (3, 3, 4), (2, 4, 4), (2, 3, 4), (3, 3, 3), (2, 3, 4)]]
ALIKE = [c * 4 for c in [(0, 1, 3), (1, 1, 2), (0, 2, 1), (0, 1, 3), (1, 1, 1), (0, 1, 2)]]


# ------------------------------------------------------------------------------------------------------------ receipts


def test_a_receipt_is_read_as_it_was_written(tmp_path: Path) -> None:
    plan = study()
    note_start(tmp_path, "shaped-seed1", "cpu")
    made = receipt(plan, "shaped", 1, (0, 1, 4), curves={"reward": [0.5]}, collapsed=None)
    write_receipt(tmp_path, made)
    assert read_receipt(tmp_path / "shaped-seed1.json") == made
    assert not (tmp_path / "shaped-seed1.started").exists()


def test_an_arm_of_receipts_has_the_counts() -> None:
    plan = study()
    names = ["b", "a", "c"]
    runs = [receipt(plan, "shaped", seed, c, problems=names) for seed, c in enumerate([(0, 1, 4), (2, 3, 1)])]
    arm = arm_of("shaped", runs)
    assert (arm.problems, arm.runs) == (("a", "b", "c"), ("shaped-seed0", "shaped-seed1"))
    n, c = arm.counts()
    assert n.tolist() == [[4, 4, 4], [4, 4, 4]]
    assert c.tolist() == [[1, 0, 4], [3, 2, 1]]
    # Pass@2 of c among 4 is 1 - C(4 - c, 2) / 6: c = 1 gives 1/2, c = 2 gives 5/6, c = 3 gives 1.
    np.testing.assert_allclose(arm.curves([2])[:, :, 0], [[0.5, 0, 1], [1, 5 / 6, 0.5]])


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"plan": "0" * 64}, "is the receipt of another plan"),
        ({"run": "shaped-seed5"}, "is the receipt of the run 'shaped-seed5'"),
        ({"problems": ["p0", "p1", "other"]}, "'grpo-seed0' and 'shaped-seed1' were sampled on different problems"),
        ({"n": [4, 4, 5]}, "were sampled on different problems"),
        ({"c": [5, 0, 0]}, "damaged .*counts do not fit together"),
        ({"c": [1, 0]}, "damaged .*counts do not fit together"),
        ({"schema": 2}, "schema 2, not 1"),
        ({"clusters": ["a", "a"]}, "damaged .*counts do not fit together"),
        ({"clusters": ["b", "a", "a"]}, "'grpo-seed0' and 'shaped-seed1' put the same problems into different"),
    ],
)
def test_receipts_that_do_not_belong_here(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    plan = study()
    write_receipt(tmp_path, receipt(plan, "GRPO", 0, (0, 1, 2), clusters=["a", "b", "b"]))
    write_receipt(tmp_path, receipt(plan, "shaped", 1, (0, 1, 2)))
    file = tmp_path / "shaped-seed1.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))
    with pytest.raises(InputError, match=said):
        read_receipts(tmp_path, plan.sha256(), plan.runs())


# ----------------------------------------------------------------------------------------------------------- inference


def test_a_contrast_is_two_way_over_paired_seeds_and_problems() -> None:
    plan = study()
    counts = np.random.default_rng(0).integers(0, 5, (2, 6, 12))
    tested, reference = (
        arm_of(name, [receipt(plan, name, seed, c.tolist()) for seed, c in enumerate(runs)])
        for name, runs in zip(("shaped", "GRPO"), counts, strict=True)
    )
    difference = contrast(tested, reference, 1, 4, 0.95)
    order = np.argsort([f"p{q}" for q in range(12)])
    d = ((counts[0] - counts[1]) / 4)[:, order]  # (6 seeds, 12 problems) at K = 1
    assert difference.mean == pytest.approx(d.mean())
    assert difference.seeds == 6
    # Cameron, Gelbach & Miller 2011: both one-way variances, less that of the cells, which both hold.
    problems, seeds = d.mean(axis=0).var(ddof=1) / 12, d.mean(axis=1).var(ddof=1) / 6
    residual = d - d.mean(axis=0) - d.mean(axis=1, keepdims=True) + d.mean()
    cells = (residual**2).sum() / (5 * 11) / 72
    assert difference.se == pytest.approx(np.sqrt(max(problems + seeds - cells, cells)))
    assert difference.run_variance == pytest.approx(seeds)
    assert difference.low < difference.mean < difference.high
    assert (difference.p < 0.05) == (not difference.low <= 0 <= difference.high)
    # The mean over K = 1, 2, 4 of c = 1 and c = 2 of 4 samples: (1/4 + 1/2 + 1) / 3 and (1/2 + 5/6 + 1) / 3.
    one, two = (
        arm_of(name, [receipt(plan, name, seed, [c] * 3) for seed in range(5)])
        for name, c in (("shaped", 2), ("GRPO", 1))
    )
    assert contrast(one, two, "curve", 4, 0.95).mean == pytest.approx((7 / 3 - 7 / 4) / 3)


def test_equal_arms_are_not_known_to_be_equal() -> None:
    plan = study()
    same = [arm_of(name, [receipt(plan, name, s, (1, 2, 3)) for s in range(6)]) for name in ("shaped", "GRPO")]
    difference = contrast(*same, 1, 4, 0.95)
    assert difference.p == 1
    assert difference.high > 0.5  # three problems say nothing about a fourth


def cluster_sums(d_Q: FloatArray, clusters: list[str]) -> FloatArray:
    """The sum in each cluster of deviations from the mean."""
    deviation = d_Q - d_Q.mean()
    return np.array([deviation[np.array(clusters) == name].sum() for name in sorted({*clusters})])


def test_a_contrast_generalises_over_clusters() -> None:
    """Cluster sums by hand; Student t by as many clusters of equal size."""
    plan = study()
    counts = np.random.default_rng(3).integers(0, 5, (2, 6, 36))
    easier = np.isin(CLUSTERS, ["a", "e", "g", "m"])
    counts[0][:, easier] = np.minimum(counts[0][:, easier] + 2, 4)  # topics move as a whole
    names = [f"p{q:02d}" for q in range(36)][::-1]  # receipts keep the order of the task, arms sort
    arms = []
    for name, runs in zip(("shaped", "GRPO"), counts, strict=True):
        of_arm = [
            receipt(plan, name, seed, c.tolist(), problems=names, clusters=CLUSTERS) for seed, c in enumerate(runs)
        ]
        arms.append(arm_of(name, [replace(of_arm[0], clusters=None), *of_arm[1:]]))  # one of forkwise 0.1
    assert arms[0].clusters == tuple(CLUSTERS[::-1])
    d = (counts[0] - counts[1]) / 4
    by_problem = d.mean(axis=0)
    problems = (cluster_sums(by_problem, CLUSTERS) ** 2).sum() / 36**2 * 14 / 13
    seeds = d.mean(axis=1).var(ddof=1) / 6
    residual = d - by_problem - d.mean(axis=1, keepdims=True) + d.mean()
    cells = sum((cluster_sums(row, CLUSTERS) ** 2).sum() for row in residual) * (14 / 36) ** 2 / (5 * 13) / (6 * 14)
    difference = contrast(*arms, 1, 4, 0.95)
    assert difference.se == pytest.approx(np.sqrt(max(problems + seeds - cells, cells)))
    freedom_of_problems = 36**2 / 106 - 1  # 4^2 + 2^2 + 3^2 + ... = 106
    spread = problems**2 / freedom_of_problems + seeds**2 / 5 + cells**2 / (5 * 13)
    freedom = difference.se**4 / spread
    assert difference.high - difference.mean == pytest.approx(stats.t.isf(0.025, freedom) * difference.se)
    alone = contrast(*(replace(arm, clusters=None) for arm in arms), 1, 4, 0.95)
    assert difference.high - difference.low > 1.3 * (alone.high - alone.low)
    with pytest.raises(InputError, match="are in one cluster, 'x', which says nothing about others"):
        contrast(*(replace(arm, clusters=("x",) * 36) for arm in arms), 1, 4, 0.95)


def test_three_pairs_of_seeds_are_not_tested() -> None:
    plan = study()
    few = [arm_of(name, [receipt(plan, name, s, (1, 2, 3)) for s in range(4)]) for name in ("shaped", "GRPO")]
    with pytest.raises(InputError, match="pairs of seeds take at least 5"):
        contrast(*few, 1, 4, 0.95)


@pytest.mark.parametrize(("problems", "equivalent"), [(30, False), (71, False), (72, True)])
def test_a_study_and_a_comparison_call_the_same_arms_equivalent(problems: int, equivalent: bool) -> None:
    """A share of .05 that differs wholly goes unseen in Q problems with a chance of .95^Q, which is .0249 for 72."""
    assert (0.95**problems <= 0.025) == equivalent
    plan, rng = study(evaluation={"problems": problems, "n": 64}), np.random.default_rng(0)
    plain = rng.integers(20, 40, (6, problems))
    changed = plain + rng.integers(-1, 2, (6, problems))
    tested, reference = (
        arm_of(name, [receipt(plan, name, seed, c.tolist()) for seed, c in enumerate(runs)])
        for name, runs in (("shaped", changed), ("GRPO", plain))
    )
    difference = contrast(tested, reference, 1, 64, 0.95)
    assert max(-difference.low, difference.high) < 0.02
    compared = compare(reference, tested, ks=[1], primary=1, paired_seeds=True, margin=0.05).differences[0].primary
    assert compared is not None
    assert (difference.equivalent(0.05), compared.equivalent) == (equivalent, equivalent)
    pairs = tuple(f"pair {problem // 2}" for problem in range(problems))
    in_pairs = contrast(replace(tested, clusters=pairs), replace(reference, clusters=pairs), 1, 64, 0.95)
    assert not in_pairs.equivalent(0.05)  # of half as many


def _contrast(mean: float, se: float, run_variance: float, seeds: int = 5, problems: int = 36) -> SeedContrast:
    half = 1.96 * se
    p = float(2 * stats.norm.sf(abs(mean) / se))
    return SeedContrast(
        "shaped", "GRPO", "Pass@1", mean, mean - half, mean + half, p, se, run_variance, seeds, problems, problems, 0.95
    )


def test_conditional_power_is_the_share_of_ends_that_show_it() -> None:
    """Half of the seeds are there, all variance is over runs: the end's mean is the mean of two halves."""
    plan = study(seeds="0-9", looks=[5])
    rng = np.random.default_rng(1)
    now, se, effect = 0.01, 0.02, 0.05
    end = (now + rng.normal(effect, se, 400_000)) / 2
    shown = (end / (se / np.sqrt(2)) > stats.norm.isf(boundary(plan, 10) / 2)).mean()
    power = conditional_power(_contrast(now, se, se**2), effect, 5, plan)
    assert power == pytest.approx(shown, abs=0.004)
    assert conditional_power(_contrast(-now, se, se**2), -effect, 5, plan) == pytest.approx(power)


def test_a_study_ends_for_a_reason_that_was_registered() -> None:
    primary = {"arm": "shaped", "endpoint": 1, "margin": 0.1}
    stopping = {"equivalence": True, "futility": {"effect": 0.05}}
    plan = study(seeds="0-9", looks=[5], primary=primary, stopping=stopping)
    assert decide(plan, _contrast(0.3, 0.05, 0.0025), 5) == "the primary difference is shown"
    assert "within ±0.1" in str(decide(plan, _contrast(0.01, 0.02, 0.0004), 5))
    assert decide(plan, _contrast(0.01, 0.02, 0.0004, problems=30), 5) is None  # .9^30 > .025 >= .9^36
    assert "the end is 0.0" in str(decide(plan, _contrast(-0.2, 0.1, 0.01), 5))
    assert decide(plan, _contrast(0.15, 0.1, 0.01), 5) is None
    plain = study(seeds="0-9", looks=[5], primary=primary)
    assert decide(plain, _contrast(0.01, 0.02, 0.0004), 5) is None
    assert decide(plain, _contrast(-0.2, 0.1, 0.01), 5) is None


# ------------------------------------------------------------------------------------------------------ what is shown


def said(folder: Path, **how: Any) -> str:
    return "\n".join(
        block if isinstance(block, str) else block.caption for block in report(*read_study_folder(folder, **how))
    )


def test_arms_are_compared_when_that_was_planned_and_not_before(tmp_path: Path) -> None:
    primary = {"arm": "shaped", "endpoint": 1, "secondary": [1, 4], "gate": "placebo"}
    plan = study(seeds="0-6", looks=[5], primary=primary)
    write_all(tmp_path, plan, {"GRPO": PLAIN[:2], "shaped": BETTER[:2], "placebo": ALIKE[:2]}, base=(0, 0, 1) * 4)
    text = said(tmp_path)
    assert "6 of 21 runs have a receipt" in text
    assert "2 seeds are there in all arms; the arms are compared when there are 5, as planned" in text
    assert "minus" not in text
    assert "Exploratory" not in text
    assert "All arms together" in text
    _, _, reading = read_study_folder(tmp_path)
    # (8 + 3 + 9 + 3) + ... : all arms in one number, and its gain over base, 1/12.
    everything = np.mean([PLAIN[:2], BETTER[:2], ALIKE[:2]]) / 4
    one = next(f for f in reading.result.blinded if f.endpoint == "Pass@1")
    assert one.mean == pytest.approx(everything)
    assert one.gain == pytest.approx(everything - 1 / 12)

    write_all(tmp_path, plan, {"GRPO": PLAIN[:6], "shaped": BETTER[:6], "placebo": ALIKE[:6]})
    _, _, reading = read_study_folder(tmp_path)
    assert reading.result.seeds == [0, 1, 2, 3, 4]  # those of the look, though more are there
    assert reading.result.shown_below == pytest.approx(boundary(plan, 5))
    text = said(tmp_path)
    assert text.index("shaped minus GRPO, Pass@1") < text.index("Exploratory")
    spent = 4 * stats.norm.sf(stats.norm.isf(0.05 / 4) / np.sqrt(5 / 7))  # Lan & DeMets, at 5 of 7 seeds
    held = f"p by Holm's method, to be held against {spent:.4f} like that of the primary one"
    assert held in text
    assert "to be held against" not in said(tmp_path, early=True)
    assert "Read at a time that was not planned" in said(tmp_path, early=True)

    plan, folder = study(primary=primary), tmp_path / "to the end"
    write_all(folder, plan, {"GRPO": PLAIN, "shaped": BETTER, "placebo": ALIKE})
    _, _, reading = read_study_folder(folder)
    assert reading.result.seeds == [0, 1, 2, 3, 4, 5]
    assert reading.result.shown
    gate = reading.result.gate
    assert gate is not None
    assert (gate.arm, gate.reference) == ("shaped", "placebo")
    first, last = (next(c for c in reading.result.secondary if c.endpoint == f"Pass@{k}") for k in (1, 4))
    alone = contrast(
        *(
            arm_of(a, [receipt(plan, a, s, c) for s, c in enumerate(r)])
            for a, r in (("shaped", BETTER), ("GRPO", PLAIN))
        ),
        1,
        4,
        0.95,
    )
    assert first.p == pytest.approx(2 * alone.p)  # Holm: the smaller of two
    assert last.p >= first.p


def test_the_gate_stays_shut_without_a_primary_difference(tmp_path: Path) -> None:
    plan = study(primary={"arm": "shaped", "endpoint": 1, "gate": "placebo"})
    nearly = [(1, *PLAIN[0][1:]), *PLAIN[1:]]
    write_all(tmp_path, plan, {"GRPO": PLAIN, "shaped": nearly, "placebo": BETTER})
    _, _, reading = read_study_folder(tmp_path)
    assert reading.result.primary is not None
    assert 0.05 < reading.result.primary.p < 1
    assert not reading.result.shown
    assert reading.result.gate is None
    assert "shaped minus placebo is not tested" in said(tmp_path)


def test_collapsed_and_started_runs_are_counted(tmp_path: Path) -> None:
    plan = study(looks=[5])
    write_all(tmp_path, plan, {"GRPO": PLAIN, "shaped": BETTER, "placebo": ALIKE[:5]})
    dead = receipt(plan, "shaped", 2, [0] * 12, collapsed="Step 3: not finite", tokens=None)
    write_receipt(tmp_path, dead)
    twice = receipt(plan, "GRPO", 1, PLAIN[1], attempts=[{"time": "t"}, {"time": "u"}])
    write_receipt(tmp_path, twice)
    note_start(tmp_path, "placebo-seed5", "cpu")
    text = said(tmp_path)
    assert (
        "17 of 18 runs have a receipt; 1 collapsed (shaped-seed2); 1 were started again; 1 more were started." in text
    )
    _, _, reading = read_study_folder(tmp_path)
    assert reading.result.primary is not None
    expected = (np.sum(BETTER[:5]) - np.sum(BETTER[2]) - np.sum(PLAIN[:5])) / 240
    assert reading.result.primary.mean == pytest.approx(expected)  # it counts with no problem solved


def test_a_pilot_compares_nothing(tmp_path: Path) -> None:
    plan = study(primary=None, pilot=True)
    write_all(tmp_path, plan, {"GRPO": PLAIN, "shaped": BETTER, "placebo": ALIKE})
    text = said(tmp_path, early=True)
    assert "a pilot compares nothing" in text
    assert "minus" not in text
    one = next(f for f in read_study_folder(tmp_path)[2].result.blinded if f.endpoint == "Pass@1")
    by_run = [np.array(runs).sum(axis=1) / 48 for runs in (PLAIN, BETTER, ALIKE)]
    assert one.run_sd == pytest.approx(np.sqrt(np.mean([r.var(ddof=1) for r in by_run])))
    pairs = [np.corrcoef(by_run[i], by_run[j])[0, 1] for i, j in ((0, 1), (0, 2), (1, 2))]
    assert one.rho == pytest.approx(np.mean(pairs))


def test_one_seed_is_exploratory(tmp_path: Path) -> None:
    plan = study(primary=None, seeds=[4])
    write_all(tmp_path, plan, {"GRPO": PLAIN[:1], "shaped": BETTER[:1], "placebo": ALIKE[:1]})
    text = said(tmp_path)
    assert "nothing was named to be tested" in text
    assert "Exploratory: On 12 problems" in text


def test_single_runs_are_held_against_those_of_the_reference(tmp_path: Path) -> None:
    """Of 4 samples of 2 problems GRPO solves 1, 2 and 3 in three runs: Pass@1 .125, .25, .375, sd .125.

    One run of `shaped` solves all: 1 - .25 = .75, which is .75 / (.125 sqrt(4/3)) = 5.196 of Student's t with two
    degrees of freedom. Alone its p would be 1 - 5.196 / sqrt(2 + 27) = .0351; two arms at once make it larger, and
    less than twice that.
    """
    plan = study(seeds=[0], primary=None, yardstick={"seeds": [1, 2], "endpoint": 1})
    write_all(tmp_path, plan, {})
    for seed, c in enumerate([(0, 1), (2, 0), (1, 2)]):
        *read, reading = read_study_folder(tmp_path)
        assert reading.result.single is None  # a run of the reference is missing
        assert "The arms are held against the runs of GRPO when all 3 are there." in report(*read, reading)
        write_receipt(tmp_path, receipt(plan, "GRPO", seed, c))
    *read, reading = read_study_folder(tmp_path)
    assert "The 3 runs of GRPO are there, and no arm's run yet." in report(*read, reading)
    write_receipt(tmp_path, receipt(plan, "shaped", 0, (4, 4)))
    *read, reading = read_study_folder(tmp_path)
    single = reading.result.single
    assert single is not None
    assert (single.runs, single.arms, reading.result.progress.runs) == (3, 2, 5)
    assert [single.mean, single.sd] == pytest.approx([0.25, 0.125])
    [row] = single.rows
    assert (row.arm, row.difference) == ("shaped", pytest.approx(0.75))
    assert 0.0351 < row.p < 2 * 0.0351
    text = "\n".join(block for block in report(*read, reading) if isinstance(block, str))
    assert "4 of 5 runs have a receipt" in text
    assert "Not registered, so exploratory: at Pass@1 no arm differs from GRPO by more than one more run of it" in text
    assert "The runs of 1 arm are missing; p is over all 2" in text
    write_receipt(tmp_path, receipt(plan, "placebo", 0, (1, 2)))
    *read, reading = read_study_folder(tmp_path)
    assert reading.result.exploratory is not None  # these very models are compared too
    [table] = [b for b in report(*read, reading) if isinstance(b, Table) and b.header[-1].startswith("found with")]
    assert [line[0] for line in table.rows] == ["shaped", "placebo"]
    assert table.rows[0][1].startswith("+0.750 [")
    assert len({line[3] for line in table.rows}) == 1


def test_a_plan_says_what_single_runs_can_show(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Stated: sd of runs .02, of run x problem .08 and of sampling .06, on 100 problems: .0004 + .0064/100 + .0036/100
    = .0005, the square of .02236. One arm against three runs: t of two degrees of freedom is beyond its 95 % point,
    4.303, with 80 % power where a noncentral t of some shift is; the difference is this times sqrt(4/3 .0005).
    """
    stated, file = tmp_path / "v.yaml", tmp_path / "s.yaml"
    endpoint = {"run_sd": 0.02, "run_problem_sd": 0.08, "sampling_variance": {4: 0.0036}}
    stated.write_text(yaml.safe_dump({"problems": 100, "samples": 4, "components": {1: endpoint}}))
    arms = {"GRPO": {"alpha": 0}, "shaped": {"alpha": 0.4}}
    evaluation = {"problems": 100, "n": 4}
    single = {"seeds": [0], "primary": None, "yardstick": {"seeds": [1, 2], "endpoint": 1}}
    file.write_text(yaml.safe_dump(content(arms=arms, evaluation=evaluation, **single)))
    with pytest.raises(SystemExit) as ended:
        cli.run(["study", "plan", str(file), "--components", str(stated)])
    assert ended.value.code == 0
    out = " ".join(capsys.readouterr().out.split())
    shift = optimize.brentq(lambda d: stats.nct.cdf(4.302653, 2, d) - 0.2, 1, 15)
    found = shift * np.sqrt(4 / 3 * 0.0005)
    assert f"held against 3 runs of GRPO, a difference of {found:.3f} at Pass@1" in out
    assert "(80% power, alpha 0.05 for the 1 arm together)" in out
    assert "could be one more run of GRPO, at Pass@1, by 3 of its runs" in out


def test_a_look_is_recorded_and_a_shown_difference_ends_the_study(tmp_path: Path) -> None:
    plan = study(looks=[5])
    write_all(tmp_path, plan, {"GRPO": PLAIN, "shaped": ALIKE, "placebo": ALIKE})
    assert look_at(plan, tmp_path, plan.seeds[:5]) is None
    record = json.loads(look_file(tmp_path, 5).read_text())
    assert record["seeds"] == 5
    assert record["difference"] == pytest.approx((np.sum(ALIKE[:5]) - np.sum(PLAIN[:5])) / 240)
    assert record["stops"] is None
    read = [tmp_path / f"{arm}-seed{seed}.json" for arm in ("grpo", "shaped", "placebo") for seed in range(5)]
    assert record["receipts"] == {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in read}
    assert {"python", "numpy", "scipy", "forkwise"} <= {*record, *record["versions"]}
    write_all(tmp_path, plan, {"shaped": BETTER})
    assert "ends at its look after 5 seeds, as registered: the primary difference is shown" in str(
        look_at(plan, tmp_path, plan.seeds[:5])
    )
    (tmp_path / "grpo-seed4.json").unlink()
    with pytest.raises(InputError, match="No receipt of 1 run, such as 'grpo-seed4': every started run counts"):
        look_at(plan, tmp_path, plan.seeds[:5])


def test_a_study_that_ended_at_a_look_says_so_and_why(tmp_path: Path) -> None:
    """Reading alone says it, from the receipts; a record, once made, has the last word."""
    plan = study(seeds="0-6", looks=[5], stopping={"futility": {"effect": 0.3, "power": 0.5}})
    write_all(tmp_path, plan, {"GRPO": PLAIN[:5], "shaped": ALIKE[:5], "placebo": ALIKE[:5]})
    end = "The study ends at its look after 5 seeds, as registered: the chance to show a difference of +0.3 at the end"
    assert end in said(tmp_path)
    assert "The interval is the plain 95% one, not adjusted for looks; the bound of p is." in said(tmp_path)
    # Runs beyond the look change nothing, and reading them all is exploratory.
    write_all(
        tmp_path, plan, {"GRPO": [*PLAIN, PLAIN[0]], "shaped": [*ALIKE, BETTER[0]], "placebo": [*ALIKE, ALIKE[0]]}
    )
    _, _, reading = read_study_folder(tmp_path)
    assert reading.result.seeds == plan.seeds[:5]
    late = read_study_folder(tmp_path, early=True)[2].result
    assert (late.seeds, late.early, late.shown_below, late.shown) == (plan.seeds, True, 0.0, False)

    assert look_at(plan, tmp_path, plan.seeds[:5]) is not None
    assert "says otherwise" not in said(tmp_path)
    record = json.loads(look_file(tmp_path, 5).read_text())
    look_file(tmp_path, 5).write_text(json.dumps({**record, "stops": None}))
    text = said(tmp_path)
    assert "The record of the look after 5 seeds says otherwise than the receipts that are here" in text
    assert end not in text
    assert read_study_folder(tmp_path)[2].result.seeds == plan.seeds


def test_a_study_without_looks_has_a_plain_interval(tmp_path: Path) -> None:
    write_all(tmp_path, study(), {"GRPO": PLAIN, "shaped": BETTER, "placebo": ALIKE})
    assert "not adjusted for looks" not in said(tmp_path)


def test_a_plan_says_how_little_it_can_show() -> None:
    for seeds, expected in (
        ("0-1", "exploratory: fewer than 3 seeds say nothing about other trainings."),
        ("0-2", "exploratory: it tests nothing, which takes 5 seeds, and it cannot show anything."),
        ("0-5", "exploratory: no comparison is named to be tested."),
    ):
        table, text = design(study(seeds=seeds, primary=None))
        assert isinstance(table, Table)
        assert ["training runs", f"{3 * (int(seeds[-1]) + 1)}, each of 2 steps"] in table.rows
        assert expected in str(text)


def test_a_plan_names_every_arm() -> None:
    arms = {f"method number {i}": {"alpha": i / 100} for i in range(40)}
    plan = study(arms=arms, primary=None)
    console = Console(file=io.StringIO(), width=80)
    print_blocks(design(plan), console)
    printed = console.file.getvalue()
    assert all(f"method number {i}" in printed for i in range(40))


def test_progress_counts_the_runs_of_all_arms(tmp_path: Path) -> None:
    plan = study()
    write_all(tmp_path, plan, {"GRPO": PLAIN[:1]}, base=(0, 0, 0) * 4)
    far = progress(plan, tmp_path, read_receipts(tmp_path, plan.sha256(), plan.runs()))
    assert (far.runs, far.finished, far.seeds) == (18, 1, [])
    assert BASE not in far.started


def test_the_command_writes_numbers_and_markdown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan = study()
    write_all(tmp_path / "receipts", plan, {"GRPO": PLAIN, "shaped": BETTER, "placebo": ALIKE}, base=(0, 0, 1) * 4)
    files = ["--json", str(tmp_path / "a.json"), "--markdown", str(tmp_path / "a.md")]
    with pytest.raises(SystemExit) as ended:
        cli.run(["study", "analyse", str(tmp_path), *files])
    assert ended.value.code == 0
    printed = capsys.readouterr().out
    assert "Not registered, so exploratory too: shaped minus GRPO, Pass@1, +0.4" in printed
    numbers = json.loads((tmp_path / "a.json").read_text())
    assert numbers["plan"] == plan.sha256()
    assert len(numbers["receipts"]) == 19
    assert numbers["result"]["primary"]["mean"] == pytest.approx((np.sum(BETTER) - np.sum(PLAIN)) / 288)
    assert "| GRPO |" in (tmp_path / "a.md").read_text()
    for option, file in (("--json", "a.json"), ("--markdown", "a.md")):
        with pytest.raises(SystemExit):
            cli.run(["study", "analyse", str(tmp_path), option, "-"])
        assert capsys.readouterr().out == (tmp_path / file).read_text()
    with pytest.raises(SystemExit):
        cli.run(["study", "analyse", str(tmp_path), "--json", "-", "--markdown", "-"])
    assert "both print their result alone" in capsys.readouterr().err
    with pytest.raises(SystemExit) as ended:
        cli.run(["study", "analyse", str(tmp_path / "none")])
    assert ended.value.code == 2
    assert "holds no study" in capsys.readouterr().err


def test_a_study_is_planned_from_the_receipts_of_a_pilot(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("trl")
    write_all(tmp_path / "r", study(primary=None, pilot=True), {"GRPO": PLAIN, "shaped": BETTER, "placebo": ALIKE})
    file = tmp_path / "next.yaml"
    file.write_text(
        yaml.safe_dump(content(seeds="0-9", primary={"arm": "shaped", "endpoint": 1, "margin": 0.75, "secondary": [4]}))
    )
    with pytest.raises(SystemExit) as ended:
        cli.run(["study", "plan", str(file), "--pilot", str(tmp_path / "r")])
    assert ended.value.code == 0
    printed = capsys.readouterr().out
    # 30 runs of a minute, and 31 times 3 problems x 4 samples at 30 seconds per 48 samples.
    assert "It takes 0.6 hours: 0.5 of training and 0.1 of sampling." in printed
    assert "10 runs per arm on 3 problems x 4 samples find a difference of" in printed
    write_all(tmp_path / "few", study(primary=None, pilot=True), {"GRPO": PLAIN[:2], "shaped": BETTER[:2]})
    with pytest.raises(SystemExit) as ended:
        cli.run(["study", "plan", str(file), "--pilot", str(tmp_path / "few")])
    assert ended.value.code == 2
    assert "has 0 seeds in all arms, and how training varies takes at least 3" in capsys.readouterr().err


def test_components_that_lack_an_endpoint_are_refused_before_anything_slow(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def slow(_: object) -> None:
        raise AssertionError("training was loaded first")

    monkeypatch.setattr("forkwise.study.run.check_study", slow)
    (tmp_path / "s.yaml").write_text(yaml.safe_dump(content(primary={"arm": "shaped", "margin": 0.75})))
    (tmp_path / "v.yaml").write_text("samples: 4\nrho: 0.2\ncomponents: {1: {run_sd: 0.02, sampling_variance: 0.01}}\n")
    with pytest.raises(SystemExit) as ended:
        cli.run(["study", "plan", str(tmp_path / "s.yaml"), "--components", str(tmp_path / "v.yaml")])
    assert ended.value.code == 2
    assert "says nothing about 'curve': it has components of 1" in capsys.readouterr().err
