"""The loss that shapes inside verl computes verl's own loss, on the published advantages and on nothing else.

verl's `ppo_loss` is the reference: fed with advantages shaped by hand, over jagged responses of different lengths, a
tool's answer in the middle of one, and a padding row.
"""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("verl", reason="verl is not installed; 'make test' runs these in an environment that has it")

import tiny_verl as tiny
import torch
from verl.workers.utils.losses import ppo_loss

from forkwise.engines.verl.loss import PREFIX, TOTALS, entropy_shaped_ppo_loss, shape_jagged

# nats; with alpha 0.4 and kappa 2, the cap binds above 1.25 |A|: in the first row only at 2.0
ENTROPY = [[0.0, 0.5, 1.0, 2.0], [1.0, 3.0], [0.2, 7.0, 7.0, 0.5, 0.1], [4.0, 4.0, 4.0]]
SHAPED = [[1.0, 1.2, 1.4, 1.5], [-1.1, -0.75], [0.38, 0.0, 0.0, 0.45, 0.34], [0.0, 0.0, 0.0]]


def model_output(*, requires_grad: bool = True, seed: int = 1) -> dict[str, Any]:
    """What an engine computes: per token of prompts and responses; garbage outside the responses."""
    draw = torch.Generator().manual_seed(seed)
    lengths = [len(p) + len(r) for p, r in zip(tiny.PROMPTS, tiny.RESPONSES, strict=True)]
    logp = (-1 + 0.3 * torch.randn(sum(lengths), generator=draw)).requires_grad_(requires_grad)
    flat = torch.tensor([h for row in tiny.of_sequences(ENTROPY) for h in row], requires_grad=requires_grad)
    offsets = torch.tensor([0, *lengths]).cumsum(0)

    def nested(values: torch.Tensor) -> torch.Tensor:
        return torch.nested.nested_tensor_from_jagged(values, offsets)

    return {"log_probs": nested(logp), "entropy": nested(1.0 * flat), "leaves": (logp, flat)}


def run(loss: Any, data: Any, *overrides: str, **constants: float) -> tuple[torch.Tensor, list[Any], dict[str, Any]]:
    output = model_output()
    leaves = output.pop("leaves")
    value, metrics = loss(tiny.actor_config(*overrides), output, data, **constants)
    value.backward()
    return value.detach(), [leaf.grad for leaf in leaves], metrics


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["actor_rollout_ref.actor.clip_ratio_high=0.28"],
        ["actor_rollout_ref.actor.loss_agg_mode=seq-mean-token-mean"],
        ["actor_rollout_ref.actor.entropy_coeff=0.01"],
        ["actor_rollout_ref.actor.policy_loss.loss_mode=gspo"],
    ],
    ids=["default", "clip_higher", "seq_mean", "entropy_bonus", "gspo"],
)
class TestTheLoss:
    def test_is_verls_bit_for_bit_at_alpha_zero(self, overrides: list[str]) -> None:
        value, gradients, metrics = run(entropy_shaped_ppo_loss, tiny.microbatch(), *overrides, alpha=0.0, kappa=2.0)
        want, want_gradients, want_metrics = run(ppo_loss, tiny.microbatch(), *overrides)
        assert torch.equal(value, want)
        assert torch.equal(gradients[0], want_gradients[0])
        assert {name: metrics[name].values for name in want_metrics} == {
            name: metric.values for name, metric in want_metrics.items()
        }

    def test_is_verls_on_advantages_shaped_by_hand(self, overrides: list[str]) -> None:
        value, gradients, _ = run(entropy_shaped_ppo_loss, tiny.microbatch(), *overrides, alpha=0.4, kappa=2.0)
        by_hand = tiny.microbatch(advantages=tiny.jagged(SHAPED))
        want, want_gradients, _ = run(ppo_loss, by_hand, *overrides)
        torch.testing.assert_close(value, want)
        torch.testing.assert_close(gradients[0], want_gradients[0])
        unshaped, unshaped_gradients, _ = run(ppo_loss, tiny.microbatch(), *overrides)
        assert not torch.allclose(value, unshaped, rtol=1e-3)
        assert not torch.allclose(gradients[0], unshaped_gradients[0], rtol=1e-3)


def test_at_ratio_one_the_loss_is_minus_the_mean_shaped_advantage() -> None:
    output = {"entropy": tiny.jagged(tiny.of_sequences(ENTROPY))}
    output["log_probs"] = torch.full_like(output["entropy"], -1.0)
    loss, _ = entropy_shaped_ppo_loss(tiny.actor_config(), output, tiny.microbatch(), alpha=0.4, kappa=2.0)
    # (1 + 1.2 + 1.4 + 1.5) + (-1.1 - 0.75) + (0.38 + 0.45 + 0.34) = 4.42 over 9 tokens
    assert loss.item() == pytest.approx(-4.42 / 9, rel=1e-6)


def test_no_gradient_flows_through_the_entropy() -> None:
    _, (_, of_entropy), _ = run(entropy_shaped_ppo_loss, tiny.microbatch(), alpha=0.4, kappa=2.0)
    assert of_entropy is None


def test_an_entropy_bonus_keeps_its_gradient_and_gets_no_other() -> None:
    bonus = "actor_rollout_ref.actor.entropy_coeff=0.01"
    _, (_, of_entropy), _ = run(entropy_shaped_ppo_loss, tiny.microbatch(), bonus, alpha=0.4, kappa=2.0)
    _, (_, want), _ = run(ppo_loss, tiny.microbatch(), bonus)
    assert of_entropy.abs().sum() > 0
    assert torch.equal(of_entropy, want)


def test_tokens_outside_the_mask_get_no_gradient() -> None:
    _, (of_log_probs, _), _ = run(entropy_shaped_ppo_loss, tiny.microbatch(), alpha=0.4, kappa=2.0)
    expected = [[0] * (len(p) - 1) + row + [0] for p, row in zip(tiny.PROMPTS, tiny.MASK, strict=True)]
    outside = torch.tensor([m for row in expected for m in row]) == 0
    assert torch.equal(of_log_probs[outside], torch.zeros(int(outside.sum())))


def test_the_micro_batch_is_left_as_it_was() -> None:
    data = tiny.microbatch()
    for _ in range(2):  # as in two epochs: the second would shape shaped advantages
        value, _, _ = run(entropy_shaped_ppo_loss, data, alpha=0.4, kappa=2.0)
    assert torch.equal(data["advantages"].values(), tiny.jagged(tiny.ADVANTAGES).values())
    assert torch.equal(value, run(entropy_shaped_ppo_loss, tiny.microbatch(), alpha=0.4, kappa=2.0)[0])


def test_metrics_hold_the_sums_over_response_tokens() -> None:
    _, _, metrics = run(entropy_shaped_ppo_loss, tiny.microbatch(), alpha=0.4, kappa=2.0)
    totals = {name: metrics[PREFIX + name].aggregate() for name in TOTALS}
    # psi by row: 0, .2, .4, .5 | .4, .75 | .08, .15, .04; capped where it is |A| / 2 and alpha H is more
    by_hand = {"n_pos": 7, "n_neg": 2, "psi_pos": 1.37, "psi_neg": 1.15, "capped": 3}
    by_hand["psi_over_adv"] = 1.1 + 1.15 / 1.5 + 0.27 / 0.3
    assert totals == pytest.approx(by_hand, rel=1e-6)


def test_a_missing_entropy_raises() -> None:
    output = {"log_probs": tiny.jagged(tiny.of_sequences(ENTROPY))}
    with pytest.raises(RuntimeError, match=r"not entropy-shaped.*calculate_entropy=True"):
        entropy_shaped_ppo_loss(tiny.actor_config(), output, tiny.microbatch(), alpha=0.4, kappa=2.0)


class TestShapeJagged:
    def test_equals_the_values_by_hand(self) -> None:
        mask = tiny.jagged(tiny.MASK, torch.long)
        shaped, _ = shape_jagged(tiny.jagged(tiny.ADVANTAGES), tiny.jagged(ENTROPY), mask, alpha=0.4, kappa=2.0)
        assert shaped.is_nested
        assert [row.tolist() for row in shaped.unbind()] == [pytest.approx(row) for row in SHAPED]

    def test_of_padded_rows_equals_that_of_jagged_ones(self) -> None:
        tensors = (tiny.jagged(tiny.ADVANTAGES), tiny.jagged(ENTROPY), tiny.jagged(tiny.MASK, torch.long))
        shaped, stats = shape_jagged(*tensors, alpha=0.4, kappa=2.0)
        padded, padded_stats = shape_jagged(*(t.to_padded_tensor(0) for t in tensors), alpha=0.4, kappa=2.0)
        assert torch.equal(padded, shaped.to_padded_tensor(0))
        assert torch.equal(stats.totals, padded_stats.totals)

    def test_refuses_other_lengths(self) -> None:
        mask = tiny.jagged(tiny.MASK, torch.long)
        with pytest.raises(ValueError, match=r"entropy has other response lengths than the advantages, \[4, 2, 5, 3\]"):
            shape_jagged(tiny.jagged(tiny.ADVANTAGES), tiny.jagged(ENTROPY[::-1]), mask, alpha=0.4, kappa=2.0)

    def test_refuses_a_nan_in_the_mask_and_ignores_it_elsewhere(self) -> None:
        mask = tiny.jagged(tiny.MASK, torch.long)
        entropy = [list(row) for row in ENTROPY]
        entropy[2][1] = float("nan")
        shaped, _ = shape_jagged(tiny.jagged(tiny.ADVANTAGES), tiny.jagged(entropy), mask, alpha=0.4, kappa=2.0)
        assert shaped.values().isfinite().all()
        entropy[1][0] = float("nan")
        with pytest.raises(ValueError, match="entropy holds NaN"):
            shape_jagged(tiny.jagged(tiny.ADVANTAGES), tiny.jagged(entropy), mask, alpha=0.4, kappa=2.0)
