"""OpenAI's and vLLM's responses (chat or text completions), bare or as lines of a batch's output file.

Shapes: platform.openai.com/docs/api-reference/chat/object and /completions/object; vLLM's OpenAI-compatible server.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate

from forkwise.samples.fields import objects, optional, required
from forkwise.samples.importers.base import Row, Source, check_token, scored, token_columns
from forkwise.samples.importers.reader import Record
from forkwise.samples.importers.texts import finish_reason, logged_prompt, message_text
from forkwise.tasks.base import question_id

USES = frozenset({"custom_id", "response", "error", "choices", "model", "usage", "prompt", "messages"})


def matches(record: Record) -> bool:
    """Choices with a message or a text, or a batch line around them."""
    if "custom_id" in record and "response" in record:
        return True
    choices = record.get("choices")
    return isinstance(choices, list) and bool(choices) and bool({"message", "text"} & choices[0].keys())


def rows(record: Record, source: Source) -> Iterator[Row]:
    """Yields one row per choice. A response does not repeat its prompt: see `problem_of`."""
    response, where = record, ""
    if "custom_id" in record and "choices" not in record:
        envelope, where = optional(record, "response", dict) or {}, "response.body."
        response = optional(envelope, "body", dict, "response.") or {}
        if record.get("error") or response.get("choices") in (None, []):
            source.dropped["requests that failed"] += 1
            return
    required(response, "choices", list, where)
    choices = objects(response, "choices", where)
    if not choices:
        source.dropped["responses without a choice"] += 1
    prompt, usage = logged_prompt(record, source), optional(response, "usage", dict, where) or {}
    before, after = (optional(usage, f"{kind}_tokens", int, f"{where}usage.") for kind in ("prompt", "completion"))
    for i, whole in enumerate(choices):
        _check_lists(whole, f"{where}choices[{i}].", source)
    for i, choice in enumerate(without_echo(choices, before, after, prompt, source)):
        if choice is None:
            continue
        tokens = _tokens(choice, f"{where}choices[{i}].", source)
        n_tokens = after if len(choices) == 1 else None  # of all choices
        yield {
            "run": source.run(),
            "model": optional(response, "model", str, where),
            "problem_id": problem_of(record, prompt, source),
            "prompt": prompt,
            "completion": _completion(choice, f"{where}choices[{i}].", source),
            "n_tokens": len(tokens["tokens"]) if n_tokens is None and tokens else n_tokens,
            "finish_reason": finish_reason(choice, "finish_reason", source, f"{where}choices[{i}]."),
            **tokens,
        }


def _check_lists(choice: Record, where: str, source: Source) -> None:
    """Refuses log-probs in another shape than that of chats or text completions."""
    logprobs = optional(choice, "logprobs", dict, where)
    if not logprobs:
        return
    if not logprobs.keys() & {"content", "refusal", "tokens"}:
        raise source.error(f"'{where}logprobs' has neither 'content' nor 'tokens': remove it, or the record.")
    if optional(logprobs, "content", list, f"{where}logprobs.") is None and logprobs.get("tokens") is not None:
        for token in required(logprobs, "tokens", list, f"{where}logprobs."):
            check_token(token, source)
        required(logprobs, "token_logprobs", list, f"{where}logprobs.")
        for i, candidates in enumerate(optional(logprobs, "top_logprobs", list, f"{where}logprobs.") or ()):
            optional({f"top_logprobs[{i}]": candidates}, f"top_logprobs[{i}]", dict, f"{where}logprobs.")


def _completion(choice: Record, where: str, source: Source) -> str:
    """Returns the text of a choice; a message without content is an empty one."""
    if "text" in choice:
        text = choice["text"]
    else:
        message = required(choice, "message", dict, where)
        text = message.get("content")
        if text is None or isinstance(text, str | list):
            text = message_text(message, f"{where}message.") or ""
    if not isinstance(text, str):
        raise source.error(f"the completion is {text!r:.40}: it must be text.")
    return text


def problem_of(record: Record, prompt: str | None, source: Source) -> str:
    """Returns a response's problem: `custom_id`, else the prompt's if a logger kept it, else file and line."""
    if record.get("custom_id") is not None:
        return str(record["custom_id"])
    if prompt:
        return question_id(prompt)
    source.notes["without a prompt or a custom_id: every response counts as its own problem"] += 1
    return f"{source.stem}:{source.place.removeprefix('line ')}" if source.place else source.stem


def without_echo(
    choices: Sequence[Record], before: int | None, after: int | None, prompt: str | None, source: Source
) -> Sequence[Record | None]:
    """Returns the choices of a text completion without the prompt in front, which `echo` put there.

    Args:
        choices: all of a response; None comes back for one that holds nothing else.
        before: tokens of the prompt.
        after: tokens of all completions.
        prompt: its text.
        source: is told.

    Raises:
        InputError: the prompt is there, and nothing says where it ends.
    """
    if before is None or after is None:
        before = after = None
    lists = [choice["logprobs"] for choice in choices if isinstance(choice.get("logprobs"), dict)]
    if len(lists) == len(choices) and all(isinstance(lp.get("tokens"), list) and lp["tokens"] for lp in lists):
        echoed = _lists_hold_the_prompt(lists, before, after)
    else:
        echoed = _texts_hold_the_prompt(choices, before, after, prompt, source)
        lists = []
    if not echoed:
        return choices
    source.notes["with the prompt in front (echo), which was cut off"] += len(choices)
    if not lists:
        return [{**choice, "text": choice["text"][len(prompt or "") :]} for choice in choices]
    cut = [_behind(choice, before or _tokens_of(prompt, choice), prompt, source) for choice in choices]
    if None in cut:
        source.dropped["completions of which only the prompt was scored"] += cut.count(None)
    return cut


def _lists_hold_the_prompt(lists: Sequence[Record], before: int | None, after: int | None) -> bool:
    """Returns whether lists of log-probs begin with the prompt: too many tokens, or a first one without a log-prob."""
    unknown = all(lp["token_logprobs"][:1] == [None] for lp in lists)
    if before is None or after is None:
        return unknown and any(len(lp["tokens"]) > 1 for lp in lists)
    extra = sum(len(lp["tokens"]) for lp in lists) - after
    # An end token may be counted and not listed.
    as_many = len(lists) * (before - 1) <= extra <= len(lists) * before
    return (as_many and (extra > 0 or unknown)) or (unknown and extra > 0)


def _texts_hold_the_prompt(
    choices: Sequence[Record], before: int | None, after: int | None, prompt: str | None, source: Source
) -> bool:
    """Returns whether texts begin with the prompt and are too long for their tokens, at its characters per token."""
    if not prompt or not all(isinstance(c.get("text"), str) and c["text"].startswith(prompt) for c in choices):
        return False
    if before is None or after is None:
        source.notes["whose text begins with its prompt, kept as it is (if that is echo, ask without)"] += len(choices)
        return False
    characters = sum(len(choice["text"]) for choice in choices)
    per_token = len(prompt) / max(1, before)
    return abs(characters / per_token - after) > abs((characters - len(choices) * len(prompt)) / per_token - after)


def _tokens_of(prompt: str | None, choice: Record) -> int | None:
    """Counts the tokens of the prompt in a choice that begins with it; None where nobody can tell."""
    tokens, text = choice["logprobs"]["tokens"], choice.get("text")
    if not prompt or not isinstance(text, str) or not text.startswith(prompt):
        return None
    ends = list(accumulate(len(token) for token in tokens))
    return ends.index(len(prompt)) + 1 if len(prompt) in ends else None


def _behind(choice: Record, n: int | None, prompt: str | None, source: Source) -> Record | None:
    """Returns a choice without its first `n` tokens and their text; None if nothing is left."""
    logprobs, text = choice["logprobs"], choice.get("text")
    tokens = logprobs["tokens"]
    if n is not None and n >= len(tokens):
        return None
    if n is not None and isinstance(text, str):
        head, tail = "".join(tokens[:n]), "".join(tokens[n:])
        begin = len(prompt) if prompt and text.startswith(prompt) else len(head) if text.startswith(head) else None
        if begin is None and tail and text.endswith(tail):  # tokens such as <s> stand in the list alone
            begin = len(text) - len(tail)
        if begin is not None:
            parallel = {key: value[n:] for key, value in logprobs.items() if isinstance(value, list)}
            return {**choice, "text": text[begin:], "logprobs": {**logprobs, **parallel}}
    raise source.error(
        "the prompt is part of the completion (echo), and nothing says where it ends: ask the server without echo, or "
        "give each response its prompt."
    )


def _tokens(choice: Record, where: str, source: Source) -> Row:
    logprobs = choice.get("logprobs") or {}
    if logprobs.get("content") is not None:
        return logprob_columns(objects(logprobs, "content", f"{where}logprobs."), source, f"{where}logprobs.content")
    if logprobs.get("tokens") is not None:  # text completions: parallel lists, candidates as objects
        top = logprobs.get("top_logprobs")
        candidates = [list((position or {}).items()) for position in top] if top else None
        return token_columns(source, logprobs["tokens"], logprobs["token_logprobs"], candidates)
    return {}


def logprob_columns(content: Sequence[Record], source: Source, path: str) -> Row:
    """Makes the token-level columns from chat completions' `logprobs.content`, which Ollama and inspect_ai share."""
    sampled = [scored(entry, f"{path}[{i}].") for i, entry in enumerate(content)]
    top = [
        [
            scored(candidate, f"{path}[{i}].top_logprobs[{j}].")
            for j, candidate in enumerate(objects(entry, "top_logprobs", f"{path}[{i}]."))
        ]
        for i, entry in enumerate(content)
    ]
    return token_columns(source, [token for token, _ in sampled], [logprob for _, logprob in sampled], top)
