"""Methods after several updates: what they are given of both policies, and the whole command on the embedded model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("trl")

import torch
from tabular_bank import tabular_bank
from tiny_decoders import save_decoder
from torch import Tensor
from typer.testing import CliRunner

from forkwise.cli import app
from forkwise.credit.arms import Batches, Given, More, choose_arms, update_slopes, with_model
from forkwise.credit.command import run_credit
from forkwise.credit.gradients import update
from forkwise.credit.options import CreditOptions
from forkwise.credit.policy import Policy
from forkwise.errors import InputError
from forkwise.methods import Tokens, all_methods, parse_method
from forkwise.report.credit import conclusions, notes, tables


class Seen:
    """A loss that keeps the tokens that it is given, and raises log-probs by their advantages."""

    def __init__(self) -> None:
        self.tokens: list[Tokens] = []

    def slopes(self, tokens: Tokens) -> tuple[Tensor, Tensor]:
        self.tokens.append(tokens)
        return tokens.advantages, torch.zeros_like(tokens.advantages)


def test_methods_are_given_the_policy_that_drew_and_the_one_under_update() -> None:
    groups = tabular_bank(3, 4, seed=1).groups
    now = replace(groups, logprob_N=groups.logprob_N + 0.5, entropy_N=groups.entropy_N + 0.25)
    seen = Seen()
    found = update_slopes(Batches(groups, now), groups.ids_N.size, parse_method("m2po:largest=0.2"), seen)
    tokens = seen.tokens[0]
    assert tokens.old_logprobs is not None
    assert tokens.logprobs is not None
    assert tokens.old_entropy is not None
    assert tokens.entropy is not None
    assert tokens.old_logprobs[tokens.mask].numpy() == pytest.approx(groups.logprob_N)
    assert tokens.logprobs[tokens.mask].numpy() == pytest.approx(groups.logprob_N + 0.5)
    assert (tokens.entropy - tokens.old_entropy)[tokens.mask].numpy() == pytest.approx(0.25)
    assert not found.any()  # (log r)^2 is .25 everywhere, above the bound
    kept = update_slopes(Batches(groups, now), groups.ids_N.size, parse_method("m2po:largest=0.3"), seen)
    assert kept[0].any()


def test_dcpo_by_hand() -> None:
    # Mean entropy h below the target t: (1 - a) A + a 1[right] e^(log pi_T - log pi), a' = min(|t - h|, .1) / right.
    groups = tabular_bank(2, 4, seed=5).groups
    tempered = groups.logprob_N - 0.3
    batches = Batches(groups, more=More({1.2: tempered}))
    grpo = update_slopes(Batches(groups), groups.ids_N.size, parse_method("grpo"), Seen())[0]
    assert np.abs(grpo).max() == pytest.approx(1.5 * 2 / 16, abs=1e-3)  # one of four is wrong; 2 groups of 16
    target = float(groups.entropy_N.mean()) + 0.04
    found = update_slopes(batches, groups.ids_N.size, parse_method(f"dcpo:target={target}"), Seen())[0]
    pull = 0.04 / groups.correct_S.mean()
    a = pull / (1 + pull)
    right_N = np.repeat(groups.correct_S, groups.length_S)
    assert found == pytest.approx((1 - a) * grpo + a * right_N * np.exp(-0.3) * 2 / 16)


def test_hidden_states_are_given_group_by_group() -> None:
    # Two groups with the same states and verdicts get the same weights, wherever they stand in the update.
    groups = tabular_bank(2, 4, seed=2).groups
    groups = replace(groups, correct_S=np.array([True, False, True, False] * 2))
    states = torch.randn(groups.ids_N.size // 2, 5, generator=torch.Generator().manual_seed(0)).to(torch.bfloat16)
    batches = Batches(groups, more=More(hidden_ND=torch.cat([states, states])))
    found = update_slopes(batches, groups.ids_N.size, parse_method("shear:window=2,stride=1"), Seen())[0]
    first, second = np.split(found, 2)
    assert first == pytest.approx(second)
    assert np.unique(np.abs(first).round(6)).size > 4


def test_every_method_has_a_score_or_a_true_reason() -> None:
    scored = {}
    for several in (False, True):
        arms, left = choose_arms(["shear"], with_model(several=several), only=False)
        assert sorted([arm.method.name for arm in arms] + [one.name for one in left]) == sorted(all_methods())
        scored[several] = {arm.method.name for arm in arms}
        if several:
            reasons = {one.name: one.reason for one in left}
            assert reasons.pop("dynamic_sampling").startswith("it draws groups without contrast again")
            assert reasons.pop("adaptive_entropy_bonus").startswith("its bonus is 0 at first")
            assert set(reasons) >= {"siren", "heal", "aepo_arbitrary", "meds"}
            assert all(reason.endswith("which groups do not hold") for reason in reasons.values())
    later = {"clip_higher", "cispo", "kl_cov", "erc", "m2po", "fipo", "ce_gppo", "maspo", "dppo"}
    assert scored[True] - scored[False] >= later
    assert scored[False] >= {"dcpo", "shear", "gspo", "token_level_loss", "entropy_bonus"}
    slow = {one.name: one.reason for one in choose_arms([], with_model(several=False), only=False)[1]}["shear"]
    assert slow == "it takes many minutes: --method shear"
    assert not {"gspo", "cispo"} & {arm.method.name for arm in choose_arms([], Given(), only=False)[0]}


def test_updates_of_all_parameters_are_those_of_autograd(tmp_path: Path) -> None:
    policy = Policy(str(save_decoder(tmp_path / "m")), 0.7)
    prompt, completions = [3, 4], [[5, 6, 7], [8, 2]]
    flat = torch.tensor([5, 6, 7, 8, 2])
    generator = torch.Generator().manual_seed(1)
    raised_ML, spread_ML = (torch.randn(2, 5, generator=generator) for _ in range(2))
    scored = policy.score(prompt, completions, hidden=True)
    p_LV = scored.log_probs_LV.exp()
    residual_LV = torch.nn.functional.one_hot(flat, p_LV.shape[1]) - p_LV
    entropy_LV = -p_LV * (scored.log_probs_LV - (p_LV * scored.log_probs_LV).sum(1, keepdim=True))
    found = policy.update(
        prompt, completions, torch.cat([raised_ML, spread_ML], 1), torch.cat([residual_LV, entropy_LV])
    )
    exact_model = policy.model.double()
    rows = [(0, [3, 4, 5, 6, 7]), (1, [3, 4, 8, 2])]
    log_p = [(exact_model(torch.tensor([ids])).logits[0, 1:-1] / 0.7).log_softmax(-1) for _, ids in rows]
    log_p_LV = torch.cat(log_p)
    chosen_L = log_p_LV[range(5), flat]
    entropy_L = -(log_p_LV.exp() * log_p_LV).sum(1)
    weights = list(exact_model.parameters())
    for m in range(2):
        objective = (raised_ML[m].double() * chosen_L).sum() + (spread_ML[m].double() * entropy_L).sum()
        parts = torch.autograd.grad(objective, weights, retain_graph=True)
        exact = torch.cat([part.flatten() for part in parts])
        # Directions are in the logits over the temperature: 1 / .7 is in the update already.
        assert (found[m].double() - exact).norm() < 1e-4 * exact.norm()
    if exact_model.get_output_embeddings().weight is not exact_model.get_input_embeddings().weight:
        head = update(raised_ML, residual_LV, scored.hidden_LD) / 0.7
        alone = policy.model.float().get_output_embeddings().weight
        place = sum(w.numel() for w in weights[: [w is alone for w in weights].index(True)])
        plain = policy.update(prompt, completions, raised_ML, residual_LV)[:, place : place + alone.numel()]
        assert (plain - head).norm() < 1e-4 * head.norm()


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    drawn = tmp_path_factory.mktemp("after") / "base"
    given = ["--model", "embedded:story", "--task", "story:4", "--problems", "24", "--n", "8", "--max-tokens", "116"]
    done = CliRunner().invoke(app, ["sample", *given, "--out", str(drawn)])
    assert done.exit_code == 0, done.output
    return drawn


METHODS = ["clip_higher:low=0.05,high=0.05", "rloo"]


@pytest.fixture(scope="module")
def moved(table: Path) -> CreditOptions:
    return CreditOptions(groups=[table], model=["embedded:story"], group_size=4, only=True, method=METHODS, updates=3)


def test_a_policy_that_stays_gives_a_clip_nothing_to_do(moved: CreditOptions) -> None:
    (found,) = run_credit([], replace(moved, learning_rate=1e-12)).gradients
    assert found.moved is not None
    assert (found.moved.updates, found.moved.of, found.moved.problems) == (3, 32, 12)
    assert (found.problems, found.groups) == (12, 24)  # the other half
    assert found.moved.outside == 0
    assert found.moved.log_ratio < 1e-3
    assert found.moved.effective > 0.99
    by_name = {m.method: m for m in found.methods}
    clipped = next(m for name, m in by_name.items() if name.startswith("clip_higher"))
    assert clipped.cosine.value == pytest.approx(by_name["grpo"].cosine.value)


def test_a_policy_that_moves(moved: CreditOptions) -> None:
    credit = run_credit([], replace(moved, learning_rate=1e-3))
    (found,) = credit.gradients
    assert found.moved is not None
    assert found.moved.outside > 0.01
    assert found.moved.effective < 0.98
    assert found.moved.fresh.value is not None
    by_name = {m.method: m for m in found.methods}
    clipped = next(m for name, m in by_name.items() if name.startswith("clip_higher"))
    assert clipped.cosine.value != pytest.approx(by_name["grpo"].cosine.value, abs=1e-6)
    assert "after 3 updates" in conclusions(credit)[0]
    assert any(
        "moved by 3 updates of GRPO at a learning rate of 0.001, 32 completions each" in n for n in notes(credit)
    )
    assert len(tables(credit)) == 2


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"updates": 1000}, r"24 groups of 4, \d+ of them .* are too few for 1000 updates"),
        ({"method": ["overlong"]}, "'overlong' takes nothing from answers of up to 16384 tokens"),
        ({"learning_rate": 0.0}, "learning-rate must be a finite number greater than 0"),
        ({"groups": [], "model": []}, "--updates moves the policy of --groups, and there is none"),
    ],
)
def test_bad_input_ends_in_a_sentence(moved: CreditOptions, changed: dict[str, object], said: str) -> None:
    with pytest.raises(InputError, match=said):
        run_credit([], replace(moved, **changed))  # type: ignore[arg-type]
