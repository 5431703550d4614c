"""slime's hooks on a stub of its published interface (THUDM/slime 624b824a8): its own code needs Megatron and GPUs.

What is the stub's: how logits become log-probs and entropies of responses, and a clipped loss over lists of them.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

torch = pytest.importorskip("torch")

import engine_rules
from engine_interfaces import across, check_logged, clipped, constants, each, holds, modules, totals_of

from forkwise.engines.hooks.slime import shape_rollout, shaped_policy_loss
from forkwise.errors import InputError
from forkwise.testing.engines import Batch, Outcome, expected_advantages, made_batches

WORDS = 2
ONLY_THE_ENGINE = "a function that the engine calls or does not know"
ARGS = SimpleNamespace(rollout_temperature=1.0, eps_clip=0.2)


def logits_with(entropy: float) -> list[float]:
    """Logits of two words whose distribution has this entropy, by bisection; at most log 2."""
    low, high = 0.5, 1 - 1e-12
    for _ in range(80):
        p = (low + high) / 2
        h = -(p * torch.tensor(p).double().log() + (1 - p) * torch.tensor(1 - p).double().log()).item()
        low, high = (p, high) if h > entropy else (low, p)
    return [torch.tensor(p).double().log().item(), torch.tensor(1 - p).double().log().item()]


def get_log_probs_and_entropy(
    logits: Any, *, args: Any, unconcat_tokens: Any, total_lengths: Any, response_lengths: Any, with_entropy: bool
) -> Any:
    output: dict[str, Any] = {"log_probs": []} | ({"entropy": []} if with_entropy else {})
    sequences = logits[0].log_softmax(-1).split(total_lengths)
    for logp, tokens, n in zip(sequences, unconcat_tokens, response_lengths, strict=True):
        before = logp[len(tokens) - n - 1 : -1]  # a token's logits stand one place before it
        output["log_probs"].append(before.gather(1, tokens[-n:, None])[:, 0])
        if with_entropy:
            output["entropy"].append(-(before.exp() * before).sum(-1))
    return torch.empty(0), output


def policy_loss_function(args: Any, batch: Any, logits: Any, sum_of_sample_mean: Callable[[Any], Any]) -> Any:
    _, output = get_log_probs_and_entropy(
        logits,
        args=args,
        unconcat_tokens=batch["unconcat_tokens"],
        total_lengths=batch["total_lengths"],
        response_lengths=batch["response_lengths"],
        with_entropy=False,
    )
    ratio = (torch.cat(output["log_probs"]) - torch.cat(batch["log_probs"])).exp()
    a = torch.cat(batch["advantages"])
    loss = torch.maximum(-a * ratio, -a * ratio.clamp(1 - args.eps_clip, 1 + args.eps_clip))
    return sum_of_sample_mean(loss), {"pg_loss": loss.detach().mean()}


@pytest.fixture(autouse=True)
def slime(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("slime", "slime.backends", "slime.backends.megatron_utils", "slime.backends.megatron_utils.loss"):
        module = ModuleType(name)
        module.__path__ = []  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, name, module)
    module.get_log_probs_and_entropy = get_log_probs_and_entropy  # type: ignore[attr-defined]
    module.policy_loss_function = policy_loss_function  # type: ignore[attr-defined]


def small(batch: Batch) -> Batch:
    """The kit's batch with entropies that two words can have."""
    prompts = [[number / 5 for number in prompt] for prompt in batch.prompts]
    return batch._replace(entropy=[[h / 5 for h in row] for row in batch.entropy], prompts=prompts)


def logits_of(batch: Batch) -> Any:
    """Logits `(1, N, 2)` of whole sequences with the batch's entropies; those of a token stand one place before it."""
    rows = [[*(logits_with(abs(h)) for h in entropies[1:]), [0.0, 0.0]] for _, entropies, _, _ in each(batch)]
    return torch.tensor([word for row in rows for word in row])[None]


def counted(batch: Batch) -> Any:
    """Places whose logits a loss counts. At others the logits differ in the kit from batch to batch."""
    return torch.tensor([m for _, _, mask, _ in each(batch) for m in (*mask[1:], 0.0)]) == 1


def outcome(batch: Batch, loss: Callable[..., Any]) -> Outcome:
    """A loss on logits whose entropies are the batch's."""
    logits = logits_of(batch).double().requires_grad_()
    lengths = [len(row) for row in batch.mask]
    total = [len(mask) for _, _, mask, _ in each(batch)]
    data = {
        "unconcat_tokens": [torch.zeros(n, dtype=torch.long) for n in total],
        "total_lengths": total,
        "response_lengths": lengths,
        "loss_masks": [torch.tensor(row) for row in batch.mask],
        "advantages": [torch.tensor(row, dtype=torch.float64) for row in batch.advantages],
        "log_probs": [torch.full((n,), -0.3, dtype=torch.float64) for n in lengths],
    }
    mask = torch.cat(data["loss_masks"])
    before = [row.clone() for row in data["advantages"]]
    value, metrics = loss(ARGS, data, logits, lambda x: (x * mask).sum() / max(int(mask.sum()), 1))
    value.backward()
    assert all(torch.equal(row, old) for row, old in zip(data["advantages"], before, strict=True))
    return Outcome(value.detach(), logits.grad[0][counted(batch)], totals_of(metrics))


def current(batch: Batch, alpha: float, kappa: float, monkeypatch: pytest.MonkeyPatch) -> Outcome:
    monkeypatch.setenv("FORKWISE_ALPHA", str(alpha))
    monkeypatch.setenv("FORKWISE_KAPPA", str(kappa))
    return outcome(small(batch), shaped_policy_loss)


class TestTheLoss:
    def test_holds_the_contract(self, monkeypatch: pytest.MonkeyPatch) -> None:
        holds(
            engine=lambda batch: outcome(small(batch), policy_loss_function),
            adapter=lambda batch, alpha, kappa: current(batch, 5 * alpha, kappa, monkeypatch),
            bypassed=ONLY_THE_ENGINE,
            logged=lambda batch, alpha, kappa: across(
                engine_rules.slime, current(batch, 5 * alpha, kappa, monkeypatch), batch
            ),
        )

    def test_holds_the_contract_in_miles(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """radixark/miles 31f1ca961: two modules, and a dictionary in the place of a pair."""

        def scored(*args: Any, **options: Any) -> Any:
            return get_log_probs_and_entropy(*args, **options)[1]

        monkeypatch.delitem(sys.modules, "slime")
        at = "miles__backends__training_utils__loss_hub__"
        modules(
            monkeypatch,
            **{
                f"{at}losses": {"policy_loss_function": policy_loss_function},
                f"{at}logit_processors": {"get_log_probs_and_entropy": scored},
            },
        )
        holds(
            engine=lambda batch: outcome(small(batch), policy_loss_function),
            adapter=lambda batch, alpha, kappa: current(batch, 5 * alpha, kappa, monkeypatch),
            bypassed=ONLY_THE_ENGINE,
            logged=lambda batch, alpha, kappa: across(
                engine_rules.slime, current(batch, 5 * alpha, kappa, monkeypatch), batch
            ),
        )

    def test_logs_what_it_did(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("FORKWISE_ALPHA", "0.4")
        seen: dict[str, Any] = {}

        def loss(*args: Any) -> Any:
            value, metrics = shaped_policy_loss(*args)
            seen.update(metrics)
            return value, metrics

        outcome(small(made_batches()[0]), loss)
        check_logged(seen, small(made_batches()[0]), constants(0.4))
        assert seen["pg_loss"].isfinite()


def rollout_data(batch: Batch, dtype: Any = torch.float32) -> dict[str, Any]:
    names = ("advantages", "entropy")
    data = {n: [torch.tensor(row, dtype=dtype) for row in getattr(batch, n)] for n in names}
    return {
        **data,
        "loss_masks": [torch.tensor(row, dtype=torch.int) for row in batch.mask],
        "log_probs": data["entropy"],
    }


class TestTheRollout:
    def test_holds_the_contract(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A loss on the lists of a rollout, which the hook has changed."""

        def outcome(batch: Batch, **constants: str) -> Outcome:
            data = rollout_data(batch, torch.float64)
            for name, value in constants.items():
                monkeypatch.setenv(f"FORKWISE_{name.upper()}", value)
            if constants:
                shape_rollout(ARGS, 0, data)
            mask = torch.cat(data["loss_masks"])
            logprobs = torch.linspace(-1.5, -0.1, len(mask), dtype=torch.float64).requires_grad_()
            loss = clipped(logprobs, torch.cat(data["advantages"]), mask)
            loss.backward()
            return Outcome(loss.detach(), logprobs.grad, totals_of(data))

        def ours(batch: Batch, alpha: float, kappa: float) -> Outcome:
            return outcome(batch, alpha=str(alpha), kappa=str(kappa))

        holds(
            outcome,
            ours,
            bypassed=ONLY_THE_ENGINE,
            # slime's log of a rollout averages over processes, as ROLL's of an update does
            logged=lambda batch, *constants: across(engine_rules.roll, ours(batch, *constants), batch),
            without_prompts="a rollout's lists are of responses alone",
        )

    def test_gets_the_published_advantages(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("FORKWISE_ALPHA", "0.4")
        for batch in made_batches():
            data = rollout_data(batch)
            before = data["advantages"]
            assert shape_rollout(ARGS, 3, data) is None
            want = expected_advantages(*batch.columns, alpha=0.4, kappa=2.0)
            assert [row.tolist() for row in data["advantages"]] == [pytest.approx(row, rel=1e-6) for row in want]
            assert [row.tolist() for row in before] == [pytest.approx(row) for row in batch.advantages]
            assert all(isinstance(data[name], torch.Tensor) for name in data if name.startswith("shaping/"))
            check_logged(data, batch, constants(0.4))

    def test_at_alpha_zero_stays_what_it_is_and_asks_for_nothing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("FORKWISE_ALPHA", "0")
        data = rollout_data(made_batches()[0])
        del data["entropy"]
        before = dict(data)
        shape_rollout(ARGS, 0, data)
        assert data.keys() == before.keys()
        assert all(data[name] is before[name] for name in data)

    def test_takes_constants_of_the_engines_arguments_first(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("FORKWISE_ALPHA", "0")
        data = rollout_data(made_batches()[0])
        shape_rollout(SimpleNamespace(forkwise_alpha=0.4, forkwise_kappa=4.0), 0, data)
        assert data["advantages"][0].tolist() == pytest.approx([1.0, 1.2, 1.25, 1.25])

    def test_of_another_stage_of_the_pipeline_is_left_alone(self) -> None:
        data: dict[str, Any] = {"tokens": []}
        shape_rollout(ARGS, 0, data)
        assert data == {"tokens": []}

    def test_is_shaped_once(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Neither by both hooks, whichever comes first, nor twice by one; a loss that is not in use counts as none."""
        monkeypatch.setenv("FORKWISE_ALPHA", "0.4")
        both = SimpleNamespace(
            rollout_data_postprocess_path="forkwise.engines.hooks.slime.shape_rollout",
            custom_loss_function_path="forkwise.engines.hooks.slime.shaped_policy_loss",
            loss_type="custom_loss",
        )
        with pytest.raises(InputError, match="both shape, .*keep one of the two"):
            shape_rollout(both, 0, rollout_data(made_batches()[0]))
        with pytest.raises(InputError, match="both shape, .*keep one of the two"):
            outcome(small(made_batches()[0]), lambda _, *more: shaped_policy_loss(both, *more))
        both.loss_type = "policy_loss"
        data = rollout_data(made_batches()[0])
        shape_rollout(both, 0, data)
        with pytest.raises(InputError, match="shaped already"):
            shape_rollout(both, 0, data)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"entropy": None}, "not entropy-shaped: .* Add --use-rollout-entropy; .*--get-mismatch-metrics"),
            ({"advantages": [torch.ones(2)] * 4}, "entropy and advantages differ in length, .*context-parallel-size 1"),
        ],
    )
    def test_that_cannot_be_shaped_is_refused(
        self, monkeypatch: pytest.MonkeyPatch, change: dict[str, Any], message: str
    ) -> None:
        monkeypatch.setenv("FORKWISE_ALPHA", "0.4")
        with pytest.raises(InputError, match=message):
            shape_rollout(ARGS, 0, {**rollout_data(made_batches()[0]), **change})

    def test_without_its_data_or_its_advantages_is_refused(self) -> None:
        with pytest.raises(InputError, match="without the rollout's data"):
            shape_rollout(ARGS)
        data = rollout_data(made_batches()[0])
        del data["advantages"]
        with pytest.raises(InputError, match="log-probs and no advantages"):
            shape_rollout(ARGS, 0, data)

    @pytest.mark.parametrize(
        ("name", "meant"),
        [("FORKWISE_KAPA", "KAPPA"), ("FORKWISE_APLHA", "ALPHA"), ("forkwise_kappa", "KAPPA")],
    )
    def test_refuses_misspelt_constants(self, monkeypatch: pytest.MonkeyPatch, name: str, meant: str) -> None:
        monkeypatch.setenv("FORKWISE_ALPHA", "0.4")
        monkeypatch.setenv("FORKWISE_API_KEY", "x")  # other names of ours are none of them
        monkeypatch.setenv("FORKWISE_SHARED_DATA", "x")
        shape_rollout(ARGS, 0, rollout_data(made_batches()[0]))
        monkeypatch.setenv(name, "4")
        with pytest.raises(InputError, match=f"{name} is in the environment, .*: write FORKWISE_{meant}, or unset it"):
            shape_rollout(ARGS, 0, rollout_data(made_batches()[0]))

    @pytest.mark.parametrize(
        ("alpha", "kappa", "message"),
        [
            (None, None, "FORKWISE_ALPHA is not set: the paper has 0.4"),
            ("much", None, "FORKWISE_ALPHA must be a number, not 'much'"),
            ("-1", None, "FORKWISE_ALPHA must be a finite number of at least 0"),
            ("0.4", "1", "FORKWISE_KAPPA must be a finite number greater than 1"),
        ],
    )
    def test_needs_its_constants(
        self, monkeypatch: pytest.MonkeyPatch, alpha: str | None, kappa: str | None, message: str
    ) -> None:
        for name, value in (("FORKWISE_ALPHA", alpha), ("FORKWISE_KAPPA", kappa)):
            monkeypatch.delenv(name, raising=False)
            if value is not None:
                monkeypatch.setenv(name, value)
        with pytest.raises(InputError, match=message):
            shape_rollout(ARGS, 0, rollout_data(made_batches()[0]))
