"""Finding the policy model, and refusing early what cannot be trained as one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import transformers
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from forkwise.embedded import model_path
from forkwise.errors import InputError
from forkwise.loading import can_be_checked, check_weights, load_config, load_tokenizer, sharded
from forkwise.sampling.forward import (
    cannot,
    check_causal,
    check_length,
    check_rows,
    embedding_rows,
    no_generation_settings,
    token_limit,
)
from forkwise.sampling.prompts import prompt_text, render_chat
from forkwise.tasks import Problem

_GENERATES = ("CausalLM", "LMHeadModel", "ConditionalGeneration")
_TRIED = 48  # tokens of a prompt
_GLANCE = 40  # characters in which there is a token, as a rule: whole prompts take long


def resolve_model(name: str | None, *, revision: str | None = None, trust_remote_code: bool = False) -> tuple[str, Any]:
    """Returns the id or folder to load and its tokenizer; `embedded` is a small model of this package.

    Raises:
        InputError: no name, nothing there, a damaged file, no tokenizer, tensors that the files lack, or a model
            without a language-model head.
    """
    if not name:
        raise InputError("Say which model to train with --model: a hub id, a folder, or 'embedded'.")
    name = model_path(name)
    options: dict[str, Any] = {"revision": revision, "trust_remote_code": trust_remote_code}
    config = load_config(name, **options)
    architectures = config.architectures or []
    fits = any(kind in a for a in architectures for kind in _GENERATES)
    if not architectures:
        fits = config.model_type in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    if not fits:
        names = ", ".join(architectures) or config.model_type
        raise InputError(
            f"The model '{name}' ({names}) has no language-model head: choose a causal language model (...ForCausalLM)."
        )
    if config.is_encoder_decoder:
        raise InputError(f"The model '{name}' has an encoder, by its config.json: choose one that is a decoder alone.")
    if not architectures:  # by which TRL chooses the class
        raise InputError(
            f"The config.json of the model '{name}' names no architecture: add architectures with the class that it "
            f"is, such as {MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[config.model_type]}."
        )
    tokenizer = load_tokenizer(name, **options)
    if tokenizer.eos_token_id is None:
        raise InputError(
            f"The tokenizer of '{name}' has no token that ends a text: set eos_token in its tokenizer_config.json."
        )
    images = any("ConditionalGeneration" in a for a in architectures)
    if not images and can_be_checked(config, trust_remote_code):
        # TRL loads the model, and would train what the files lack from random numbers.
        kind = type(check_weights(name, **options)).__name__
        if kind != architectures[0] and hasattr(transformers, architectures[0]):
            raise InputError(
                f"The config.json of the model '{name}' names the architecture {architectures[0]}, and its model_type "
                f"'{config.model_type}' is a {kind}: get the config again."
            )
    return name, tokenizer


def check_prompts(problems: Sequence[Problem], tokenizer: Any, model: str, **template_options: Any) -> None:
    """Refuses prompts that the tokenizer makes nothing of.

    Raises:
        InputError: a text has no tokens; there is no chat template, or it refuses a sequence of roles that occurs.
    """
    texts: dict[str, str] = {}
    tried = set()
    for problem in problems:
        if isinstance(problem.prompt, str):
            texts[problem.id] = problem.prompt
            continue
        roles = ", ".join(str(message.get("role")) for message in problem.prompt)
        if roles not in tried:
            tried.add(roles)
            subject = f"the prompt of problem '{problem.id}', messages of {roles}"
            texts[problem.id] = render_chat(tokenizer, problem.prompt, subject, **template_options)
    glances = tokenizer([text[:_GLANCE] for text in texts.values()])["input_ids"] if texts else []
    for (problem_id, text), ids in zip(texts.items(), glances, strict=True):
        if not ids and not tokenizer(text)["input_ids"]:
            raise InputError(
                f"The prompt of problem '{problem_id}' has no tokens by the tokenizer of '{model}': there is nothing "
                "to continue."
            )


def try_model(problems: Sequence[Problem], tokenizer: Any, model: Any, *, generates: bool) -> None:
    """Tries a model on the beginning of the first prompt, if it is whole on this device.

    `generates` says whether its rollouts come from transformers.

    Raises:
        InputError: it fails, sees the tokens that it predicts, or gives no numbers.
    """
    images = any("ConditionalGeneration" in name for name in model.config.architectures or [])
    if images or sharded():
        return
    length = min(_TRIED, (token_limit(model) or _TRIED) // 2 + 1)
    text = prompt_text(problems[0], tokenizer, chat=False)[0]
    ids = tokenizer(text, return_tensors="pt")["input_ids"][:, :length].to(model.device)
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        check_causal(model, ids)
        if generates:
            with no_generation_settings(model):
                model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=2, do_sample=False)
    except (InputError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # models fail in kinds of their own
        raise cannot(model, f"a prompt of {ids.shape[1]:,} tokens", ids.shape[1] + 2, error) from error
    finally:
        for module, training in modes:
            module.training = training


def check_tokens(problems: Sequence[Problem], tokenizer: Any, model: Any) -> None:
    """Refuses prompts that are too long for the model, and tokens, of padding too, for which it has no embedding.

    The other way round is common and harmless: rows that stand for no token are drawn hardly ever, and have no text.

    Raises:
        InputError: there is such a prompt or token.
    """
    unknown = max(tokenizer.get_vocab().values()) >= embedding_rows(model)
    if unknown:
        for role, token in (("padding", tokenizer.pad_token_id), ("end of a text", tokenizer.eos_token_id)):
            check_rows(model, tokenizer, [] if token is None else [token], f"The {role}")
    limit = token_limit(model)
    for problem in problems:
        text = prompt_text(problem, tokenizer, chat=False)[0]
        if unknown or (limit is not None and len(text.encode()) >= limit):  # a token has a byte or more
            ids = tokenizer(text)["input_ids"]
            subject = f"The prompt of problem '{problem.id}'"
            check_rows(model, tokenizer, ids, subject)
            check_length(model, len(ids), subject)
