"""Samples from a tiny random model of every decoder of transformers, and compares with one forward pass.

    python benchmarks/decoders.py [NAME ...]

For each architecture: the way its samples are drawn, the largest difference of a log-prob or entropy from those of one
pass over the whole text (float64 where the model runs in it), and why a slower way was taken or the model is refused.
One configuration fits nearly all of them: keys that a config class does not know are left out.
"""

from __future__ import annotations

import argparse
import io
import warnings
from collections import Counter
from contextlib import redirect_stdout
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from forkwise.errors import InputError
from forkwise.sampling.decoding import Decoder
from forkwise.sampling.recipe import Sampling

PROMPT = "The sum of 17 and 25 is what? Think, then answer with a number. One two three."
LARGEST = 3_000_000  # parameters; larger ones need a configuration of their own

SIZES: dict[str, Any] = {"vocab_size": 272, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
SIZES |= {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 512}
SIZES |= {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "is_decoder": True, "sliding_window": 16}
EXPERTS = {"num_experts": 4, "num_local_experts": 4, "n_routed_experts": 4, "num_experts_per_tok": 2, "n_group": 1}
EXPERTS |= {"moe_intermediate_size": 16, "shared_expert_intermediate_size": 16, "topk_group": 1, "n_shared_experts": 1}
EXPERTS |= {"first_k_dense_replace": 1, "moe_num_experts": 4, "moe_topk": 2, "moe_k": 2}
LATENT = {"q_lora_rank": 16, "kv_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 8}
LINEAR = {"linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 8, "linear_value_head_dim": 8}
STATES: dict[str, Any] = {"state_size": 8, "mamba_d_ssm": 32, "mamba_n_heads": 4, "mamba_d_head": 16, "n_groups": 1}
STATES |= {"mamba_n_groups": 1, "mamba_d_state": 8, "mamba_chunk_size": 16, "mamba_num_heads": 4, "mamba_head_dim": 16}
STATES |= {"chunk_size": 16, "mamba_dt_rank": 4, "mamba_expand": 2, "mamba_ngroups": 1, "n_mamba_heads": 1}
NAMES: dict[str, Any] = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 512, "n_ctx": 512, "d_model": 32}
NAMES |= {"n_layers": 2, "n_heads": 4, "max_seq_len": 512, "ffn_dim": 48, "num_layers": 2, "attention_heads": 4}
NAMES |= {"decoder_layers": 2, "decoder_attention_heads": 4, "decoder_ffn_dim": 48, "rotary_dim": 4, "emb_dim": 32}
NAMES |= {"word_embed_proj_dim": 32, "n_inner": 48, "dff": 48, "attention_types": [[["global", "local"], 1]]}
NAMES |= {"window_size": 16, "attention_window_size": 16, "lru_width": 32, "block_types": ("recurrent", "attention")}
NAMES |= {"attention_hidden_size": 32, "expansion_ratio": 2, "d_inner": 64, "d_head": 8, "dim": 32}
HYBRID = {"layer_types": ["linear_attention", "full_attention"]}
SLIDING = {"layer_types": ["sliding_attention", "full_attention"]}
OWN: dict[str, dict[str, Any]] = {
    "mamba2": {"num_heads": 4, "head_dim": 16, "expand": 2},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1, "expert_layer_period": 2, "expert_layer_offset": 1},
    "zamba2": {"layers_block_type": ["mamba", "hybrid"] * 2, "num_hidden_layers": 4, "n_mamba_heads": 4}
    | {"mamba_headdim": 16, "hybrid_layer_ids": [1, 3], "num_mem_blocks": 1, "adapter_rank": 8},
    "bamba": {"attn_layer_indices": [1]},
    "granitemoehybrid": {"layer_types": ["mamba", "attention"], "shared_intermediate_size": 16},
    "nemotron_h": {"hybrid_override_pattern": "M*M-", "num_hidden_layers": 4, "ssm_state_size": 8},
    "minimax": HYBRID,
    "lfm2": {"layer_types": ["conv", "full_attention"]},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"], "num_dense_layers": 1},
    **dict.fromkeys(("qwen3_next", "qwen3_5_text", "qwen3_5_moe_text", "olmo_hybrid"), HYBRID),
    "olmo3": SLIDING,
    "gemma3_text": {"sliding_window_pattern": 2},
    "gemma2": {"final_logit_softcapping": 30.0},
    "gemma3n_text": {"num_kv_shared_layers": 0, "laurel_rank": 8, "altup_num_inputs": 2, "intermediate_size": 48}
    | {"hidden_size_per_layer_input": 8, "vocab_size_per_layer_input": 272, "activation_sparsity_pattern": [0.0, 0.0]}
    | SLIDING,
    "gemma4_text": {"hidden_size_per_layer_input": 8, "vocab_size_per_layer_input": 272, "num_kv_shared_layers": 0}
    | SLIDING,
    "recurrent_gemma": {"logits_soft_cap": 30.0},
    "llama4_text": {"num_local_experts": 2, "intermediate_size_mlp": 48, "attention_chunk_size": 16},
    "xlstm": {"embedding_dim": 32, "num_heads": 4, "num_blocks": 2},
    "reformer": {"attn_layers": ["local", "local"], "local_attn_chunk_length": 16, "axial_pos_shape": [16, 32]}
    | {"axial_pos_embds_dim": [16, 16], "feed_forward_size": 48},
    "falcon": {"num_kv_heads": 2, "new_decoder_architecture": False, "alibi": False},
}


def build(name: str) -> Any:
    """A tiny random model, its predictions far enough from uniform to show a wrong state."""
    kind = transformers.CONFIG_MAPPING[name]
    known = set(getattr(kind, "__dataclass_fields__", {})) | set(getattr(kind, "attribute_map", {}))
    failed: Exception | None = None
    all_sizes = {**SIZES, **EXPERTS, **LATENT, **LINEAR, **STATES, **NAMES}
    without_heads = {k: v for k, v in all_sizes.items() if k not in ("head_dim", "num_key_value_heads")}
    for sizes in (all_sizes, without_heads, {**SIZES, **EXPERTS}, {**SIZES, **STATES}, {**SIZES, **NAMES}, SIZES):
        try:
            torch.manual_seed(0)
            config = kind(**{k: v for k, v in {**sizes, **OWN.get(name, {})}.items() if k in known})
            with torch.device("meta"):
                parameters = sum(p.numel() for p in transformers.AutoModelForCausalLM.from_config(config).parameters())
            if parameters > LARGEST:
                raise ValueError(f"{parameters / 1e6:.0f} million parameters")
            model = transformers.AutoModelForCausalLM.from_config(config).float().eval()
            model(torch.arange(40)[None], use_cache=False)
        except Exception as error:
            failed = failed or error
            continue
        with torch.no_grad():
            for parameter_name, parameter in model.named_parameters():
                if parameter.ndim > 1 and float(parameter.std()) < 0.05 and "conv" not in parameter_name:
                    parameter.mul_(4)
        return model
    raise ValueError(f"not built: {str(failed).strip().splitlines()[0][:90]}")


def tokenizer() -> Any:
    """Bytes, and four special tokens."""
    names = ["<pad>", "<s>", "</s>", "<unk>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    backend = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(names)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    return transformers.PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>", pad_token="<pad>")


@torch.no_grad()
def sampled(name: str) -> tuple[str, float, str]:
    """The way, the largest difference in nats, and what was said."""
    model, said = build(name), list[str]()
    bytes_ = tokenizer()
    decoder = Decoder(model, range(2, 8), said.append)
    decoder.probe(bytes_)
    ids = bytes_(PROMPT, return_tensors="pt")["input_ids"]
    drawn = decoder.draw(ids, range(6), Sampling(max_tokens=40, temperature=0.9))
    try:
        precise = model.double()
        precise(ids, use_cache=False)
    except Exception:  # kernels of experts, in kinds of their own
        precise = model.float()
    largest = 0.0
    for i, length in enumerate(drawn.lengths.tolist()):
        row = drawn.ids[i, :length]
        text = torch.cat([ids, row[None]], dim=1)
        logits = precise(text, use_cache=False).logits[0, ids.shape[1] - 1 : -1].double() / 0.9
        expected = logits.log_softmax(-1)
        entropy = torch.special.entr(expected.exp()).sum(-1)
        apart = (expected[range(length), row] - drawn.logprobs[i, :length]).abs().max()
        largest = max(largest, float(apart), float((entropy - drawn.entropies[i, :length]).abs().max()))
    return decoder.way.name.lower(), largest, "; ".join(said)


def main() -> None:
    """Prints a line per architecture, and how many go which way."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="model types; all causal language models without any")
    warnings.filterwarnings("ignore")
    transformers.logging.set_verbosity_error()
    ways = Counter[str]()
    for name in parser.parse_args().names or MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        with redirect_stdout(io.StringIO()):  # reformer prints at every step
            try:
                way, largest, said = sampled(name)
                line = f"{way:8} {largest:.0e}  {said}"
            except InputError as error:
                way, line = "refused", f"refused  {error}"
            except Exception as error:
                way, line = "not built", f"-        {str(error).splitlines()[0][:150]}"
        ways[way] += 1
        print(f"{name:24}{line}"[:250], flush=True)
    print(", ".join(f"{way} {n}" for way, n in ways.most_common()))


if __name__ == "__main__":
    main()
