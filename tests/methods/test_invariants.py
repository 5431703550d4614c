"""What must hold of each method on any batch, and independent references on random ones."""

from __future__ import annotations

import dataclasses
import math
from itertools import combinations

import pytest

torch = pytest.importorskip("torch")

from batches import random_tokens, rollout
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from installed import runnable
from torch import Tensor

from forkwise.methods import RewardMethod, TokenMethod, Tokens, all_methods, parse_method
from forkwise.methods.chain import counts, shares
from forkwise.methods.clip_cov import covariance
from forkwise.methods.steer import entropy_change
from forkwise.testing.methods import acted, check_method, check_rollout, check_tokens, token_batch

TOKEN_METHODS = [name for name, kind in all_methods().items() if issubclass(kind, TokenMethod)]
REWARD_METHODS = [name for name, kind in all_methods().items() if issubclass(kind, RewardMethod)]
RANDOM = {"placebo_permuted", "placebo_weight", "clip_cov"}
WITHOUT_CONTRAST = {"w_reinforce", "unlikeliness"}  # learn from groups that are all right, or all wrong, too
KEEP_THE_SIGN = ("entropy_advantage", "placebo_scaling", "steer", "eapo", "edge_grpo", "fipo")

any_tokens = given(random_tokens())
quick = settings(max_examples=25, deadline=None)


def advantages(spec: str, batch: Tokens) -> Tensor:
    return acted(parse_method(spec), batch)


@pytest.mark.parametrize("name", runnable(all_methods()))
def test_every_method_passes_the_kit(name: str) -> None:
    check_method(parse_method(name), random=name in RANDOM)


def test_miner_does_not_look_at_advantages_of_padding() -> None:
    check_tokens(parse_method("miner"), token_batch(2_147_483_648, rows=6, columns=1), random=False)


@pytest.mark.parametrize("name", runnable(TOKEN_METHODS))
class TestEveryTokenMethod:
    @quick
    @any_tokens
    def test_passes_the_kit_on_any_batch(self, name: str, batch: Tokens) -> None:
        method = parse_method(name)
        assert isinstance(method, TokenMethod)
        if name == "kl_cov":  # where A is one number, or with two tokens, covariances tie
            assume(batch.mask.sum() > 2 and len(batch.advantages[batch.mask].unique()) > 1)
        check_tokens(method, batch, random=name in RANDOM)

    @quick
    @any_tokens
    def test_carries_no_gradient_and_is_finite(self, name: str, batch: Tokens) -> None:
        live = {
            f.name: v.clone().requires_grad_() if isinstance(v, Tensor) and v.is_floating_point() else v
            for f in dataclasses.fields(batch)
            for v in [getattr(batch, f.name)]
        }
        made = advantages(name, Tokens(**live))
        assert not made.requires_grad
        assert bool(made.isfinite().all())


@pytest.mark.parametrize("name", KEEP_THE_SIGN)
@quick
@any_tokens
def test_the_sign_of_an_advantage_stays(name: str, batch: Tokens) -> None:
    made = advantages(name, batch)
    assert torch.equal(made.sign()[batch.mask], batch.advantages.sign()[batch.mask])


@quick
@any_tokens
def test_m2po_bounds_the_second_moment_with_as_few_tokens_as_it_takes(batch: Tokens) -> None:
    batch = dataclasses.replace(batch, advantages=torch.ones_like(batch.advantages))
    kept = (advantages("m2po:largest=0.02", batch) != 0) & batch.mask
    moved = (batch.logprobs - batch.old_logprobs).square()
    assert not bool(kept.any()) or float(moved[kept].mean()) < 0.02
    dropped = moved[batch.mask & ~kept]
    if len(dropped):  # with one more it would be too much
        assert float(torch.cat([moved[kept], dropped.min()[None]]).mean()) >= 0.02


class TestEntropyAdvantage:
    @quick
    @any_tokens
    def test_keeps_the_sign_and_the_cap(self, batch: Tokens) -> None:
        a = batch.advantages
        for options in ("", "sign=positive", "sign=negative", "multiplicative=true", "entropy=old"):
            made = advantages(f"entropy_advantage:{options}", batch)
            assert bool((made.sign() == a.sign())[batch.mask].all()), options
            if "multiplicative" not in options:
                psi = made - a
                assert bool((psi >= 0).all() & (psi <= a.abs() / 2 + 1e-12).all()), options

    @quick
    @any_tokens
    def test_is_the_sum_of_its_halves(self, batch: Tokens) -> None:
        both, positive, negative = (
            advantages(f"entropy_advantage:sign={sign}", batch) for sign in ("both", "positive", "negative")
        )
        torch.testing.assert_close(both, positive + negative - batch.advantages)

    @quick
    @any_tokens
    def test_constant_placebo_adds_as_much_in_total(self, batch: Tokens) -> None:
        ours, placebo = (advantages(spec, batch) for spec in ("entropy_advantage", "placebo_constant"))
        added = [(made - batch.advantages)[batch.mask].sum() for made in (ours, placebo)]
        torch.testing.assert_close(added[0], added[1], rtol=1e-9, atol=1e-9)

    @quick
    @any_tokens
    def test_scaling_placebo_is_its_limit_for_large_alpha(self, batch: Tokens) -> None:
        batch = dataclasses.replace(batch, entropy=batch.entropy + 0.01)
        limit = advantages("entropy_advantage:alpha=1e6", batch)
        torch.testing.assert_close(limit, advantages("placebo_scaling", batch))

    @quick
    @any_tokens
    def test_permuted_placebo_is_the_method_where_entropy_is_the_same_everywhere(self, batch: Tokens) -> None:
        batch = dataclasses.replace(batch, entropy=torch.full_like(batch.entropy, 0.7))
        assert torch.equal(advantages("entropy_advantage", batch), advantages("placebo_permuted", batch))


@quick
@given(random_tokens(), st.floats(0.01, 1))
def test_forking_tokens_are_so_many_and_the_most_uncertain(batch: Tokens, share: float) -> None:
    batch = dataclasses.replace(batch, advantages=torch.ones_like(batch.advantages))
    kept = (advantages(f"forking_tokens:share={share}", batch) != 0) & batch.mask
    assert int(kept.sum()) == math.ceil(round(share * int(batch.mask.sum()), 9))
    dropped = batch.entropy[batch.mask & ~kept]
    assert not len(dropped) or float(batch.entropy[kept].min()) >= float(dropped.max())


@quick
@any_tokens
def test_covariance_is_the_textbook_one(batch: Tokens) -> None:
    cov = covariance(batch.advantages, batch.logprobs, batch.mask)
    a, logp = batch.advantages[batch.mask], batch.logprobs[batch.mask]
    if len(a) > 1:
        want = torch.cov(torch.stack([a, logp]), correction=0)[0, 1]
        torch.testing.assert_close(cov[batch.mask].mean(), want, rtol=1e-9, atol=1e-12)
    assert bool((cov[~batch.mask] == 0).all())


@quick
@given(random_tokens(), st.floats(0.05, 1))
def test_clip_cov_only_ever_zeroes_candidates(batch: Tokens, share: float) -> None:
    cov = covariance(batch.advantages, batch.logprobs, batch.mask)
    made = advantages(f"clip_cov:share={share},low=-0.2,high=1", batch)
    changed = (made != batch.advantages) & batch.mask
    candidates = batch.mask & (cov > -0.2) & (cov < 1)
    count = min(int(candidates.sum()), max(1, int(share * int(batch.mask.sum()))))
    assert bool((changed <= candidates).all())
    assert bool((made[changed] == 0).all())
    silent = candidates & (batch.advantages == 0)  # drawn perhaps, but nothing to zero
    assert count - int(silent.sum()) <= int(changed.sum()) <= count


@quick
@given(random_tokens(), st.floats(0.1, 3))
def test_kl_cov_has_the_gradient_of_the_penalised_loss(batch: Tokens, coef: float) -> None:
    """`sum(-r A' )` against `sum(-r A + coef |log r| on the chosen)`, both by autograd."""
    share = 0.3
    made = advantages(f"kl_cov:share={share},coef={coef}", batch)
    cov = covariance(batch.advantages, batch.logprobs, batch.mask)[batch.mask]
    assume(len(cov) == 1 or bool((cov.sort().values.diff() > 1e-9).all()))  # which of equal ones is chosen is open
    chosen = torch.zeros_like(cov, dtype=torch.bool)
    chosen[cov.topk(max(1, int(share * len(cov)))).indices] = True

    def gradient(a: Tensor, penalty: float) -> Tensor:
        logp = batch.logprobs[batch.mask].clone().requires_grad_()
        log_ratio = logp - batch.old_logprobs[batch.mask]
        loss = (-log_ratio.exp() * a[batch.mask] + penalty * (chosen * log_ratio.abs())).sum()
        return torch.autograd.grad(loss, logp)[0]

    torch.testing.assert_close(gradient(made, 0.0), gradient(batch.advantages, coef))


@quick
@any_tokens
def test_steer_weights(batch: Tokens) -> None:
    change = entropy_change(batch.advantages, batch.entropy, batch.logprobs, batch.old_logprobs, batch.mask)
    for spec, low, high in (("steer", 0.8, 1.0), ("steer:weights=linear", 0.8, 1.2)):
        weight = (advantages(spec, batch) / batch.advantages)[batch.mask & (batch.advantages != 0)]
        assert bool(((weight >= low - 1e-9) & (weight <= high + 1e-9)).all())
        # A larger change never weighs more.
        order = change[batch.mask & (batch.advantages != 0)].argsort()
        assert bool((weight[order].diff() <= 1e-9).all())


def test_steer_measures_the_change_of_entropy() -> None:
    """A step along the sampled token's own logit, as long as log pi's gradient, changes H by `pi_old |W| / |A|`."""
    logits = torch.tensor([0.3, -1.0, 2.0, 0.1], dtype=torch.float64, requires_grad=True)
    logp = logits.log_softmax(0)
    entropy = -(logp.exp() * logp).sum()
    (slope,) = torch.autograd.grad(entropy, logits, retain_graph=True)
    for token in range(4):
        (step,) = torch.autograd.grad(logp[token], logits, retain_graph=True)
        change = abs(float(slope[token] * step[token]))
        one = torch.ones(1, 1, dtype=torch.float64)
        h, lp = entropy.detach() * one, logp[token].detach() * one
        ours = entropy_change(-2 * one, h, lp, lp, one > 0)
        assert float(ours) == pytest.approx(2 * change / float(lp.exp()))


@quick
@any_tokens
def test_gtpo_is_centred_on_each_side(batch: Tokens) -> None:
    made = advantages("gtpo", batch)
    for side in (batch.correct, ~batch.correct):
        inside = made[batch.mask & side[:, None]]
        if len(inside):
            assert abs(float(inside.mean())) < 1e-9


def groups_of_binary_rewards() -> st.SearchStrategy[tuple[list[float], list[int]]]:
    group = st.lists(st.sampled_from([0.0, 1.0]), min_size=4, max_size=6)
    return st.lists(group, min_size=1, max_size=3).map(
        lambda found: ([r for g in found for r in g], [i for i, g in enumerate(found) for _ in g])
    )


def made_of(spec: str, rewards: list[float], groups: list[int]) -> list[float]:
    method = parse_method(spec)
    assert isinstance(method, RewardMethod)
    logprobs = [-0.1 - 0.37 * ((7 * i) % 5) for i in range(len(rewards))]
    return method.advantages(rollout(rewards, groups, logprobs)).tolist()


@pytest.mark.parametrize("name", runnable(REWARD_METHODS))
class TestEveryRewardMethod:
    @quick
    @given(groups_of_binary_rewards())
    def test_signs(self, name: str, case: tuple[list[float], list[int]]) -> None:
        """Right answers are never punished, wrong ones never rewarded; nothing is learned where all are alike."""
        for group in set(case[1]):
            rewards = [r for r, g in zip(*case, strict=True) if g == group]
            made = [a for a, g in zip(made_of(name, *case), case[1], strict=True) if g == group]
            if name != "unlikeliness":  # which punishes likely right answers
                assert all(a >= 0 if r else a <= 0 for r, a in zip(rewards, made, strict=True))
            if len(set(rewards)) == 1 and name not in WITHOUT_CONTRAST:
                assert made == pytest.approx([0.0] * len(made), abs=1e-9)

    @quick
    @given(groups_of_binary_rewards())
    def test_passes_the_kit(self, name: str, case: tuple[list[float], list[int]]) -> None:
        method = parse_method(name)
        assert isinstance(method, RewardMethod)
        logprobs = [-0.1 - 0.37 * ((7 * i) % 5) for i in range(len(case[0]))]
        check_rollout(method, rollout(*case, logprobs))


@quick
@given(groups_of_binary_rewards(), st.integers(1, 4))
def test_passk_training_is_the_average_over_all_subsets(case: tuple[list[float], list[int]], k: int) -> None:
    """Each completion's mean, over the subsets of k that hold it, of (best reward - R) / deviation."""
    made = made_of(f"passk_training:k={k}", *case)
    for group in set(case[1]):
        places = [i for i, g in enumerate(case[1]) if g == group]
        best = {subset: max(case[0][i] for i in subset) for subset in combinations(places, k)}
        mean = sum(best.values()) / len(best)
        deviation = math.sqrt(mean * (1 - mean)) + 1e-6
        for i in places:
            own = [value for subset, value in best.items() if i in subset]
            assert made[i] == pytest.approx((sum(own) / len(own) - mean) / deviation, abs=1e-9)


@quick
@given(groups_of_binary_rewards())
def test_relations_between_methods(case: tuple[list[float], list[int]]) -> None:
    plain = rollout(*case)
    grpo = plain.advantages.tolist()
    assert made_of("asym_grpo:positive=0.5,negative=0.5", *case) == pytest.approx(grpo)
    assert made_of("passk_training:k=1", *case) == pytest.approx(grpo, abs=1e-4)  # eps
    assert made_of("ucpo:tau=0", *case) == pytest.approx(grpo)
    assert made_of("w_reinforce:right=1", *case) == [1.0 if r else -1.0 for r in case[0]]
    ucpo = made_of("ucpo", *case)
    for group in set(case[1]):
        right = [i for i, (r, g) in enumerate(zip(*case, strict=True)) if g == group and r]
        assert sum(ucpo[i] for i in right) == pytest.approx(sum(grpo[i] for i in right))  # their mass stays
        size = case[1].count(group)
        inside = [i for i, g in enumerate(case[1]) if g == group]
        mean = sum(case[0][i] for i in inside) / size
        rloo = made_of("rloo", *case)
        assert [rloo[i] for i in inside] == pytest.approx([(case[0][i] - mean) * size / (size - 1) for i in inside])


@quick
@given(groups_of_binary_rewards(), st.floats(0.05, 1))
def test_qae_learns_from_one_side_only(case: tuple[list[float], list[int]], quantile: float) -> None:
    made = made_of(f"qae:quantile={quantile}", *case)
    for group in set(case[1]):
        pairs = [(r, a) for r, g, a in zip(*case, made, strict=True) if g == group]
        share = sum(r for r, _ in pairs) / len(pairs)
        silent = 0.0 if share <= 1 - quantile + 1e-9 else 1.0
        assert all(a == 0 for r, a in pairs if r == silent)


def test_counts_add_up() -> None:
    before, after = torch.tensor([[1.0, -2.0, 0.0, 9.0]]), torch.tensor([[1.5, -2.0, 0.0, 1.0]])
    mask = torch.tensor([[True, True, True, False]])
    total = counts(before, after, mask)
    assert total.tolist() == [3, 1, 0.5, 3]
    assert shares(2 * total) == {"changed": pytest.approx(1 / 3), "shift": pytest.approx(1 / 6)}
    assert shares(0 * total) == {"changed": 0.0, "shift": 0.0}
