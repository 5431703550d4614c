"""Reading the reply of an OpenAI-compatible server field by field: what is there is checked, never assumed."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from forkwise.samples.fields import T, WrongField, optional, required, word
from forkwise.samples.reasoning import answer_of, check_message, join_reasoning, reasoning_of
from forkwise.sampling.engine import Completion, TopToken
from forkwise.sampling.http import FailedTry

_MOST_TOKENS = 1 << 31
_BROKEN_OFF = ("abort", "error", "insufficient_system_resource")
"""Reasons to finish of vLLM and DeepSeek that lie in the server: what is there is no sample of the model."""
_ROUNDING = 1e-3  # nats above 0 that a log-probability may have
_SPECIAL = re.compile(r"<[^<>\s]*>|\[[A-Z_/0-9]+\]|")
_BYTES = re.compile(r"bytes:|<0x[0-9A-Fa-f]{2}>|.*\ufffd", re.DOTALL)
_REACH = 16  # characters that tokens with parts of characters may stand for, beyond one each


@dataclass(frozen=True)
class Reply:
    """A completion, and in words the fields that the server sent with it and that cannot be used."""

    completion: Completion
    left_out: tuple[str, ...] = ()


class _Unusable(ValueError):
    """A field of the reply has to be left out; the message names it and says why."""


@dataclass(frozen=True)
class _TokenData:
    tokens: list[str]
    logprobs: list[float]
    tops: list[list[TopToken]]


def read_reply(reply: Any, prompt: str | Sequence[Mapping[str, str]]) -> Reply:
    """Reads the completion in a reply of `/v1/completions` or `/v1/chat/completions`.

    Reasoning that a server splits off a chat message is put back in front of it. Log-probs are kept only where their
    tokens join to the whole completion.

    Raises:
        FailedTry: there is no completion in the reply.
    """
    choices = _field(reply, "choices", list, "")
    if not choices:
        raise FailedTry("its reply is of another form than an OpenAI-compatible server's: 'choices' is empty")
    choice = choices[0]
    left_out: list[str] = []
    if isinstance(choice, dict) and "message" in choice:
        text, was_split = _message_text(_field(choice, "message", dict, "choices[0]."))
    else:
        text, was_split = _field(choice, "text", str, "choices[0]."), False
    n_tokens = finish = data = token_ids = None
    try:
        n_tokens = _n_tokens(reply)
    except _Unusable as error:
        left_out.append(str(error))
    try:
        finish = _finish_reason(choice)
    except _Unusable as error:
        left_out.append(str(error))
    try:
        data = _token_data(choice.get("logprobs"))
        if data is not None and not tokens_fit(data.tokens, text):
            where = "the answer without its reasoning" if was_split else "another text than the completion"
            raise _Unusable(f"the tokens with log-probs join to {where}")
    except _Unusable as error:
        left_out.append(str(error))
        data = None
    try:
        token_ids = None if data is None else _token_ids(choice.get("token_ids"), len(data.tokens))
    except _Unusable as error:
        left_out.append(str(error))
    completion = Completion(
        text=text,
        prompt=prompt if isinstance(prompt, str) else json.dumps(prompt, ensure_ascii=False),
        n_tokens=n_tokens,
        finish_reason=finish,
    )
    if data is not None:
        completion = replace(
            completion,
            n_tokens=len(data.tokens) if n_tokens is None else n_tokens,
            token_ids=token_ids,
            tokens=data.tokens,
            logprobs=data.logprobs,
            top_logprobs=data.tops if any(data.tops) else None,
        )
    return Reply(completion, tuple(left_out))


def _field(owner: Any, name: str, kind: type[T], where: str) -> T:
    """Returns a field without which there is no completion."""
    try:
        return required(owner, name, kind, where)
    except WrongField as error:
        raise _no_reply(error) from error


def _no_reply(error: WrongField) -> FailedTry:
    return FailedTry(f"its reply is of another form than an OpenAI-compatible server's: {_what(error)}")


def _what(error: WrongField) -> str:
    """Says what is wrong, in words that quote nothing of what a stranger sent."""
    return f"'{error.path}' is {error.kind}, not {error.wanted}"


def _message_text(message: Mapping[str, Any]) -> tuple[str, bool]:
    """Returns the completion in a chat message, and whether the server had split reasoning off it."""
    try:
        check_message(message, "choices[0].message.")
    except WrongField as error:
        raise _no_reply(error) from error
    reasoning = reasoning_of(message)
    if isinstance(message.get("content"), list) and (reasoning or answer_of(message["content"])):
        content = answer_of(message["content"])
    elif not reasoning or message.get("content") is not None:
        content = _field(message, "content", str, "choices[0].message.")
    else:
        content = None
    return join_reasoning(reasoning, content), bool(reasoning)


def _n_tokens(reply: Mapping[str, Any]) -> int | None:
    try:
        count = optional(optional(reply, "usage", dict) or {}, "completion_tokens", int, "usage.")
    except WrongField as error:
        fault = "'usage.completion_tokens' is no number of tokens" if "." in error.path else _what(error)
        raise _Unusable(fault) from error
    if count is not None and not 0 <= count < _MOST_TOKENS:
        raise _Unusable("'usage.completion_tokens' is no number of tokens")
    return count


def _finish_reason(choice: Mapping[str, Any]) -> str | None:
    reason = choice.get("finish_reason")
    if reason in _BROKEN_OFF:
        raise FailedTry(f"it broke a completion off ('{reason}')")
    if reason is None or (isinstance(reason, str) and re.fullmatch(r"\w{1,40}", reason)):
        return reason
    raise _Unusable("'finish_reason' is no word")


def _token_data(logprobs: Any) -> _TokenData | None:
    """Reads tokens, log-probs and candidates of either endpoint; None where the server sent none."""
    if logprobs is None:
        return None
    if not isinstance(logprobs, dict):
        raise _Unusable("'logprobs' is no object")
    if logprobs.get("content") is not None:  # of chats, and of llama.cpp everywhere
        places = _list(logprobs["content"], "'logprobs.content'")
        if not all(isinstance(entry, dict) for entry in places):
            raise _Unusable("'logprobs.content' holds more than objects")
        tokens, values = (
            [entry.get("token") for entry in places],
            [entry.get("logprob") for entry in places],
        )
        tops = [_list(entry.get("top_logprobs"), "'top_logprobs'") for entry in places]
        if not all(isinstance(top, dict) for entry in tops for top in entry):
            raise _Unusable("'top_logprobs' holds more than objects")
        pairs = [[(top.get("token"), top.get("logprob")) for top in entry] for entry in tops]
    else:
        tokens = _list(logprobs.get("tokens"), "'logprobs.tokens'")
        values = _list(logprobs.get("token_logprobs"), "'logprobs.token_logprobs'")
        raw = _list(logprobs.get("top_logprobs"), "'logprobs.top_logprobs'")
        if not all(entry is None or isinstance(entry, dict) for entry in raw):
            raise _Unusable("'logprobs.top_logprobs' holds more than objects")
        pairs = [list((entry or {}).items()) for entry in raw] or [[] for _ in tokens]
    if not len(tokens) == len(values) == len(pairs):
        raise _Unusable(f"there are {len(tokens)} tokens, {len(values)} log-probs and {len(pairs)} lists of candidates")
    if not tokens:
        return None
    if not all(isinstance(token, str) for token in tokens):
        raise _Unusable("a token is no text")
    return _TokenData(
        tokens,
        [_logprob(value) for value in values],
        [_candidates(entry) for entry in pairs],
    )


def _token_ids(ids: Any, tokens: int) -> list[int] | None:
    """Reads the ids of the tokens, which vLLM adds where it is asked to (`return_token_ids`)."""
    if ids is None:
        return None
    if not isinstance(ids, list) or not all(type(i) is int and 0 <= i < _MOST_TOKENS for i in ids):
        raise _Unusable("'token_ids' is no list of ids")
    if len(ids) != tokens:
        raise _Unusable(f"there are {tokens} tokens and {len(ids)} ids")
    return ids


def _list(value: Any, name: str) -> list[Any]:
    """Returns the list, or the empty one for null."""
    if value is None:
        return []
    if not isinstance(value, list):
        raise _Unusable(f"{name} is no list")
    return value


def _candidates(pairs: Sequence[tuple[Any, Any]]) -> list[TopToken]:
    """Reads the candidates at one position; those of probability 0 are left out, which changes no other."""
    if not all(isinstance(token, str) for token, _ in pairs):
        raise _Unusable("a candidate is no text")
    return [TopToken(token, _logprob(value)) for token, value in pairs if value != -math.inf]


def _logprob(value: Any) -> float:
    """Returns a log-probability that can be one: a finite number, not above 0 by more than rounding."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not -1e30 < value <= _ROUNDING:
        shown = f"{value:.3g}" if isinstance(value, float) else word(value)
        raise _Unusable(f"a log-prob is {shown}")
    return min(float(value), 0.0)


def tokens_fit(tokens: Sequence[str], text: str) -> bool:
    """Tells whether the tokens join to the text, blanks aside; special tokens may be missing in it.

    Parts of a character are not compared with the characters they stand for.
    """
    squeezed = "".join(text.split())
    at = parts = 0
    for token in tokens:
        word = "".join(token.split())
        if _BYTES.match(word):
            parts += 1
            continue
        begin = squeezed.find(word, at, at + len(word) + (parts + _REACH if parts else 0))
        if begin < 0:
            if _SPECIAL.fullmatch(word):
                continue
            return False
        at, parts = begin + len(word), 0
    unmatched = len(squeezed) - at
    return unmatched == 0 or (parts > 0 and unmatched <= parts + _REACH)
