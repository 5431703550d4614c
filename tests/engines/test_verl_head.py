"""Our operator as verl's head, put in by verl's own switch, beside verl's and float64 softmax of the model's logits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("verl", reason="verl is not installed; 'make test' runs these in an environment that has it")

import tiny_verl as tiny
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor
from transformers import Gemma2Config, Gemma2ForCausalLM
from two_processes import run_in_two
from verl.models.transformers import monkey_patch

from forkwise.engines.verl.settings import HEAD
from forkwise.errors import InputError, NotFiniteError

IDS = torch.tensor([[5, 6, 10, 11, 12, 13], [7, 8, 9, 14, 15, 3]])


def capped() -> Any:
    """A random Gemma2, whose logits verl's heads take for uncapped."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = Gemma2Config(
            vocab_size=25, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, head_dim=8,
            num_key_value_heads=2, max_position_embeddings=64, initializer_range=0.3, final_logit_softcapping=1.0,
        )  # fmt: skip
        return Gemma2ForCausalLM(config)


def with_head(model: Any, backend: str) -> Any:
    """The model after verl's own patching; verl patches classes, so this one gets a class of its own."""
    model.__class__ = type(type(model).__name__, (type(model),), {})
    monkey_patch.patch_forward_with_backends(model, use_fused_kernels=True, fused_kernels_backend=backend)
    return model


def by_head(model: Any) -> tuple[Tensor, Tensor]:
    output = model(input_ids=IDS, attention_mask=torch.ones_like(IDS), temperature=tiny.TEMPERATURE, return_dict=True)
    return output.log_probs, output.entropy


def by_softmax(model: Any) -> tuple[Tensor, Tensor]:
    logp = (model(input_ids=IDS).logits.double() / tiny.TEMPERATURE).log_softmax(-1)
    labels = IDS.roll(-1, dims=1)
    return logp.gather(2, labels[..., None])[..., 0], -(logp.exp() * logp).sum(-1)


@pytest.mark.parametrize("make", [tiny.policy, capped])
def test_values_and_gradients_are_those_of_the_models_logits(make: Any) -> None:
    ours, exact = with_head(make().eval(), HEAD), make().double().eval()
    draw = torch.Generator().manual_seed(1)
    weights = torch.randn(2, *IDS.shape, generator=draw)
    results, right = by_head(ours), by_softmax(exact)
    for number, expected in zip(results, right, strict=True):
        torch.testing.assert_close(number.double(), expected, rtol=1e-5, atol=2e-5)
    for pair in (results, right):
        (pair[0] * weights[0] + pair[1] * weights[1]).sum().backward()
    for mine, theirs in zip(ours.parameters(), exact.parameters(), strict=True):
        torch.testing.assert_close(mine.grad.double(), theirs.grad, rtol=1e-4, atol=2e-5)


def test_verls_own_head_is_equal_where_it_is_right_and_wrong_under_a_soft_cap() -> None:
    mine, theirs = by_head(with_head(tiny.policy().eval(), HEAD)), by_head(with_head(tiny.policy().eval(), "torch"))
    for number, expected in zip(mine, theirs, strict=True):
        torch.testing.assert_close(number, expected, rtol=1e-5, atol=2e-5)
    wrong = by_head(with_head(capped().eval(), "torch"))[1] - by_softmax(capped().double().eval())[1]
    assert float(wrong.detach().abs().max()) > 0.1


def test_entropies_of_a_bfloat16_model_are_not_rounded_to_it() -> None:
    _, entropy = by_head(with_head(tiny.policy().bfloat16().eval(), HEAD))
    assert entropy.dtype == torch.float32
    assert not torch.equal(entropy, entropy.bfloat16().float())
    assert by_head(with_head(tiny.policy().bfloat16().eval(), "torch"))[1].dtype == torch.bfloat16


def test_labels_that_verl_has_shifted_itself_are_taken() -> None:
    model = with_head(tiny.policy().eval(), HEAD)
    labels = torch.full_like(IDS, 4)
    output = model(input_ids=IDS, temperature=1.0, return_dict=True, shift_labels=labels)
    logp = model(input_ids=IDS).logits.log_softmax(-1)  # without a temperature the model is itself
    torch.testing.assert_close(output.log_probs, logp[..., 4], rtol=1e-5, atol=2e-5)


def test_labels_are_shifted_as_by_verls_own() -> None:
    labels = IDS.flip(1)
    ours, verls = (
        with_head(tiny.policy().eval(), backend)(input_ids=IDS, labels=labels, temperature=1.0, return_dict=True)
        for backend in (HEAD, "torch")
    )
    torch.testing.assert_close(ours.log_probs, verls.log_probs, rtol=1e-5, atol=2e-5)
    assert with_head(tiny.policy().eval(), HEAD)(input_ids=IDS, labels=labels).loss is not None


def test_what_cannot_be_proved_is_refused() -> None:
    model = tiny.policy().eval()
    model.lm_head.__class__ = type("Doubled", (torch.nn.Linear,), {"forward": lambda self, x: 2 * x @ self.weight.t()})
    said = "impl_backend=forkwise cannot be used with Qwen2ForCausalLM: its head is a Doubled; set .* to False"
    with pytest.raises(InputError, match=said):
        by_head(with_head(model, HEAD))
    model = tiny.policy()
    model.config.vision_config = {}
    with pytest.raises(InputError, match="is for text models, and Qwen2ForCausalLM sees images"):
        with_head(model, HEAD)


def test_hidden_states_that_are_no_numbers_are_named() -> None:
    """verl's trainer adds the step (`test_verl_guard.py`)."""
    model = with_head(tiny.policy().eval(), HEAD)
    by_head(model)
    with torch.no_grad():
        model.model.norm.weight[3] = torch.nan
    with pytest.raises(NotFiniteError, match="^The hidden states of 12 of 12 tokens are NaN or infinite"):
        by_head(model)


@pytest.mark.parametrize("beside", [False, True], ids=["lora", "trained_beside"])
def test_a_head_with_adapters_is_proved_without_and_with_them(beside: bool) -> None:
    """verl turns adapters off for the reference, which it may score first."""
    torch.manual_seed(0)
    kind = {"modules_to_save": ["lm_head"]} if beside else {"init_lora_weights": False}
    targets = ["q_proj"] if beside else ["q_proj", "lm_head"]
    causal = with_head(tiny.policy().eval(), HEAD)
    model: Any = get_peft_model(causal, LoraConfig(r=2, target_modules=targets, **kind)).eval()
    if beside:
        with torch.no_grad():
            causal.lm_head.modules_to_save["default"].weight.mul_(2)
    with model.disable_adapter():
        reference, right = by_head(model), by_softmax(model)
    for number, expected in zip(reference, right, strict=True):
        torch.testing.assert_close(number.double(), expected, rtol=1e-5, atol=2e-5)
    if beside:
        for number, expected in zip(by_head(model), by_softmax(model), strict=True):
            torch.testing.assert_close(number.double(), expected, rtol=1e-5, atol=2e-5)
        return
    with pytest.raises(InputError, match="cannot be used with Qwen2ForCausalLM: it calls its head 3 times"):
        by_head(model)


def test_all_processes_refuse_a_head_that_cannot_be_proved_on_one(tmp_path: Path) -> None:
    modules = ("tiny_verl", "verl.models.transformers.monkey_patch", "forkwise.engines.verl.settings")
    run_in_two(Path(__file__).with_name("verl_head_on_one_of_two.py"), timeout=300, modules=modules)
