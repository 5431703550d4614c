"""Finding the policy model, and refusing early what cannot be trained as one."""

from __future__ import annotations

from typing import Any

from transformers import AutoConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from forkwise.embedded import EMBEDDED_MODEL
from forkwise.errors import InputError
from forkwise.loading import load_tokenizer, one_sentence, refuse_damaged

_GENERATES = ("CausalLM", "LMHeadModel", "ConditionalGeneration")


def resolve_model(name: str | None, *, revision: str | None = None, trust_remote_code: bool = False) -> tuple[str, Any]:
    """The id or folder to load and its tokenizer; `embedded` is the small model that this package ships.

    Raises:
        InputError: no name, nothing there, no tokenizer, or a model without a language-model head.
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
    refuse_damaged(name)  # trainers load the weights themselves, and end in a traceback
    return name, tokenizer
