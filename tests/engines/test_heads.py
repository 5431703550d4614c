"""Our operator in place of a model's last layer, against float64 softmax of the same model's own logits."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("trl")

import tiny_trl as tiny
import torch
from peft import LoraConfig, get_peft_model
from tiny_heads import HEADS, model_with
from torch import Tensor, nn

from forkwise.core import (
    Head,
    HeadError,
    Places,
    compare_head,
    prove_head,
    score_by_logits,
    score_tokens,
    trained_beside_head,
)

IDS = torch.tensor([[3, 4, 5, 6, 7, 8, 9], [9, 8, 3, 3, 11, 5, 4]])
# Tokens 3, 4, 6 of the first row and the last of the second.
PLACES = Places(torch.tensor([0, 0, 0, 1]), torch.tensor([-5, -4, -2, -2]), torch.tensor([6, 7, 9, 4]))
TEMPERATURE = 0.7
SHIFT = torch.tensor([0.3, -1.0, 2.0, 0.5])  # weights of the tokens in a loss


def few() -> Tensor:
    return IDS[:1]


def by_softmax(model: Any) -> tuple[Tensor, Tensor]:
    logits = model(input_ids=IDS).logits[PLACES.rows, IDS.shape[1] + PLACES.columns]
    logp = (logits / TEMPERATURE).log_softmax(-1)
    return logp.gather(1, PLACES.targets[:, None])[:, 0], -(logp.exp() * logp).sum(-1)


@pytest.mark.parametrize("scale", [0.02, 1.5], ids=["fresh", "peaked"])
@pytest.mark.parametrize("name", HEADS)
def test_values_and_gradients_are_those_of_the_models_own_logits(name: str, scale: float) -> None:
    model = model_with(name, scale).double().eval()
    inputs = {"input_ids": IDS, "attention_mask": torch.ones_like(IDS), "use_cache": False}
    expected = by_softmax(model)
    ((expected[0] * SHIFT).sum() + 0.3 * (expected[1] * SHIFT).sum()).backward()
    gradients = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    scored = [score_tokens(model, inputs, PLACES, prove_head(model, few()), temperature=TEMPERATURE)]
    scored.append(score_by_logits(model, inputs, PLACES, temperature=TEMPERATURE))
    for scores in scored:
        model.zero_grad()
        for ours, right in zip(scores, expected, strict=False):
            torch.testing.assert_close(ours, right, rtol=1e-9, atol=1e-11)
        ((scores.logprob * SHIFT).sum() + 0.3 * (scores.entropy * SHIFT).sum()).backward()
        assert {n for n, p in model.named_parameters() if p.grad is not None} == set(gradients)
        for parameter, gradient in gradients.items():
            torch.testing.assert_close(model.get_parameter(parameter).grad, gradient, rtol=1e-9, atol=1e-11)


def test_a_tied_head_adds_its_gradient_to_the_embeddings() -> None:
    model: Any = tiny.policy().double().eval()
    model.lm_head.weight = model.model.embed_tokens.weight
    inputs = {"input_ids": IDS, "attention_mask": torch.ones_like(IDS)}
    (by_softmax(model)[0] * SHIFT).sum().backward()
    expected = model.lm_head.weight.grad.clone()
    model.zero_grad()
    scores = score_tokens(model, inputs, PLACES, prove_head(model, few()), temperature=TEMPERATURE)
    (scores.logprob * SHIFT).sum().backward()
    torch.testing.assert_close(model.model.embed_tokens.weight.grad, expected, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize(
    ("name", "scale", "softcap"),
    [
        *(("recurrent_gemma", 1.0, 30.0), ("gemma2", 1.0, 2.0), ("cohere", 0.0625, None), ("granite", 0.125, None)),
        *(("mpt_scaled", 1.0, None), ("phi_bias", 1.0, None)),  # transformers' MPT knows no scale
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_what_stands_behind_the_head_is_measured(
    name: str, scale: float, softcap: float | None, dtype: torch.dtype
) -> None:
    head = prove_head(model_with(name, 0.02).to(dtype), few())
    assert (head.logit_scale, head.softcap) == (scale, softcap)
    assert 0 < head.entropy_error < (1e-5 if dtype is torch.float32 else 2e-2)


def test_a_scale_below_a_soft_cap_is_measured_too() -> None:
    model = changed(lambda logits: 5 * torch.tanh(0.3 * logits / 5))
    head = prove_head(model, few())
    assert head.softcap == pytest.approx(5, rel=1e-6)
    assert head.logit_scale == pytest.approx(0.3, rel=1e-6)


def changed(behind: Any, **inside: Any) -> Any:
    """A Qwen2 whose logits pass through `behind`."""
    model: Any = tiny.policy().eval()
    forward = type(model).forward

    def changing(self: Any, *args: Any, **kwargs: Any) -> Any:
        output = forward(self, *args, **kwargs)
        output.logits = behind(output.logits)
        return output

    model.__class__ = type("ChangedForCausalLM", (type(model),), {"forward": changing, **inside})
    return model


def with_a_trained_scale(value: float = 1.0) -> Any:
    """As remote code may have it: at first the numbers are those of the head alone."""
    model = changed(lambda z: z)
    model.scale = nn.Parameter(torch.tensor(value))
    forward = type(model).forward

    def scaling(self: Any, *args: Any, **kwargs: Any) -> Any:
        output = forward(self, *args, **kwargs)
        output.logits = output.logits * self.scale
        return output

    type(model).forward = scaling
    return model


def with_a_trained_gate() -> Any:
    """It is made of the hidden states, and is 1 at first."""
    model = changed(lambda z: z)
    model.gate = nn.Linear(16, 1)
    nn.init.zeros_(model.gate.weight)
    nn.init.ones_(model.gate.bias)
    forward = type(model).forward

    def gating(self: Any, *args: Any, **kwargs: Any) -> Any:
        seen: list[Tensor] = []
        handle = self.model.register_forward_hook(lambda _m, _i, output: seen.append(output.last_hidden_state))
        output = forward(self, *args, **kwargs)
        handle.remove()
        output.logits = output.logits * self.gate(seen[0])
        return output

    type(model).forward = gating
    return model


def without_some(logits: Tensor) -> Tensor:
    return logits.masked_fill(torch.arange(logits.shape[-1]) >= len(tiny.WORDS) - 2, -torch.inf)


class Doubled(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


def with_another_linear_layer() -> Any:
    model = tiny.policy()
    model.lm_head.__class__ = Doubled
    return model


def calling_its_head_twice() -> Any:
    model = changed(lambda z: z)
    forward = type(model).forward

    def twice(self: Any, *args: Any, **kwargs: Any) -> Any:
        output = forward(self, *args, **kwargs)
        self.lm_head(torch.zeros(1, 1, 16))
        return output

    type(model).forward = twice
    return model


def with_a_hook_that_doubles() -> Any:
    """It acts on tensors alone, so that it lets pass what stands for the product."""
    model = tiny.policy()
    model.lm_head.register_forward_hook(lambda _m, _i, product: 2 * product if isinstance(product, Tensor) else None)
    return model


def lora_on_the_head() -> Any:
    torch.manual_seed(0)
    return get_peft_model(tiny.policy(), LoraConfig(r=2, target_modules=["q_proj", "lm_head"], init_lora_weights=False))


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (lambda: changed(lambda z: z + 1), "neither scaled nor softly capped"),
        (lambda: changed(lambda z: z.abs()), "neither scaled nor softly capped"),
        (lambda: changed(lambda z: 3 * torch.atan(z)), "neither scaled nor softly capped"),
        (
            lambda: changed(lambda z: 1e4 * torch.tanh(z / 1e4)),
            "with its soft cap of 10000, logits would be rounded by",
        ),
        (lambda: changed(lambda z: z.clamp(max=9.0)), "neither scaled nor softly capped"),
        (lambda: changed(lambda z: z.repeat_interleave(2, -1)), "more than its products one by one"),
        (lambda: changed(without_some), r"neither scaled|a logit is -inf where its product gives"),
        (lambda: changed(lambda z: z[..., :20] if z.shape[-1] == len(tiny.WORDS) else z), "24 products and 20 logits"),
        (lambda: changed(lambda z: z, get_output_embeddings=lambda self: None), "does not say which layer"),
        (lambda: changed(lambda z: z, get_output_embeddings=lambda self: self.model.norm), "head is a Qwen2RMSNorm"),
        (with_another_linear_layer, "head is a Doubled"),
        (calling_its_head_twice, "calls its head 2 times"),
        (lora_on_the_head, "calls its head 3 times"),
        (with_a_hook_that_doubles, r"a logit is -?\d.\d* where its product gives"),
        (with_a_trained_scale, r"its parameter scale stands behind it and is trained"),
        (with_a_trained_gate, r"its parameter gate\.(weight|bias) stands behind it and is trained"),
    ],
)
def test_a_head_that_is_something_else_is_named(model: Any, reason: str) -> None:
    made = model()
    with pytest.raises(HeadError, match=reason):
        prove_head(made, few())
    again = made(input_ids=IDS).logits  # and the model is as it was
    assert again.shape[:2] == IDS.shape
    assert not any("forward" in vars(module) for module in made.modules())
    if model is not with_a_hook_that_doubles:
        assert not any(module._forward_hooks for module in made.modules())
    assert not any(module._forward_pre_hooks for module in made.modules())


def test_a_head_that_is_trained_beside_adapters_is_the_trained_one() -> None:
    model: Any = get_peft_model(
        tiny.policy().double(), LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=["lm_head"])
    ).eval()
    with torch.no_grad():
        model.base_model.model.lm_head.modules_to_save["default"].weight.mul_(2)
    inputs = {"input_ids": IDS, "attention_mask": torch.ones_like(IDS)}
    head = prove_head(model, few())
    on = by_softmax(model)
    torch.testing.assert_close(score_tokens(model, inputs, PLACES, head, temperature=TEMPERATURE)[:2], on)
    with model.disable_adapter():
        off = by_softmax(model)
        torch.testing.assert_close(score_tokens(model, inputs, PLACES, head, temperature=TEMPERATURE)[:2], off)
    assert float((on[0] - off[0]).abs().max()) > 0.1


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_scale_that_is_not_trained_is_measured(dtype: torch.dtype) -> None:
    model = with_a_trained_scale(0.5).to(dtype)
    model.scale.requires_grad_(False)
    assert prove_head(model, few()).logit_scale == 0.5


def test_what_changes_behind_the_head_after_its_proof_is_found_out() -> None:
    """A schedule of a scale, a layer that is thawed: the numbers of the proof would go on being used."""
    model = with_a_trained_scale(0.5)
    model.scale.requires_grad_(False)
    inputs = {"input_ids": IDS, "attention_mask": torch.ones_like(IDS)}
    head = prove_head(model, few())
    score_tokens(model, inputs, PLACES, head)
    model.scale.requires_grad_(True)
    with pytest.raises(HeadError, match="its parameter scale stands behind it and is trained, of which the proof knew"):
        score_tokens(model, inputs, PLACES, head)
    model.scale.requires_grad_(False).mul_(1.01)
    with pytest.raises(HeadError, match=r"has changed since the proof: where it made .*, 2, .* it makes .*, 2.02, "):
        score_tokens(model, inputs, PLACES, head)


def test_what_a_shortcut_would_leave_untrained_is_named() -> None:
    """By hand: the logits are scale * W norm(h), and a shortcut by W norm(h) reaches everything but the scale."""
    assert trained_beside_head(tiny.policy(), few()) is None
    assert trained_beside_head(model_with("phi_bias", 0.3), few()) is None  # a bias of the head is the head's
    model = with_a_trained_scale()
    assert trained_beside_head(model, few()) == "its parameter scale"
    model.scale.requires_grad_(False)
    assert trained_beside_head(model, few()) is None
    assert trained_beside_head(with_a_trained_gate(), few()) in ("its parameter gate.weight", "its parameter gate.bias")
    assert trained_beside_head(model_with("modernbert_decoder", 0.3), few()) is not None  # a layer before its head
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert not any("forward" in vars(module) for module in model.modules())


RIGHT = (0.0, 1.0)
LAST_WORD = torch.zeros(len(tiny.WORDS)).index_fill(0, torch.tensor([len(tiny.WORDS) - 1]), -torch.inf)
# A head, an argument that the operator gets wrong, what is added to its log-probs, and its entropies multiplied with.
WRONG: dict[str, tuple[str, float, dict[str, Any], tuple[float, float]]] = {
    "log-probs off by a tenth": ("opt", 1.5, {}, (-0.1, 1.0)),
    "entropies off by a hundredth": ("opt", 1.5, {}, (0.0, 1.01)),
    "a scale that is left out": ("cohere", 1.5, {"logit_scale": 1.0}, RIGHT),
    "a scale off by a twentieth": ("cohere", 1.5, {"logit_scale": 1.05 * 0.0625}, RIGHT),
    "a cap that is left out": ("recurrent_gemma", 1.5, {"softcap": None}, RIGHT),
    "a cap that hardly binds": ("recurrent_gemma", 0.3, {"softcap": None}, RIGHT),
    "a cap off by a tenth": ("gemma2", 1.5, {"softcap": 2.2}, RIGHT),
    "a bias that is left out": ("phi_bias", 0.3, {"bias": None}, RIGHT),
    "a temperature that is left out": ("opt", 1.5, {"temperature": 1.0}, RIGHT),
    "a word that is left out": ("opt", 0.3, {"bias": LAST_WORD}, RIGHT),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("what", WRONG)
def test_a_wrong_operator_is_found_out(monkeypatch: pytest.MonkeyPatch, what: str, dtype: torch.dtype) -> None:
    """In every dtype: what is rounded is taken into account, and is no cloak for anything else."""
    from forkwise.core import heads

    name, scale, wrong, (added, factor) = WRONG[what]
    model, right = model_with(name, scale).to(dtype).eval(), heads.logprob_and_entropy
    prove_head(model, few(), temperature=0.9)

    def operator(*args: Any, **kwargs: Any) -> Any:
        kwargs |= {n: value.to(dtype) if isinstance(value, Tensor) else value for n, value in wrong.items()}
        scored = right(*args, **kwargs)
        return SimpleNamespace(logprob=scored.logprob + added, entropy=scored.entropy * factor)

    monkeypatch.setattr(heads, "logprob_and_entropy", operator)
    with pytest.raises(HeadError, match=r"log-probs differ by .* and its entropies by .* nats from float64 softmax"):
        prove_head(model, few(), temperature=0.9)


@pytest.mark.parametrize("rounds", [True, False], ids=["rounded", "float32"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("what", WRONG)
def test_a_wrong_shortcut_of_another_is_found_out(what: str, dtype: torch.dtype, rounds: bool) -> None:
    """One that multiplies in the model's dtype and one in float32; bfloat16 is no cloak for a wrong head."""
    name, scale, wrong, (added, factor) = WRONG[what]
    model = model_with(name, scale).to(dtype).eval()
    cap = {"recurrent_gemma": 30.0, "gemma2": 2.0}.get(name)
    right = {"logit_scale": 0.0625 if name == "cohere" else 1.0, "softcap": cap, "temperature": 0.9, "bias": 0}
    layer = model.get_output_embeddings()
    if layer.bias is not None:
        right["bias"] = layer.bias.detach().float()

    def shortcut(ids: Tensor, added: float = 0.0, factor: float = 1.0, **wrong: Any) -> tuple[Tensor, Tensor]:
        options = right | {n: 0 if n == "bias" and value is None else value for n, value in wrong.items()}
        seen: list[Tensor] = []
        handle = layer.register_forward_pre_hook(lambda _m, inputs: seen.append(inputs[0]))
        model(input_ids=ids)
        handle.remove()
        hidden = seen[0][0, :-1]
        z = (hidden @ layer.weight.t()).float() if rounds else hidden.float() @ layer.weight.float().t()
        z = (z + options["bias"]) * options["logit_scale"]
        z = z if options["softcap"] is None else options["softcap"] * torch.tanh(z / options["softcap"])
        logp = (z / options["temperature"]).log_softmax(-1)
        chosen = logp.gather(1, ids[0, 1:, None])[:, 0]
        return chosen + added, torch.special.entr(logp.exp()).sum(-1) * factor

    assert compare_head(model, few(), shortcut, temperature=0.9) is None
    if name == "phi_bias" and dtype is not torch.float32:
        return  # a shortcut may round before a bias is added, after, or both
    mismatch = compare_head(model, few(), lambda ids: shortcut(ids, added, factor, **wrong), temperature=0.9)
    assert mismatch is not None
    assert abs(mismatch.shortcut - mismatch.logits) > 1e-3


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_word_of_which_the_logit_is_another_one_is_found_out(dtype: torch.dtype) -> None:
    """Behind the numbers that are sent through: a change of one word among many, as large as a rounding is not."""

    def nudged(logits: Tensor) -> Tensor:
        wide = logits.shape[-1] == 100
        return logits + 0.1 * (torch.arange(logits.shape[-1]) == 80) * logits.abs() if wide else logits

    torch.manual_seed(0)
    model = changed(nudged)
    model.lm_head = nn.Linear(16, 100, bias=False)
    with pytest.raises(HeadError, match=r"a logit is -?\d.\d* where its product gives"):
        prove_head(model.to(dtype), few())


def test_an_infinite_first_word_hides_no_wrong_head() -> None:
    """As where float16 overflows at the first token, which no completion holds."""
    model = changed(lambda logits: (1 + (logits.shape[-1] == len(tiny.WORDS))) * logits)  # not of what is sent through
    model.model.norm.register_forward_hook(
        lambda _module, _inputs, hidden: hidden.index_fill(1, torch.tensor(0), math.inf)
    )
    with pytest.raises(HeadError, match=r"a logit is -?\d.\d* where its product gives"):
        prove_head(model, torch.arange(12)[None] % 11)


def test_the_proof_disturbs_nothing() -> None:
    model = tiny.policy().train()
    model.model.layers[0].eval()
    modes = [module.training for module in model.modules()]
    state = torch.get_rng_state()
    assert prove_head(model, few()).softcap is None
    assert torch.equal(torch.get_rng_state(), state)
    assert [module.training for module in model.modules()] == modes
    assert not any(module._forward_hooks or "forward" in vars(module) for module in model.modules())


def test_no_tokens_are_no_numbers_and_a_gradient_of_zeros() -> None:
    model = tiny.policy()
    none = torch.zeros(0, dtype=torch.int64)
    scores = score_tokens(model, {"input_ids": IDS}, Places(none, none, none), Head())
    assert scores.logprob.shape == scores.entropy.shape == (0,)
    scores.logprob.sum().backward()
    assert not model.lm_head.weight.grad.any()


@pytest.fixture
def one_process() -> Any:
    store = torch.distributed.HashStore()
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield torch.distributed.init_device_mesh("cpu", (1,))
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize("apart", [False, True], ids=["with_the_rest", "a_unit_of_its_own"])
def test_a_head_that_fsdp2_holds_in_shards_is_gathered_when_it_is_called(one_process: Any, apart: bool) -> None:
    """In one process: parameters are DTensors, and freed after each use, as in many."""
    from torch.distributed.fsdp import fully_shard

    plain, model = tiny.policy().eval(), tiny.policy().eval()
    for unit in (*model.model.layers, *([model.lm_head] if apart else []), model):
        fully_shard(unit, mesh=one_process)
    inputs = {"input_ids": IDS, "attention_mask": torch.ones_like(IDS)}
    expected = by_softmax(plain)
    (expected[0] * SHIFT).sum().backward()
    scores = score_tokens(model, inputs, PLACES, prove_head(model, few()), temperature=TEMPERATURE)
    torch.testing.assert_close(scores[:2], expected, rtol=1e-5, atol=1e-5)
    (scores.logprob * SHIFT).sum().backward()
    for (name, parameter), right in zip(model.named_parameters(), plain.parameters(), strict=True):
        assert isinstance(parameter.grad, torch.distributed.tensor.DTensor), name
        torch.testing.assert_close(parameter.grad.full_tensor(), right.grad, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("scale", [1.0, 0.3], ids=["plain", "scaled"])
@pytest.mark.parametrize("apart", [False, True], ids=["with_the_rest", "a_unit_of_its_own"])
@pytest.mark.parametrize("leaves", [None, torch.bfloat16], ids=["as_it_is", "in_bfloat16"])
def test_mixed_precision_of_fsdp2_rounds_no_score(
    one_process: Any, leaves: torch.dtype | None, apart: bool, scale: float
) -> None:
    """accelerate's policy rounds to bfloat16 all floats that leave a unit: log-probs by some hundredths of a nat."""
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    model = changed(lambda logits: scale * logits)
    policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, output_dtype=leaves)
    for unit in (*model.model.layers, *([model.lm_head] if apart else []), model):
        fully_shard(unit, mesh=one_process, mp_policy=policy)
    products: list[Tensor] = []
    handle = model.lm_head.register_forward_hook(lambda _m, _i, product: products.append(product), prepend=True)
    model(input_ids=IDS)
    handle.remove()
    z = products[0][PLACES.rows, IDS.shape[1] + PLACES.columns]
    assert z.dtype == torch.bfloat16
    logp = (scale * z.double() / TEMPERATURE).log_softmax(-1)
    expected = logp.gather(1, PLACES.targets[:, None])[:, 0], -(logp.exp() * logp).sum(-1)

    inputs = {"input_ids": IDS, "attention_mask": torch.ones_like(IDS)}
    scores = score_tokens(model, inputs, PLACES, prove_head(model, few()), temperature=TEMPERATURE)
    assert scores.logprob.dtype == scores.entropy.dtype == torch.float32
    for number, right in zip(scores[:2], expected, strict=True):
        torch.testing.assert_close(number.double(), right, rtol=1e-5, atol=1e-5)
        assert float((number - number.bfloat16()).abs().max()) > 1e-4
    (scores.logprob * SHIFT).sum().backward()
    ours = [parameter.grad.full_tensor().clone() for parameter in model.parameters()]
    model.zero_grad()
    logits = model(input_ids=IDS).logits[PLACES.rows, IDS.shape[1] + PLACES.columns].double()
    ((logits / TEMPERATURE).log_softmax(-1).gather(1, PLACES.targets[:, None])[:, 0] * SHIFT).sum().backward()
    for mine, parameter in zip(ours, model.parameters(), strict=True):
        exact = parameter.grad.full_tensor()
        assert float((mine - exact).norm()) < 0.03 * float(exact.norm())  # roundings to bfloat16
