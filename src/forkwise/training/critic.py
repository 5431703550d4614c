"""The critic: a token-classification model with one label, whose output is the value of the text so far."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from peft import get_peft_model, set_peft_model_state_dict
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import AutoModelForTokenClassification

from forkwise.embedded import model_path
from forkwise.errors import InputError
from forkwise.loading import load_config, load_tokenizer, read_weights

_HAS_HEAD = ("ForTokenClassification", "ForSequenceClassification")
_HEADS = ("score.", "classifier.")


def make_critic(
    policy: Any, tokenizer: Any, *, value_model: str | None, shares_base: bool, trust_remote_code: bool = False
) -> nn.Module:
    """Returns a critic for this policy: loaded from `value_model`, or else made of the policy's own weights.

    A head that is new is zero, so that the first values are 0 and the first advantages those of the rewards alone.
    Dropout is off, since values are compared with those of the rollout.

    Args:
        policy: the causal language model, or a `PeftModel` of one.
        tokenizer: the policy's.
        value_model: hub id or folder; its tokenizer must be the policy's, and its head, if it has one, of one label.
        shares_base: hold the policy's frozen base weights once, and train an adapter and a head over them.
        trust_remote_code: as in transformers.

    Raises:
        InputError: no such model, another tokenizer, several labels, an architecture without token classification, an
            adapter in place of a model, fewer embeddings than tokens.
    """
    if shares_base and not hasattr(policy, "peft_config"):
        raise InputError("critic_shares_base=True needs a LoRA policy: add --use_peft, or leave it out.")
    if value_model:
        critic = _loaded(value_model, policy, tokenizer, trust_remote_code)
    else:
        critic = _over(_base(policy, shared=shares_base), policy.config, trust_remote_code)
    critic.config.pad_token_id = tokenizer.pad_token_id
    critic.config.use_cache = False
    if not shares_base:
        trainable: nn.Module = critic.requires_grad_(True)
        return _without_dropout(trainable)
    lora = copy.deepcopy(policy.peft_config[policy.active_adapter])
    lora.task_type, lora.inference_mode = "TOKEN_CLS", False
    lora.modules_to_save = [_head(critic)[0]]
    return _without_dropout(get_peft_model(critic, lora))


def token_values(critic: nn.Module, batch: dict[str, Any]) -> Tensor:
    """Computes the values of the text before each completion token, and after the last one: `(B, T + 1)`, float32."""
    ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], dim=1)
    mask = torch.cat([batch["prompt_mask"], batch["completion_mask"]], dim=1)
    tokens = batch["completion_ids"].size(1)
    values: Tensor = critic(input_ids=ids, attention_mask=mask).logits[:, -tokens - 1 :, 0]
    return values.float()


def load_weights(critic: nn.Module, folder: Path) -> None:
    """Puts the weights that `critic.save_pretrained(folder)` wrote back in place.

    Raises:
        InputError: the folder holds another critic, or none.
    """
    tensors: dict[str, Tensor] = {}
    for file in sorted(folder.glob("*.safetensors")):
        tensors |= load_file(file)
    if hasattr(critic, "peft_config"):
        loaded = set_peft_model_state_dict(critic, tensors)
        wrong = [
            *loaded.unexpected_keys,
            *(name for name in loaded.missing_keys if "lora_" in name or "_to_save" in name),
        ]
        if wrong or not tensors:
            raise InputError(f"'{folder}' holds another critic than this run's ({', '.join(wrong[:3]) or 'nothing'}).")
        return
    try:
        critic.load_state_dict(tensors)
    except RuntimeError as error:  # of several lines: what is missing, what is too much, what has another shape
        reason = " ".join(str(error).split()[:40])
        raise InputError(f"'{folder}' holds another critic than this run's ({reason}).") from error


def _loaded(name: str, policy: Any, tokenizer: Any, trust_remote_code: bool) -> Any:
    path = model_path(name)
    options = {"trust_remote_code": trust_remote_code}
    if (Path(path) / "adapter_config.json").exists():
        raise InputError(
            f"The value model '{name}' is an adapter (critic_shares_base saves one), which is no model of its own: "
            "give a whole critic, or leave value_model out."
        )
    config = load_config(name, path, **options)
    has_head = any(kind in a for a in config.architectures or [] for kind in _HAS_HEAD)
    if has_head and config.num_labels != 1:
        raise InputError(f"The value model '{name}' has {config.num_labels} labels; a critic has one.")
    critics_tokenizer = load_tokenizer(name, path, **options)
    if critics_tokenizer.get_vocab() != tokenizer.get_vocab():
        raise InputError(
            f"The value model '{name}' has another tokenizer than the policy; a critic must read the same tokens."
        )
    critic, lacking = read_weights(
        name, path, auto="AutoModelForTokenClassification", new=_HEADS, noun="value model", num_labels=1,
        dtype=policy.dtype, **options,
    )  # fmt: skip
    rows = [model.get_input_embeddings().num_embeddings for model in (critic, policy)]
    if rows[0] < min(rows[1], len(tokenizer)):
        raise InputError(
            f"The value model '{name}' knows {rows[0]} tokens and its tokenizer has {len(tokenizer)}; give another."
        )
    attribute, head = _head(critic)
    if f"{attribute}.weight" in lacking:  # a classifier's, too, may have another name there
        _zero(head)
    return critic


def _base(policy: Any, *, shared: bool) -> nn.Module:
    """Returns the policy's transformer without language-model head: a copy, or a second tree over the same tensors."""
    if getattr(policy, "is_quantized", False) and not shared:
        raise InputError("A copy of a quantized policy cannot be trained as its critic; set critic_shares_base=True.")
    memo = {id(tensor): tensor for tensor in policy.parameters() if shared and not tensor.requires_grad}
    twin: Any = copy.deepcopy(policy, memo)
    if hasattr(twin, "peft_config"):
        twin = twin.unload()
    base: nn.Module = getattr(twin, twin.base_model_prefix)
    return base


def _over(base: nn.Module, policy_config: Any, trust_remote_code: bool) -> Any:
    """Returns a token-classification model with `base` inside and a head of zeros."""
    config = copy.deepcopy(policy_config)
    config.num_labels = 1
    try:
        with torch.device("meta"):  # a shell without memory; everything in it is replaced
            critic = AutoModelForTokenClassification.from_config(config, trust_remote_code=trust_remote_code)
    except ValueError as error:
        raise InputError(
            f"transformers has no token-classification model for '{config.model_type}'; give a --value_model."
        ) from error
    inside = getattr(critic, critic.base_model_prefix)
    if type(inside) is not type(base):
        raise InputError(f"The policy's {type(base).__name__} cannot serve as a critic; give a --value_model.")
    setattr(critic, critic.base_model_prefix, base)
    name, head = _head(critic)
    like = next(base.parameters())
    dtype = like.dtype if like.is_floating_point() else torch.get_default_dtype()
    setattr(critic, name, head.to_empty(device=like.device).to(dtype))
    _zero(getattr(critic, name))
    return critic


def _head(critic: nn.Module) -> tuple[str, nn.Linear]:
    """Returns the linear layer with one output: `score` or `classifier`, depending on the architecture."""
    for name, module in critic.named_children():
        if isinstance(module, nn.Linear) and module.out_features == 1:
            return name, module
    raise InputError(f"{type(critic).__name__} has no linear head of one output to serve as a value head.")


def _without_dropout(critic: nn.Module) -> nn.Module:
    for module in critic.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        # Attention keeps its rate as a number.
        rates = [name for name, value in vars(module).items() if "dropout" in name and isinstance(value, float)]
        for name in rates:
            setattr(module, name, 0.0)
    return critic


def _zero(head: nn.Linear) -> None:
    nn.init.zeros_(head.weight)
    if head.bias is not None:
        nn.init.zeros_(head.bias)
