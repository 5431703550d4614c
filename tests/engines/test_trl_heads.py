"""Who computes log-probs and entropies in TRL's loss: ours where it is proved, TRL's where it is right, or the logits.

Which heads TRL 1.16 computes wrongly was found with float64 softmax of unpatched models, not with our comparison.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("trl")

import tiny_ppo
import tiny_trl as tiny
import torch
import transformers
import trl
from packaging.version import Version
from peft import LoraConfig
from tiny_heads import HEADS, model_with
from two_processes import run_in_two

from forkwise.core import compare_head, few_tokens
from forkwise.engines.trl import EntropyShapedGRPOConfig, EntropyShapedGRPOTrainer, EntropyShapingMixin
from forkwise.errors import InputError, NotFiniteError

FUSED = Version(trl.__version__) >= Version("1.15")


def trainer_of(model: Any, where: Path, **options: Any) -> EntropyShapedGRPOTrainer:
    peft = options.pop("peft_config", None)
    if options.get("beta"):
        model.save_pretrained(where / "reference")  # TRL loads its reference model from where the policy came from
        model.config.name_or_path = str(where / "reference")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        args = EntropyShapedGRPOConfig(output_dir=str(where), **{**tiny.QUIET, "max_steps": 1, **options})
        return EntropyShapedGRPOTrainer(
            model,
            tiny.reward,
            args,
            train_dataset=tiny.prompts(),
            processing_class=tiny.tokenizer(),
            peft_config=peft,
        )


@pytest.mark.parametrize("scale", [0.02, 1.5], ids=["fresh", "peaked"])
@pytest.mark.parametrize("name", HEADS)
def test_a_head_that_trl_computes_wrongly_is_refused_before_it_is_trained(
    tmp_path: Path, name: str, scale: float
) -> None:
    model = model_with(name, scale)
    # Two iterations, so that log-probs are wanted with the first rollout.
    trainer = trainer_of(model, tmp_path, num_iterations=2, entropy_backend="trl")
    before = [p.detach().clone() for p in model.parameters()]
    if name == "recurrent_gemma" and Version(transformers.__version__) < Version("5"):
        pytest.skip("it keeps states of the last batch in itself there")
    if HEADS[name][2] or not FUSED:
        trainer.train()
        assert trainer.state.global_step == 1
        return
    # A head of fresh weights has logits so small that a cap of 30 does not bind yet: it still counts.
    said = (
        rf"(nats where the logits|cannot compute the log-probs) of {type(model).__name__} .*'forkwise'.*trl==1\.14\.2"
    )
    with pytest.raises(InputError, match=said):
        trainer.train()
    assert all(torch.equal(old, new) for old, new in zip(before, model.parameters(), strict=True))


@pytest.mark.skipif(not FUSED, reason="this TRL computes from the logits")
@pytest.mark.parametrize("alpha", [0.0, 0.4])
def test_adapters_hide_no_head(tmp_path: Path, alpha: float) -> None:
    lora = LoraConfig(r=2, target_modules=["q_proj", "v_proj"], lora_dropout=0.5)
    with pytest.raises(InputError, match="RecurrentGemmaForCausalLM"):
        trainer_of(
            model_with("recurrent_gemma", 1.5), tmp_path, peft_config=lora, alpha=alpha, entropy_backend="trl"
        ).train()


@pytest.mark.skipif(not FUSED, reason="this TRL computes from the logits")
def test_bfloat16_hides_no_cap_and_is_no_difference(tmp_path: Path) -> None:
    trainer_of(tiny.policy().bfloat16(), tmp_path, entropy_backend="trl").train()
    trainer_of(model_with("gemma2", 1.5).bfloat16(), tmp_path, entropy_backend="trl").train()
    with pytest.raises(InputError, match="RecurrentGemmaForCausalLM"):
        trainer_of(model_with("recurrent_gemma", 0.02).bfloat16(), tmp_path, entropy_backend="trl").train()


def test_the_message_gives_the_two_numbers(tmp_path: Path) -> None:
    """A head whose log-probs are 1 nat too large everywhere, and entropies right."""
    model = tiny.policy().eval()
    ids = few_tokens(torch.tensor([5, 6, 7]), torch.tensor([8, 9]))
    exact = model(input_ids=ids).logits[0, :-1].double().log_softmax(-1)
    chosen = exact.gather(1, ids[0, 1:, None])[:, 0]
    entropy = -(exact.exp() * exact).sum(-1)
    message = compare_head(model, ids, lambda _: (chosen + 1, entropy))
    assert message is not None
    assert (message.quantity, message.scaled) == ("log-probability", False)
    assert message.shortcut - message.logits == pytest.approx(1, abs=1e-5)
    assert any(abs(message.logits - value) < 1e-5 for value in chosen.tolist())
    said = f"the log-probability of a token is {message.shortcut:.3f} nats where the logits of Qwen2ForCausalLM give"
    assert str(message).startswith(said)


def test_the_comparison_leaves_nothing_behind() -> None:
    model = tiny.policy().train()
    model.model.layers[0].eval()
    modes = [module.training for module in model.modules()]
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    ids = few_tokens(torch.tensor([5, 6, 7]), torch.tensor([8, 9]))

    def exact(ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        assert not model.training
        torch.rand(3)
        logprobs = model(input_ids=ids).logits[0, :-1].log_softmax(-1)
        return logprobs.gather(1, ids[0, 1:, None])[:, 0], -(logprobs.exp() * logprobs).sum(-1)

    state = torch.get_rng_state()
    assert compare_head(model, ids, exact) is None
    assert torch.equal(torch.get_rng_state(), state)
    assert [module.training for module in model.modules()] == modes
    assert not any(module._forward_hooks for module in model.modules())
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())


# ------------------------------------------------------------------------------------------------------------ backends


def scored(trainer: EntropyShapedGRPOTrainer, batch: dict[str, Any]) -> Any:
    ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], dim=1)
    mask = torch.cat([batch["prompt_mask"], batch["completion_mask"]], dim=1)
    tokens = batch["completion_ids"].size(1)
    return trainer._get_per_token_logps_and_entropies(trainer.model, ids, mask, tokens, compute_entropy=True)


@pytest.mark.parametrize("name", ["recurrent_gemma", "modernbert_decoder", "gemma2", "cohere"])
def test_ours_trains_what_trl_gets_wrong(tmp_path: Path, name: str) -> None:
    model = model_with(name, 1.5)
    twin = model_with(name, 1.5).eval()
    trainer = trainer_of(model, tmp_path, temperature=tiny.TEMPERATURE)
    batch = tiny.microbatch(4, 1, model=twin)
    model.eval()
    logps, entropy, _ = scored(trainer, batch)
    mask = batch["completion_mask"].bool()
    exact = tiny.exact_logps(twin, batch)
    chosen = exact.gather(2, batch["completion_ids"][..., None])[..., 0]
    torch.testing.assert_close(logps.double()[mask], chosen[mask], rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(entropy.double()[mask], tiny.exact_entropy(twin, batch)[mask], rtol=1e-5, atol=1e-4)
    assert not logps[~mask].any()
    assert [way.scorer for way in trainer._ways.values()] == ["forkwise"]
    trainer.train()
    assert 0 < trainer.state.log_history[0]["shaping/entropy_error"] < 1e-4


class OwnLogProbs(trl.GRPOTrainer):  # type: ignore[misc]
    def _get_per_token_logps_and_entropies(self, *args: Any, **kwargs: Any) -> Any:
        return super()._get_per_token_logps_and_entropies(*args, **kwargs)


class Mixed(EntropyShapingMixin, OwnLogProbs):
    pass


def test_a_trainer_that_computes_them_itself_is_left_alone(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        args = EntropyShapedGRPOConfig(output_dir=str(tmp_path), max_steps=1, **tiny.QUIET)
        options = {"train_dataset": tiny.prompts(), "processing_class": tiny.tokenizer()}
        trainer = Mixed(tiny.policy(), tiny.reward, args, **options)
    with pytest.warns(UserWarning, match="TRL's head computes .* since test_trl_heads computes them in its own way"):
        trainer.train()
    assert [way.scorer for way in trainer._ways.values()] == ["trl"]
    assert "shaping/entropy_error" not in trainer.state.log_history[0]


# What scores a head that no shortcut computes: where TRL has none of its own, its scorer is the full logits.
SAYS = "the full logits give" if FUSED else "the full logits give|TRL's head computes"


class Shifted(transformers.Qwen2ForCausalLM):  # type: ignore[misc]
    """Its logits are neither scaled nor softly capped products, so that no shortcut is right."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        output = super().forward(*args, **kwargs)
        output.logits = 3 * torch.atan(output.logits)
        return output


def test_a_head_that_no_shortcut_computes_is_trained_by_its_logits(tmp_path: Path) -> None:
    model = tiny.policy()
    twin = tiny.policy().double().eval()
    model.__class__ = twin.__class__ = Shifted
    trainer = trainer_of(model, tmp_path, num_iterations=2)
    batch = tiny.microbatch(4, 1, model=twin)
    model.eval()
    with pytest.warns(UserWarning, match=rf"For Shifted ({SAYS}).*neither scaled nor softly capped"):
        logps, entropy, _ = scored(trainer, batch)
    mask = batch["completion_mask"].bool()
    chosen = tiny.exact_logps(twin, batch).gather(2, batch["completion_ids"][..., None])[..., 0]
    torch.testing.assert_close(logps.double()[mask], chosen[mask], rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(entropy.double()[mask], tiny.exact_entropy(twin, batch)[mask], rtol=1e-5, atol=1e-4)
    trainer.train()
    assert trainer.state.global_step == 1


class Scaled(transformers.Qwen2ForCausalLM):  # type: ignore[misc]
    """Its logits are multiplied by a parameter, which is 1 at first: any shortcut is right then."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        output = super().forward(*args, **kwargs)
        output.logits = output.logits * self.scale
        return output


def scaled_policy() -> Any:
    model = tiny.policy()
    model.__class__ = Scaled
    model.scale = torch.nn.Parameter(torch.tensor(1.0))
    return model


def test_a_parameter_behind_the_head_is_trained(tmp_path: Path) -> None:
    model = scaled_policy()
    trainer = trainer_of(model, tmp_path, num_iterations=2, learning_rate=1e-2, max_steps=4)
    with pytest.warns(UserWarning, match=rf"For Scaled ({SAYS}).*its parameter scale stands behind it and is trained"):
        trainer.train()
    assert abs(float(model.scale.detach()) - 1) > 1e-4
    batch = tiny.microbatch(4, 1, model=model)
    model.eval()
    logps, _, _ = scored(trainer, batch)
    mask = batch["completion_mask"].bool()
    chosen = tiny.exact_logps(model, batch).gather(2, batch["completion_ids"][..., None])[..., 0]
    torch.testing.assert_close(logps.double()[mask], chosen[mask], rtol=1e-5, atol=1e-4)


@pytest.mark.skipif(not FUSED, reason="this TRL computes from the logits")
def test_a_parameter_that_trls_head_would_leave_as_it_is_is_named(tmp_path: Path) -> None:
    trainer = trainer_of(scaled_policy(), tmp_path, entropy_backend="trl")
    said = r"would not train its parameter scale, which stands between hidden states and logits of Scaled; set entropy"
    with pytest.raises(InputError, match=said):
        trainer.train()


def test_a_head_that_changes_after_its_proof_ends_the_run(tmp_path: Path) -> None:
    model = scaled_policy()
    model.scale.requires_grad_(False)
    trainer = trainer_of(model, tmp_path)
    batch = tiny.microbatch(4, 1)
    scored(trainer, batch)
    model.scale.mul_(2)
    with pytest.raises(
        InputError, match="Step 1: our operator can stand in for the head of Scaled no longer: what sta"
    ):
        scored(trainer, batch)


def test_ratios_are_one_before_anything_is_learned(tmp_path: Path) -> None:
    """Old, current and reference log-probs come from one operator: there is nothing to clip, and no KL."""
    trainer = trainer_of(tiny.policy(), tmp_path, num_iterations=2, beta=0.1, max_steps=1, learning_rate=0.0)
    seen: list[dict[str, Any]] = []
    compute = trainer._compute_loss
    trainer._compute_loss = lambda model, inputs: seen.append(inputs) or compute(model, inputs)  # type: ignore[method-assign]
    trainer.train()
    batch = seen[0]
    trainer.model.eval()
    logps, _, _ = scored(trainer, batch)
    mask = batch["completion_mask"].bool()
    for name in ("old_per_token_logps", "ref_per_token_logps"):
        assert float((batch[name] - logps)[mask].abs().max()) < 2e-6
    assert trainer.state.log_history[0]["kl"] == pytest.approx(0, abs=1e-9)
    assert {way.scorer for way in trainer._ways.values()} == {"forkwise"}
    assert len(trainer._ways) == 2  # the reference is proved too


@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
def test_a_run_with_ours_is_a_run_with_trls_within_rounding(tmp_path: Path, lora: bool) -> None:
    adapters = LoraConfig(r=4, target_modules=["q_proj", "v_proj"]) if lora else None
    options = {"alpha": 0.0, "num_iterations": 2, "beta": 0.05, "max_steps": 4, "learning_rate": 1e-3}
    runs = {}
    for backend in ("forkwise", "trl"):
        torch.manual_seed(0)
        trainer = trainer_of(
            tiny.policy(),
            tmp_path,
            entropy_backend=backend,
            peft_config=adapters,
            gradient_checkpointing=lora,
            **options,
        )
        trainer.train()
        runs[backend] = trainer
    losses = {name: [row["loss"] for row in run.state.log_history if "loss" in row] for name, run in runs.items()}
    assert losses["forkwise"] == pytest.approx(losses["trl"], rel=1e-4, abs=2e-6)
    pairs = zip(runs["forkwise"].model.parameters(), runs["trl"].model.parameters(), strict=True)
    moved = [(ours.detach() - theirs.detach()).abs().max().item() for ours, theirs in pairs]
    assert 0 < max(moved) < 2e-5  # the learning rate moves weights by 1e-3 a step


@pytest.mark.parametrize("weights", [torch.float32, torch.bfloat16], ids=["autocast", "bfloat16"])
@pytest.mark.parametrize("beside", [[], ["lm_head"]], ids=["lora", "trained_beside"])
def test_in_bfloat16_adapters_leave_the_head_to_ours(tmp_path: Path, weights: torch.dtype, beside: list[str]) -> None:
    """accelerate widens to float32 what leaves a model with adapters, which says nothing of the head's products."""
    adapters = LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=beside)
    trainer = trainer_of(tiny.policy().to(weights), tmp_path, bf16=True, beta=0.1, peft_config=adapters)
    trainer.train()
    batch = tiny.microbatch(4, 1)
    mask = batch["completion_mask"].bool()
    trainer.model.eval()
    logps, entropy, _ = scored(trainer, batch)
    with trainer.accelerator.autocast():
        exact, right = tiny.exact_logps(trainer.model, batch), tiny.exact_entropy(trainer.model, batch)
    chosen = exact.gather(2, batch["completion_ids"][..., None])[..., 0]
    torch.testing.assert_close(logps.detach().double()[mask], chosen[mask], rtol=1e-5, atol=2e-5)
    torch.testing.assert_close(entropy.detach().double()[mask], right[mask], rtol=1e-5, atol=2e-5)
    assert {way.scorer for way in trainer._ways.values()} == {"forkwise"}


@pytest.mark.parametrize("critic", [False, True], ids=["grpo", "ppo"])
@pytest.mark.parametrize("weights", [torch.float32, torch.bfloat16], ids=["autocast", "bfloat16"])
def test_in_bfloat16_the_loss_is_trls_within_rounding(tmp_path: Path, weights: torch.dtype, critic: bool) -> None:
    """Scores are held against float64 softmax of the model's own logits, which are rounded to bfloat16 as ours are."""
    scores, losses, gradients = {}, {}, {}
    for backend in ("forkwise", "trl"):
        if critic:
            trainer: Any = tiny_ppo.make(tmp_path, bf16=True, entropy_backend=backend, critic_warmup_steps=0)
            trainer.model.to(weights)
            batch = tiny_ppo.rollout(trainer)
        else:
            trainer = trainer_of(tiny.policy().to(weights), tmp_path, entropy_backend=backend, bf16=True)
            batch = tiny.microbatch(4, 1)
        trainer.model.train()
        trainer.accelerator.prepare_model(trainer.model)  # as train() does: without it TRL 1.9 computes in float32
        trainer.current_gradient_accumulation_steps = 1
        mask = batch["completion_mask"].bool()
        logps, entropy, _ = scored(trainer, batch)
        with trainer.accelerator.autocast():
            exact, right = tiny.exact_logps(trainer.model, batch), tiny.exact_entropy(trainer.model, batch)
        assert backend == "trl" or logps.dtype == entropy.dtype == torch.float32
        chosen = exact.gather(2, batch["completion_ids"][..., None])[..., 0]
        torch.testing.assert_close(logps.detach().double()[mask], chosen[mask], rtol=1e-5, atol=2e-5)
        torch.testing.assert_close(entropy.detach().double()[mask], right[mask], rtol=1e-5, atol=2e-5)
        assert {way.scorer for way in trainer._ways.values()} == {backend}
        trainer.model.zero_grad()
        loss = trainer._compute_loss(trainer.model, batch)
        loss.backward()
        scores[backend], losses[backend] = logps.detach(), float(loss.detach())
        gradients[backend] = torch.cat([p.grad.float().flatten() for p in trainer.model.parameters()])
    assert losses["forkwise"] == pytest.approx(losses["trl"], rel=1e-2, abs=1e-2)
    apart = (gradients["forkwise"] - gradients["trl"]).norm() / gradients["trl"].norm()
    assert float(apart) < 0.02  # a rounding to bfloat16 is 0.004 of a number
    assert float(gradients["trl"].norm()) > 0.01


def test_a_run_in_bfloat16_is_trls_within_rounding(tmp_path: Path) -> None:
    """Three steps, of which each starts from the same text as TRL's: rewards, and first losses and entropies agree."""
    rows = {}
    for backend in ("forkwise", "trl"):
        torch.manual_seed(0)
        options = {"bf16": True, "max_steps": 3, "learning_rate": 1e-4, "num_iterations": 2, "beta": 0.05}
        trainer = trainer_of(tiny.policy(), tmp_path, entropy_backend=backend, **options)
        trainer.train()
        rows[backend] = [row for row in trainer.state.log_history if "loss" in row]
    assert len(rows["trl"]) == 3
    for ours, trls in zip(*rows.values(), strict=True):
        assert ours.get("reward") == trls.get("reward")  # of steps that draw completions
        assert ours["entropy"] == pytest.approx(trls["entropy"], abs=1e-2)
        assert ours["loss"] == pytest.approx(trls["loss"], rel=1e-2, abs=1e-2)
        assert ours["kl"] == pytest.approx(trls["kl"], abs=1e-3)


@pytest.mark.parametrize(
    "adapters",
    [
        {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]},
        pytest.param(
            {"target_modules": ["q_proj", "lm_head"], "init_lora_weights": False},
            marks=pytest.mark.skipif(FUSED, reason="TRL refuses adapters of the head"),
        ),
    ],
    ids=["trained_beside", "lora"],
)
def test_a_head_with_adapters_is_proved_without_and_with_them(tmp_path: Path, adapters: dict[str, Any]) -> None:
    """The reference comes first, with adapters off: what is found there does not hold when they are on."""
    model = tiny.policy()
    torch.manual_seed(0)
    trainer = trainer_of(model, tmp_path, beta=0.1, max_steps=2, peft_config=LoraConfig(r=2, **adapters))
    if "modules_to_save" in adapters:
        with torch.no_grad():
            trainer.model.base_model.model.lm_head.modules_to_save["default"].weight.mul_(2)
    batch = tiny.microbatch(4, 1)
    trainer.model.eval()
    scorers = ["forkwise", "forkwise" if "modules_to_save" in adapters else "trl"]
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        with trainer.model.disable_adapter():
            off = scored(trainer, batch)[0], tiny.exact_logps(trainer.model, batch)
        on = scored(trainer, batch)[0], tiny.exact_logps(trainer.model, batch)
        mask = batch["completion_mask"].bool()
        for logps, exact in (off, on):
            chosen = exact.gather(2, batch["completion_ids"][..., None])[..., 0]
            torch.testing.assert_close(logps.double()[mask], chosen.double()[mask], rtol=1e-5, atol=1e-4)
        assert float((on[0] - off[0])[mask].abs().max()) > 0.05
        assert [way.scorer for way in trainer._ways.values()] == scorers
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer.train()
    assert trainer.state.global_step == 2
    assert len(trainer._ways) == 2


def test_hidden_states_that_are_no_numbers_are_named_with_the_step(tmp_path: Path) -> None:
    model = tiny.policy()
    trainer = trainer_of(model, tmp_path)
    batch = tiny.microbatch(4, 1)
    scored(trainer, batch)
    with torch.no_grad():
        model.model.norm.weight[3] = torch.nan
    with pytest.raises(NotFiniteError, match=r"Step 1: The hidden states of 17 of 17 tokens are NaN or infinite"):
        scored(trainer, batch)


@pytest.mark.parametrize("backend", ["forkwise", "trl"])
def test_a_model_from_which_no_token_can_be_drawn_is_named_with_the_step(tmp_path: Path, backend: str) -> None:
    class Breaks(transformers.TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, _args: Any, state: Any, _control: Any, model: Any = None, **_: Any) -> None:
            if state.global_step == 2:
                with torch.no_grad():
                    model.model.norm.weight[3] = torch.nan

    trainer = trainer_of(tiny.policy(), tmp_path, max_steps=4, entropy_backend=backend)
    trainer.add_callback(Breaks())
    with pytest.raises(NotFiniteError, match=r"Step 3: the probabilities of the next token are not finite: weights"):
        trainer.train()


def test_infinite_hidden_states_of_the_first_batch_are_named(tmp_path: Path) -> None:
    model = tiny.policy()
    with torch.no_grad():
        model.model.norm.weight[3] = torch.inf
    with pytest.raises(NotFiniteError, match=r"Step 1: The hidden states of 17 of 17 tokens are NaN or infinite"):
        scored(trainer_of(model, tmp_path), tiny.microbatch(4, 1))


def test_log_probs_of_full_logits_that_are_no_numbers_are_named(tmp_path: Path) -> None:
    model = tiny.policy()
    model.__class__ = Shifted  # whose head is none that our operator, or TRL's, can stand in for
    trainer = trainer_of(model, tmp_path)
    batch = tiny.microbatch(4, 1)
    with pytest.warns(UserWarning, match=rf"For Shifted ({SAYS})"):
        scored(trainer, batch)
    with torch.no_grad():
        model.model.norm.weight[3] = torch.nan
    with pytest.raises(NotFiniteError, match="Step 1: The log-probs of 17 tokens are NaN"):
        scored(trainer, batch)


@pytest.mark.parametrize(
    ("here", "elsewhere", "reason"),
    [
        (["pixel_values", "num_images"], False, "only TRL's takes pixel_values, num_images"),
        ([], True, "only TRL's takes the images that another process has"),
    ],
)
def test_inputs_beside_text_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, here: list[str], elsewhere: bool, reason: str
) -> None:
    trainer = trainer_of(tiny.policy(), tmp_path)
    ids = torch.tensor([[5, 6, 7, 8, 9]])
    with monkeypatch.context() as patch:
        if elsewhere:  # of a model that sees images, all processes ask each other
            trainer._is_vlm = True
            answers = iter([True, False])  # images; TRL's numbers are right everywhere
            patch.setattr(trainer, "_any_process", lambda flag: next(answers) or flag)
        with pytest.warns(UserWarning, match=f"For Qwen2ForCausalLM TRL's head computes .* since {reason}"):
            assert trainer._way(trainer.model, ids, torch.ones_like(ids), 3, here).scorer == "trl"
    trainer._is_vlm = False
    assert trainer._way(trainer.model, ids, torch.ones_like(ids), 3).scorer == "forkwise"  # proved for text by itself


@pytest.mark.parametrize("backend", ["forkwise", "trl"])
def test_a_weight_of_the_head_that_is_no_number_is_named(tmp_path: Path, backend: str) -> None:
    model = tiny.policy()
    model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach().clone())  # not tied
    trainer = trainer_of(model, tmp_path, entropy_backend=backend)
    batch = tiny.microbatch(4, 1)
    scored(trainer, batch)
    with torch.no_grad():
        model.lm_head.weight[5, 2] = torch.nan
    with pytest.raises(NotFiniteError, match="Step 1: The log-probs of 17 tokens are NaN"):
        scored(trainer, batch)


def test_a_head_that_trl_casts_is_left_to_trl(tmp_path: Path) -> None:
    trainer = trainer_of(tiny.policy(), tmp_path, cast_lm_head_to_fp32=True)
    with pytest.warns(UserWarning, match=r"TRL's head computes .* forward pass is replaced, as cast_lm_head_to_fp32"):
        scored(trainer, tiny.microbatch(4, 1))


def test_another_backend_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"entropy_backend must be 'forkwise' or 'trl', got 'forkwize'\. Did you mean"):
        EntropyShapedGRPOConfig(output_dir=str(tmp_path), entropy_backend="forkwize")


@pytest.mark.skipif(not FUSED, reason="this TRL would compute from the logits, whatever our operator does")
def test_two_processes_share_a_head_and_agree_when_one_has_another(tmp_path: Path) -> None:
    run_in_two(Path(__file__).with_name("heads_on_one_of_two.py"), tmp_path, timeout=240)
