"""Every method on an example small enough to be worked out by hand, written next to it."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import pytest

torch = pytest.importorskip("torch")

from batches import rollout, tokens

from forkwise.core import group_advantages, shape_advantages
from forkwise.errors import InputError
from forkwise.methods import (
    EntropyTermMethod,
    ReplayMethod,
    RewardMethod,
    Rollout,
    TokenMethod,
    Tokens,
    all_methods,
    parse_method,
)
from forkwise.methods.entropy_advantage import EntropyAdvantage


def acted(spec: str, batch: Tokens) -> list[list[float]]:
    method = parse_method(spec)
    assert isinstance(method, TokenMethod)
    before = batch.advantages.clone()
    made = method.advantages(batch)
    assert torch.equal(batch.advantages, before), "the input is left as it is"
    return made.tolist()


def advantages(spec: str, rewards: list[float], groups: list[int], logprobs: list[float] | None = None) -> list[float]:
    method = parse_method(spec)
    assert isinstance(method, RewardMethod)
    return method.advantages(rollout(rewards, groups, logprobs)).tolist()


def row(*values: float) -> list[list[float]]:
    return [pytest.approx(list(values), abs=1e-6)]


class TestEntropyAdvantage:
    """alpha H = 0.2, 0.8, 1.2 and |A| / kappa = 0.5, 0.5, 0.1, so psi = 0.2, 0.5, 0.1."""

    BATCH: ClassVar[Any] = {
        "advantages": [[1.0, -1.0, 0.2]],
        "entropy": [[0.5, 2.0, 3.0]],
        "old_entropy": [[0.25, 0.5, 3.0]],
    }

    @pytest.mark.parametrize(
        ("options", "expected"),
        [
            pytest.param("", [1.2, -0.5, 0.3], id="published"),
            pytest.param("sign=positive", [1.2, -1.0, 0.3], id="positive_only"),
            pytest.param("sign=negative", [1.0, -0.5, 0.2], id="negative_only"),
            pytest.param("multiplicative=true", [1.2, -1.5, 0.22], id="multiplicative"),
            pytest.param("cap=false", [1.2, -0.2, 1.4], id="no_cap"),
            pytest.param("entropy=old", [1.1, -0.8, 0.3], id="old"),
            pytest.param("alpha=0.1,kappa=5", [1.05, -0.8, 0.24], id="constants"),
        ],
    )
    def test_switches(self, options: str, expected: list[float]) -> None:
        assert acted(f"entropy_advantage:{options}", tokens(**self.BATCH)) == row(*expected)

    @pytest.mark.parametrize(
        ("options", "psi_over_adv", "capped"),
        [
            ("", 1.2 / 3, 2 / 3),
            ("multiplicative=true", 1.2 / 3, 2 / 3),
            ("sign=positive", 0.7 / 2, 1 / 2),  # of the two tokens with A > 0
            ("sign=negative", 0.5, 1.0),
            ("entropy=old", 0.8 / 3, 1 / 3),
        ],
    )
    def test_what_it_says_of_psi(self, options: str, psi_over_adv: float, capped: float) -> None:
        method = parse_method(f"entropy_advantage:{options}")
        assert isinstance(method, EntropyAdvantage)
        stats = method.change(tokens(**self.BATCH)).shaping
        assert stats is not None
        values = stats.as_dict()
        assert (values["psi_over_adv"], values["capped_frac"]) == (pytest.approx(psi_over_adv), pytest.approx(capped))

    def test_without_a_cap_it_says_nothing_of_one(self) -> None:
        assert EntropyAdvantage(cap=False).change(tokens(**self.BATCH)).shaping is None

    def test_the_published_form_is_the_core_function(self) -> None:
        batch = tokens(**self.BATCH)
        assert torch.equal(EntropyAdvantage().advantages(batch), shape_advantages(batch.advantages, batch.entropy))


class TestPlacebos:
    BATCH: ClassVar[Any] = TestEntropyAdvantage.BATCH

    def test_constant_is_the_mean_of_psi_and_leaves_zero_and_padding(self) -> None:
        # psi = 0.2, 0.5, 0.1 at the tokens with A != 0; the last two are A = 0 and padding.
        batch = tokens([[1.0, -1.0, 0.2, 0.0, 5.0]], entropy=[[0.5, 2.0, 3.0, 4.0, 4.0]], mask=[[1, 1, 1, 1, 0]])
        psi = 0.8 / 3
        assert acted("placebo_constant", batch) == row(1 + psi, -1 + psi, 0.2 + psi, 0.0, 5.0)

    def test_scaling_knows_no_entropy(self) -> None:
        assert acted("placebo_scaling", tokens([[1.0, -1.0, 0.2]])) == row(1.5, -0.5, 0.3)
        assert acted("placebo_scaling:kappa=4", tokens([[1.0, -1.0, 0.0]])) == row(1.25, -0.75, 0.0)

    def test_permuted_deals_out_the_same_entropies(self) -> None:
        # With A = 10 nothing is capped: A + 0.4 H for some order of H.
        entropy = [[0.5, 2.0, 3.0], [1.0, 9.0, 9.0]]
        batch = tokens([[10.0] * 3, [10.0] * 3], entropy=entropy, mask=[[1, 1, 1], [1, 0, 0]])
        made = acted("placebo_permuted", batch)
        assert sorted(made[0] + made[1][:1]) == pytest.approx([10.2, 10.4, 10.8, 11.2])
        assert made[1][1:] == [10.0, 10.0]

    def test_permuted_depends_on_the_seed_and_on_nothing_else(self) -> None:
        entropy = [[float(i) for i in range(20)]]
        orders = [acted("placebo_permuted", tokens([[99.0] * 20], entropy=entropy, seed=s)) for s in (1, 1, 2)]
        assert orders[0] == orders[1] != orders[2]


class TestForkingTokens:
    BATCH: ClassVar[Any] = {"advantages": [[1.0, 2.0, 3.0], [-1.0, -2.0, -3.0]], "mask": [[1, 1, 1], [1, 1, 0]]}
    ENTROPY: ClassVar[Any] = [[0.1, 0.9, 0.5], [0.7, 0.3, 9.0]]

    def test_keep_the_highest_share_of_the_whole_batch(self) -> None:
        # ceil(0.4 * 5) = 2 of the five tokens: 0.9 and 0.7. The 9.0 is padding.
        assert acted("forking_tokens:share=0.4", tokens(entropy=self.ENTROPY, **self.BATCH)) == [[0, 2, 0], [-1, 0, 0]]

    def test_rescale(self) -> None:
        made = acted("forking_tokens:share=0.4,rescale=true", tokens(entropy=self.ENTROPY, **self.BATCH))
        assert made == [[0, 5, 0], [-2.5, 0, 0]]

    def test_rounding_of_the_share(self) -> None:
        kept = acted("forking_tokens:share=0.55", tokens([[1.0] * 100], entropy=[[float(i) for i in range(100)]]))
        assert sum(kept[0]) == 55  # 0.55 * 100 is 55.00000000000001


class TestCovariance:
    """Means 0 and -2: covariances 2 * 1, -1 * -1, 0, 0."""

    BATCH: ClassVar[Any] = {"advantages": [[2.0, -1.0, 0.0, -1.0, 7.0]], "mask": [[1, 1, 1, 1, 0]]}
    LOGPROBS: ClassVar[Any] = [[-1.0, -3.0, -2.0, -2.0, -9.0]]

    @pytest.mark.parametrize(
        ("options", "expected"),
        [
            ("share=0.5,low=0.5", [0.0, 0.0, 0.0, -1.0, 7.0]),
            ("share=0.5,low=1", [0.0, -1.0, 0.0, -1.0, 7.0]),  # 1 is not above 1
            ("share=0.5,low=0.5,high=2", [2.0, 0.0, 0.0, -1.0, 7.0]),  # 2 is not below 2
            ("share=0.5,low=2,high=5", [2.0, -1.0, 0.0, -1.0, 7.0]),
        ],
    )
    def test_clip_cov(self, options: str, expected: list[float]) -> None:
        made = acted(f"clip_cov:{options}", tokens(logprobs=self.LOGPROBS, **self.BATCH))
        assert made[0][:4] == expected[:4]

    def test_clip_cov_draws_at_least_one_and_not_always_the_same(self) -> None:
        drawn = set()
        for seed in range(20):
            made = acted("clip_cov:low=0.5", tokens(logprobs=self.LOGPROBS, seed=seed, **self.BATCH))
            drawn.add(tuple(made[0][:2]))
        assert drawn == {(0.0, -1.0), (2.0, 0.0)}

    def test_kl_cov(self) -> None:
        # Top quarter: the first token. log pi - log pi_old = 0.5 > 0: slope 1, so A - 1 / r = 2 - exp(-0.5).
        old = [[-1.5, -3.0, -2.5, -2.0, -9.0]]
        made = acted("kl_cov:share=0.25", tokens(logprobs=self.LOGPROBS, old_logprobs=old, **self.BATCH))
        assert made == row(2 - math.exp(-0.5), -1.0, 0.0, -1.0, 7.0)
        # The policy has moved the other way, by 0.2 nats, and the coefficient is 3: A + 3 / r = 2 + 3 exp(0.2).
        old = [[-0.8, -3.0, -2.5, -2.0, -9.0]]
        made = acted("kl_cov:share=0.25,coef=3", tokens(logprobs=self.LOGPROBS, old_logprobs=old, **self.BATCH))
        assert made == row(2 + 3 * math.exp(0.2), -1.0, 0.0, -1.0, 7.0)


def test_erc() -> None:
    # Ratios 1, 0.79, 1.21, 0.81, and 0 / 0, which the constant makes 1.
    batch = tokens([[1.0, 2.0, 3.0, 4.0, 5.0]], entropy=[[1, 0.79, 1.21, 0.81, 0]], old_entropy=[[1.0, 1, 1, 1, 0]])
    assert acted("erc", batch) == [[1, 0, 0, 4, 5]]
    assert acted("erc:low=0.95,high=1.3", batch) == [[1, 0, 3, 0, 5]]


class TestSteer:
    """pi = 0.8 and H = 0.5: |W| = |A| * 0.2 * (0.5 + ln 0.8). Where ln pi = -H, W = 0."""

    BATCH: ClassVar[Any] = {
        "advantages": [[1.0, -0.5, 1.0]],
        "entropy": [[0.5, 0.5, math.log(2)]],
        "logprobs": [[math.log(0.8), math.log(0.8), math.log(0.5)]],
        "old_logprobs": [[math.log(0.8), math.log(0.8), math.log(0.5)]],
    }

    def test_exponential(self) -> None:
        assert acted("steer", tokens(**self.BATCH)) == row(0.8, -0.5 * math.sqrt(0.8), 1.0)

    def test_linear(self) -> None:
        assert acted("steer:weights=linear", tokens(**self.BATCH)) == row(0.8, -0.5 * 1.0, 1.2)

    def test_small_changes_are_not_blown_up(self) -> None:
        # |W| = 0.01 at A = 0.01 / (0.2 * (0.5 + ln 0.8)); below the floor of 0.02 the largest does not get 0.8.
        a = 0.01 / (0.2 * (0.5 + math.log(0.8)))
        batch = {name: [[value[0][0]]] for name, value in self.BATCH.items()} | {"advantages": [[a]]}
        assert acted("steer", tokens(**batch)) == row(a * math.sqrt(0.8))

    def test_the_ratio_counts(self) -> None:
        # pi / pi_old = 2 at the second token, whose |A| is half: both now have the largest |W|.
        old = [[math.log(0.8), math.log(0.4), math.log(0.5)]]
        assert acted("steer", tokens(**{**self.BATCH, "old_logprobs": old})) == row(0.8, -0.4, 1.0)


class TestGtpo:
    """One group: right answers with H = (1, 3) and (3), a wrong one of two tokens."""

    ENTROPY: ClassVar[Any] = [[1.0, 3.0], [3.0, 9.0], [2.0, 4.0]]
    REST: ClassVar[Any] = {"mask": [[1, 1], [1, 0], [1, 1]], "groups": [0, 0, 0], "correct": [True, True, False]}

    def test_rewards_and_their_normalisation_per_side(self) -> None:
        # Position 1: shares 2 * 1/4 and 2 * 3/4, rewards 1.05 and 1.15. Position 2: one is left, 1.1. So mean 1.1,
        # deviation 0.05 and z = -1, 0 and 1. The wrong one is alone: -1.1 twice, z = 0.
        batch = tokens([[0.0, 0.0]] * 3, old_entropy=self.ENTROPY, **self.REST)
        made = acted("gtpo", batch)
        assert made[0] == pytest.approx([-1, 0], abs=1e-5)
        assert made[1][0] == pytest.approx(1, abs=1e-5)
        assert made[2] == pytest.approx([0, 0], abs=1e-5)

    def test_wrong_answers_lose_most_where_they_were_certain(self) -> None:
        # 1/H = 1 and 1/3: shares 2 * 3/4 and 2 * 1/4, rewards -1.15 and -1.05: z = -+0.05 / (0.1 / sqrt(2)).
        batch = tokens([[0.0]] * 2, old_entropy=[[1.0], [3.0]], groups=[0, 0], correct=[False, False])
        made = acted("gtpo", batch)
        assert made == [pytest.approx([-math.sqrt(0.5)], abs=1e-5), pytest.approx([math.sqrt(0.5)], abs=1e-5)]

    def test_grpo_s(self) -> None:
        # Mean entropies 2 and 6 of right answers: 1.05 and 1.15; the wrong one -1.1. Mean 1.1/3, deviation 1.271154.
        batch = tokens(
            [[0.0, 0.0]] * 3, **{**self.REST, "mask": [[1, 1], [1, 0], [1, 1]]}, old_entropy=[[1, 3], [6, 9], [2, 4.0]]
        )
        made = acted("grpo_s", batch)
        for got, want in zip(made, (0.537569, 0.616238, -1.153807), strict=True):
            assert got == pytest.approx([want, want], abs=1e-5)

    def test_grpo_s_leaves_completions_without_tokens_out_of_the_sums(self) -> None:
        # TRL masks truncated ones. Rewards 1.1, -1 - 0.1 * 2 * 2/3, -1 - 0.1 * 2 * 1/3, and a plain -1 of no token.
        batch = tokens(
            [[0.0]] * 4,
            old_entropy=[[1.0], [2.0], [4.0], [7.0]],
            mask=[[1], [1], [1], [0]],
            groups=[0] * 4,
            correct=[True, False, False, False],
        )
        want = group_advantages(torch.tensor([1.1, -1 - 0.4 / 3, -1 - 0.2 / 3, -1.0]), 4, eps=1e-6)
        assert acted("grpo_s", batch)[:3] == [pytest.approx([float(x)], abs=1e-5) for x in want[:3]]

    @pytest.mark.parametrize("name", ["gtpo", "grpo_s"])
    def test_groups_without_a_contrast_can_be_left_out(self, name: str) -> None:
        # Group 7 is all wrong, 2 all right, and 5 mixed: its advantages are what it has alone.
        five = {"old_entropy": [[1.0], [3.0], [2.0]], "groups": [5] * 3, "correct": [True, True, False]}
        alone = acted(name, tokens([[0.0]] * 3, **five))
        batch = tokens(
            [[0.0]] * 7,
            old_entropy=[[1.0], [1.0], [3.0], [4.0], [2.0], [2.0], [6.0]],
            groups=[7, 5, 5, 7, 5, 2, 2],
            correct=[False, True, True, False, False, True, True],
        )
        made = acted(f"{name}:mixed_only=true", batch)
        assert [made[i] for i in (1, 2, 4)] == alone
        assert [made[i] for i in (0, 3, 5, 6)] == [[0.0]] * 4
        assert all(made[i] != [0.0] for i in (1, 2))
        everywhere = acted(name, batch)
        assert all(everywhere[i] != [0.0] for i in (0, 3, 5, 6))

    def test_groups_are_apart(self) -> None:
        batch = tokens([[0.0]] * 2, old_entropy=[[1.0], [3.0]], groups=[0, 1], correct=[False, False])
        assert acted("gtpo", batch) == [[0.0], [0.0]]  # each is the only wrong one of its group: -1.1 both


class TestRewardMethods:
    def test_rloo(self) -> None:
        # 1 - 1/3 and 0 - 2/3; the second group: 3 - 1 and 1 - 3.
        made = advantages("rloo", [1, 0, 0, 1, 3, 1], [0, 0, 0, 0, 7, 7])
        assert made == pytest.approx([2 / 3, -2 / 3, -2 / 3, 2 / 3, 2, -2])

    def test_passk_training(self) -> None:
        # N = 4, one right, k = 2: R = 1 - 3/6 = s = 0.5; right 1, wrong (0.5 - 2/3) / 0.5 = -1/3.
        made = advantages("passk_training:k=2", [0, 1, 0, 0], [0, 0, 0, 0])
        assert made == pytest.approx([-1 / 3, 1, -1 / 3, -1 / 3], abs=1e-5)
        # Three right: no pair is without a right one, so there is nothing to learn; nor is there where all are wrong.
        assert advantages("passk_training:k=2", [1, 1, 1, 0], [0] * 4) == [0.0] * 4
        assert advantages("passk_training:k=2", [0, 0, 0, 0], [0] * 4) == [0.0] * 4

    def test_passk_training_needs_groups_larger_than_k(self) -> None:
        with pytest.raises(InputError, match="k of the method 'passk_training' is 4, but groups have 4"):
            parse_method("passk_training").check_group_size(4)
        parse_method("passk_training").check_group_size(5)

    def test_ucpo(self) -> None:
        # q = 3/4 and 1/4, inverse shares 1/4 and 3/4: weights 0.8 + 0.2 * 2/4 = 0.9 and 1.1. GRPO gives +-1.
        made = advantages("ucpo", [1, 1, 0, 0], [0] * 4, [-1.0, -1.0 - math.log(3), -0.1, -5.0])
        assert made == pytest.approx([0.9, 1.1, -1, -1])
        # A single right answer stays as it is, and so does a group without one.
        made = advantages("ucpo", [1, 0, 0, 0], [0, 0, 1, 1], [-1.0, -2.0, -3.0, -4.0])
        assert made == pytest.approx([1, -1, 0, 0])

    def test_ucpo_leaves_answers_without_tokens_out(self) -> None:
        # TRL masks truncated ones, whose log-prob is then unknown. The other two have the weights of above.
        made = advantages("ucpo", [1, 1, 1, 0], [0] * 4, [-1.0, math.nan, -1.0 - math.log(3), -5.0])
        grpo = 1 / math.sqrt(3)
        assert made == pytest.approx([0.9 * grpo, grpo, 1.1 * grpo, -3 * grpo])

    def test_asym_grpo(self) -> None:
        # p = 1/4: odds 1/3.
        made = advantages("asym_grpo", [1, 0, 0, 0], [0] * 4)
        assert made == pytest.approx([3**0.9] + [-(3**-0.4)] * 3)
        assert advantages("asym_grpo:positive=0,negative=0", [1, 0, 0, 0], [0] * 4) == [1, -1, -1, -1]
        assert advantages("asym_grpo", [1, 1, 0, 0], [0, 0, 1, 1]) == [0.0] * 4

    def test_qae(self) -> None:
        # 2 of 5 right, K = 0.4: F(0) = 0.6, b = 0; deviation sqrt(0.3).
        assert advantages("qae", [1, 1, 0, 0, 0], [0] * 5) == pytest.approx(
            [1 / math.sqrt(0.3)] * 2 + [0] * 3, rel=1e-5
        )
        # 4 of 5 right: F(0) = 0.2, b = 1; deviation sqrt(0.2).
        assert advantages("qae", [1, 1, 1, 1, 0], [0] * 5) == pytest.approx([0] * 4 + [-1 / math.sqrt(0.2)], rel=1e-5)
        # 3 of 5 right: F(0) = 0.4 reaches K, b = 0. An interpolated quantile would say 0.6.
        assert advantages("qae", [1, 1, 1, 0, 0], [0] * 5)[3:] == [0, 0]
        assert advantages("qae", [1, 1, 0, 0], [0, 0, 1, 1]) == [0.0] * 4

    def test_grpo_of_trl_is_what_they_replace(self) -> None:
        made = group_advantages(torch.tensor([1.0, 0.0, 0.0, 1.0]), group_ids=torch.zeros(4, dtype=torch.int64))
        assert made.tolist() == pytest.approx([0.866, -0.866, -0.866, 0.866], abs=1e-3)


@pytest.mark.parametrize(
    "name", [name for name, kind in all_methods().items() if kind.requires and not issubclass(kind, ReplayMethod)]
)
def test_a_method_that_is_not_given_what_it_requires_stops(name: str) -> None:
    method = parse_method(name)
    batch = Rollout(torch.ones(1)) if isinstance(method, RewardMethod) else tokens([[1.0]])
    with pytest.raises(RuntimeError, match="was not given a tensor that it requires"):
        (method.slopes if isinstance(method, EntropyTermMethod) else method.advantages)(batch)


def test_the_example_in_the_docs_is_a_method() -> None:
    text = (Path(__file__).parents[2] / "docs" / "methods.md").read_text(encoding="utf-8")
    code = text.split("```python\n")[1].split("```")[0]
    names: dict[str, Any] = {"__name__": "skip_certain"}
    sys.modules.setdefault("skip_certain", ModuleType("skip_certain"))  # where dataclass looks up annotations
    exec(compile(code, "docs/methods.md", "exec"), names)
    method = names["SkipCertain"]()
    assert method.advantages(tokens([[1.0, 2.0]], entropy=[[0.04, 0.06]])).tolist() == [[0.0, 2.0]]
