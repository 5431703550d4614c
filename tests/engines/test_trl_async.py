"""Asynchronous GRPO with shaping: TRL's loss and its rollout worker, on a CPU.

TRL's own: trainer, packing, loss, worker process, HTTP client. Not TRL's: the kernel of the packed attention and the
server (`vllm_stand_in`); the transfer of weights goes over HTTP, since NCCL needs GPUs.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

trl = pytest.importorskip("trl")
from packaging.version import Version

if Version(trl.__version__) < Version("1.16"):
    pytest.skip("asynchronous GRPO is shaped on TRL 1.16 and later", allow_module_level=True)

import tiny_chat
import tiny_trl as tiny
import torch
from datasets import Dataset
from engine_interfaces import each, holds, of_two_processes
from test_trl import GRADIENT_TOLERANCE, relative
from tiny_async import QUIET, drawn, loss_and_gradient, make, on_a_cpu, packed, shaped_by_hand, tokens_of
from trl.experimental.async_grpo import async_grpo_trainer, async_rollout_worker
from two_processes import run_in_two
from vllm_stand_in import Transfer, serving

from forkwise.engines.trl.async_grpo import (
    AsyncGRPOConfig,
    AsyncGRPOTrainer,
    EntropyShapedAsyncGRPOConfig,
    EntropyShapedAsyncGRPOTrainer,
)
from forkwise.errors import InputError
from forkwise.testing.engines import (
    Batch,
    Outcome,
    check_alpha_zero,
    check_metrics,
    check_skipped_step,
)


def test_says_that_processes_are_missing(saved: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the synchronous trainer does: one process trains alone, with a smaller batch."""
    trainer = make(EntropyShapedAsyncGRPOTrainer, saved, tmp_path)
    asked = {1: "asked for 2 processes"}
    monkeypatch.setattr("forkwise.engines.trl.async_grpo.more_asked_than_started", asked.get)
    monkeypatch.setattr(AsyncGRPOTrainer, "train", lambda self: "trained")
    with pytest.warns(UserWarning, match="asked for 2 processes"):
        assert trainer.train() == "trained"


@pytest.fixture(autouse=True)
def _on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    on_a_cpu(monkeypatch.setattr)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("policy")
    tiny.policy().save_pretrained(folder)
    tiny.tokenizer().save_pretrained(folder)
    return str(folder)


class TestLoss:
    def test_is_trls_on_advantages_shaped_elsewhere(self, saved: str, tmp_path: Path) -> None:
        ours, stock = (make(kind, saved, tmp_path) for kind in (EntropyShapedAsyncGRPOTrainer, AsyncGRPOTrainer))
        samples = drawn()[:8]
        batch = packed(ours, samples)
        assert len(batch["input_ids"][0]) < sum(len(s.input_ids) for s in samples)  # prompts are shared
        before = batch["advantages"].clone()
        loss, gradient = loss_and_gradient(ours, batch)
        assert torch.equal(batch["advantages"], before)

        fed = {**packed(stock, samples), "advantages": shaped_by_hand(samples, alpha=0.4, kappa=2.0)}
        assert fed["advantages"].shape == before.shape
        want_loss, want = loss_and_gradient(stock, fed)
        torch.testing.assert_close(loss, want_loss, rtol=1e-5, atol=1e-6)
        assert relative(gradient, want) < GRADIENT_TOLERANCE
        assert relative(loss_and_gradient(stock, batch)[1], want) > 0.01

        metrics, _ = ours._action_log.take()
        check_metrics(metrics, *tokens_of(samples).columns, alpha=0.4, kappa=2.0)

    def test_holds_the_contract(self, saved: str, tmp_path: Path) -> None:
        ours, stock = (make(kind, saved, tmp_path) for kind in (EntropyShapedAsyncGRPOTrainer, AsyncGRPOTrainer))
        ours._head_checked = True  # there is none here

        def outcome(trainer: Any, batch: Batch, kept: bool = False) -> Outcome:
            lengths = [len(row) for row in batch.mask]
            prompts = [len(prompt) for *_, prompt in each(batch)]
            samples = [
                SimpleNamespace(
                    input_ids=np.array([*[3 + i] * p, *range(5, 5 + n)]),  # other first tokens: nothing is shared
                    completion_mask=np.array([0] * p + list(map(int, mask))),
                    old_log_probs=np.array([*[0.0] * p, *np.linspace(-1.5, -0.5, n)]),
                    advantage=0.0,
                    group_id=i,
                    metrics={},
                )
                for i, (n, p, mask) in enumerate(zip(lengths, prompts, batch.mask, strict=True))
            ]
            inputs = packed(trainer, samples)
            places = zip(batch.advantages, batch.mask, strict=True)
            counted = [a for row in places for a, m in zip(*row, strict=True) if m]
            inputs["advantages"] = torch.tensor([counted])
            # A token's numbers stand where it is predicted: one place before it.
            entropy = torch.tensor([[h for _, row, _, _ in each(batch) for h in (*row[1:], 9.0)]])
            logps = torch.linspace(-1.4, -0.6, entropy.numel())[None].requires_grad_()
            outputs = SimpleNamespace(log_probs=logps, entropy=entropy.requires_grad_())
            loss = trainer.compute_loss(lambda **_: outputs, inputs)
            loss.backward()
            assert entropy.grad is None
            log = getattr(trainer, "_action_log", None)
            return Outcome(loss.detach(), logps.grad, log.totals.pop("shaping", None) if log and not kept else None)

        def adapter(batch: Batch, alpha: float, kappa: float) -> Outcome:
            ours.args.alpha, ours.args.kappa = alpha, kappa
            return outcome(ours, batch)

        class Bypassed(EntropyShapedAsyncGRPOTrainer):
            def compute_loss(self, *args: Any, **kwargs: Any) -> Any:
                return AsyncGRPOTrainer.compute_loss(self, *args, **kwargs)

        def logged(batch: Batch, alpha: float, kappa: float) -> dict[str, float]:
            ours.accelerator = of_two_processes()
            ours.args.alpha, ours.args.kappa = alpha, kappa
            ours._action_log.totals = {}
            if not any(map(any, batch.mask)):  # TRL's own loss fails there; a token with A = 0 counts for nothing
                batch = batch._replace(mask=[[1, *row[1:]] for row in batch.mask])
            outcome(ours, batch, kept=True)
            return ours._action_log.take()[0]

        holds(
            lambda batch: outcome(stock, batch),
            adapter,
            bypassed=make(Bypassed, saved, tmp_path).train,
            logged=logged,
        )

    @pytest.mark.parametrize(
        ("loss", "message"),
        [
            (lambda self, model, inputs: model.weight.sum(), "the loss ran no forward pass"),
            (lambda self, model, inputs: model(inputs).entropy.sum(), "the loss did not read the shaped advantages"),
        ],
    )
    def test_one_that_has_changed_raises(
        self, saved: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, loss: Any, message: str
    ) -> None:
        trainer = make(EntropyShapedAsyncGRPOTrainer, saved, tmp_path)
        trainer._head_checked = True
        batch = packed(trainer, drawn()[:2])
        monkeypatch.setattr(AsyncGRPOTrainer, "compute_loss", loss)
        size = batch["input_ids"].numel()
        model = type("Model", (), {"weight": torch.zeros(1)})()
        answer = SimpleNamespace(log_probs=torch.zeros(1, size), entropy=torch.ones(1, size))
        type(model).__call__ = lambda *_: answer
        assert message in check_skipped_step(lambda: trainer.compute_loss(model, batch))
        answer.entropy = None
        if "read" in message:
            assert "entropies are None" in check_skipped_step(lambda: trainer.compute_loss(model, batch))


class TestRuns:
    def test_alpha_zero_is_trl_bit_for_bit(self, saved: str, tmp_path: Path) -> None:
        changes, logs = [], []
        for kind, options in ((EntropyShapedAsyncGRPOTrainer, {"alpha": 0.0}), (AsyncGRPOTrainer, {})):
            trainer = make(kind, saved, tmp_path, gradient_accumulation_steps=2, **options)
            before = [p.detach().clone() for p in trainer.model.parameters()]
            trainer.train()
            after = trainer.model.parameters()
            changes.append(torch.cat([(b - a).detach().flatten() for a, b in zip(before, after, strict=True)]))
            logs.append(trainer.state.log_history)
        check_alpha_zero(*changes, logs[0])

    def test_methods_that_go_by_the_token_act(self, saved: str, tmp_path: Path) -> None:
        plan = ["entropy_advantage:alpha=0.4->0.1@linear"]
        trainer = make(EntropyShapedAsyncGRPOTrainer, saved, tmp_path, method=plan)
        trainer.train()
        first, second = (log["shaping/psi_over_adv"] for log in trainer.state.log_history[:2])
        assert first > second > 0  # alpha 0.4 in the first update, and 0.25 in the second

    @pytest.mark.parametrize("alpha", [0.4, 0.0])
    def test_a_head_that_is_not_the_policys_is_refused(self, saved: str, tmp_path: Path, alpha: float) -> None:
        trainer = make(EntropyShapedAsyncGRPOTrainer, saved, tmp_path, alpha=alpha)
        head = trainer.model.get_output_embeddings()
        head.register_forward_hook(lambda module, args, out: 3 * torch.tanh(out / 3))  # a cap that TRL does not know
        with pytest.raises(InputError, match="would train on wrong numbers"):
            trainer.train()


def test_two_processes_give_the_loss_gradient_totals_and_run_of_one(saved: str, tmp_path: Path) -> None:
    """Each process has a row of a micro-batch; gloo on the CPU, under DistributedDataParallel, by TRL's dispatcher."""
    script = Path(__file__).with_name("async_on_one_of_two.py")
    run_in_two(script, saved, tmp_path)
    ranks = [torch.load(tmp_path / f"rank{rank}.pt", weights_only=False) for rank in (0, 1)]

    import async_on_one_of_two as in_two

    stock = make(AsyncGRPOTrainer, saved, tmp_path)
    fed = {**packed(stock, in_two.SAMPLES), "advantages": shaped_by_hand(in_two.SAMPLES, alpha=0.1, kappa=2.0)}
    want_loss, want = loss_and_gradient(stock, fed)
    torch.testing.assert_close((ranks[0]["loss"] + ranks[1]["loss"]) / 2, want_loss, rtol=1e-5, atol=1e-6)
    for rank in ranks:
        assert relative(rank["gradient"], want) < GRADIENT_TOLERANCE
        check_metrics(rank["logged"], *tokens_of(in_two.SAMPLES).columns, alpha=0.1, kappa=2.0)

    alone = make(EntropyShapedAsyncGRPOTrainer, saved, tmp_path, per_device_train_batch_size=8, **in_two.STEPS)
    before = torch.cat([p.detach().flatten() for p in alone.model.parameters()])
    alone.train()
    moved = torch.cat([p.detach().flatten() for p in alone.model.parameters()]) - before
    assert float(moved.norm()) > 0.01
    for rank in ranks:
        assert relative(rank["weights"] - before, moved) < 1e-3
        for ours, want_log in zip(rank["run"][:2], alone.state.log_history[:2], strict=True):
            names = [name for name in want_log if name.startswith("shaping/")]
            assert len(names) == 4
            assert [ours[name] for name in names] == pytest.approx([want_log[name] for name in names], rel=1e-4)


class TestRefused:
    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"alpha": -1.0}, "alpha must be"),
            ({"kappa": 1.0}, "kappa must be"),
            ({"entropy_backend": "forkwise"}, "whose head is TRL's"),
            ({"method": ["rloo"]}, "'rloo' sees more than one token at a time"),
            ({"method": ["forking_tokens"]}, "'forking_tokens' sees more than one token"),
            ({"method": ["ce_gppo"]}, "'ce_gppo' takes the place of the clip"),
            ({"method": ["entropy_advantage:alpha=0.4@target:0.3"]}, "remembers something"),
        ],
    )
    def test_settings(self, tmp_path: Path, options: dict[str, Any], message: str) -> None:
        with pytest.raises(InputError, match=message):
            EntropyShapedAsyncGRPOConfig(str(tmp_path), **{**QUIET, **options})

    def test_trls_config_in_ours_and_ours_in_trls(self, saved: str, tmp_path: Path) -> None:
        with pytest.raises(TypeError, match="has no alpha and kappa"):
            make(EntropyShapedAsyncGRPOTrainer, saved, tmp_path, args=AsyncGRPOConfig(str(tmp_path), **QUIET))
        config = EntropyShapedAsyncGRPOConfig(str(tmp_path), **QUIET)
        stock = make(AsyncGRPOTrainer, saved, tmp_path, args=config)
        with pytest.raises(InputError, match=r"train with forkwise's EntropyShapedAsyncGRPOTrainer\.$"):
            stock.train()


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, Any]]:
    pytest.importorskip("aiohttp", reason="TRL's rollout worker needs aiohttp")
    # Asked in this process only, for NCCL and the names of vLLM's own exceptions.
    monkeypatch.setattr(async_rollout_worker, "is_vllm_available", lambda: True)
    with serving(tiny.policy(seed=5)) as place:  # weights that are not the trainer's, until they are transferred
        yield place


@pytest.mark.slow
def test_two_updates_with_trls_rollout_worker_and_a_tool(served: Any, saved: str, tmp_path: Path) -> None:
    url, engine = served
    options = {"vllm_server_base_url": url, "token_budget": None, "learning_rate": 1e-3, "max_inflight_tasks": 4}
    options |= {"max_completion_length": 6, "max_tool_calling_iterations": 1}
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []

    class Watched(EntropyShapedAsyncGRPOTrainer):
        def _shaped(self, inputs: dict[str, Any], *args: Any) -> torch.Tensor:
            advantages = super()._shaped(inputs, *args)
            seen.append((inputs["input_ids"][inputs["attention_mask"].bool()], inputs["token_index"]))
            assert advantages.shape == inputs["token_index"].shape
            return advantages

    trainer = Watched(
        saved,
        tiny.reward,
        EntropyShapedAsyncGRPOConfig(str(tmp_path), **{**QUIET, **options}),
        train_dataset=Dataset.from_dict({"prompt": [[{"role": "user", "content": f"{i} + 1"}] for i in range(10)]}),
        processing_class=tiny_chat.tokenizer(),
        tools=[tiny_chat.b],
        weight_transfer=Transfer(async_grpo_trainer.VLLMClient(url, 10.0)),
    )
    trainer.train()
    logs = trainer.state.log_history
    assert trainer.args.token_budget == engine.longest  # asked from the server
    assert [log["shaping/psi_over_adv"] > 0 for log in logs[:2]] == [True, True]
    # Drawn with the weights that were transferred before the first update, so that nothing is off-policy yet.
    assert logs[0]["ratio"] == pytest.approx(1, abs=1e-4)
    assert logs[0]["tools/call_frequency"] > 0
    # What tools said, words that the template put between, and prompts: forwarded, and no place is shaped for them.
    assert all(len(places[0].unique()) < 0.9 * len(ids) for ids, places in seen)
    said = torch.tensor(tiny_chat.tokenizer().convert_tokens_to_ids(tiny_chat.b().split()))
    assert any(bool((ids.unfold(0, 2, 1) == said).all(dim=1).any()) for ids, _ in seen)
    # The first policy, and the two that were learned.
    assert len(engine.updates) == 3
    names = dict(trainer.model.named_parameters())
    assert engine.updates[2].keys() == names.keys()
    assert all(torch.equal(engine.updates[2][name], names[name].detach()) for name in names)
    moved = [(engine.updates[i + 1][n] - engine.updates[i][n]).abs().max() for i in range(2) for n in names]
    assert max(moved) > 1e-4
