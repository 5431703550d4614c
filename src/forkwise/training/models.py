"""Finding the policy model, and refusing early what cannot be trained as one."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from transformers import AutoConfig
from transformers.integrations import is_deepspeed_zero3_enabled
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from forkwise.embedded import EMBEDDED_MODEL
from forkwise.errors import InputError
from forkwise.loading import first_line, load_tokenizer, load_weights, one_sentence
from forkwise.tasks import Problem

_GENERATES = ("CausalLM", "LMHeadModel", "ConditionalGeneration")


def resolve_model(name: str | None, *, revision: str | None = None, trust_remote_code: bool = False) -> tuple[str, Any]:
    """The id or folder to load and its tokenizer; `embedded` is the small model that this package ships.

    Raises:
        InputError: no name, nothing there, a damaged file, no tokenizer, tensors that the files lack, or a model
            without a language-model head.
    """
    if not name:
        raise InputError("Say which model to train with --model: a hub id, a folder, or 'embedded'.")
    if name == "embedded":
        name = str(EMBEDDED_MODEL)
    options: dict[str, Any] = {"revision": revision, "trust_remote_code": trust_remote_code}
    with one_sentence(name):
        config = AutoConfig.from_pretrained(name, **options)
    architectures = config.architectures or []
    fits = any(kind in a for a in architectures for kind in _GENERATES)
    if not architectures:
        fits = config.model_type in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    if not fits:
        what = ", ".join(architectures) or config.model_type
        raise InputError(
            f"The model '{name}' ({what}) has no language-model head: choose a causal language model (...ForCausalLM)."
        )
    tokenizer = load_tokenizer(name, **options)
    if _can_be_checked(config, architectures, trust_remote_code):
        # TRL loads the model, and would train what the files lack from random numbers.
        load_weights(name, device_map="meta", **options)
    return name, tokenizer


def _can_be_checked(config: Any, architectures: Sequence[str], trust_remote_code: bool) -> bool:
    """Whether the tensors can be compared with the config without loading them."""
    sharded = is_deepspeed_zero3_enabled() or os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true"
    plain = getattr(config, "quantization_config", None) is None and not trust_remote_code
    return plain and not sharded and not any("ConditionalGeneration" in a for a in architectures)


def check_prompts(problems: Sequence[Problem], tokenizer: Any, model: str, **template_options: Any) -> None:
    """Refuses conversations that the tokenizer cannot write as text.

    Raises:
        InputError: there is no chat template, or it refuses a sequence of roles that occurs.
    """
    tried = set()
    for problem in problems:
        if isinstance(problem.prompt, str):
            continue
        if not getattr(tokenizer, "chat_template", None):
            raise InputError(
                f"The prompts are conversations, and the tokenizer of '{model}' has no chat template: choose a chat "
                "model, or give the prompts as text."
            )
        roles = tuple(message.get("role") for message in problem.prompt)
        if roles in tried:
            continue
        tried.add(roles)
        try:
            tokenizer.apply_chat_template(
                problem.prompt, tokenize=False, add_generation_prompt=True, **template_options
            )
        except Exception as error:  # a template raises what it likes
            raise InputError(
                f"The chat template of '{model}' cannot write the prompt of problem '{problem.id}' (messages of "
                f"{', '.join(map(str, roles))}): {first_line(error)}."
            ) from error


def check_rows(problems: Sequence[Problem], tokenizer: Any, model: Any) -> None:
    """Refuses prompts, and padding, with tokens for which the model has no embedding.

    The other way round is common and harmless: rows that stand for no token are drawn hardly ever, and have no text.
    """
    rows = int(model.get_input_embeddings().num_embeddings)
    if max(tokenizer.get_vocab().values()) < rows:
        return
    wanted = {"its padding": tokenizer.pad_token_id, "its end of a text": tokenizer.eos_token_id}
    for problem in problems:
        text = problem.prompt
        if not isinstance(text, str):
            text = tokenizer.apply_chat_template(text, tokenize=False, add_generation_prompt=True)
        ids = tokenizer(text)["input_ids"]
        wanted[f"the prompt of problem '{problem.id}'"] = max(ids, default=None)
        if ids and max(ids) >= rows:
            break
    for what, token in wanted.items():
        if token is not None and token >= rows:
            raise InputError(
                f"The tokenizer needs the token {token} for {what}, and the model has {rows:,} rows of embeddings: it "
                "needs the tokenizer that it was trained with."
            )
