"""One forward pass of a causal language model, and what must hold before its numbers mean anything."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from forkwise.errors import InputError, first_line
from forkwise.loading import named

_TOLERANCES = {torch.float32: (3e-5, 0.02), torch.float16: (3e-3, 0.1), torch.bfloat16: (2e-2, 0.1)}
"""How far rounding may move a log-probability, in parts of the largest logit, and the share of tokens that it may move
further: where experts are chosen, rounding changes a choice now and then. A wrong cache moves most tokens behind it."""


def last_logits(model: Any, ids: torch.Tensor, kept: int) -> torch.Tensor:
    """Returns the logits at the last `kept` positions of one forward pass without cache, `(n, kept, V)`."""
    logits: torch.Tensor = forward(model, ids, kept, use_cache=False).logits
    return logits[:, -kept:]


def forward(model: Any, ids: torch.Tensor, kept: int, **options: Any) -> Any:
    """Returns the output of one forward pass, with logits at least at the last `kept` positions."""
    if "logits_to_keep" in inspect.signature(model.forward).parameters:
        options["logits_to_keep"] = kept
    return model(input_ids=ids, **options)


@contextmanager
def no_generation_settings(model: Any) -> Iterator[None]:
    """Puts a checkpoint's generation config aside: it would change what is drawn (penalties, beams, minimum length)."""
    settings = model.generation_config
    model.generation_config = type(settings)()
    try:
        yield
    finally:
        model.generation_config = settings


def token_limit(model: Any) -> int | None:
    """Returns how many tokens the model can hold, where its config says."""
    config = model.config.get_text_config()
    limit = getattr(config, "max_position_embeddings", None) or getattr(config, "max_seq_len", None)
    return limit if isinstance(limit, int) and limit > 0 else None


def rounding(model: Any, logits: torch.Tensor) -> tuple[float, float]:
    """Tells how far rounding may move a log-probability, and the share of tokens that it may move further."""
    part, share = _TOLERANCES.get(model.dtype, _TOLERANCES[torch.float32])
    return part * max(1.0, float(logits.abs().max())), share


def check_causal(model: Any, ids: torch.Tensor) -> None:
    """Compares the logits of a text `(1, length)` with those of its first half.

    Raises:
        InputError: they differ, so that the model sees what it predicts; or it fails on this text.
    """
    length = ids.shape[1]
    half = max(1, length // 2)
    with torch.inference_mode():
        try:
            whole = last_logits(model, ids, length)[:, half - 1]
            alone = last_logits(model, ids[:, :half], half)[:, -1]
        except torch.OutOfMemoryError:
            raise
        except Exception as error:
            raise cannot(model, f"a prompt of {length:,} tokens", length, error) from error
    if not bool(torch.isfinite(whole).all()):
        raise not_numbers(model)
    tolerance, _ = rounding(model, whole)
    apart = (torch.log_softmax(whole.double(), -1) - torch.log_softmax(alone.double(), -1)).abs()
    if length > 1 and float(apart.median()) > tolerance:
        raise InputError(
            f"{named(model)} sees the tokens that follow the one it predicts (by up to {float(apart.max()):.2g} nats): "
            "it is no decoder; set is_decoder in its config.json, or choose another model."
        )


def embedding_rows(model: Any) -> int:
    """Counts the tokens that the model has an embedding for; often more than its tokenizer has, for rounder shapes."""
    embeddings = model.get_input_embeddings()
    return int(getattr(embeddings, "num_embeddings", None) or embeddings.weight.shape[0])  # no weight under ZeRO-3


def check_rows(model: Any, tokenizer: Any, ids: Sequence[int], subject: str) -> None:
    """Refuses tokens for which the model has no embedding; `subject` names their text and begins the sentence.

    Raises:
        InputError: there is such a token.
    """
    rows, token = embedding_rows(model), max(ids, default=0)
    if token >= rows:
        raise InputError(
            f"{subject} has the token {token} ({tokenizer.decode([token])!r}), and the model has {rows:,} rows of "
            f"embeddings: {named(model)} needs the tokenizer that it was trained with."
        )


def check_length(model: Any, tokens: int, subject: str) -> None:
    """Refuses a text after which the model has no place for one more token; `subject` names it and begins the sentence.

    Raises:
        InputError: the text has as many tokens as the model's config allows, or more.
    """
    limit = token_limit(model)
    if limit is not None and tokens >= limit:
        raise InputError(
            f"{subject} has {tokens:,} tokens, and {named(model)} allows {limit:,} in all, by its config: shorten it, "
            "or choose another model."
        )


def not_numbers(model: Any) -> InputError:
    """Returns the sentence about logits that are infinite or NaN."""
    return InputError(f"The logits of {named(model)} are not numbers: try --dtype float32, or another checkpoint.")


def cannot(
    model: Any, subject: str, longest: int, error: Exception, remedy: str = "choose another model"
) -> InputError:
    """Returns the sentence about a forward pass that fails.

    Args:
        model: the model that fails.
        subject: names the text that it was given.
        longest: tokens of the longest text that it is to be given.
        error: the error that it raised.
        remedy: what to do where the longest text is more than the model's config allows.
    """
    limit = token_limit(model)
    sentence = f"{named(model)} fails on {subject} ({first_line(error)})"
    if limit is None or longest <= limit:
        return InputError(f"{sentence}: choose another model.")
    return InputError(
        f"{sentence}; its config allows {limit:,} tokens, and prompt and completion may have {longest:,} here: "
        f"{remedy}."
    )
