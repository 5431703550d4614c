"""Which causal models of transformers our operator, and TRL's head, compute right: one tiny random model of each type.

    python benchmarks/architectures.py                     # the table of docs/heads.md, a minute of CPU
    python benchmarks/architectures.py gemma2 mpt          # any type that this transformers has

Each model is scored on eight tokens in float32: log-probs and entropies of our operator in place of its last layer, and
those of TRL's head as `entropy_backend="trl"` would use it, against softmax of the model's own logits in float64.
"Right" is a difference below 1e-4 nats; "full logits" is what training falls back to where neither can be proved. The
same model in bfloat16, where logits are rounded, is "proved" if the proof of each run lets our operator stand in.
"""

from __future__ import annotations

import argparse
import copy
import inspect
import logging
import sys
import warnings
from dataclasses import dataclass
from typing import Any

import torch
import transformers
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from forkwise.core import HeadError, Places, prove_head, score_tokens

SMALL: dict[str, Any] = {
    "vocab_size": 48, "hidden_size": 16, "d_model": 16, "n_embd": 16, "embedding_size": 16, "intermediate_size": 24,
    "ffn_dim": 24, "d_ff": 24, "d_inner": 32, "num_hidden_layers": 2, "num_layers": 2, "n_layer": 2, "n_layers": 2,
    "num_attention_heads": 2, "n_head": 2, "n_heads": 2, "num_heads": 2, "num_key_value_heads": 2, "head_dim": 8,
    "max_position_embeddings": 64, "n_positions": 64, "n_ctx": 64, "pad_token_id": 0, "eos_token_id": 1,
    "bos_token_id": 2, "is_decoder": True, "is_encoder_decoder": False, "rotary_dim": 4, "num_experts": 4,
    "num_local_experts": 4, "n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16,
    "shared_expert_intermediate_size": 16, "state_size": 8, "mamba_d_state": 8, "mamba_n_heads": 4, "mamba_d_head": 8,
    "mamba_n_groups": 1, "local_attention": 16, "q_lora_rank": 8, "kv_lora_rank": 8, "qk_rope_head_dim": 4,
    "qk_nope_head_dim": 4, "v_head_dim": 8, "n_group": 1, "topk_group": 1, "first_k_dense_replace": 1,
}  # fmt: skip
# What a type needs besides, mostly so that something stands behind its head.
SPECIAL: dict[str, dict[str, Any]] = {
    "recurrent_gemma": {"lru_width": 16, "attention_window_size": 16, "block_types": ("recurrent", "attention")},
    "gemma2": {"final_logit_softcapping": 2.0, "query_pre_attn_scalar": 8},
    "gemma3_text": {"final_logit_softcapping": 2.0, "query_pre_attn_scalar": 8},
    "cohere": {"logit_scale": 0.0625},
    "cohere2": {"logit_scale": 0.0625},
    "granite": {"logits_scaling": 8.0},
    "granitemoe": {"logits_scaling": 8.0},
    "mpt": {"max_seq_len": 64, "logit_scale": 0.5},
    "opt": {"word_embed_proj_dim": 8},
    "falcon_h1": {"lm_head_multiplier": 0.25},
    "electra": {"embedding_size": 8},
    "bloom": {"hidden_size": 16},
    "ctrl": {"dff": 24},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]]},
    "rwkv": {"attention_hidden_size": 16},
    "mamba2": {"num_heads": 4, "head_dim": 8, "n_groups": 1, "expand": 2},
}
IDS = torch.tensor([[3, 14, 15, 9, 26, 5, 35, 8, 29]])
KINDS = """
apertus arcee bert bert-generation big_bird bigbird_pegasus bitnet bloom camembert codegen cohere cohere2 ctrl cwm
dbrx deepseek_v2 deepseek_v3 diffllama doge dots1 electra ernie ernie4_5 exaone4 falcon falcon_h1 falcon_mamba
flex_olmo gemma gemma2 gemma3_text git glm glm4 gpt2 gpt_bigcode gpt_neo gpt_neox gpt_neox_japanese gpt_oss gptj
granite granitemoe granitemoehybrid helium hunyuan_v1_dense hyperclovax jais2 jamba jetmoe lfm2 llama mamba mamba2
megatron-bert minicpm3 minimax mistral mixtral modernbert-decoder moshi mpt mvp nemotron olmo olmo2 olmo3 olmoe opt
persimmon phi phi3 phimoe plbart prophetnet qwen2 qwen2_moe qwen3 qwen3_moe qwen3_next recurrent_gemma reformer
rembert roberta roberta-prelayernorm roc_bert roformer rwkv seed_oss smollm3 stablelm starcoder2 vaultgemma xglm
xlm-roberta xlm-roberta-xl xlnet xlstm xmod zamba zamba2
"""


COLUMNS = ("ours", "bfloat16", "trl")


@dataclass(frozen=True)
class Row:
    """A type, and in words what becomes of it."""

    kind: str
    name: str
    ours: str
    bfloat16: str
    trl: str


def model_of(kind: str) -> Any:
    settings = {**SMALL, **SPECIAL.get(kind, {})}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config_class = transformers.CONFIG_MAPPING[kind]
        known = set(inspect.signature(config_class.__init__).parameters) | set(dir(config_class()))
        known -= {name for name in known if isinstance(getattr(config_class, name, None), property)}
        config = config_class(**{name: value for name, value in settings.items() if name in known})
        model = transformers.AutoModelForCausalLM.from_config(config).float().eval()
        head = model.get_output_embeddings()
        if head is not None:
            with torch.no_grad():
                head.weight.mul_(0.5 / head.weight.std())  # else a soft cap would not bind
                if getattr(head, "bias", None) is not None:
                    head.bias.normal_()
    return model


@torch.no_grad()
def by_softmax(model: Any) -> tuple[Any, Any]:
    logp = model(input_ids=IDS, attention_mask=torch.ones_like(IDS), use_cache=False).logits[0, :-1].double()
    logp = logp.log_softmax(-1)
    return logp.gather(1, IDS[0, 1:, None])[:, 0], torch.special.entr(logp.exp()).sum(-1)


def difference(numbers: Any, right: tuple[Any, Any]) -> str:
    apart = max(float((a.double().reshape(-1) - b).abs().max()) for a, b in zip(numbers, right, strict=False))
    return "right" if apart < 1e-4 else f"wrong by {apart:.2g} nats"


def ours(model: Any, right: tuple[Any, Any]) -> str:
    try:
        head = prove_head(model, IDS)
    except HeadError as error:
        return f"full logits: {error}"
    columns = torch.arange(-IDS.shape[1], -1)
    places = Places(torch.zeros_like(columns), columns, IDS[0, 1:])
    inputs = {"input_ids": IDS, "attention_mask": torch.ones_like(IDS), "use_cache": False}
    with torch.no_grad():
        said = difference(score_tokens(model, inputs, places, head)[:2], right)
    if head.logit_scale != 1:
        said += f", scale {head.logit_scale:.4g}"
    return said + (f", soft cap {head.softcap:.4g}" if head.softcap else "")


def in_bfloat16(model: Any) -> str:
    try:
        prove_head(model.bfloat16(), IDS)
    except HeadError as error:
        return f"full logits: {error}"
    return "proved"


def trls(model: Any, right: tuple[Any, Any]) -> str:
    try:
        from trl.trainer.utils import add_fused_lm_head
    except ImportError:
        return "no such head in this release"
    try:
        add_fused_lm_head(model, outputs=("log_probs", "entropy"))
        with torch.no_grad():
            output = model(input_ids=IDS, attention_mask=torch.ones_like(IDS), labels=IDS, fused_lm_head=True)
        return difference((output.log_probs[0], output.entropy[0]), right)
    except Exception as error:  # whatever happens is the answer
        return f"fails ({type(error).__name__})"


def row(kind: str) -> Row | None:
    """What becomes of one type; None where a tiny model of it cannot be made or run."""
    try:
        model = model_of(kind)
        right = by_softmax(model)
    except Exception as error:  # settings that this script does not know
        print(f"{kind}: not tried, {type(error).__name__}: {str(error).splitlines()[:1]}", file=sys.stderr)
        return None
    numbers = ours(model, right), in_bfloat16(copy.deepcopy(model)), trls(model, right)
    return Row(kind, type(model).__name__, *numbers)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("kind", nargs="*", help="model types (default: some hundred)")
    kinds = parser.parse_args().kind or [kind for kind in KINDS.split() if kind in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES]
    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()
    logging.disable(logging.WARNING)
    print("| model | our operator | in bfloat16 | TRL's head |\n|---|---|---|---|")
    rows = []
    for kind in sorted(kinds):
        if line := row(kind):
            print(f"| {line.name} (`{line.kind}`) | {line.ours} | {line.bfloat16} | {line.trl} |", flush=True)
            rows.append(line)
    counts = [sum(getattr(line, who).startswith(("right", "proved")) for line in rows) for who in COLUMNS]
    print(
        f"\ntransformers {transformers.__version__}: {len(rows)} types, right {counts[0]} (ours), {counts[2]} (TRL's); "
        f"proved in bfloat16 {counts[1]}"
    )


if __name__ == "__main__":
    main()
