"""TRL's fused head against the policy's own logits: models that it does not know are found by their numbers.

Which heads TRL 1.16 computes wrongly was found with float64 softmax of unpatched models, not with our comparison.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("trl")

import tiny_trl as tiny
import torch
import transformers
import trl
from packaging.version import Version
from peft import LoraConfig

from forkwise.core import compare_head, few_tokens
from forkwise.engines.trl import EntropyShapedGRPOConfig, EntropyShapedGRPOTrainer
from forkwise.errors import InputError

FUSED = Version(trl.__version__) >= Version("1.15")
SMALL: dict[str, Any] = {
    "vocab_size": len(tiny.WORDS),
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 64,
    "pad_token_id": tiny.PAD,
    "eos_token_id": tiny.EOS,
    "bos_token_id": 2,
    "tie_word_embeddings": False,
}
RECURRENT = {"lru_width": 16, "attention_window_size": 16, "block_types": ("recurrent", "attention")}
MPT = {"d_model": 16, "n_heads": 2, "n_layers": 2, "max_seq_len": 64}
# name -> type, settings, whether TRL's fused head is right
HEADS: dict[str, tuple[str, dict[str, Any], bool]] = {
    "recurrent_gemma": ("recurrent_gemma", {**RECURRENT, "logits_soft_cap": 30.0}, False),
    "mpt_scaled": ("mpt", {**MPT, "logit_scale": 0.5}, False),
    "mpt_scaled_by_text": ("mpt", {**MPT, "logit_scale": "inv_sqrt_d_model"}, False),
    "modernbert_decoder": ("modernbert-decoder", {"local_attention": 16}, False),
    "bert": ("bert", {"is_decoder": True}, False),
    "roberta": ("roberta", {"is_decoder": True}, False),
    "mpt": ("mpt", MPT, True),
    "gemma2": ("gemma2", {"final_logit_softcapping": 2.0, "query_pre_attn_scalar": 8}, True),
    "cohere": ("cohere", {"logit_scale": 0.0625}, True),
    "granite": ("granite", {"logits_scaling": 8.0}, True),
    "phi_bias": ("phi", {}, True),
    "opt": ("opt", {"word_embed_proj_dim": 8, "ffn_dim": 16}, True),
}


def model_with(name: str, scale: float) -> Any:
    """A random model whose head has weights of this standard deviation."""
    kind, settings, _ = HEADS[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = transformers.CONFIG_MAPPING[kind](**{**SMALL, **settings})
        model = transformers.AutoModelForCausalLM.from_config(config).float()
        head = model.get_output_embeddings()
        with torch.no_grad():
            head.weight.mul_(scale / head.weight.std())
            if getattr(head, "bias", None) is not None:
                head.bias.normal_()
    return model


def trainer_of(model: Any, where: Path, **options: Any) -> EntropyShapedGRPOTrainer:
    peft = options.pop("peft_config", None)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        args = EntropyShapedGRPOConfig(output_dir=str(where), max_steps=1, **{**tiny.QUIET, **options})
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
    trainer = trainer_of(model, tmp_path, num_iterations=2)  # so that log-probs are wanted with the first rollout
    before = [p.detach().clone() for p in model.parameters()]
    if name == "recurrent_gemma" and Version(transformers.__version__) < Version("5"):
        pytest.skip("it keeps states of the last batch in itself there")
    if HEADS[name][2] or not FUSED:
        trainer.train()
        assert trainer.state.global_step == 1
        return
    # A head of fresh weights has logits so small that a cap of 30 does not bind yet: it still counts.
    said = rf"(nats where the logits|cannot compute the log-probs) of {type(model).__name__} .*trl==1\.14\.2"
    with pytest.raises(InputError, match=said):
        trainer.train()
    assert all(torch.equal(old, new) for old, new in zip(before, model.parameters(), strict=True))


@pytest.mark.skipif(not FUSED, reason="this TRL computes from the logits")
@pytest.mark.parametrize("alpha", [0.0, 0.4])
def test_adapters_hide_no_head(tmp_path: Path, alpha: float) -> None:
    lora = LoraConfig(r=2, target_modules=["q_proj", "v_proj"], lora_dropout=0.5)
    with pytest.raises(InputError, match="RecurrentGemmaForCausalLM"):
        trainer_of(model_with("recurrent_gemma", 1.5), tmp_path, peft_config=lora, alpha=alpha).train()


@pytest.mark.skipif(not FUSED, reason="this TRL computes from the logits")
def test_bfloat16_hides_no_cap_and_is_no_difference(tmp_path: Path) -> None:
    trainer_of(tiny.policy().bfloat16(), tmp_path).train()
    trainer_of(model_with("gemma2", 1.5).bfloat16(), tmp_path).train()
    with pytest.raises(InputError, match="RecurrentGemmaForCausalLM"):
        trainer_of(model_with("recurrent_gemma", 0.02).bfloat16(), tmp_path).train()


def test_the_message_gives_the_two_numbers(tmp_path: Path) -> None:
    """A head whose log-probs are 1 nat too large everywhere, and entropies right."""
    model = tiny.policy().eval()
    ids = few_tokens(torch.tensor([5, 6, 7]), torch.tensor([8, 9]))
    exact = model(input_ids=ids).logits[0, :-1].double().log_softmax(-1)
    chosen = exact.gather(1, ids[0, 1:, None])[:, 0]
    entropy = -(exact.exp() * exact).sum(-1)
    found = compare_head(model, ids, lambda _: (chosen + 1, entropy))
    assert found is not None
    assert (found.quantity, found.scaled) == ("log-probability", False)
    assert found.shortcut - found.logits == pytest.approx(1, abs=1e-5)
    assert any(abs(found.logits - value) < 1e-5 for value in chosen.tolist())
    said = f"the log-probability of a token is {found.shortcut:.3f} nats where the logits of Qwen2ForCausalLM give"
    assert str(found).startswith(said)


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
