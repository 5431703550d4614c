"""Continuations of states by an OpenAI-compatible server whose `/v1/completions` takes token ids, such as vLLM's.

A server does not tell the probabilities of all next tokens, so none is forced: first tokens are drawn independently,
one request each, and two continuations after each. F is estimated without bias so, at any temperature and top-p, with
about twice the error; what single tokens are worth is not known. A server that does not take the ids as they are, or
does not say which tokens it drew, is found before the first continuation, and refused.

vLLM fills in what a request leaves out from the model's `generation_config.json`, such as a top-k or a repetition
penalty. So continuations get what the samples got: the keys of their `--extra` where a server drew them, else keys that
turn all of this off.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from forkwise.errors import InputError
from forkwise.explore.tokenisation import another_tokenizer, completion_ids
from forkwise.forks.branches import FirstTokens
from forkwise.forks.stored import Continued, State, refuse_random, storable
from forkwise.samples import read_samples, write_shard
from forkwise.samples.fields import T, WrongField, required
from forkwise.sampling.engine import sample_seed
from forkwise.sampling.http import Address, FailedTry, RefusedError
from forkwise.sampling.recipe import Sampling
from forkwise.sampling.server import Patience
from forkwise.sampling.verify import Judge

_TOGETHER = 32  # requests at a time
_TOKEN_ID = re.compile(r"token_id:(\d{1,9})")
_TOP = 20
_NONE = -1000.0  # nats: -9999 is how servers write the log of 0
_LOOKED_AT = 16  # samples whose log-probs are compared with the server's
PLAIN: dict[str, Any] = {
    "top_k": -1,
    "min_p": 0.0,
    "repetition_penalty": 1.0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
}
"""Keys of a request that leave the distribution as it is."""
_OF_REPLIES = ("return_token_ids", "return_tokens_as_token_ids", "user", "priority", "request_id", "cache_salt")
_FROM_THE_START = re.compile(
    r"(presence|frequency)_penalty|min_tokens|stop|bad_words|response_format|structured_outputs|guided_\w+|"
    r"thinking\w*|repetition_detection|truncate\w*|use_beam_search|suffix|\w*template\w*|\w*special_tokens|"
    r"include_stop\w*"
)
"""Keys whose effect goes by where the completion begins, or that change its prompt or text."""


def changing_draws(keys: Mapping[str, Any]) -> dict[str, Any]:
    """Returns those of a request's keys that make it draw otherwise than without them."""
    neutral = {name: (value, 0) if name == "top_k" else (value,) for name, value in PLAIN.items()}
    return {n: value for n, value in keys.items() if n not in _OF_REPLIES and value not in neutral.get(n, ())}


def not_continued(keys: Mapping[str, Any]) -> dict[str, Any]:
    """Returns those of a request's keys that would do something else to a continuation than to the sample."""
    return {name: value for name, value in changing_draws(keys).items() if _FROM_THE_START.fullmatch(name)}


@dataclass(frozen=True)
class Piece:
    """What a server drew behind a prompt of token ids."""

    ids: list[int]
    stopped: bool
    logprobs: list[float]
    top: dict[int, float]
    """Log-probs of the likeliest first tokens."""
    prompt_tokens: int
    """How many tokens the server says the prompt has."""
    end: int | None = None
    """The token that it stopped at, where the server names one: another than the tokenizer's end token."""


class Connection:
    """A server that continues from tokens.

    Args:
        url: the server's URL, with or without `/v1`.
        model: the name that the server gives to the model.
        sampling: how tokens are drawn; `max_tokens` is given with each request.
        further: keys of every request besides.
    """

    def __init__(
        self,
        url: str,
        model: str,
        sampling: Sampling,
        patience: Patience | None = None,
        further: Mapping[str, Any] = PLAIN,
    ) -> None:
        self._patience, self._further = patience or Patience(), dict(further)
        self._address = Address(url, self._patience.timeout)
        self._model, self._sampling = model, sampling
        self._proved = False

    @property
    def draws_as_listed(self) -> bool:
        """Tells whether tokens are drawn with the probabilities whose logs the server gives."""
        plain = self._sampling.temperature == 1 and self._sampling.top_p == 1
        return plain and not changing_draws(self._further)

    def ask(self, ids: Sequence[int], limit: int, seed: int, top: int = 1) -> Piece:
        """Draws up to `limit` tokens behind the token ids.

        Raises:
            InputError: the server cannot continue from tokens, does not answer, or has a lower limit of its own.
        """
        body = {
            **self._further,
            "model": self._model,
            "prompt": list(ids),
            "max_tokens": limit,
            "temperature": self._sampling.temperature,
            "top_p": self._sampling.top_p,
            "seed": seed,
            "logprobs": top,
            "return_tokens_as_token_ids": True,
        }
        failed = None
        for attempt in range(self._patience.retries + 1):
            if failed is not None:
                time.sleep(self._patience.wait(attempt, failed))
            try:
                piece = _piece(self._address.post("completions", body))
            except FailedTry as error:
                failed = error
            except RefusedError as error:
                raise self._refused(error) from error
            except WrongField as error:
                raise self._cannot(str(error)) from error
            else:
                if len(piece.ids) > limit or (len(piece.ids) < limit and not piece.stopped):
                    raise self._another_limit(len(ids), len(piece.ids), limit)
                return piece
        raise InputError(
            f"The server at {self._address.base} failed {self._patience.retries + 1} times in a row ({failed}): start "
            "it again, and the same command continues."
        )

    def prove(self, ids: Sequence[int]) -> None:
        """Asks for one token behind these ids.

        Raises:
            InputError: the server does not take them as they are, or does not say which token it drew.
        """
        piece = self.ask(ids, 1, 0)
        if piece.prompt_tokens != len(ids):
            raise self._cannot(f"of a prompt of {len(ids)} token ids it read {piece.prompt_tokens} tokens")
        self._proved = True

    def _refused(self, error: RefusedError) -> InputError:
        hint = f"; vLLM takes as many with --max-logprobs {_TOP}" if "logprobs" in str(error) else ""
        if error.status in (400, 422) and not self._proved and not hint:
            return self._cannot(str(error))
        return InputError(
            f"The server at {self._address.base} refuses a request ({error}{hint}): give --model the name that it has "
            "for the model, or start it so that it takes the request, and the same command continues."
        )

    def _another_limit(self, prompt: int, drawn: int, limit: int) -> InputError:
        return InputError(
            f"The server at {self._address.base} ended a continuation at {drawn:,} tokens, where {limit:,} were asked "
            "for and no end was drawn: continuations must end where samples do, so start it with room for "
            f"{prompt + limit:,} tokens and no limit of its own (of vLLM --max-model-len, and max_new_tokens in a "
            "generation config), and the same command continues."
        )

    def _cannot(self, why: str) -> InputError:
        return InputError(
            f"The server at {self._address.base} cannot continue from tokens ({why}): forks need one whose "
            "/v1/completions takes token ids as the prompt and gives the ids of what it draws, as vLLM's does "
            "(return_tokens_as_token_ids). Or leave --server out, and give the model to transformers with --model."
        )


def _piece(reply: Any) -> Piece:
    choices = _field(reply, "choices", list, "")
    if len(choices) != 1:
        raise FailedTry(f"it answers one prompt with {len(choices)} completions")
    reason = _field(choices[0], "finish_reason", str, "choices[0].")
    if reason not in ("stop", "length"):  # "abort" where somebody stopped it: the text has no end of its own
        raise FailedTry("it ended a continuation before its end or limit" + f" ('{reason}')" * reason.isidentifier())
    logprobs = _field(choices[0], "logprobs", dict, "choices[0].")
    tokens = _field(logprobs, "tokens", list, "choices[0].logprobs.")
    values = _field(logprobs, "token_logprobs", list, "choices[0].logprobs.")
    first = logprobs.get("top_logprobs")
    first = first[0] if isinstance(first, list) and first and isinstance(first[0], dict) else {}
    return Piece(
        ids=[_token_id(token) for token in tokens],
        stopped=reason == "stop",
        logprobs=[float(value) for value in values if isinstance(value, (int, float))],
        top={_token_id(t): float(v) for t, v in first.items() if isinstance(v, (int, float)) and v > _NONE},
        prompt_tokens=_field(_field(reply, "usage", dict, ""), "prompt_tokens", int, "usage."),
        end=end if type(end := choices[0].get("stop_reason")) is int else None,
    )


def _field(owner: Any, name: str, kind: type[T], where: str) -> T:
    return required(owner, name, kind, where)


def _token_id(token: Any) -> int:
    match = _TOKEN_ID.fullmatch(token) if isinstance(token, str) else None
    if match is None:
        raise WrongField("choices[0].logprobs.tokens", "ids such as token_id:7", token)
    return int(match[1])


class ServerContinuer:
    """Continues states through a server, and judges what it writes; arguments as of `Continuer`."""

    def __init__(
        self,
        connection: Connection,
        tokenizer: Any,
        sampling: Sampling,
        continuations: int,
        seed: int,
        judge: Judge,
    ) -> None:
        self._connection, self._tokenizer, self._sampling = connection, tokenizer, sampling
        self._number, self._seed, self._judge = continuations, seed, judge

    def draw(self, state: State, progress: Callable[[int], None] = lambda tokens: None) -> Continued:
        """Draws and verifies the continuations of a state: two after each first token, or one where none is forced.

        Raises:
            InputError: the server fails, or the verifier is random.
        """
        prompt = [*state.prompt, *state.prefix]
        each = 1 if state.token is None else 2
        count = self._number // each
        starts = self._all([(prompt, 1, f"{state.name}/first", i) for i in range(count)])
        tokens = [piece.ids[0] if piece.ids else self._end() for piece in starts]
        rows = [i for i in range(count) for _ in range(each)]
        room = self._sampling.max_tokens - len(state.prefix) - 1
        going = [r for r, i in enumerate(rows) if not starts[i].stopped and room > 0]
        pieces = dict(
            zip(
                going,
                self._all([([*prompt, tokens[rows[r]]], room, state.name, r) for r in going]),
                strict=True,
            )
        )
        written = [[tokens[i], *(pieces[r].ids if r in pieces else ())] for r, i in enumerate(rows)]
        last = [pieces.get(r, starts[i]) for r, i in enumerate(rows)]
        texts = [
            self._text([*state.prefix, *ids][: -1 if self._ends(ids[-1], piece) else None])
            for ids, piece in zip(written, last, strict=True)
        ]
        progress(sum(len(ids) for ids in written))
        verdicts = self._judge.verify(texts, [state.problem] * len(texts))
        refuse_random(texts, verdicts, f"a continuation of {state.name}")
        first = FirstTokens(
            tokens=tokens,
            probabilities=self._probabilities(tokens, starts),
            weights=[1 / count] * count,
            sizes=[each] * count,
            forced=0,
        )
        return Continued(
            state=state.index,
            first=first,
            texts=[storable(self._tokenizer.decode([token])) for token in tokens],
            continuations=[storable(self._text(ids)) for ids in written],
            answers=[None if v.answer is None else storable(v.answer) for v in verdicts],
            correct=[v.correct for v in verdicts],
            generated=sum(len(ids) - 1 for ids in written),
            cut=sum(not piece.stopped for piece in last),
        )

    def _all(self, requests: Sequence[tuple[list[int], int, str, int]]) -> list[Piece]:
        def one(request: tuple[list[int], int, str, int]) -> Piece:
            ids, limit, name, i = request
            return self._connection.ask(ids, limit, sample_seed(self._seed, name, i) % 2**31)

        with ThreadPoolExecutor(_TOGETHER) as pool:
            return list(pool.map(one, requests))

    def _probabilities(self, tokens: Sequence[int], starts: Sequence[Piece]) -> list[float]:
        """Returns each token's probability; its share of those drawn where servers give that of other draws."""
        if self._connection.draws_as_listed:
            return [math.exp(piece.logprobs[0]) if piece.logprobs else 0.0 for piece in starts]
        return [tokens.count(token) / len(tokens) for token in tokens]

    def _ends(self, token: int, piece: Piece) -> bool:
        """Tells whether the piece stopped at the token, which is no part of the text then."""
        return piece.stopped and token in (piece.end, self._tokenizer.eos_token_id)

    def _text(self, ids: Sequence[int]) -> str:
        return str(self._tokenizer.decode(ids, skip_special_tokens=True))

    def _end(self) -> int:
        if self._tokenizer.eos_token_id is None:
            raise InputError("The server drew no token and stopped, and the tokenizer has no end token: give another.")
        return int(self._tokenizer.eos_token_id)


def write_tokens(samples: Path, out: Path, tokenizer: Any) -> None:
    """Writes the samples with token ids, which the tokenizer gives where the table has none.

    Raises:
        InputError: another tokenizer, or samples without token data.
    """
    rows = []
    for row in read_samples(samples).to_pylist():
        if not (row["completion"] or "").strip():
            continue
        where = f"Sample {row['sample_id']} of problem '{row['problem_id']}'"
        known = row["entropies"] is not None or any(row["top_logprobs"] or ())
        if not row["tokens"] or not known:
            raise InputError(
                f"{where} has no entropies or log-probs, by which tokens are drawn: sample with token data (without "
                "--no-token-data), or leave --server out."
            )
        try:
            ids = completion_ids(tokenizer, row, where)[: len(row["tokens"])]
        except InputError as error:
            if row["token_ids"]:
                raise
            raise InputError(
                f"{error} Or the model drew other tokens than its text is cut into: vLLM names them to forkwise sample "
                "--extra return_token_ids=true."
            ) from error
        if len(ids) < len(row["tokens"]):
            raise another_tokenizer(where, f"it cuts the text into {len(ids)} tokens, not {len(row['tokens'])}")
        rows.append({**row, "token_ids": ids})
    write_shard(out, "tokens", rows)


def compare(connection: Connection, rows: Sequence[Mapping[str, Any]], prompts: Mapping[str, list[int]]) -> list[float]:
    """Returns how far stored log-probs are from the server's, at one token of some of the samples.

    Args:
        rows: of the table with token ids, whose log-probs are those of temperature 1, as the server's are.
    """
    apart = []
    for row in rows[:: max(1, len(rows) // _LOOKED_AT)][:_LOOKED_AT]:
        if not row["logprobs"]:
            continue
        stored = np.array([-np.inf if value is None else value for value in row["logprobs"]])
        # Where the likeliest token did not come models differ most; one that a model lists is compared exactly.
        listed = stored > -np.log(_TOP)
        at = int(np.argmin(np.where(listed, stored, 1.0)) if listed.any() else np.argmax(stored))
        piece = connection.ask([*prompts[row["problem_id"]], *row["token_ids"][:at]], 1, 0, top=_TOP)
        now = piece.top.get(row["token_ids"][at])
        if now is not None:
            apart.append(float(abs(now - stored[at])))
        elif listed[at] and piece.top:  # less likely there than all that are listed
            apart.append(float(max(stored[at] - min(piece.top.values()), 0.0)))
    return apart
