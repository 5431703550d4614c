"""The followers on worked examples whose values were computed apart from forkwise, from the papers' formulas.

Each example is small enough to follow with a pocket calculator; the steps stand beside it.
"""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

import worked_examples
from batches import rollout, tokens

from forkwise.errors import InputError
from forkwise.methods import (
    EntropyTermMethod,
    Need,
    RewardMethod,
    Rollout,
    TokenMethod,
    Tokens,
    parse_method,
    parse_methods,
)
from forkwise.methods.aepo_arbitrary import AepoArbitrary
from forkwise.methods.flexible_clip import FlexibleClip
from forkwise.methods.heal import Heal, divergences
from forkwise.methods.leaks import LeakRules
from forkwise.methods.meds import Meds, clusters
from forkwise.methods.miner import credits, surprise
from forkwise.methods.minerva import Minerva
from forkwise.methods.pipo import Pipo
from forkwise.methods.policy_split import PolicySplit
from forkwise.methods.replay import Drawn
from forkwise.methods.shear import Shear
from forkwise.methods.uec_rl import UecRl
from forkwise.methods.vgpo import Vgpo
from forkwise.testing.methods import check_method

PAPERS = Path(__file__).parents[2] / "docs" / "papers.md"


def acted(spec: str, batch: Tokens) -> list[list[float]]:
    method = parse_method(spec)
    assert isinstance(method, TokenMethod)
    return method.advantages(batch).tolist()


def of_rewards(spec: str, rewards: list[float], groups: list[int] | None = None, **columns: Any) -> list[float]:
    method = parse_method(spec)
    assert isinstance(method, RewardMethod)
    return method.advantages(rollout(rewards, groups or [0] * len(rewards), **columns)).tolist()


def about(*values: float) -> Any:
    return pytest.approx(list(values), abs=1e-6)


def logs(*values: float) -> list[float]:
    return [math.log(value) for value in values]


class TestEapo:
    """H = .1 .5 2.4: mean 1, population deviation 1.003328, z = -.897015 -.498342 1.395357."""

    @pytest.mark.parametrize(
        ("advantage", "expected"),
        [(1.0, (0.9, 0.900332, 1.1)), (-1.0, (-0.9, -0.900332, -1.1)), (0.5, (0.45, 0.45, 0.55)), (0.0, (0, 0, 0))],
    )
    def test_example(self, advantage: float, expected: tuple[float, ...]) -> None:
        batch = tokens([[advantage] * 3 + [7.0]], entropy=[[0.1, 0.5, 2.4, 99.0]], mask=[[1, 1, 1, 0]])
        assert acted("eapo", batch)[0][:3] == about(*expected)

    def test_equal_entropies_change_nothing(self) -> None:
        assert acted("eapo", tokens([[1.0, -2.0]], entropy=[[0.7, 0.7]])) == [[1.0, -2.0]]

    def test_the_trainers_alpha_is_not_its_alpha(self) -> None:
        assert str(parse_method("eapo", {"alpha": 0.4, "kappa": 3.0})) == "eapo:alpha=0.2,phi=2.0"

    def test_no_sign_may_flip(self) -> None:
        with pytest.raises(InputError, match="alpha of the method 'eapo' must be below phi"):
            parse_method("eapo:alpha=2")


class TestEdgeGrpo:
    """Mean entropies .5 and 1, of whose mean .75 they are 2/3 and 4/3: A 1 and -1 become 1.5 and -.75."""

    def test_example(self) -> None:
        batch = tokens(
            [[1.0, 1.0], [-1.0, -1.0], [3.0, 3.0]],
            entropy=[[0.25, 0.75], [1.0, 50.0], [9.0, 9.0]],
            mask=[[1, 1], [1, 0], [0, 0]],
        )
        made = acted("edge_grpo", batch)
        assert made[0] == about(1.5, 1.5)
        assert made[1][0] == pytest.approx(-0.75)

    def test_certain_completions_are_clamped(self) -> None:
        assert acted("edge_grpo", tokens([[1.0], [1.0]], entropy=[[0.0], [2.0]])) == [[10.0], [0.5]]
        assert acted("edge_grpo:clamp=2", tokens([[1.0], [1.0]], entropy=[[0.0], [2.0]])) == [[2.0], [0.5]]
        assert acted("edge_grpo", tokens([[1.0], [1.0]], entropy=[[0.0], [0.0]])) == [[1.0], [1.0]]


class TestReinforce:
    def test_examples(self) -> None:
        # R = 1, 0: PSR 1, 0; NSR 0, -1; W-REINFORCE .1, -1.
        assert of_rewards("w_reinforce", [1.0, 0.0]) == about(0.1, -1.0)
        sides = {"advantages": [[5.0], [5.0]], "correct": [True, False]}
        assert acted("psr:others=zero", tokens(**sides)) == [[1.0], [0.0]]
        assert acted("nsr:others=zero", tokens(**sides)) == [[0.0], [-1.0]]

    def test_dropped_completions_leave_the_mean(self) -> None:
        # Five tokens, two of them right: a mean over five of 5/2 at two tokens is the mean over two of 1.
        batch = tokens([[0.0] * 3] * 2, correct=[False, True], mask=[[1, 1, 1], [1, 1, 0]])
        assert acted("psr", batch)[1][:2] == [2.5, 2.5]
        assert acted("nsr", batch)[0] == about(*[-5 / 3] * 3)
        nothing = tokens([[4.0]], correct=[False])
        assert acted("psr", nothing) == [[0.0]]


class TestEntropyBalancedAdvantage:
    """H = .5 and 1.5: mean 1, deviation .707107 (n - 1), z = -.707107 and .707107."""

    def test_uncertain_tokens_count_more(self) -> None:
        [row] = acted("entropy_balanced_advantage", tokens([[1.0, -1.0]], entropy=[[0.5, 1.5]]))
        assert row == about(0.858579, -1.141421)

    def test_equal_entropies_change_nothing(self) -> None:
        assert acted("entropy_balanced_advantage", tokens([[1.0, -1.0]], entropy=[[0.7, 0.7]])) == [[1.0, -1.0]]
        assert acted("entropy_balanced_advantage", tokens([[2.0]], entropy=[[0.7]])) == [[2.0]]
        # In 64 bits the mean of three times .7 is not .7, and what is left over is no entropy's deviation.
        rounded = dataclasses.replace(tokens([[2.0] * 3]), entropy=torch.full((1, 3), 0.7, dtype=torch.float64))
        assert acted("entropy_balanced_advantage", rounded) == [[2.0] * 3]


class TestEmpg:
    """Steps of entropy 1, 2 (after a tool) and 3 are 0, .5 and 1; exp(-H) is 1, .606531, .367879, of mean .658137."""

    def made(self, spec: str = "empg", **more: Any) -> list[list[float]]:
        columns: dict[str, Any] = {
            "old_entropy": [[0.5, 1.5, 77.0, 2.0], [3.0, 3.0, 3.0, 88.0]],
            "mask": [[1, 1, 0, 1], [1, 1, 1, 0]],
            **more,
        }
        return acted(spec, tokens([[1.0] * 4, [-1.0] * 4], **columns))

    def test_example(self) -> None:
        # 1.519441 + .0606531, .921588 and -.558971, less their mean .647570.
        first, second = self.made()
        assert [first[0], first[1], first[3]] == about(0.932524, 0.932524, 0.274018)
        assert second[:3] == about(*[-1.206541] * 3)

    def test_without_pay_for_the_next_step_only_the_weights_act(self) -> None:
        # 1.519441, .921588, -.558971: mean .627353.
        first, second = self.made("empg:zeta=0")
        assert [first[0], first[3], second[0]] == about(0.892088, 0.294235, -1.186324)

    def test_neutral_parameters_only_take_the_mean_over_steps_away(self) -> None:
        first, second = self.made("empg:zeta=0,k=0")
        assert [first[0], first[3], second[0]] == about(2 / 3, 2 / 3, -4 / 3)

    def test_equal_entropies_weigh_alike(self) -> None:
        first, second = self.made("empg:zeta=0", old_entropy=[[0.7] * 4] * 2)
        assert [first[0], first[3], second[0]] == about(2 / 3, 2 / 3, -4 / 3)

    def test_no_tokens(self) -> None:
        assert self.made(mask=[[0] * 4] * 2) == [[1.0] * 4, [-1.0] * 4]


class TestShear:
    """Hidden states of one number. Right 0 0 4, wrong 0 1 1, windows of two: mean length 1.

    Windows of the right answer: (0, 0), (0, 4); of the wrong one (0, 1), (1, 1). In one dimension the transport moves
    the sorted numbers onto each other: (0,0)-(0,1) .5, (0,0)-(1,1) 1, (0,4)-(0,1) 1.5, (0,4)-(1,1) 2.
    """

    def made(self, spec: str = "shear:window=2,stride=1,reg=0.01,iterations=500", **more: Any) -> list[list[float]]:
        pytest.importorskip("ot")
        columns: dict[str, Any] = {
            "hidden": [[[0.0], [0.0], [4.0], [77.0]], [[0.0], [1.0], [1.0], [-55.0]]],
            "mask": [[1, 1, 1, 0]] * 2,
            "correct": [True, False],
            "groups": [7, 7],
            **more,
        }
        return acted(spec, tokens([[1.0] * 4, [-1.0] * 4], **columns))

    def test_example(self) -> None:
        right, wrong = self.made()
        assert right[:3] == pytest.approx([0.5, 1.5, 1.5], abs=1e-3)
        assert wrong[:3] == pytest.approx([-0.5, -1, -1], abs=1e-3)

    def test_a_mean_of_one(self) -> None:
        # Six weights with the sum 6: 3.5 and 2.5.
        right, wrong = self.made("shear:window=2,stride=1,reg=0.01,iterations=500,normalise=mean")
        assert sum(right[:3]) - sum(wrong[:3]) == pytest.approx(6, abs=1e-6)
        assert right[1] == pytest.approx(1.5, abs=1e-3)

    def test_the_last_window_ends_with_the_answer_and_short_answers_are_one(self) -> None:
        shear = parse_method("shear:window=4,stride=3")
        assert isinstance(shear, Shear)
        assert shear.windows(9).tolist() == [[0, 1, 2, 3], [3, 4, 5, 6], [5, 6, 7, 8]]
        assert shear.windows(10).tolist() == [[0, 1, 2, 3], [3, 4, 5, 6], [6, 7, 8, 9]]
        assert shear.windows(2).tolist() == [[0, 1]]

    def test_groups_of_one_outcome_and_other_prompts(self) -> None:
        assert self.made(correct=[True, True]) == [[1.0] * 4, [-1.0] * 4]
        assert self.made(groups=[7, 8]) == [[1.0] * 4, [-1.0] * 4]

    def test_the_transport_is_that_of_an_exact_solver(self) -> None:
        """Nine pairs of random windows, against POT's linear program: within 5 %, never below."""
        ot = pytest.importorskip("ot")
        draw = torch.Generator().manual_seed(0)
        a, b = (torch.randn(20, 6, generator=draw, dtype=torch.float64) + shift for shift in (0, 0.7))
        shear = Shear(window=12, stride=4)
        ours = shear.between(torch.cdist(a, b))
        uniform = torch.full((12,), 1 / 12, dtype=torch.float64)
        exact = torch.tensor(
            [
                [float(ot.emd2(uniform, uniform, torch.cdist(a[i : i + 12], b[j : j + 12]))) for j in (0, 4, 8)]
                for i in (0, 4, 8)
            ],
            dtype=torch.float64,
        )
        assert ours.shape == (3, 3)
        assert bool((ours / exact < 1.05).all())
        assert bool((ours / exact > 0.999).all())


class TestHeal:
    """Target answers with entropies 1 2 3 and 1 2, a general one with 3 2 1; 1 2 is stretched to 1 1 2.

    Softmax of 1 2 3 is .090031 .244728 .665241, of 1 1 2 .211942 .211942 .576117, of 3 2 1 the first turned around.
    """

    T1, T2, GENERAL = [1.0, 2.0, 3.0, 9.0], [1.0, 2.0, 0.0, 9.0], [3.0, 2.0, 1.0, 9.0]
    MASK = ([1, 1, 1, 0], [1, 1, 0, 0], [1, 1, 1, 0])

    def test_divergences(self) -> None:
        entropies = torch.tensor([self.T1, self.T2, self.GENERAL], dtype=torch.float64)
        made = divergences(entropies, torch.tensor(self.MASK).bool()).tolist()
        assert made[0] == about(math.inf, 0.053808, 1.150421)
        assert made[1] == about(0.068103, math.inf, 0.796453)
        assert made[2] == about(1.150421, 0.629019, math.inf)

    def batch(self, *entropies: list[float], labels: list[int], mask: Any = MASK, **more: Any) -> Tokens:
        columns = {"correct": [False] * len(labels), "groups": [0] * len(labels), **more}
        zero = [[0.0] * 4] * len(labels)
        return tokens(zero, old_entropy=list(entropies), labels=labels, mask=list(mask), **columns)

    def test_example(self) -> None:
        """Both target answers are nearest to each other; a lone general one has none of its own, and is paid."""
        heal = Heal(shortest=0)
        batch = self.batch(self.T1, self.T2, self.GENERAL, labels=[1, 1, 0])
        assert heal.aligned(batch).tolist() == [False, False, True]
        # R = 0 0 1: mean 1/3, deviation sqrt(1/3), and 1e-6.
        assert [row[0] for row in heal.advantages(batch).tolist()] == about(-0.577349, -0.577349, 1.154699)

    def test_a_target_answer_that_runs_like_the_general_ones(self) -> None:
        """1 2 3 and 3 2 1 target, 1 2 and 3 2 1 general: each one's nearest is one of the other domain."""
        mask = ([1, 1, 1, 0], [1, 1, 1, 0], [1, 1, 0, 0], [1, 1, 1, 0])
        batch = self.batch(self.T1, self.GENERAL, self.T2, self.GENERAL, labels=[1, 1, 0, 0], mask=mask)
        assert Heal(shortest=0).aligned(batch).tolist() == [True, True, True, True]
        alone = self.batch(self.T1, self.GENERAL, labels=[1, 1], mask=mask[:2])
        assert Heal(shortest=0).aligned(alone).tolist() == [False, False]

    def test_short_answers_are_never_paid(self) -> None:
        batch = self.batch(self.T1, self.T2, self.GENERAL, labels=[1, 1, 0])
        assert Heal(shortest=3).aligned(batch).tolist() == [False] * 3
        assert Heal(shortest=2).aligned(batch).tolist() == [False, False, True]

    def test_being_right_counts_as_much(self) -> None:
        # R = 1 0 1.
        batch = self.batch(self.T1, self.T2, self.GENERAL, labels=[1, 1, 0], correct=[True, False, False])
        made = [row[0] for row in Heal(shortest=0).advantages(batch).tolist()]
        assert made == about(0.577349, -1.154699, 0.577349)

    def test_passes_the_kit_with_short_answers(self) -> None:
        check_method(Heal(shortest=0))

    def test_runs_too_short_for_it(self) -> None:
        with pytest.raises(InputError, match="aligns answers of more than 50 tokens, and max_completion_length is 50"):
            Heal().check_longest(50)
        Heal().check_longest(51)


class TestAepoArbitrary:
    """Two prompts drawn again: rewards 1 0 0 0 and 1 1 0 0, of which places 0, 4 and 5 are better than their group."""

    REWARDS, GROUPS = [1.0, 0, 0, 0, 1, 1, 0, 0], [0, 0, 0, 0, 1, 1, 1, 1]

    def chosen(self, spec: str, entropy: float) -> list[int]:
        method = parse_method(spec)
        assert isinstance(method, AepoArbitrary)
        rewards = torch.tensor(self.REWARDS, dtype=torch.float64)
        states = {"aepo_arbitrary": {"entropy": entropy}}
        return method.chosen(rewards, torch.tensor(self.GROUPS), states).tolist()

    def test_all_of_them_while_the_entropy_is_low_and_half_while_it_is_high(self) -> None:
        assert self.chosen("aepo_arbitrary", 0.5) == [0, 4, 5]
        assert self.chosen("aepo_arbitrary", 0.6) == [0]
        assert self.chosen("aepo_arbitrary:most=2", 0.5) == [0, 4]

    def test_temperatures_and_the_first_rollout(self) -> None:
        method = parse_method("aepo_arbitrary:target=0.3")
        assert isinstance(method, AepoArbitrary)
        factors = {h: method.temperature_factor({"aepo_arbitrary": {"entropy": h}}) for h in (0.2, 0.3, 0.31)}
        assert factors == {0.2: 1.2, 0.3: 1.2, 0.31: 0.8}
        assert not method.draws_again({"aepo_arbitrary": method.first_state()})
        later = method.next_state(method.first_state(), 0.7, 0.1)
        assert later == {"entropy": 0.7}
        assert method.draws_again({"aepo_arbitrary": later})

    def test_advantages(self) -> None:
        # First drawn: 1 0 0 0, mean 1/4, deviation 1/2: 1.5, -.5 three times. Two were replaced.
        given = dataclasses.replace(
            rollout([1.0, 1.0, 0.0, 0.0], [0] * 4),
            first_rewards=torch.tensor([1.0, 0.0, 0.0, 0.0]),
            redrawn=torch.tensor([True, True, False, False]),
        )
        method = parse_method("aepo_arbitrary")
        assert isinstance(method, RewardMethod)
        assert method.advantages(given).tolist() == about(1, 1, -0.499999, -0.499999)


class TestMeds:
    """Clusters of 0, 4 and 20 remembered answers cost 0, .1 ln 5 = .160944 and .2 (ln 21 is above 2)."""

    def test_what_a_cluster_costs(self) -> None:
        sizes, wrong = torch.tensor([0, 4, 20]), torch.zeros(3, dtype=torch.bool)
        zero, one = torch.zeros(3, dtype=torch.float64), torch.ones(3, dtype=torch.float64)
        assert Meds().lowered(zero, wrong, sizes).tolist() == about(0, -0.160944, -0.2)
        assert Meds().lowered(one, ~wrong, sizes).tolist() == [1, 1, 1]
        assert Meds(target="right").lowered(one, ~wrong, sizes).tolist() == about(1, 0.861368, 0.833333)
        assert Meds(target="right").lowered(zero, wrong, sizes).tolist() == [0, 0, 0]
        both = Meds(target="both").lowered(torch.tensor([0.0, 1, 1]).double(), torch.tensor([0, 1, 1]).bool(), sizes)
        assert both.tolist() == about(0, 0.861368, 0.833333)

    def rollout(self, answers: list[list[float]], memory: Any, correct: list[bool] | None = None) -> Rollout:
        n = len(answers)
        verdicts = torch.tensor(correct or [False] * n)
        return dataclasses.replace(
            rollout([float(right) for right in verdicts], [0] * n),
            answer_logits=torch.tensor(answers, dtype=torch.float64),
            prompt_keys=torch.tensor([5] * n),
            memory=memory,
        )

    def test_mistakes_like_those_remembered(self) -> None:
        """Three remembered along (1, 0), two along (0, 1): a new one belongs to most of its three nearest."""
        pytest.importorskip("sklearn")
        meds = Meds()
        first = [[1.0, 0.0], [1.0, 0.01], [2.0, 0.01], [0.0, 1.0], [0.01, 1.0]]
        memory = meds.remember(self.rollout(first, {}))
        assert list(memory) == ["5:0"]
        labels = memory["5:0"][1].tolist()
        assert sorted(map(labels.count, set(labels))) == [2, 3]
        late = self.rollout([[9.0, 0.1], [0.1, 9.0], [math.nan] * 2, [9.0, 0.1]], memory, [False, False, False, True])
        sizes = meds.sizes(late).tolist()
        assert sizes == [3, 2, 0, 0]  # without an answer, and right, where none is remembered
        paid = torch.tensor([-0.1 * math.log(4), -0.1 * math.log(3), 0.0, 1.0], dtype=torch.float64)
        want = ((paid - paid.mean()) / (paid.std() + 1e-6)).tolist()
        assert meds.advantages(late).tolist() == pytest.approx(want)
        assert len(meds.remember(late)["5:0"][0]) == 7

    def test_what_belongs_to_no_cluster_counts_as_one(self) -> None:
        pytest.importorskip("sklearn")
        assert clusters(torch.tensor([[1.0, 2.0]]).double()).tolist() == [-1]
        lone = (torch.tensor([[1.0, 0.0]]).double(), torch.tensor([-1]))
        assert Meds().sizes(self.rollout([[0.5, 0.5]], {"5:0": lone})).tolist() == [1]


class TestSiren:
    """H = .1 .2 .3 .4 .5: the quantile at .8 is .42, so .5 is left; an anchor of .8 is .3 away: .005 x .09 = .00045."""

    def made(self, entropies: list[list[float]], anchor: float, **more: Any) -> tuple[float, list[list[float]]]:
        method = parse_method("siren")
        assert isinstance(method, EntropyTermMethod)
        batch = tokens([[0.0] * len(row) for row in entropies], nucleus_entropy=entropies, **more)
        value, slopes = method.slopes(dataclasses.replace(batch, states={"siren": {"anchor": anchor}}))
        return float(value), slopes.tolist()

    def test_example(self) -> None:
        value, slopes = self.made([[0.1, 0.2, 0.3, 0.4, 0.5, 99.0]], 0.8, mask=[[1, 1, 1, 1, 1, 0]])
        assert value == pytest.approx(0.00045)
        assert slopes[0] == about(0, 0, 0, 0, 0.005 * 2 * -0.3, 0)

    def test_the_mean_is_over_the_uncertain_tokens_of_all_completions(self) -> None:
        # .5 and .9 (of .9 and .1: quantile .74): mean .7, an eighth of a nat below the anchor.
        entropies, mask = [[0.1, 0.2, 0.3, 0.4, 0.5], [0.9, 0.1, 7, 7, 7]], [[1] * 5, [1, 1, 0, 0, 0]]
        value, slopes = self.made(entropies, 0.825, mask=mask)
        assert value == pytest.approx(0.005 / 64)
        assert [slopes[0][4], slopes[1][0]] == about(-0.000625, -0.000625)

    def test_equal_entropies_and_an_unknown_anchor_pull_nothing(self) -> None:
        assert self.made([[0.4, 0.4]], 0.8) == (0, [[0, 0]])
        assert self.made([[0.1, 0.9]], -1.0) == (0, [[0, 0]])

    def test_the_anchor_is_the_first_rollouts(self) -> None:
        method = parse_method("siren")
        assert isinstance(method, EntropyTermMethod)
        batch = tokens([[0.0] * 5], nucleus_entropy=[[0.1, 0.2, 0.3, 0.4, 0.5]])
        assert method.first_seen(method.entropies(batch), batch) == {"anchor": pytest.approx(0.5)}
        assert method.next_state({"anchor": 0.5}, 0.1, 0.5) == {"anchor": 0.5}


class TestGtpoTrajectory:
    """Right 5 6 7 9 and wrong 5 6 8 9 share two tokens at their begin and one at their end; A = 1 and -1, H = .5."""

    def made(self, spec: str = "gtpo_trajectory", entropy: float = 0.5, **more: Any) -> list[list[float]]:
        columns: dict[str, Any] = {"ids": [[5, 6, 7, 9], [5, 6, 8, 9]], "groups": [0, 0], **more}
        return acted(spec, tokens([[1.0] * 4, [-1.0] * 4], old_entropy=[[entropy] * 4] * 2, **columns))

    def test_shared_tokens_count_double_or_not_at_all(self) -> None:
        # A - .1 x .5 is .95 and -1.05; three tokens are shared.
        right, wrong = self.made()
        assert right == about(1.9 / 3, 1.9 / 3, 0.95 / 3, 1.9 / 3)
        assert wrong == about(0, 0, -1.05 / 3, 0)
        right, wrong = self.made("gtpo_trajectory:share=false,amplify=1,penalty=0")
        assert (right, wrong) == ([1, 1, 1, 1], [0, 0, -1, 0])

    def test_a_run_ends_where_the_first_token_differs(self) -> None:
        ids = [[1, 5, 5, 9], [2, 5, 5, 8]]
        assert self.made("gtpo_trajectory:share=false,penalty=0", ids=ids) == [[1] * 4, [-1] * 4]

    def test_ends_are_compared_from_the_last_token_that_counts(self) -> None:
        """Right 5 7 9 and wrong 5 9: 5 is shared at the begin, 9 at the end. The right one's 9 counts twice."""
        right, wrong = self.made(
            "gtpo_trajectory:share=false,penalty=0",
            ids=[[5, 7, 9, 0], [5, 9, 0, 0]],
            mask=[[1, 1, 1, 0], [1, 1, 0, 0]],
        )
        assert right[:3] == [2, 1, 2]
        assert wrong[:2] == [0, 0]

    def test_a_token_shared_at_both_ends_counts_twice(self) -> None:
        right, wrong = self.made("gtpo_trajectory:share=false,penalty=0", ids=[[5] * 4, [5] * 4])
        assert (right, wrong) == ([4] * 4, [0] * 4)

    def test_nothing_is_shared_without_both_signs_or_between_groups(self) -> None:
        right, wrong = self.made("gtpo_trajectory:share=false,penalty=0", groups=[0, 1])
        assert (right, wrong) == ([1] * 4, [-1] * 4)

    def test_uncertain_completions_are_left_out(self) -> None:
        assert self.made(entropy=0.71) == [[0] * 4, [0] * 4]


class TestOverlong:
    """With limit 20480 and buffer 4096, answers of 16384, 18432 and 20480 tokens lose 0, .5 and 1 (reference: verl)."""

    @staticmethod
    def made(spec: str, rewards: list[float], lengths: list[int]) -> list[float]:
        given = dataclasses.replace(rollout(rewards, [0] * len(rewards)), lengths=torch.tensor(lengths))
        return parse_method(spec).advantages(given).tolist()

    def test_right_answers_that_come_near_the_limit_lose(self) -> None:
        made = self.made("overlong", [1.0] * 3, [16384, 18432, 20480])
        assert made == about(0.9998, 0, -0.9998)  # of 1, .5, 0: deviation .5, and 1e-4

    def test_short_answers_are_left_alone(self) -> None:
        made = self.made("overlong:limit=100,buffer=20", [1.0, -1.0, -1.0], [10, 80, 85])
        # 1, -1, -1.25: mean -.416667, deviation 1.233221, and 1e-4
        assert made == about(1.148660, -0.472978, -0.675683)

    def test_the_buffer_lies_before_the_limit(self) -> None:
        with pytest.raises(InputError, match=r"buffer of the method 'overlong' must be below limit \(100\), got 100"):
            parse_method("overlong:limit=100,buffer=100")


class TestUnlikeliness:
    """Mean log-probs -.2 -.4 -.6 -.8: ranks 3 2 1 0, so of a right answer .8125 .875 .9375 1 is paid."""

    LIKELY = (-0.2, -0.4, -0.6, -0.8)

    def test_all_right(self) -> None:
        made = of_rewards("unlikeliness", [1.0] * 4, logprobs=list(self.LIKELY))
        assert made == about(-1.161881, -0.387294, 0.387294, 1.161881)

    def test_two_right(self) -> None:
        made = of_rewards("unlikeliness", [1.0, 1.0, 0.0, 0.0], logprobs=list(self.LIKELY))
        assert made == about(0.800776, 0.9289, -0.864838, -0.864838)

    def test_equal_likelihoods_share_their_rank_and_no_tokens_have_none(self) -> None:
        # Ranks 0.5, 0.5 and none: .96 paid twice and 1 (weight 0.24 for whole numbers; G is 3).
        made = of_rewards("unlikeliness:weight=0.24", [1.0] * 3, logprobs=[-1.0, -1.0, math.nan])
        paid = torch.tensor([0.96, 0.96, 1.0], dtype=torch.float64)
        assert made == pytest.approx(((paid - paid.mean()) / (paid.std() + 1e-6)).tolist())

    def test_no_weight_is_grpo(self) -> None:
        made = of_rewards("unlikeliness:weight=0", [1.0, 0.0, 0.0, 1.0], logprobs=list(self.LIKELY))
        assert made == pytest.approx([0.866024, -0.866024, -0.866024, 0.866024], abs=2e-6)


class TestMaxRl:
    def test_example(self) -> None:
        assert of_rewards("maxrl", [1.0, 0.0, 0.0, 0.0]) == about(3, -1, -1, -1)
        assert of_rewards("maxrl", [0.0, 0.0, 1.0, 1.0], [0, 0, 1, 1]) == [0.0] * 4

    def test_negative_rewards(self) -> None:
        with pytest.raises(InputError, match="and a completion has -1: use rewards of 0 and more"):
            of_rewards("maxrl", [1.0, -1.0])


class TestMiner:
    def test_surprise_and_credit(self) -> None:
        """Mean log-probs -.2 -.4 -.6 -.8: s = 0 0 .1 .3, shared by p = .5 .9 and .4 .8: .146 in all, of which .003."""
        means, yes = torch.tensor([-0.2, -0.4, -0.6, -0.8]).double(), torch.ones(4, dtype=torch.bool)
        missing = surprise(means, torch.zeros(4, dtype=torch.int64), yes)
        assert missing.tolist() == about(0, 0, 0.1, 0.3)
        p = torch.tensor([[0.3, 0.2], [0.1, 0.5], [0.5, 0.9], [0.4, 0.8]]).double()
        shares = credits(missing, p.log(), p > 0, 2.0, torch.tensor(9.0))
        assert shares[2:].tolist() == [about(0.025, 0.001), about(0.108, 0.012)]
        bounded = credits(missing, p.log(), p > 0, 2.0, torch.tensor(0.0015 * 2))
        assert bounded[2:].tolist() == [about(0.000514, 0.000021), about(0.002219, 0.000247)]
        assert bounded[:2].tolist() == [[0, 0], [0, 0]]

    def batch(self, **changes: Any) -> Tokens:
        """Group 3: all right, p = 1/2 twice and 1/4 once. Group 1: one of each. Group 2: all wrong."""
        columns = {
            "advantages": [[0.0]] * 2 + [[1.0], [-1.0]] + [[0.0]],
            "old_logprobs": [[math.log(0.5)], [math.log(0.25)], [-1.0], [-9.0], [-2.0]],
            "groups": [3, 3, 1, 1, 2],
            "correct": [True, True, True, False, False],
        }
        return tokens(**{**columns, **changes})

    def test_only_solved_groups_are_mined(self) -> None:
        # s of the second is (ln .5 + ln .25)/2 - ln .25 = ln(2)/2, times (3/4)^2: .194947. Allowed: .0015 * 2.
        assert acted("miner", self.batch()) == [[0.0], [pytest.approx(0.003)], [1.0], [-1.0], [0.0]]
        mined = acted("miner:largest=1,gamma=1", self.batch())
        assert mined[1] == [pytest.approx(0.75 * math.log(2) / 2)]

    def test_without_a_mixed_group_nothing_is_learned(self) -> None:
        assert acted("miner", self.batch(advantages=[[0.0]] * 5)) == [[0.0]] * 5

    def test_a_group_with_advantages_of_its_own_is_left_alone(self) -> None:
        own = [[0.5], [-0.5], [1.0], [-1.0], [0.0]]
        assert acted("miner", self.batch(advantages=own)) == own

    def test_compared_with_the_batch(self) -> None:
        # All solved rows: p = 1/2, 1/4 and 1/8 in a group of its own, whose s within the group is 0.
        batch = tokens(
            [[0.0]] * 3 + [[1.0]],
            old_logprobs=[logs(0.5), logs(0.25), logs(0.125), [-1.0]],
            groups=[0, 0, 1, 2],
            correct=[True] * 4,
        )
        assert acted("miner:largest=1,gamma=0,level=batch", batch)[2] == [pytest.approx(math.log(2))]
        assert acted("miner:largest=1,gamma=0", batch)[2] == [0.0]


class TestGpgAndOpo:
    def test_gpg(self) -> None:
        # One reward of four is not 0, so 4 (R - mean); the second group's are all 0.
        assert of_rewards("gpg", [1.0, 0.0, 0.0, 0.0], [0, 0, 1, 1]) == about(2, -2, 0, 0)
        assert of_rewards("gpg", [0.0, 0.0]) == [0.0, 0.0]

    def test_opo(self) -> None:
        """R = 1, 0 of lengths 10 and 30: a baseline of 1/4."""
        method = parse_method("opo")
        assert isinstance(method, RewardMethod)
        given = dataclasses.replace(rollout([1.0, 0.0], [0, 0]), lengths=torch.tensor([10, 30]))
        assert method.advantages(given).tolist() == about(0.75, -0.25)
        silent = dataclasses.replace(given, lengths=torch.tensor([0, 0]))
        assert method.advantages(silent).tolist() == [0, 0]


class TestM2po:
    """(log r)^2 = .25 .04 .01 0 from the largest: means .075, .016667, .005, 0, so the first goes."""

    def test_example(self) -> None:
        batch = tokens([[1.0, 2.0, -3.0, 4.0, 5.0]], logprobs=[[-0.5, -1.1, -0.8, -1.0, 0.0]], mask=[[1, 1, 1, 1, 0]])
        batch = dataclasses.replace(batch, old_logprobs=torch.full((1, 5), -1.0).double())
        assert acted("m2po", batch)[0][:4] == [0.0, 2.0, -3.0, 4.0]
        assert acted("m2po:largest=0.08", batch)[0][:4] == [1.0, 2.0, -3.0, 4.0]
        assert acted("m2po:largest=0.01", batch)[0][:4] == [0.0, 2.0, 0.0, 4.0]  # .04 is the third's


class TestFipo:
    """log r = .1 -.2 .3: sums .20394 .093572 .3 at a half-life of 32, so f = 1.2 1.098089 1.2."""

    def test_example(self) -> None:
        batch = tokens([[1.0, -1.0, 2.0, 9.0]], logprobs=[[-0.9, -1.2, -0.7, 5.0]], mask=[[1, 1, 1, 0]])
        batch = dataclasses.replace(batch, old_logprobs=torch.full((1, 4), -1.0).double())
        assert acted("fipo", batch)[0][:3] == about(1.2, -1.098089, 2.4)

    def test_short_half_life_and_both_sides(self) -> None:
        # Half-life 1: sums .1 - .1 + .075, -.2 + .15, .3.
        batch = tokens([[1.0] * 3], logprobs=[[0.1, -0.2, 0.3]], old_logprobs=[[0.0] * 3])
        assert acted("fipo:half_life=1,low=0.8", batch)[0] == about(math.exp(0.075), math.exp(-0.05), 1.2)
        assert acted("fipo:half_life=1", batch)[0] == about(math.exp(0.075), 1.0, 1.2)

    def test_punished_tokens_that_have_become_likely_weigh_no_more_than_before(self) -> None:
        batch = tokens([[-1.0, 1.0]], logprobs=[[math.log(4.1), math.log(4.1)]], old_logprobs=[[0.0, 0.0]])
        assert acted("fipo", batch) == [[-1.0, 1.2]]
        likely = tokens([[-1.0]], logprobs=[[math.log(3.9)]], old_logprobs=[[0.0]])
        assert acted("fipo", likely) == [[-1.2]]


def moved(advantage: float, ratio: float, p_old: float = 0.01, **more: Any) -> Tokens:
    """A batch of one token whose probability has changed from `p_old` by the factor `ratio`."""
    return tokens([[advantage]], logprobs=[logs(p_old * ratio)], old_logprobs=[logs(p_old)], **more)


class TestClips:
    """With the trainer's clip open, a token's gradient is `-r A'`: A' is the wanted weight times A over r."""

    @pytest.mark.parametrize(
        ("advantage", "ratio", "ce", "gppo"),
        [
            (-1.0, 0.5, -1.2, -1.6),  # weights .75 * .8 = .6, and .8
            (1.0, 2.0, 0.6, 0.6),  # 1.2
            (1.0, 1.1, 1.0, 1.0),
            (-1.0, 1.5, -1.0, -1.0),
            (-1.0, 12.0, 0.0, 0.0),  # the dual clip
            (1.0, 0.5, 1.0, 1.0),
        ],
    )
    def test_ce_gppo_and_gppo(self, advantage: float, ratio: float, ce: float, gppo: float) -> None:
        assert acted("ce_gppo", moved(advantage, ratio)) == [[pytest.approx(ce)]]
        assert acted("gppo", moved(advantage, ratio)) == [[pytest.approx(gppo)]]

    @pytest.mark.parametrize(
        ("advantage", "ratio", "made"),
        [(1.0, 2.0, 0.6), (1.0, 1.1, 1.0), (-1.0, 0.5, 0.0), (-1.0, 1.5, -1.0), (-1.0, 12.0, -1.0), (1.0, 0.5, 1.0)],
    )
    def test_entropy_balanced(self, advantage: float, ratio: float, made: float) -> None:
        assert acted("entropy_balanced_clip", moved(advantage, ratio)) == [[pytest.approx(made)]]

    @pytest.mark.parametrize(
        ("p_old", "ratio", "advantage", "factor"),
        [
            (0.1, 1.5, 1.0, 0.970838),  # s = .1^-.3 * 1.03 = 2.05512
            (0.9, 1.5, 1.0, 0.895291),  # 1.063076
            (0.1, 0.5, -1.0, 0.967238),  # .1^-.3 / 1.03 = 1.937148
            (0.9, 0.5, -1.0, 0.882948),  # 1.002051
            (0.1, 0.5, 1.0, 1.0),
            (0.1, 30.0, -1.0, 1.0),
        ],
    )
    def test_maspo(self, p_old: float, ratio: float, advantage: float, factor: float) -> None:
        made = acted("maspo", moved(advantage, ratio, p_old))
        assert made == [[pytest.approx(advantage * factor, abs=1e-6)]]

    @pytest.mark.parametrize(
        ("spec", "advantage", "p", "kept"),
        [
            # p_old = .1 and p = .3: |dp| .2, binary KL .116322.
            ("dppo:high=0.21", 1.0, 0.3, True),
            ("dppo:high=0.19", 1.0, 0.3, False),
            ("dppo:low=0.19", -1.0, 0.3, True),  # back towards the old policy's side
            ("dppo:divergence=kl,high=0.1164", 1.0, 0.3, True),
            ("dppo:divergence=kl,high=0.1163", 1.0, 0.3, False),
            ("dppo:divergence=kl,low=0.01", -1.0, 0.3, True),
            ("dppo:low=0.04", -1.0, 0.05, False),
            ("dppo:low=0.06", -1.0, 0.05, True),
        ],
    )
    def test_dppo(self, spec: str, advantage: float, p: float, kept: bool) -> None:
        assert acted(spec, moved(advantage, p / 0.1, 0.1)) == [[advantage if kept else 0.0]]

    def test_dppo_bounds_the_ratio(self) -> None:
        assert acted("dppo", moved(-1.0, 40.0, 0.001)) == [[pytest.approx(-0.5)]]

    @pytest.mark.parametrize(("p_old", "upper", "lower"), [(0.1, 1.463415, 0.70922), (0.5, 1.333333, 0.748663)])
    def test_flexible_ranges(self, p_old: float, upper: float, lower: float) -> None:
        """A token beyond its bound weighs as much as the bound; at half of `did` both bounds are wholly dynamic."""
        spec, half = "flexible_clip:strategy=did", 0.5 + 1e-12
        up, down = (acted(spec, moved(a, ratio, p_old, progress=half)) for a, ratio in ((1.0, 1.8), (-1.0, 0.5)))
        assert up == [about(upper / 1.8)]
        assert down == [about(-lower / 0.5)]
        for a, ratio in ((1.0, 1.05), (-1.0, 0.96), (1.0, 0.5), (-1.0, 1.8)):
            assert acted(spec, moved(a, ratio, p_old, progress=half)) == [[a]]

    @pytest.mark.parametrize(
        ("strategy", "progress", "upper", "lower"),
        [
            # Dynamic ranges at p_old = .1: .463415 above and .29078 below; fixed .2.
            ("id", 0.0, 0.463415, 0.2),
            ("id", 0.25, 0.331707, 0.2),
            ("id", 0.5, 0.2, 0.2),
            ("id", 0.75, 0.2, 0.24539),
            ("id", 1.0, 0.2, 0.2),  # l = -1: (1 + l) D - l e
            ("did", 0.0, 0.2, 0.2),
            ("did", 0.25, 0.331707, 0.2),
            ("did", 0.75, 0.463415, 0.24539),
        ],
    )
    def test_flexible_schedule(self, strategy: str, progress: float, upper: float, lower: float) -> None:
        method = parse_method(f"flexible_clip:strategy={strategy}")
        assert isinstance(method, FlexibleClip)
        one = torch.full((1, 1), 0.1, dtype=torch.float64)
        up, down = method.ranges(one, tokens([[1.0]], progress=progress))
        assert (float(up), float(down)) == about(upper, lower)

    def test_flexible_hysteresis(self) -> None:
        """H_init 1: to rise below .2, to fall above .2 + .8 (1 - progress)."""
        method = parse_method("flexible_clip:strategy=od")
        assert isinstance(method, FlexibleClip)
        state, widths = method.first_state(), []
        for entropy, progress in ((1.0, 0.1), (0.5, 0.2), (0.2, 0.3), (0.67, 0.4), (0.69, 0.4), (0.3, 0.5), (0.7, 0.5)):
            state = method.next_state(state, entropy, progress)
            widths.append(state["raising"])
        assert state["initial_entropy"] == 1.0
        assert widths == [0, 0, 1, 1, 0, 0, 0]
        one = torch.full((1, 1), 0.1, dtype=torch.float64)
        for raising, ranges in ((1.0, (0.463415, 0.2)), (0.0, (0.2, 0.29078))):
            states = {"flexible_clip": {"initial_entropy": 1.0, "raising": raising}}
            up, down = method.ranges(one, dataclasses.replace(tokens([[1.0]]), states=states))
            assert (float(up), float(down)) == about(*ranges)


class TestRepoR:
    @pytest.mark.parametrize(
        ("advantage", "logprob", "zeta", "expected"),
        [
            (1.0, math.log(0.1), 0.001, 1.002303),  # 1 + .001 * 2.302585
            (-1.0, math.log(0.1), 0.001, -0.997697),
            (-1.0, -30.0, 0.05, 0.0),  # log pi counts as -20, and 1 - .05 * 20 = 0
            (1.0, -30.0, -0.05, 0.0),
            (2.0, -30.0, 0.05, 4.0),
            (-1.0, -5.0, 0.5, 0.0),  # not across 0
            (0.0, -5.0, 0.5, 0.0),
        ],
    )
    def test_example(self, advantage: float, logprob: float, zeta: float, expected: float) -> None:
        made = acted(f"repo_r:zeta={zeta}", tokens([[advantage]], logprobs=[[logprob]]))
        assert made == [[pytest.approx(expected, abs=1e-6)]]

    @pytest.mark.parametrize(
        ("zeta", "entropy", "after"),
        [
            (0.004, 0.5, 0.002),
            (1.5e-4, 0.5, -1e-4),  # 7.5e-5 is too small, so the sign turns
            (-0.004, 0.5, -0.008),
            (-0.04, 0.5, -0.05),
            (0.0, 0.5, -1e-4),
            (0.004, 0.1, 0.008),
            (0.04, 0.1, 0.05),
            (0.0, 0.1, 1e-4),
            (-0.004, 0.1, -0.002),
            (-1.5e-4, 0.1, 1e-4),
            (0.004, 0.3, 0.004),
        ],
    )
    def test_controller(self, zeta: float, entropy: float, after: float) -> None:
        method = parse_method("repo_r:target=0.3")
        assert method.next_state({"zeta": zeta}, entropy, 0.5) == {"zeta": pytest.approx(after)}

    def test_it_acts_with_the_zeta_of_its_state(self) -> None:
        batch = dataclasses.replace(tokens([[1.0]], logprobs=[[-2.0]]), states={"repo_r": {"zeta": 0.05}})
        assert acted("repo_r:target=0.3", batch) == [[pytest.approx(1.1)]]
        assert acted("repo_r", batch) == [[pytest.approx(1.002)]]


class TestCreditWeight:
    BATCH = tokens(
        [[2.0, 2.0, -1.0, 0.0, 5.0]],
        entropy=[[0.0, 0.3, 0.9, 1.0, 0.1]],
        logprobs=[[math.log(p) for p in (0.05, 0.1, 0.8, 1.0, 0.5)]],
        mask=[[1, 1, 1, 1, 0]],
    )

    def test_probabilities_by_hand(self) -> None:
        """With p = .05, .1, .8, 1 the first factor is min(p / .2, 1) = .25, .5, 1, 1."""
        assert acted("credit_weight:probability=0.2", self.BATCH)[0][:4] == about(0.5, 1.0, -1.0, 0.0)
        assert acted("credit_weight", self.BATCH)[0][:4] == about(1.0, 2.0, -1.0, 0.0)

    def test_entropies_by_hand(self) -> None:
        """The second factor is .2 + .8 min(H / .6, 1) = .2, .6, 1, 1."""
        of_entropy = "credit_weight:probability=0,"
        assert acted(of_entropy + "width=0.6,least=0.2", self.BATCH)[0][:4] == about(0.4, 1.2, -1.0, 0.0)
        assert acted(of_entropy + "width=1,least=0", self.BATCH)[0][:4] == about(0.0, 0.6, -0.9, 0.0)

    def test_both_by_hand(self) -> None:
        spec = "credit_weight:width=0.6,least=0.2,probability=0.2"
        assert acted(spec, self.BATCH)[0][:4] == about(0.1, 0.6, -1.0, 0.0)

    @pytest.mark.parametrize(
        ("options", "needs"),
        [
            ("", {Need.LOGPROBS}),
            (":least=0.5", {Need.LOGPROBS, Need.ENTROPY}),
            (":least=0.5,probability=0", {Need.ENTROPY}),
        ],
    )
    def test_it_asks_for_what_its_weight_depends_on(self, options: str, needs: set[Need]) -> None:
        assert parse_method(f"credit_weight{options}").needs() == needs

    def test_the_placebo_deals_the_same_weights_to_other_tokens(self) -> None:
        logprobs = [[-0.1 * (i % 7) for i in range(40)]]
        batch = tokens([[1.0] * 40], entropy=[[0.02 * i for i in range(40)]], logprobs=logprobs)
        spec = "least=0.5,width=0.6,probability=0.9"
        own, dealt = acted(f"credit_weight:{spec}", batch)[0], acted(f"placebo_weight:{spec}", batch)[0]
        assert sorted(dealt) == about(*sorted(own))
        assert sum(a != b for a, b in zip(own, dealt, strict=True)) > 20

    @pytest.mark.parametrize(("key", "value"), [("width", 0), ("least", -0.1), ("probability", 1.5)])
    def test_refused(self, key: str, value: float) -> None:
        with pytest.raises(InputError, match=f"{key} of the method 'placebo_weight' must be"):
            parse_method(f"placebo_weight:{key}={value}")

    def test_a_weight_of_one_everywhere_is_refused(self) -> None:
        with pytest.raises(InputError, match="'credit_weight' with probability=0 and least=1 would do nothing"):
            parse_method("credit_weight:probability=0")


class TestOpefo:
    def test_papers_weight(self) -> None:
        """d = -A p (1-p)^2 (ln p + H) = -.003552 .065009 .025857 -.065009: P .090866, N .068561, b -.139906."""
        batch = tokens(
            [[1.0, 1.0, -1.0, -1.0, 3.0]],
            logprobs=[logs(0.9, 0.1, 0.5, 0.1, 0.2)],
            entropy=[[0.5, 1.5, 0.9, 1.5, 9.0]],
            mask=[[1, 1, 1, 1, 0]],
        )
        assert acted("opefo:weight=paper", batch)[0][:4] == about(1.139906, 0.860094, -0.860094, -1.139906)

    def test_exact_weight(self) -> None:
        """p = .7 .2 .1, H .801819: k = -.140793 .332332 .320885, whose mean under p is 0."""
        p, k = (0.7, 0.2, 0.1), (-0.140793, 0.332332, 0.320885)
        h = -sum(x * math.log(x) for x in p)
        s = sum(x * x * (math.log(x) + h) for x in p)
        columns = {"logprobs": [logs(*p)], "entropy": [[h] * 3], "sum_p2_log": [[s] * 3]}
        raised, lowered = k[1] + k[2], -k[0]
        b = (lowered - raised) / (lowered + raised)
        assert acted("opefo", tokens([[1.0] * 3], **columns))[0] == about(1 - b, 1 + b, 1 + b)
        # A punished token moves H the other way: the first raises it by .140793, the second lowers it by 2 * .332332.
        b = (0.664664 - 0.140793) / (0.664664 + 0.140793)
        made = acted("opefo", tokens([[-1.0, -2.0, 0.0]], **columns))[0]
        assert made == pytest.approx([-(1 + b), -2 * (1 - b), 0], abs=1e-5)

    def test_nothing_flows(self) -> None:
        assert acted("opefo:weight=paper", tokens([[1.0, -1.0]], logprobs=[[0.0, 0.0]], entropy=[[0.0, 0.0]])) == [
            [1.0, -1.0]
        ]


class TestDcpo:
    """Target .5, H .3, half right: a' = .1 / .5 and a = .166667; log pi_T - log pi = -.1 at the right token."""

    def batch(self, entropy: float, correct: tuple[bool, bool] = (True, False)) -> Tokens:
        batch = tokens(
            [[1.0], [-1.0]],
            old_logprobs=[[-1.0], [-1.0]],
            tempered_logprobs=[[-1.1], [-0.9]],
            correct=list(correct),
        )
        return dataclasses.replace(batch, states={"dcpo": {"entropy": entropy}})

    def test_example(self) -> None:
        assert acted("dcpo", self.batch(0.3)) == [
            [pytest.approx(0.98414, abs=1e-6)],
            [pytest.approx(-0.833333, abs=1e-6)],
        ]
        assert acted("dcpo:target=0.3", self.batch(0.3)) == [[1.0], [-1.0]]
        near = acted("dcpo", self.batch(0.45))  # a' = .05 / .5
        assert near[1] == [pytest.approx(-1 / 1.1)]

    def test_it_waits_for_an_entropy_and_for_right_answers(self) -> None:
        for entropy, correct in ((-1.0, (True, False)), (0.3, (False, False))):
            assert acted("dcpo", self.batch(entropy, correct)) == [[1.0], [-1.0]]

    def test_temperature(self) -> None:
        method = parse_method("dcpo")
        assert [method.temperature_factor({"dcpo": {"entropy": h}}) for h in (-1.0, 0.3, 0.5, 0.6)] == [
            1.2,
            1.2,
            1.2,
            0.8,
        ]


class TestPipo:
    """History .40 .44 .48: mean .44, deviation .04 (n - 1)."""

    HISTORY = torch.tensor([0.40, 0.44, 0.48], dtype=torch.float64)

    @pytest.mark.parametrize(("mean", "xi", "phi"), [(0.50, 1.5, 1.5), (0.40, -1.0, -0.5)])
    def test_example(self, mean: float, xi: float, phi: float) -> None:
        method = parse_method("pipo:window=3,lam=0.5")
        assert isinstance(method, Pipo)
        xi_now = method.xi(torch.tensor(mean, dtype=torch.float64), self.HISTORY)
        assert float(xi_now) == pytest.approx(xi, abs=1e-4)  # 1e-6 is added to the deviation
        assert float(method.phi(xi_now)) == pytest.approx(phi, abs=1e-4)

    def test_fewer_means_or_equal_ones_say_nothing(self) -> None:
        method = parse_method("pipo:window=3")
        assert isinstance(method, Pipo)
        rounded = torch.tensor([0.3, 0.1 + 0.2, 0.3], dtype=torch.float64)  # the second is .30000000000000004
        assert float(rounded.std()) > 0
        for history in (self.HISTORY[:2], torch.full((3,), 0.5).double(), rounded):
            assert float(method.xi(torch.tensor(0.9).double(), history)) == 0

    def test_lessons(self) -> None:
        """Window 2. Means 0, 1: the third, 1, is xi = (1 - .5)/.707107 = .707107; then (0 - 1) has no spread."""
        method = parse_method("pipo:window=2")
        assert isinstance(method, Pipo)
        memory, told = {}, []
        for turn, mean in enumerate((0.0, 1.0, 1.0, 0.0)):
            rows = torch.arange(2 * turn, 2 * turn + 2)
            nothing = torch.zeros(2, dtype=torch.bool)
            memory = method.note(memory, Drawn(rows, torch.full((2,), mean), torch.zeros(2), nothing, nothing))
            while True:
                lesson, memory = method.lesson(memory, 2, torch.Generator())
                if lesson is None:
                    break
                told.append((lesson.rows.tolist(), round(float(lesson.weights[0]), 5)))
        assert told == [([0, 1], 1), ([2, 3], 1), ([2, 3], 0.70711), ([4, 5], 1), ([6, 7], 1)]


class TestUecRl:
    def learned(self, spec: str, rollouts: list[Drawn], size: int) -> list[list[int]]:
        """The completions of each lesson; what is replayed at random is sorted."""
        method = parse_method(spec)
        assert isinstance(method, UecRl)
        memory, told = {}, []
        for drawn in rollouts:
            memory = method.note(memory, drawn)
            told.append([])
            while True:
                lesson, memory = method.lesson(memory, size, torch.Generator().manual_seed(0))
                if lesson is None:
                    break
                assert lesson.weights.tolist() == [1] * len(lesson.rows)
                told[-1].append(lesson.rows.tolist())
        return told

    def drawn(self, first: int, advantages: list[float], again: int = 0, cut: tuple[int, ...] = ()) -> Drawn:
        rows, a = torch.arange(first, first + len(advantages)), torch.tensor(advantages)
        places = torch.arange(len(advantages))
        return Drawn(rows, a, a, torch.isin(places, torch.tensor(cut)), places >= len(a) - again)

    def test_hard_prompts(self) -> None:
        method = parse_method("uec_rl")
        assert isinstance(method, UecRl)
        rewards = torch.tensor([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [-1.0, -1.0]])
        a = torch.tensor([[0.0, 0.0], [0.7, -0.7], [0.0, 0.0], [0.0, 0.0]])
        assert method.hard(rewards, a).tolist() == [True, False, False, True]

    def test_queue(self) -> None:
        """Of four, and four drawn again with 1.5 -.5 -.5 -.5, all of the first and one more (.5 is not above .5)."""
        first = self.drawn(0, [1.5, -0.5, -0.5, -0.5, 1.5, -0.5, -0.5, -0.5], again=4)
        flat = self.drawn(8, [0.0, 0.04, -0.04, 0.0])
        last = self.drawn(12, [0.9, 0.9, -0.9, -0.9], cut=(0, 2))  # 12 was good and fills the length
        assert self.learned("uec_rl", [first, flat, last], 4) == [[[0, 1, 2, 3]], [], [[4, 13, 14, 15]]]

    def test_replay(self) -> None:
        """Rollouts of two, one of which is rare. From the second on two are; four are all that is kept."""
        rollouts = [self.drawn(2 * i, [1.2, -1.2]) for i in range(5)]
        told = self.learned("uec_rl:every=1", rollouts, 2)
        assert told[0] == [[0, 1]]
        assert [told[1][0], sorted(told[1][1])] == [[2, 3], [0, 2]]
        assert told[2][0] == [4, 5]
        assert len(told[2]) == 2
        assert set(told[2][1]) < {0, 2, 4}
        assert told[3] == [[6, 7], [0, 2], [4, 6]]
        assert told[4] == [[8, 9], [2, 4], [6, 8]]
        assert [len(lessons) for lessons in self.learned("uec_rl:every=2", rollouts, 2)] == [1, 2, 1, 3, 1]
        assert [len(lessons) for lessons in self.learned("uec_rl:every=1,rare=1.2", rollouts, 2)] == [1] * 5

    def test_queue_keeps_the_newest(self) -> None:
        """Ten drawn again for two: of 12, the last eight stay."""
        memory = parse_method("uec_rl").note({}, self.drawn(0, [1.0] * 12, again=10))
        assert memory["queue"].tolist() == [4, 5, 6, 7, 8, 9, 10, 11]

    @pytest.mark.parametrize(
        ("spec", "message"),
        [
            ("uec_rl:group=1", "group of the method 'uec_rl' must be at least 2"),
            ("uec_rl:group=4,explored=1.5", "must be below 1.50, the largest advantage among 4 completions"),
            ("uec_rl:every=0", "every of the method 'uec_rl' must be at least 1"),
        ],
    )
    def test_refused(self, spec: str, message: str) -> None:
        with pytest.raises(InputError, match=message):
            parse_method(spec)


class TestPolicySplit:
    """u = 1 2 .5 .5 under the own prompt, 1.5 3 .5 1 under the other, mix .6: E = 1.2 2.4 .5 .7, mean 1.2,
    deviation .852447 (n - 1), z = 0 1.40771 -.821164 -.586546.
    """

    BATCH = tokens(
        [[1.0, 1.0, 9.0], [-1.0, -1.0, 9.0]],
        old_logprobs=[[-1.0, -2.0, 5.0], [-0.5, -0.5, 5.0]],
        other_logprobs=[[-1.5, -3.0, 5.0], [-0.5, -1.0, 5.0]],
        mask=[[1, 1, 0], [1, 1, 0]],
        groups=[3, 3],
        second=[True, True],
    )

    def shaped(self, options: str, batch: Tokens = BATCH) -> list[float]:
        method = parse_method(f"policy_split:mix=0.6,prompt=text,{options}")
        assert isinstance(method, PolicySplit)
        return [a for row in method.advantages(batch).tolist() for a in row[:2]]

    def test_second_mode(self) -> None:
        assert self.shaped("eta=0.1,cap=2") == pytest.approx([1, 1.140771, -1.082116, -1.058655], abs=1e-5)
        assert self.shaped("eta=1,cap=2") == pytest.approx([1, 1.5, -1.5, -1.5], abs=1e-5)
        assert self.shaped("eta=1,cap=0") == pytest.approx([1, 2.40771, -1.821164, -1.586546], abs=1e-5)

    def test_first_mode(self) -> None:
        first = dataclasses.replace(self.BATCH, second=torch.tensor([False, False]))
        assert self.shaped("eta=1,cap=2", first) == [1, 1, -1, -1]
        assert self.shaped("eta=1,cap=0,normal=0.1", first) == pytest.approx(
            [1, 0.859229, -0.917884, -0.941345], abs=1e-5
        )

    def test_modes_and_groups_are_standardised_apart(self) -> None:
        """Of two tokens each z is +-1/sqrt 2, whatever they are; of none that differ it is 0."""
        for columns in ({"second": torch.tensor([False, True])}, {"groups": torch.tensor([0, 1])}):
            shaped = self.shaped("eta=1,cap=0,normal=1", dataclasses.replace(self.BATCH, **columns))
            sign = -1 if "second" in columns else 1
            want = [1 - sign * 0.707107, 1 + sign * 0.707107, -1.707107, -0.292893]
            assert shaped == pytest.approx(want, abs=1e-4)

    def test_passes_the_kit(self) -> None:
        check_method(parse_method("policy_split:eta=0.2,mix=0.6,cap=2,normal=0.1,prompt=text"))

    def test_the_text_stands_before_the_prompt(self, tmp_path: Path) -> None:
        (tmp_path / "text").write_text("Explore.\n")
        method = parse_method(f"policy_split:prompt={tmp_path / 'text'}")
        assert isinstance(method, PolicySplit)
        assert method.second("1 + 1 =") == "Explore.\n\n1 + 1 ="
        user = {"role": "user", "content": "Hi"}
        assert method.second([user]) == [{"role": "system", "content": "Explore."}, user]
        system = {"role": "system", "content": "Be brief."}
        assert method.second([system, user]) == [{"role": "system", "content": "Explore.\n\nBe brief."}, user]

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ("eta=0", "eta of the method 'policy_split' must be greater than 0, got 0"),
            ("mix=1.1", "mix of the method 'policy_split' must be at least 0 and at most 1"),
            ("cap=0.5", "cap of the method 'policy_split' must be greater than 1"),
        ],
    )
    def test_refused(self, options: str, message: str) -> None:
        with pytest.raises(InputError, match=message):
            parse_method(f"policy_split:{options}")


class TestMinerva:
    def test_rewards_of_hinted_draws(self) -> None:
        """Right .1; right and leaking -.4; half right .05."""
        method = parse_method("minerva")
        assert isinstance(method, Minerva)
        would_earn = method.draw_rewards(torch.tensor([1.0, 1.0, 0.5]), torch.tensor([False, True, False]))
        assert would_earn.tolist() == about(0.1, -0.4, 0.05)

    def test_unsolved_prompts(self) -> None:
        method = parse_method("minerva")
        rewards = torch.tensor([[0.0, 0.0], [0.0, 1.0], [0.4, 0.9]])
        assert method.hard(rewards, rewards * 0).tolist() == [True, False, True]

    def test_what_is_kept_is_imitated_every_so_often(self) -> None:
        """Two rollouts of two. Rows 2, 3, 6 and 7 were drawn again; 3 and 6 are clean and right."""
        method = parse_method("minerva:group=2,every=2,rate=0.5")
        assert isinstance(method, Minerva)

        def drawn(first: int, rewards: list[float], leaks: list[bool]) -> Drawn:
            rows, again = torch.arange(first, first + 4), torch.tensor([False, False, True, True])
            return Drawn(rows, torch.tensor(rewards), torch.zeros(4), ~again & False, again, torch.tensor(leaks), 5)

        memory = method.note({}, drawn(0, [0, 0, 1, 1], [False, False, True, False]))
        lesson, memory = method.lesson(memory, 2, torch.Generator())
        assert (lesson.rows.tolist(), lesson.imitation, lesson.rate) == ([0, 1], False, 1.0)
        assert method.lesson(memory, 2, torch.Generator())[0] is None
        assert method.kept(memory).tolist() == [3]
        memory = method.note(memory, drawn(4, [0, 0.5, 0.99, 0.98], [False] * 4))
        lesson, memory = method.lesson(memory, 2, torch.Generator())
        assert (lesson.rows.tolist(), lesson.imitation) == ([4, 5], False)
        lesson, memory = method.lesson(memory, 2, torch.Generator())
        assert (lesson.rows.tolist(), lesson.weights.tolist(), lesson.imitation, lesson.rate) == (
            [3, 6],
            [1, 1],
            True,
            0.5,
        )
        assert method.lesson(memory, 2, torch.Generator())[0] is None
        assert method.kept(memory).tolist() == []

    def test_of_several_one_is_drawn(self) -> None:
        method = parse_method("minerva:group=4")
        kept = set()
        for seed in range(40):
            rows, again = torch.arange(6), torch.arange(6) > 1
            ones, none = torch.ones(6), torch.zeros(6, dtype=torch.bool)
            leaks = rows == 4
            memory = method.note({}, Drawn(rows, ones, ones, none, again, leaks, seed))
            assert len(memory["kept"]) == 1
            kept |= set(memory["kept"].tolist())
        assert kept == {2, 3, 5}

    def test_the_hint_stands_behind_the_prompt(self) -> None:
        method = parse_method("minerva:reference=source")
        assert isinstance(method, Minerva)
        row = {"prompt": "Which part?", "answer": "A02", "source": "A02 is red."}
        text = method.hinted(row)
        assert isinstance(text, str)
        assert text.startswith("Which part?\n\nA02 is red.\n\nThe answer is A02. Do not mention")
        chat = method.hinted({**row, "prompt": [{"role": "user", "content": "Which part?"}], "source": None})
        assert isinstance(chat, list)
        assert str(chat[0]["content"]).startswith("Which part?\n\nThe answer is A02.")

    TASK = "Which parts are red and longer than ten? A02 K31 B07"
    GOOD = "A02 is red and longer than ten while B07 is blue so only the first and K31 fit here. \\boxed{A02, K31}"

    @pytest.mark.parametrize(
        ("text", "rules", "why"),
        [
            (GOOD, {}, None),
            ("The given answer is right. " + GOOD, {}, "speaks of an answer that was shown"),
            ("I was told. " + GOOD, {}, "speaks of an answer that was shown"),
            ("\\boxed{A02, K31}", {}, "has hardly any reasoning"),
            (GOOD, {"shortest": 200}, "has hardly any reasoning"),
            (
                "Nobody knows why zebras sleep, and yet they do so all night long, it seems. \\boxed{x}",
                {},
                "is about something",
            ),
            ("A02 A02 A02 " + GOOD, {}, "names its answer too often"),  # five times with the box
            ("A02 A021 xA02 " + GOOD, {}, None),  # A021 and xA02 are other ids
            (GOOD + " red parts" * 100, {}, "repeats itself"),
        ],
    )
    def test_leaks(self, text: str, rules: dict[str, Any], why: str | None) -> None:
        leak = LeakRules(**{"shortest": 60, **rules}).leak(text, self.TASK, "A02, K31")
        assert leak is None if why is None else str(leak).startswith(why), leak

    def test_a_reference_must_not_be_copied(self) -> None:
        """Ten words in a row, of a reference of 100 characters at least."""
        words = [f"word{i}" for i in range(20)]
        text = "red parts " + " ".join(words[5:15]) + " A02"
        rules = LeakRules(shortest=0)
        assert rules.leak(text, self.TASK, "A02", " ".join(words)) == "copies the reference"
        assert rules.leak(text.replace("word9", "other"), self.TASK, "A02", " ".join(words)) is None
        assert rules.leak(text, self.TASK, "A02", " ".join(words[5:16])[:99]) is None

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ("accept=2", "accept of the method 'minerva' is 2.0, above solved"),
            ("group=0", "group of the method 'minerva' must be at least 1"),
            ("top_p=0", "top_p of the method 'minerva' must be greater than 0"),
        ],
    )
    def test_refused(self, options: str, message: str) -> None:
        with pytest.raises(InputError, match=message):
            parse_method(f"minerva:{options}")


class TestVgpo:
    def test_tokens(self) -> None:
        """w = .2 .8 .4 .6: in the tail of two .6 is the largest and grows to .78, (.78 - .2)/.6 = .966667."""
        method = parse_method("vgpo")
        assert isinstance(method, Vgpo)
        w = method.grown(torch.tensor([0.2, 0.8, 0.4, 0.6], dtype=torch.float64))
        assert w.tolist() == about(0, 1, 0.333333, 0.966667)
        assert (1 + w - w.mean()).tolist() == about(0.425, 1.425, 0.758333, 1.391667)
        assert method.grown(torch.ones(1)).tolist() == [0.0]

    def test_answers(self) -> None:
        method = parse_method("vgpo")
        assert isinstance(method, Vgpo)
        assert method.answers(torch.tensor([1.9, 1.0, 2.8, 1.0]).double()).tolist() == about(1.125, 0.9, 1.625, 0.9)

    def test_advantages(self) -> None:
        """Cosines -1 .5 | -.25 .125 of two answers: w = 0 1 | .5 .75, of which the last grow to 1.3 and .975.

        In each answer w is then 0 1, so psi = .5 1.5; phi = 1 1, so alpha = 1. The third answer is of another prompt.
        """
        batch = tokens(
            [[1.0, 1.0], [-2.0, -2.0], [3.0, 3.0]],
            image_similarity=[[-1.0, 0.5], [-0.25, 0.125], [0.7, 0.7]],
            groups=[0, 0, 1],
        )
        assert acted("vgpo", batch) == [about(0.5, 1.5), about(-1, -3), about(3, 3)]

    def test_refused(self) -> None:
        with pytest.raises(InputError, match="share of the method 'vgpo' must be greater than 0 and at most 1"):
            parse_method("vgpo:share=0")


@pytest.mark.parametrize(
    "specs",
    [["eapo", "entropy_advantage"], ["psr", "rloo"], ["miner", "maxrl"], ["w_reinforce", "dr_grpo"], ["gppo", "maspo"]],
)
def test_what_does_the_same_job_is_refused(specs: list[str]) -> None:
    with pytest.raises(InputError, match="cannot be combined"):
        parse_methods(specs)


def test_the_table_of_the_docs_agrees_and_says_so_where_it_would_not(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert worked_examples.main() == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(worked_examples.EXAMPLES) + 2
    assert set(lines) <= set(PAPERS.read_text(encoding="utf-8").splitlines())
    monkeypatch.setattr(worked_examples, "EXAMPLES", (("maxrl", "r 1 0", (1, -1.1), lambda: (1.0, -1.0)),))
    assert worked_examples.main() == 1
    assert capsys.readouterr().out.endswith("| `maxrl` | r 1 0 | 1 -1.1 | 1 -1 (differs) |\n")
