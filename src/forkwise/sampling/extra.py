"""Reads `--extra`: further fields of the requests to a server."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from forkwise.errors import InputError
from forkwise.sampling.http import API_KEY, is_secret

_OWN = {
    "model": "--model",
    "prompt": "--task or --dataset",
    "messages": "--task or --dataset",
    "max_tokens": "--max-tokens",
    "max_completion_tokens": "--max-tokens",
    "temperature": "--temperature",
    "top_p": "--top-p",
    "seed": "--seed",
    "n": "-n",
    "best_of": "-n",
    "logprobs": "--top-logprobs",
    "top_logprobs": "--top-logprobs",
    "stream": "",
    "stream_options": "",
    "echo": "",
}
"""Keys of the request that forkwise sets, or that would change what a reply is; and the flag that sets them."""


def parse_extra(pairs: Sequence[str]) -> dict[str, Any]:
    """Reads the request's further `key=value` pairs; a value is JSON where it can be read as such, else text.

    Raises:
        InputError: a text not of that form, a key given twice, or a key that forkwise sets.
    """
    extra: dict[str, Any] = {}
    for pair in pairs:
        if is_secret(pair):
            raise InputError(f"--extra holds the key of {API_KEY}, and would be stored with the samples: leave it out.")
        key, equals, text = pair.partition("=")
        key = key.strip()
        if not equals or not key:
            raise InputError(f"--extra {pair!r} has no key or no value: write it like --extra top_k=20.")
        if key in _OWN:
            flag = f"use {_OWN[key]}" if _OWN[key] else "samples need it as it is"
            raise InputError(f"--extra cannot set '{key}', which forkwise sets itself: {flag}.")
        if key in extra:
            raise InputError(f"--extra gives '{key}' twice: give it once.")
        try:
            extra[key] = json.loads(text, parse_constant=_no_constant)
        except (ValueError, RecursionError):
            extra[key] = text
    return extra


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")
