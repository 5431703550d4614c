"""Sampling from an OpenAI-compatible server (vLLM serve, llama.cpp, Ollama, ...) over HTTP.

One request per sample, each with its own seed; a fixed number of them at a time. Only the standard library is used.
"""

from __future__ import annotations

import json
import queue
import random
import re
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from forkwise.errors import InputError
from forkwise.progress import Meter
from forkwise.sampling.engine import Block, Completion, request_seed
from forkwise.sampling.http import API_KEY, Address, FailedTry, RefusedError
from forkwise.sampling.prompts import chat_messages
from forkwise.sampling.recipe import Sampling
from forkwise.sampling.replies import read_reply
from forkwise.tasks import Problem

__all__ = ["API_KEY", "Patience", "ServerEngine"]

_LONGEST_WAIT = 60.0  # seconds between two tries, whatever the server asks for: a run must not sleep for hours unseen


_UNSUPPORTED = re.compile(r"unsupported|not support|unrecogni[sz]ed|unknown|not permitted", re.IGNORECASE)
_NEUTRAL = {"temperature": 1.0, "top_p": 1.0}
"""Values that say nothing: a server that takes no such parameter does the same without it."""


@dataclass(frozen=True)
class Patience:
    """Patience says how long to wait for a server, and how often to try again.

    Attributes:
        timeout: seconds for a whole request, from the connection to the last byte; then a try counts as failed.
            Servers answer when the whole completion is there, so it must cover the slowest one.
        retries: tries after the first.
        first_wait: seconds before the second try; doubles with every further one, up to a minute, with random jitter.
    """

    timeout: float = 1800.0
    retries: int = 6
    first_wait: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.timeout <= threading.TIMEOUT_MAX or self.retries < 0 or self.first_wait < 0:
            raise InputError("The timeout must be positive, and retries and waits not negative.")

    def wait(self, attempt: int, failed: FailedTry) -> float:
        """Returns the seconds before try number `attempt` (1 is the second)."""
        if failed.wait is not None:
            return min(failed.wait, _LONGEST_WAIT)
        return min(self.first_wait * 2.0 ** (attempt - 1), _LONGEST_WAIT) * random.uniform(0.5, 1.0)


class ServerEngine:
    """This engine draws completions from a server. They repeat as far as the server honours `seed`.

    Text prompts go to `/v1/completions`, conversations to `/v1/chat/completions`. Log-probabilities are stored as the
    server gives them: vLLM's are of the logits before temperature and nucleus unless started with another
    `--logprobs-mode`.

    Args:
        url: the server's URL, with or without `/v1`.
        model: the name that the server gives to the model.
        seed: the run's seed.
        sampling: how completions are drawn.
        chat: send plain prompts as a conversation, so that the server applies its chat template.
        top_logprobs: how many candidates per position to ask for; 0: no token data at all. vLLM's default maximum is
            20; OpenAI's `/v1/completions` allows 5.
        concurrency: requests at a time.
        patience: timeouts and retries.
        extra: further keys of the request, see `parse_extra`.

    Raises:
        InputError: the URL or the key cannot be used.
    """

    def __init__(
        self,
        url: str,
        model: str,
        seed: int,
        sampling: Sampling,
        *,
        chat: bool = False,
        top_logprobs: int = 20,
        concurrency: int = 32,
        patience: Patience | None = None,
        extra: Mapping[str, Any] | None = None,
    ) -> None:
        if concurrency < 1 or top_logprobs < 0:
            raise InputError("The concurrency must be at least 1, and the number of top log-probs not negative.")
        self._model, self._seed, self._sampling = model, seed, sampling
        self._chat, self._top, self._concurrency = chat, top_logprobs, concurrency
        self._patience = patience or Patience()
        self._extra = dict(extra or {})
        self._address = Address(url, self._patience.timeout)
        self._limit = "max_tokens"
        self._refused: set[str] = set()  # parameters that the server does not take
        self._changing = threading.Lock()
        self._left_out: Counter[str] = Counter()
        self._was_cut = False

    def settings(self) -> Mapping[str, Any]:
        """Returns what is asked for. The address is left out: the same server may come back at another one."""
        settings = {"chat": self._chat, "top_logprobs": self._top}
        return settings | ({"extra": json.dumps(self._extra, sort_keys=True)} if self._extra else {})

    def draw(self, blocks: Sequence[Block], meter: Meter) -> Iterator[tuple[Block, list[Completion]]]:
        """Sends requests in the order of the blocks, `concurrency` at a time; a block is done with its last reply."""
        work = ((block, sample_id) for block in blocks for sample_id in block.sample_ids)
        turn = threading.Lock()
        stop = threading.Event()
        replies: queue.SimpleQueue[tuple[Block, int, Completion | BaseException]] = queue.SimpleQueue()

        def worker() -> None:
            while not stop.is_set():
                with turn:
                    item = next(work, None)
                if item is None:
                    return
                block, sample_id = item
                try:
                    replies.put((block, sample_id, self._complete(block.problem, sample_id, stop, meter.say)))
                except BaseException as error:
                    replies.put((block, sample_id, error))
                    return

        # Daemons: nobody waits for a reply that is minutes away when the run is interrupted.
        for _ in range(self._concurrency):
            threading.Thread(target=worker, daemon=True).start()
        arrived: dict[str, dict[int, Completion]] = {block.name: {} for block in blocks}
        try:
            while arrived:
                block, sample_id, reply = replies.get()
                if isinstance(reply, BaseException):
                    raise reply
                meter.add(samples=1, tokens=reply.n_tokens or 0)
                arrived[block.name][sample_id] = reply
                if len(arrived[block.name]) == len(block.sample_ids):
                    complete = arrived.pop(block.name)
                    yield block, [complete[i] for i in block.sample_ids]
        finally:
            stop.set()
            if self._left_out.total() > 1:
                meter.say(f"{self._left_out.total():,} replies had fields that were left out.")

    def _complete(
        self, problem: Problem, sample_id: int, stop: threading.Event, say: Callable[[str], None]
    ) -> Completion:
        messages = chat_messages(problem, self._chat)
        path = "completions" if messages is None else "chat/completions"
        failed = None
        attempt = 0
        while attempt <= self._patience.retries:
            if failed is not None and stop.wait(self._patience.wait(attempt, failed)):
                break
            body = self._body(problem, messages, sample_id)
            try:
                reply = read_reply(self._address.post(path, body), problem.prompt if messages is None else messages)
            except FailedTry as error:
                failed = error
                attempt += 1
            except RefusedError as error:
                self._adapt(error, body, problem, say)
                failed = None
            else:
                for fault in reply.left_out:
                    self._say_left_out(fault, problem, say)
                self._say_cut(reply.completion, say)
                return reply.completion
        tries = "once" if self._patience.retries == 0 else f"{self._patience.retries + 1} times in a row"
        raise InputError(
            f"The server at {self._address.base} failed {tries} ({failed}): start it again, or look into what it says."
        )

    def _body(self, problem: Problem, messages: Sequence[Mapping[str, str]] | None, sample_id: int) -> dict[str, Any]:
        body: dict[str, Any] = {
            **self._extra,
            "model": self._model,
            self._limit: self._sampling.max_tokens,
            "temperature": self._sampling.temperature,
            "top_p": self._sampling.top_p,
            "seed": request_seed(self._seed, problem.id, sample_id),
        }
        if messages is None:
            body["prompt"] = problem.prompt
            if self._top:
                body["logprobs"] = self._top
        else:
            body["messages"] = messages
            if self._top:
                body |= {"logprobs": True, "top_logprobs": self._top}
        return {key: value for key, value in body.items() if key not in self._refused}

    def _adapt(
        self, error: RefusedError, body: Mapping[str, Any], problem: Problem, say: Callable[[str], None]
    ) -> None:
        """Changes the requests to what the server takes, where that changes no sample; each parameter once.

        Raises:
            InputError: the server refuses a parameter that is needed.
        """
        message = str(error.content.get("message") or "")
        unsupported = error.status in (400, 422) and _UNSUPPORTED.search(f"{message} {error.content.get('code')}")
        where = f"The server at {self._address.base}"
        with self._changing:
            if unsupported and "max_tokens" in body and "max_completion_tokens" in message:
                self._limit = "max_completion_tokens"
                say(f"{where} wants max_completion_tokens in place of max_tokens, and gets it.")
                return
            parameter = error.content.get("param")
            if not isinstance(parameter, str) or parameter not in body:
                parameter = next((name for name in body if re.search(rf"\b{name}\b", message)), None)
            if unsupported and parameter in _NEUTRAL and body[parameter] == _NEUTRAL[parameter]:
                self._refused.add(parameter)
                say(f"{where} takes no {parameter}; it is left out, as 1 changes nothing.")
                return
            if unsupported and parameter == "seed":
                self._refused.add(parameter)
                say(f"{where} takes no seed; it is left out, so the samples cannot be drawn again.")
                return
        hint = "; --no-token-data asks for no log-probs" if "logprobs" in body and "logprobs" in message else ""
        raise InputError(f"{where} refuses problem '{problem.id}' ({error}){hint}.") from error

    def _say_cut(self, completion: Completion, say: Callable[[str], None]) -> None:
        """Says once that the server has a lower limit than was asked for, which `sampling` does not record."""
        drawn, limit = completion.n_tokens, self._sampling.max_tokens
        if completion.finish_reason != "length" or drawn is None or drawn >= limit:
            return
        with self._changing:
            first, self._was_cut = not self._was_cut, True
        if first:
            say(
                f"The server at {self._address.base} cut a completion off after {drawn:,} tokens, where --max-tokens "
                f"allows {limit:,}: it has a limit of its own (of vLLM --max-model-len, or max_new_tokens in a "
                "generation config)."
            )

    def _say_left_out(self, fault: str, problem: Problem, say: Callable[[str], None]) -> None:
        kind = re.sub(r"-?\d[\d.e+]*", "#", fault)
        with self._changing:
            self._left_out[kind] += 1
            first = self._left_out[kind] == 1
        if first:
            say(f"Left out of the reply to problem '{problem.id}', and of others like it: {fault}.")
