"""Random models of a few thousand parameters whose heads differ: biases, scales, soft caps, layers before the head."""

from __future__ import annotations

from typing import Any

import tiny_trl as tiny
import torch
import transformers

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
