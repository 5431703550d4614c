"""Hooks that are losses around an engine's: prime-rl and NeMo-RL, on stand-ins for what they publish.

Each stand-in names the commit that it was written after, and has that interface's names and shapes.
"""

from __future__ import annotations

import enum
import sys
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest

torch = pytest.importorskip("torch")

import engine_rules
from engine_interfaces import (
    LONGEST,
    across,
    check_logged,
    clipped,
    constants,
    drawn,
    each,
    holds,
    modules,
    of_all_processes,
    totals_of,
)

from forkwise.engines.hooks.nemo_rl import shaped
from forkwise.errors import InputError
from forkwise.testing.engines import Batch, Outcome


@dataclass
class LossInputs:
    trainer_logprobs: Any
    inference_logprobs: Any
    ref_logprobs: Any
    advantages: Any
    loss_mask: Any
    loss_weights: Any = None
    entropy: Any = None  # the field that docs/engines.md adds


@dataclass
class LossOutputs:
    loss: Any
    metrics: dict[str, Any]


@dataclass
class DefaultLossConfig:
    adv_tau: float = 1.0
    kl_tau: float = 1e-3
    dppo_mask_low: float = 0.2
    dppo_mask_high: float = 0.2


class TestPrimeRL:
    """`LossInputs` and the default loss, PrimeIntellect-ai/prime-rl 559b44772, with the field `entropy`."""

    @pytest.fixture(autouse=True)
    def _prime_rl(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def default_loss_fn(inputs: LossInputs, loss_config: DefaultLossConfig) -> LossOutputs:
            log_ratio = inputs.trainer_logprobs - inputs.inference_logprobs
            loss = -loss_config.adv_tau * inputs.loss_mask * inputs.advantages * log_ratio.exp()
            loss = loss + loss_config.kl_tau * inputs.loss_mask * log_ratio**2
            return LossOutputs(loss.sum(), {"is_masked": torch.tensor(0.0)})

        modules(
            monkeypatch,
            prime_rl__trainer__rl__loss={"default_loss_fn": default_loss_fn},
            prime_rl__configs__trainer={"DefaultLossConfig": DefaultLossConfig},
        )

    @staticmethod
    def outcome(batch: Batch, loss_fn: Any) -> Outcome:
        logprobs, total = drawn()[: len(batch.mask)].requires_grad_(), torch.zeros((), dtype=torch.float64)
        sums = torch.zeros(6, dtype=torch.float64)
        for row, (a, h, m, prompt) in enumerate(each(batch)):
            own = torch.cat([torch.full((len(prompt),), -0.9).double(), logprobs[row, : len(m) - len(prompt)]])
            entropy = torch.tensor(h, dtype=torch.float64, requires_grad=True)
            given = torch.tensor(a, dtype=torch.float64)
            old = torch.full_like(given, -0.8)
            outputs = loss_fn(LossInputs(own, old, None, given, torch.tensor(m).bool(), None, entropy))
            total = total + outputs.loss
            if "shaping/psi_pos" in outputs.metrics:
                names = ("psi_pos", "psi_neg", "psi_over_adv", "capped_frac")
                values = [outputs.metrics[f"shaping/{name}"] for name in names]
                numbers = [len(values[0]), len(values[1]), *(float(value.sum()) for value in values)]
                sums += torch.tensor(numbers, dtype=torch.float64)
            assert given.tolist() == pytest.approx(list(a))
        total.backward()
        return Outcome(total.detach(), logprobs.grad, sums)

    @staticmethod
    def means(batch: Batch, alpha: float, kappa: float) -> dict[str, float]:
        """`Tensors.compute_stats` of prime-rl: of the numbers of all steps and ranks, behind one another."""
        from forkwise.engines.hooks.prime_rl import shaped_loss

        mine: dict[str, list[float]] = {}
        for a, h, m, _ in each(batch):
            values = [torch.tensor(x, dtype=torch.float64) for x in (a, h)]
            inputs = LossInputs(*[torch.zeros(len(a))] * 2, None, values[0], torch.tensor(m).bool(), None, values[1])
            for name, numbers in shaped_loss(inputs, alpha=alpha, kappa=kappa).metrics.items():
                mine.setdefault(name, []).extend(numbers.flatten().tolist())
        ranks = of_all_processes(mine)
        everything = {name: [x for rank in ranks for x in rank.get(name, [])] for rank in ranks for name in rank}
        return {name: sum(numbers) / len(numbers) for name, numbers in everything.items()}

    def test_holds_the_contract(self) -> None:
        from forkwise.engines.hooks.prime_rl import shaped_loss

        engine = sys.modules["prime_rl.trainer.rl.loss"].default_loss_fn
        bare = LossInputs(*[torch.zeros(2)] * 4, torch.ones(2, dtype=torch.bool))
        holds(
            lambda batch: self.outcome(batch, lambda inputs: engine(inputs, DefaultLossConfig(adv_tau=0.5))),
            lambda batch, alpha, kappa: self.outcome(
                batch, lambda inputs: shaped_loss(inputs, alpha=alpha, kappa=kappa, adv_tau=0.5)
            ),
            bypassed=lambda: shaped_loss(bare, alpha=0.4),
            logged=self.means,
        )
        row = Batch([[0.9, -0.4, 1.7, -1.0]], [[0.0, 3.0, 1.0, 2.0]], [[1, 1, 0, 1]])
        a, h, m = (torch.tensor(values[0], dtype=torch.float64) for values in row.columns)
        inputs = LossInputs(torch.zeros(4), torch.zeros(4), None, a, m.bool(), None, h)
        metrics = shaped_loss(inputs, alpha=0.4, kappa=2.0).metrics
        check_logged({name: values.mean() for name, values in metrics.items()}, row, constants(0.4))  # as prime-rl does
        with pytest.raises(InputError, match="kappa must be"):
            shaped_loss(bare, alpha=0.4, kappa=1.0)


class LossInputType(enum.Enum):
    LOGIT = "logit"
    LOGPROB = "logprob"


class ClippedPG:
    """`ClippedPGLossFn` without its options, NVIDIA-NeMo/RL 7ea279abf."""

    input_type = LossInputType.LOGPROB
    use_fused_linear_logprobs = False
    metric_normalizations = {"loss": "tokens"}  # noqa: RUF012  (NeMo-RL's attribute)

    def __call__(self, next_token_logprobs: Any, data: Any, global_valid_seqs: Any, global_valid_toks: Any) -> Any:
        mask = data["token_mask"][:, 1:] * data["sample_mask"].unsqueeze(-1)
        return clipped(next_token_logprobs, data["advantages"][:, 1:], mask), {"loss": 0.0}


def logits_of(entropies: Any, words: int = 2048) -> Any:
    """Logits `(x, 0, ..., 0)` with these entropies, found by halving in float64."""
    low, high = torch.zeros_like(entropies), torch.full_like(entropies, 80.0)
    for _ in range(60):
        x = (low + high) / 2
        others = torch.cat([x[..., None], torch.zeros(*x.shape, words - 1, dtype=x.dtype)], dim=-1).log_softmax(-1)
        too_high = -(others.exp() * others).sum(-1) > entropies
        low, high = torch.where(too_high, x, low), torch.where(too_high, high, x)
    return torch.cat([low[..., None], torch.zeros(*low.shape, words - 1, dtype=low.dtype)], dim=-1)


DRAWN: dict[str, Any] = {"generation": {"top_p": 1.0, "top_k": None, "temperature": 0.7}}


class TestNeMo:
    @pytest.fixture(autouse=True)
    def _nemo_rl(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def logprobs(input_ids: Any, next_token_logits: Any, seq_index: Any = None) -> Any:
            logp = next_token_logits[:, :-1].log_softmax(-1)
            return logp.gather(-1, input_ids[:, 1:, None])[..., 0]

        modules(
            monkeypatch,
            nemo_rl__algorithms__loss__interfaces={"LossInputType": LossInputType},
            nemo_rl__distributed__model_utils={"get_next_token_logprobs_from_logits": logprobs},
        )

    @staticmethod
    def outcome(batch: Batch, loss_fn: Any, old: float | None = None) -> Outcome:
        """`old` is the old policy's log-prob of every token, for NeMo-RL's own loss."""
        longest = LONGEST + max(len(prompt) for *_, prompt in each(batch))
        columns = zip(*((a, h, m) for a, h, m, _ in each(batch)), strict=True)
        advantages, entropy, mask = (
            torch.tensor([[*row, *[0.0] * (longest - len(row))] for row in rows], dtype=torch.float64)
            for rows in columns
        )
        # Logits at a place are of the token behind it.
        logits = torch.cat([logits_of(entropy[:, 1:]), torch.zeros(len(mask), 1, 2048).double()], dim=1)
        logits.requires_grad_()
        data = {
            "input_ids": torch.ones(len(mask), longest, dtype=torch.long),
            "advantages": advantages,
            "token_mask": mask,
            "sample_mask": (mask.sum(dim=1) > 0).double(),
        }
        if old is not None:
            data |= dict.fromkeys(("prev_logprobs", "generation_logprobs"), torch.full_like(mask, old))
        before = data["advantages"].clone()
        given: dict[str, Any] = {"logits": logits}
        if loss_fn.input_type.value == "logprob":
            to_logprobs = sys.modules["nemo_rl.distributed.model_utils"].get_next_token_logprobs_from_logits
            given = {"next_token_logprobs": to_logprobs(data["input_ids"], logits)}
        one = torch.tensor(1.0)
        loss, metrics = loss_fn(data=data, global_valid_seqs=one, global_valid_toks=one, **given)
        loss.backward()
        assert torch.equal(data["advantages"], before)
        if alpha := getattr(loss_fn, "alpha", 0.0):
            check_logged(metrics, batch, constants(alpha, loss_fn.kappa))
        return Outcome(loss.detach(), logits.grad, totals_of(metrics))

    def test_holds_the_contract(self) -> None:
        loss_fn = ClippedPG()
        holds(
            lambda batch: self.outcome(batch, loss_fn),
            ours := lambda batch, alpha, kappa: self.outcome(batch, shaped(loss_fn, alpha=alpha, kappa=kappa, **DRAWN)),
            bypassed=lambda: shaped(loss_fn, alpha=0.4, **DRAWN)(data={}, logits=None),
            logged=lambda batch, *constants: across(engine_rules.nemo_rl, ours(batch, *constants), batch),
            tolerance=1e-5,  # entropies of float32 logits
        )
        assert shaped(loss_fn, alpha=0) is loss_fn
        assert shaped(loss_fn, alpha=0.4, **DRAWN).metric_normalizations == {"loss": "tokens"}

    def test_refuses_a_loss_that_shapes_already(self) -> None:
        once = shaped(ClippedPG(), alpha=0.4, **DRAWN)
        for alpha in (0.4, 0.0):
            with pytest.raises(InputError, match="shapes advantages already"):
                shaped(once, alpha=alpha, **DRAWN)

    @pytest.mark.parametrize(
        ("generation", "message"),
        [
            ({"top_p": 0.9, "top_k": None}, "drawn with top_p=0.9 and top_k=None, .*: set policy.generation.top_p=1.0"),
            ({"top_p": 1.0, "top_k": 50}, "drawn with top_p=1.0 and top_k=50"),
            (None, "must know how rollouts are drawn: give generation=config"),
        ],
    )
    def test_refuses_rollouts_of_a_part_of_the_distribution(
        self, generation: dict[str, Any] | None, message: str
    ) -> None:
        with pytest.raises(InputError, match=message):
            shaped(ClippedPG(), alpha=0.4, generation=generation)
        assert shaped(ClippedPG(), alpha=0.4, generation={"top_p": 1.0, "top_k": -1}).alpha == 0.4  # -1 is off

    def test_refuses_what_has_no_whole_logits(self, monkeypatch: pytest.MonkeyPatch) -> None:
        fused, other = ClippedPG(), SimpleNamespace(input_type=LossInputType.LOGIT)
        fused.use_fused_linear_logprobs = True
        for loss_fn, message in ((fused, "leave no logits"), (other, "does not take log-probs")):
            with pytest.raises(InputError, match=message):
                shaped(loss_fn, alpha=0.4, **DRAWN)
        state = {"model_parallel_is_initialized": lambda: True, "get_tensor_model_parallel_world_size": lambda: 2}
        modules(monkeypatch, megatron__core__parallel_state=state)
        with pytest.raises(InputError, match="tensor parallel size to 1"):
            shaped(ClippedPG(), alpha=0.4, **DRAWN)(data={"advantages": torch.ones(1, 3)}, logits=torch.zeros(1, 3, 4))
