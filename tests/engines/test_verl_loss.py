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
from engine_interfaces import each, holds
from tensordict import TensorDict
from verl.utils import tensordict_utils as tu
from verl.utils.metric.utils import Metric
from verl.utils.torch_functional import allgather_dict_into_dict
from verl.workers.utils.losses import ppo_loss

from forkwise.engines.base import ActionLog
from forkwise.engines.verl.batch import PREFIX, act_on_rollout, take_totals
from forkwise.engines.verl.loss import shaped_ppo_loss
from forkwise.engines.verl.settings import VerlSettings
from forkwise.errors import InputError
from forkwise.methods import Method, parse_methods
from forkwise.methods.entropy_advantage import EntropyAdvantage
from forkwise.testing.engines import Batch, Outcome

PAPER = (EntropyAdvantage(alpha=0.4, kappa=2.0),)

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


def run(loss: Any, data: Any, *overrides: str, **constants: Any) -> tuple[torch.Tensor, list[Any], dict[str, Any]]:
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
        value, gradients, metrics = run(shaped_ppo_loss, tiny.microbatch(), *overrides, methods=())
        want, want_gradients, want_metrics = run(ppo_loss, tiny.microbatch(), *overrides)
        assert torch.equal(value, want)
        assert torch.equal(gradients[0], want_gradients[0])
        assert {name: metrics[name].values for name in want_metrics} == {
            name: metric.values for name, metric in want_metrics.items()
        }

    def test_is_verls_on_advantages_shaped_by_hand(self, overrides: list[str]) -> None:
        value, gradients, _ = run(shaped_ppo_loss, tiny.microbatch(), *overrides, methods=PAPER)
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
    loss, _ = shaped_ppo_loss(tiny.actor_config(), output, tiny.microbatch(), methods=PAPER)
    # (1 + 1.2 + 1.4 + 1.5) + (-1.1 - 0.75) + (0.38 + 0.45 + 0.34) = 4.42 over 9 tokens
    assert loss.item() == pytest.approx(-4.42 / 9, rel=1e-6)


def test_no_gradient_flows_through_the_entropy() -> None:
    _, (_, of_entropy), _ = run(shaped_ppo_loss, tiny.microbatch(), methods=PAPER)
    assert of_entropy is None


def test_an_entropy_bonus_keeps_its_gradient_and_gets_no_other() -> None:
    bonus = "actor_rollout_ref.actor.entropy_coeff=0.01"
    _, (_, of_entropy), _ = run(shaped_ppo_loss, tiny.microbatch(), bonus, methods=PAPER)
    _, (_, want), _ = run(ppo_loss, tiny.microbatch(), bonus)
    assert of_entropy.abs().sum() > 0
    assert torch.equal(of_entropy, want)


def test_tokens_outside_the_mask_get_no_gradient() -> None:
    _, (of_log_probs, _), _ = run(shaped_ppo_loss, tiny.microbatch(), methods=PAPER)
    expected = [[0] * (len(p) - 1) + row + [0] for p, row in zip(tiny.PROMPTS, tiny.MASK, strict=True)]
    outside = torch.tensor([m for row in expected for m in row]) == 0
    assert torch.equal(of_log_probs[outside], torch.zeros(int(outside.sum())))


def test_the_micro_batch_is_left_as_it_was() -> None:
    data = tiny.microbatch()
    for _ in range(2):  # as in two epochs: the second would shape shaped advantages
        value, _, _ = run(shaped_ppo_loss, data, methods=PAPER)
    assert torch.equal(data["advantages"].values(), tiny.jagged(tiny.ADVANTAGES).values())
    assert torch.equal(value, run(shaped_ppo_loss, tiny.microbatch(), methods=PAPER)[0])


def test_metrics_hold_the_sums_over_response_tokens() -> None:
    _, _, metrics = run(shaped_ppo_loss, tiny.microbatch(), methods=PAPER)
    sums = {name: metric.aggregate() for name, metric in metrics.items() if name.startswith(PREFIX)}
    assert not any("max" in name or "min" in name for name in sums)  # verl would take the largest or smallest
    totals = take_totals(sums, PAPER, "")
    assert totals is not None
    assert sums == {}
    # psi by row: 0, .2, .4, .5 | .4, .75 | .08, .15, .04; capped where it is |A| / 2 and alpha H is more
    assert totals["shaping"].tolist() == pytest.approx([7, 2, 1.37, 1.15, 1.1 + 1.15 / 1.5 + 0.27 / 0.3, 3], rel=1e-6)
    # 9 tokens, 8 with psi > 0, the sum of psi, the sum of |A|
    assert totals["method/entropy_advantage"].tolist() == pytest.approx([9, 8, 2.52, 4 + 3 + 0.9], rel=1e-6)
    assert take_totals({}, PAPER, "") is None


def test_a_missing_entropy_raises() -> None:
    output = {"log_probs": tiny.jagged(tiny.of_sequences(ENTROPY))}
    with pytest.raises(RuntimeError, match=r"not entropy-shaped.*calculate_entropy=True"):
        shaped_ppo_loss(tiny.actor_config(), output, tiny.microbatch(), methods=PAPER)


class TestTheContract:
    """The kit of all engines, on verl's loss of given log-probabilities and entropies."""

    @staticmethod
    def outcome(batch: Batch, *methods: Method) -> Outcome:
        loss, metrics, logp = TestTheContract.loss(batch, *methods)
        totals = take_totals({name: m.aggregate() for name, m in metrics.items() if PREFIX in name}, methods, "")
        return Outcome(loss.detach(), logp.grad, totals["shaping"] if methods and totals else None)

    @staticmethod
    def logged(batch: Batch, *methods: Method) -> dict[str, float]:
        """Added up over two processes by verl's own functions, as its worker calls them."""
        _, metrics, _ = TestTheContract.loss(batch, *methods)
        gathered = allgather_dict_into_dict({name: metric for name, metric in metrics.items() if PREFIX in name})
        totals = take_totals({name: Metric.aggregate_dp(of) for name, of in gathered.items()}, methods, "")
        assert totals is not None
        log = ActionLog("alpha")
        log.add(totals)
        return log.take()[0]

    @staticmethod
    def loss(batch: Batch, *methods: Method) -> tuple[torch.Tensor, dict[str, Any], torch.Tensor]:
        lengths = [len(row) for row in batch.mask]
        entropies = [[*h[1:], 99.0] for _, h, _, _ in each(batch)]  # of a token, one place before it
        prompts = [len(h) - n for h, n in zip(entropies, lengths, strict=True)]
        offsets = torch.tensor([0, *(len(row) for row in entropies)]).cumsum(0)
        draw = torch.Generator().manual_seed(3)
        noise = 0.3 * torch.randn(64, generator=draw)
        # Log-probabilities go with the row's length and place, so that halves have those of the whole.
        of_rows = [[noise[: p - 1], noise[7 * n : 7 * n + n + 1]] for p, n in zip(prompts, lengths, strict=True)]
        logp = torch.cat([piece for row in of_rows for piece in row]) - 1
        logp.requires_grad_()
        entropy = torch.tensor([x for row in entropies for x in row])
        output = {
            "log_probs": torch.nested.nested_tensor_from_jagged(logp, offsets),
            "entropy": torch.nested.nested_tensor_from_jagged(entropy, offsets),
        }
        data = TensorDict(
            {
                "prompts": tiny.jagged([[5] * n for n in prompts], torch.long),
                "responses": tiny.jagged([[1] * n for n in lengths], torch.long),
                "response_mask": tiny.jagged(batch.mask, torch.long),
                "old_log_probs": tiny.jagged([[-1.0] * n for n in lengths]),
                "advantages": tiny.jagged(batch.advantages),
            },
            batch_size=len(lengths),
        )
        tokens = sum(map(sum, batch.mask))
        tu.assign_non_tensor(data, dp_size=1, batch_num_tokens=tokens, global_batch_size=len(lengths))
        config = tiny.actor_config()
        loss, metrics = (
            shaped_ppo_loss(config, output, data, methods=methods) if methods else ppo_loss(config, output, data)
        )
        loss.backward()
        return loss, metrics, logp

    def test_holds_the_contract(self) -> None:
        holds(
            engine=self.outcome,
            adapter=lambda batch, alpha, kappa: self.outcome(
                batch, *((EntropyAdvantage(alpha, kappa),) if alpha else ())
            ),
            bypassed="held on whole steps (test_verl_training.py)",
            logged=lambda batch, alpha, kappa: self.logged(batch, EntropyAdvantage(alpha, kappa)),
        )

    def test_holds_the_contract_on_the_driver(self) -> None:
        """With the old policy's entropies, which verl's queue holds beside the advantages."""

        def ours(batch: Batch, alpha: float, kappa: float) -> Outcome:
            fields = {"entropy": tiny.jagged(batch.entropy), "response_mask": tiny.jagged(batch.mask, torch.long)}
            keys = [f"{row}_0_0" for row in range(len(batch.mask))]
            settings = VerlSettings((EntropyAdvantage(alpha, kappa),)) if alpha else VerlSettings(())
            data = {"advantages": tiny.jagged(batch.advantages), **fields}
            made = act_on_rollout(settings, data, keys, [any(row) for row in batch.mask], seed=0)
            shaped = made.advantages
            rows = batch.advantages if shaped is None else [row.tolist() for row in shaped.unbind()]
            return engine(batch._replace(advantages=rows))._replace(totals=made.totals.get("shaping"))

        def engine(batch: Batch) -> Outcome:
            return self.outcome(batch._replace(prompts=[[1.0]] * len(batch.mask)))

        holds(
            engine,
            ours,
            bypassed="held on whole steps (test_verl_training.py)",
            logged="verl's driver has all rows of a rollout",
            without_prompts="verl's queue holds columns of responses",
        )


def acted(methods: tuple[Method, ...], rows: int = 4, **changed: Any) -> torch.Tensor:
    data = {"entropy": tiny.jagged(ENTROPY), **{n: tiny.microbatch()[n] for n in ("advantages", "response_mask")}}
    keys = [f"p{i // 2}_{i % 2}_0" for i in range(rows)]
    acted_on = act_on_rollout(VerlSettings(methods), {**data, **changed}, keys, [True, True, True, False], seed=0)
    assert acted_on.advantages is not None
    return acted_on.advantages


class TestOnTheDriver:
    def test_equals_the_values_by_hand(self) -> None:
        shaped = acted(PAPER)
        assert shaped.is_nested
        assert [row.tolist() for row in shaped.unbind()] == [pytest.approx(row) for row in SHAPED]

    def test_of_padded_rows_equals_that_of_jagged_ones(self) -> None:
        fields = {"advantages": tiny.jagged(tiny.ADVANTAGES), "entropy": tiny.jagged(ENTROPY)}
        fields["response_mask"] = tiny.jagged(tiny.MASK, torch.long)
        padded = acted(PAPER, **{name: field.to_padded_tensor(0) for name, field in fields.items()})
        assert torch.equal(padded, acted(PAPER).to_padded_tensor(0))

    def test_refuses_other_lengths(self) -> None:
        with pytest.raises(ValueError, match=r"entropy has other response lengths than the mask, \[4, 2, 5, 3\]"):
            acted(PAPER, entropy=tiny.jagged(ENTROPY[::-1]))

    def test_refuses_a_nan_in_the_mask_and_ignores_it_elsewhere(self) -> None:
        entropy = [list(row) for row in ENTROPY]
        entropy[2][1] = float("nan")
        assert acted(PAPER, entropy=tiny.jagged(entropy)).values().isfinite().all()
        entropy[1][0] = float("nan")
        with pytest.raises(ValueError, match="entropy holds NaN"):
            acted(PAPER, entropy=tiny.jagged(entropy))

    def test_rewards_of_groups_by_hand(self) -> None:
        """RLOO of the first prompt's two answers; and of the second's, whose other row has no tokens that count."""
        methods = parse_methods(["rloo"])
        data = {**{n: tiny.microbatch()[n] for n in ("advantages", "response_mask")}}
        keys = ["b_0_0", "b_1_0", "a_0_0", "a_1_0"]
        data["rm_scores"] = tiny.jagged([[0.0, 0, 0, 1.0], [0.0, -0.5], [0, 0, 0, 0, 2.0], [0.0, 0, 0.25]])
        acted_on = act_on_rollout(VerlSettings(methods), data, keys, [True] * 4, seed=0)
        # b: 1 - (-.5), -.5 - 1; a: 2 - .25 and (in a row whose mask is 0 everywhere) nothing; 0 at the tool's tokens
        want = [[1.5] * 4, [-1.5] * 2, [1.75, 0, 0, 1.75, 1.75], [0.0] * 3]
        assert [row.tolist() for row in acted_on.advantages.unbind()] == want
        # the second row had -1.5 before
        assert acted_on.totals["method/rloo"].tolist() == pytest.approx([4, 3, 0.5 + 0 + 1.45 + 1.75, 2.8])

    def test_refuses_several_trajectories_of_an_answer(self) -> None:
        data = {"rm_scores": tiny.jagged(ENTROPY), **{n: tiny.microbatch()[n] for n in ("advantages", "response_mask")}}
        with pytest.raises(InputError, match="methods 'rloo' count completions, and here one answer has several"):
            act_on_rollout(
                VerlSettings(parse_methods(["rloo"])), data, ["a_0_0", "a_0_1", "a_1_0", "b_0_0"], [True] * 4, seed=0
            )
