"""Finding the policy model, and refusing early what cannot be trained as one."""

from __future__ import annotations

from typing import Any

from transformers import AutoConfig, AutoTokenizer
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from forkwise.embedded import EMBEDDED_MODEL
from forkwise.errors import InputError

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
    options = {"revision": revision, "trust_remote_code": trust_remote_code}
    try:
        config = AutoConfig.from_pretrained(name, **options)
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise InputError(f"The model '{name}' cannot be loaded as a hub id or a folder: {reason}") from error
    architectures = config.architectures or []
    fits = any(kind in a for a in architectures for kind in _GENERATES)
    if not architectures:
        fits = config.model_type in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    if not fits:
        what = ", ".join(architectures) or config.model_type
        raise InputError(
            f"The model '{name}' ({what}) has no language-model head: choose a causal language model (...ForCausalLM)."
        )
    without = f"The model '{name}' has no tokenizer that can be loaded; save one beside it."
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, **options)
    except (OSError, ValueError, TypeError) as error:
        raise InputError(without) from error
    if len(tokenizer) <= len(tokenizer.all_special_tokens):  # what transformers makes up where no files are
        raise InputError(without)
    return name, tokenizer
