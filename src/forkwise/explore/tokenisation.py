"""The token ids of stored prompts and completions, under the tokenizer of the model that scores them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from forkwise.errors import InputError
from forkwise.sampling.prompts import render_chat


def prompt_ids(tokenizer: Any, prompt: str | None) -> list[int]:
    """Returns the token ids of a stored prompt: text, or the messages of a conversation as JSON.

    Special tokens are added unless a chat template has written them into the text.

    Raises:
        InputError: no prompt and no beginning-of-sequence token, or messages for a tokenizer without a chat template.
    """
    messages = _messages(prompt)
    if messages is not None:
        text = render_chat(tokenizer, messages, "the stored conversations")
    else:
        text = prompt or ""
    templated = messages is not None or any(token in text for token in tokenizer.all_special_tokens)
    ids: list[int] = tokenizer(text, add_special_tokens=not templated)["input_ids"]
    if not ids and tokenizer.bos_token_id is not None:
        ids = [tokenizer.bos_token_id]
    if not ids:
        raise InputError(
            "A sample has no prompt, so its first token follows on nothing: store the prompts with the samples."
        )
    return ids


def _messages(prompt: str | None) -> list[dict[str, str]] | None:
    if not prompt or not prompt.lstrip().startswith("[{"):
        return None
    try:
        messages = json.loads(prompt)
    except ValueError:
        return None
    return messages if all(isinstance(m, dict) and {"role", "content"} <= m.keys() for m in messages) else None


def completion_ids(tokenizer: Any, row: Mapping[str, Any], where: str, rows: int = 0) -> list[int]:
    """Returns the ids of a stored completion: the stored ones, or those of its text, with an end token if it stopped.

    `rows` is the number of tokens that the model can draw, which may be more than its tokenizer has.

    Raises:
        InputError: the tokenizer does not reproduce what is stored, so it is not the samples'.
    """
    text, stored = row["completion"], row.get("token_ids")
    if stored:
        if max(stored) >= max(len(tokenizer), rows) or min(stored) < 0:
            raise another_tokenizer(where, f"it has no token {max(stored)}")
        decoded = tokenizer.decode([i for i in stored if i < len(tokenizer)], skip_special_tokens=True)
        if _plain(decoded) != _plain(text):
            raise another_tokenizer(
                where, f"it turns the stored token ids into {decoded[:30]!r}, not into {text[:30]!r}"
            )
        return list(stored)
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    decoded = tokenizer.decode(ids)
    if _plain(decoded) != _plain(text):
        raise another_tokenizer(where, f"it turns {text[:30]!r} into {decoded[:30]!r}")
    tokens = row.get("tokens")
    if tokens and None not in tokens:
        new_texts = [tokenizer.decode([i]) for i in ids]
        stored_texts = [token for token in tokens if token not in tokenizer.all_special_tokens]
        if [token.strip() for token in new_texts] != [token.strip() for token in stored_texts]:
            raise another_tokenizer(
                where, f"it cuts the text into {len(new_texts)} tokens that are not the {len(stored_texts)} stored ones"
            )
    if row.get("finish_reason") == "stop" and tokenizer.eos_token_id is not None:
        ids = [*ids, tokenizer.eos_token_id]
    if not ids:
        raise InputError(f"{where}: the completion is empty.")
    return ids


def _plain(text: str) -> str:
    """Removes white space, of which word-level and SentencePiece tokenizers do not keep all."""
    return "".join(text.split())


def another_tokenizer(where: str, difference: str) -> InputError:
    """Makes the refusal of samples that another tokenizer wrote."""
    return InputError(
        f"{where}: the model's tokenizer is not the one of the samples, {difference}; give the --model that wrote them."
    )
