"""What receipts tell beside the registered comparison, by hand: spread over runs, and tokens spent."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from made_studies import content, receipt, study, write_all

from forkwise.errors import InputError
from forkwise.study.analysis import read_study_folder
from forkwise.study.exploring import pass_within, spreads, within_budgets
from forkwise.study.reading import parse_study
from forkwise.study.receipts import arm_of, write_receipt
from forkwise.study.words import report


def test_the_spread_of_an_arm_is_that_of_its_runs_over_all_problems() -> None:
    plan = study()
    arm = arm_of("GRPO", [receipt(plan, "GRPO", seed, c) for seed, c in enumerate([(0, 2), (4, 2), (2, 2)])])
    [found] = spreads([arm], 4)
    assert found.ks == [1, 2, 4]
    # Pass@1 of the runs: .25, .75, .5.
    assert found.mean[0] == pytest.approx(0.5)
    assert found.sd[0] == pytest.approx(0.25)
    # Pass@4: a problem with any right sample is solved: .5, 1, 1.
    assert found.mean[2] == pytest.approx(2.5 / 3)
    assert found.sd[2] == pytest.approx(np.std([0.5, 1, 1], ddof=1))
    assert spreads([arm_of("one", [receipt(plan, "GRPO", 0, (0, 2))])], 4) == []


def test_a_budget_buys_samples_by_the_mean_length_of_the_problem() -> None:
    """n = 4, c = 2: Pass@1 = 1/2, Pass@2 = 5/6, Pass@3 = 1."""
    plan = study()
    arm = arm_of("GRPO", [receipt(plan, "GRPO", 0, (2, 2))])
    within = pass_within(arm, np.array([[10.0, 20.0]]), [10, 25, 40])
    assert within[0, 0].tolist() == pytest.approx([0.5, (5 / 6 + 1) / 2, 1.0])  # 1, 2.5 and 4 samples
    assert within[0, 1].tolist() == pytest.approx([0.25, 0.75 * 0.5 + 0.25 * 5 / 6, 5 / 6])  # 0.5, 1.25 and 2


def test_arms_of_equal_rates_differ_at_equal_tokens_where_one_is_longer() -> None:
    plan = study()
    rng = np.random.default_rng(0)
    solved = rng.integers(0, 4, (6, 40))
    made = {
        name: [receipt(plan, name, s, c.tolist(), tokens=[length] * 40) for s, c in enumerate(solved)]
        for name, length in (("GRPO", 10.0), ("shaped", 20.0))
    }
    arms = [arm_of(name, runs) for name, runs in made.items()]
    by_run = {r.run: r for runs in made.values() for r in runs}
    reference, longer = within_budgets(arms, by_run, paired=True, level=0.95, resamples=500)
    assert reference.budgets == longer.budgets == [20, 40]
    assert reference.difference is None
    assert longer.difference is not None
    assert longer.high is not None
    assert max(longer.high) < 0
    # 20 tokens: two samples of ten, or one of twenty.
    curve = arms[0].curves([1, 2]).mean(axis=(0, 1))
    assert longer.difference[0] == pytest.approx(curve[0] - curve[1])
    by_run["shaped-seed3"] = receipt(plan, "shaped", 3, solved[3].tolist(), tokens=None)
    assert within_budgets(arms, by_run, paired=True, level=0.95) == []


def test_both_are_said_only_where_arms_may_be_compared(tmp_path: Path) -> None:
    plan = study(looks=[5])
    runs = [[0, 1, 2], [1, 1, 2], [0, 2, 2], [0, 1, 3], [1, 1, 1]]
    write_all(tmp_path, plan, dict.fromkeys(("GRPO", "shaped", "placebo"), runs[:2]))
    _, _, reading = read_study_folder(tmp_path)
    assert reading.result.spread == reading.result.within == []
    for seed in (2, 3, 4):
        for arm in ("GRPO", "shaped", "placebo"):
            write_receipt(tmp_path, receipt(plan, arm, seed, runs[seed]))
    _, receipts, reading = read_study_folder(tmp_path)
    said = " ".join(str(block) for block in report(plan, receipts, reading))
    assert "Pass@K of the 5 runs of each arm" in said
    assert "Pass within a budget of tokens per problem" in said


def test_a_server_is_refused_with_the_reason() -> None:
    plan = content(evaluation={"problems": 3, "n": 4, "engine": "server"})
    with pytest.raises(InputError, match="no running server has; use engine: vllm or transformers"):
        parse_study(plan, "x.yaml")
