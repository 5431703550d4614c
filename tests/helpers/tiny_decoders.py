"""Tiny random decoders of many architectures, with a tokenizer of bytes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, PreTrainedTokenizerFast

ROWS = 272
"""Of the embeddings; the tokenizer has 260 tokens."""

_BASE = {
    "vocab_size": ROWS,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 512,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_LINEAR = {
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "layer_types": ["linear_attention", "full_attention"],
}
_MAMBA = {"mamba_n_heads": 4, "mamba_n_groups": 1, "mamba_d_state": 8, "mamba_chunk_size": 16}
_CONFIGS: dict[str, dict[str, Any]] = {
    "llama": {},
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64},
    "gemma3_text": {"query_pre_attn_scalar": 8, "sliding_window": 8, "sliding_window_pattern": 2},
    "qwen3_moe": {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16},
    "qwen3_next": {
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 16,
        "shared_expert_intermediate_size": 16,
        **_LINEAR,
    },
    "lfm2": {"layer_types": ["conv", "full_attention"]},
    "mamba": {"state_size": 4},
    "falcon_h1": {"mamba_d_ssm": 32, "mamba_d_head": 8, **_MAMBA},
    "bamba": {"attn_layer_indices": [1], "mamba_d_head": 16, **_MAMBA},
    "recurrent_gemma": {"lru_width": 32, "attention_window_size": 8, "block_types": ("recurrent", "attention")},
    "rwkv": {"attention_hidden_size": 32},
    "bert": {"is_decoder": False},
}
ARCHITECTURES = [name for name in _CONFIGS if name != "bert"]


def tiny_decoder(name: str, **changes: Any) -> Any:
    """Random weights, far enough from uniform predictions that a wrong state shows in them."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(CONFIG_MAPPING[name](**{**_BASE, **_CONFIGS[name], **changes})).float()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2 and float(parameter.std()) < 0.05:
                parameter.mul_(5)
    return model.eval()


def byte_tokenizer(*more: str, template: str | None = None) -> Any:
    """260 tokens: four special ones and the bytes; and `more`."""
    names = ["<pad>", "<s>", "</s>", "<unk>", *sorted(pre_tokenizers.ByteLevel.alphabet()), *more]
    backend = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(names)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    special = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, **special)
    tokenizer.add_tokens(list(more))
    tokenizer.chat_template = template
    return tokenizer


def save_decoder(folder: Path, name: str = "llama", **changes: Any) -> Path:
    """A model folder as people download them."""
    tiny_decoder(name, **changes).save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return folder
