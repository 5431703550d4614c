"""Sampling from an OpenAI-compatible server (vLLM serve, llama.cpp, Ollama, ...) over HTTP.

One request per sample, each with its own seed; a fixed number of them at a time. Only the standard library is used.
"""

from __future__ import annotations

import email.utils
import http.client
import json
import os
import queue
import random
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from forkwise.errors import InputError
from forkwise.samples.sampling import Block, Completion, Meter, Sampling, TopToken, chat_messages, request_seed
from forkwise.tasks import Problem

API_KEY = "FORKWISE_API_KEY"
"""Environment variable whose value is sent as the bearer token, where it is set."""

_AGAIN = frozenset((408, 409, 425, 429, 500, 502, 503, 504, 529))  # statuses that may pass
_LONGEST_WAIT = 60.0  # seconds between two tries, whatever the server asks for: a run must not sleep for hours unseen
_LARGEST_REPLY = 1 << 28  # bytes


class _Failed(Exception):
    """A try that may work when repeated; `wait` is what the server asked for, in seconds."""

    def __init__(self, reason: str, wait: float | None = None) -> None:
        super().__init__(reason)
        self.wait = wait


@dataclass(frozen=True)
class Patience:
    """How long to insist.

    Attributes:
        timeout: seconds without a byte from the server before a try counts as failed. Servers answer when the whole
            completion is there, so it must cover the slowest one.
        retries: tries after the first.
        first_wait: seconds before the second try; doubles with every further one, up to a minute, with random jitter.
    """

    timeout: float = 1800.0
    retries: int = 6
    first_wait: float = 1.0

    def __post_init__(self) -> None:
        if not self.timeout > 0 or self.retries < 0 or self.first_wait < 0:
            raise InputError("The timeout must be positive, and retries and waits not negative.")


class ServerEngine:
    """Draws completions from a server. They repeat as far as the server honours `seed`.

    Text prompts go to `/v1/completions`, conversations to `/v1/chat/completions`. Log-probabilities are stored as the
    server gives them: vLLM's are of the logits before temperature and nucleus unless started with another
    `--logprobs-mode`.

    Args:
        url: of the server, with or without `/v1`.
        model: as the server calls it.
        seed: of the run.
        sampling: how completions are drawn.
        chat: send plain prompts as a conversation, so that the server applies its chat template.
        top_logprobs: how many candidates per position to ask for; 0: no token data at all. vLLM's default maximum is
            20; OpenAI's `/v1/completions` allows 5.
        concurrency: requests at a time.
        patience: timeouts and retries.

    Raises:
        InputError: the URL cannot be used.
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
    ) -> None:
        if concurrency < 1 or top_logprobs < 0:
            raise InputError("The concurrency must be at least 1, and the number of top log-probs not negative.")
        self._base = _base_url(url)
        self._model, self._seed, self._sampling = model, seed, sampling
        self._chat, self._top, self._concurrency = chat, top_logprobs, concurrency
        self._patience = patience or Patience()

    def settings(self) -> Mapping[str, Any]:
        """What is asked for. The address is left out: the same server may come back at another one."""
        return {"chat": self._chat, "top_logprobs": self._top}

    def draw(self, blocks: Sequence[Block], meter: Meter) -> Iterator[tuple[Block, list[Completion]]]:
        """Requests in the order of the blocks, `concurrency` at a time; a block is done with its last reply."""
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
                    replies.put((block, sample_id, self._complete(block.problem, sample_id, stop)))
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

    def _complete(self, problem: Problem, sample_id: int, stop: threading.Event) -> Completion:
        messages = chat_messages(problem, self._chat)
        body: dict[str, Any] = {
            "model": self._model,
            "max_tokens": self._sampling.max_tokens,
            "temperature": self._sampling.temperature,
            "top_p": self._sampling.top_p,
            "seed": request_seed(self._seed, problem.id, sample_id),
        }
        if messages is None:
            path = "completions"
            body["prompt"] = problem.prompt
            if self._top:
                body["logprobs"] = self._top
        else:
            path = "chat/completions"
            body["messages"] = messages
            if self._top:
                body |= {"logprobs": True, "top_logprobs": self._top}
        failed = None
        for attempt in range(self._patience.retries + 1):
            if failed is not None and stop.wait(self._wait(attempt, failed)):
                break
            try:
                return read_reply(self._post(path, body, problem.id), problem.prompt if messages is None else messages)
            except _Failed as error:
                failed = error
        tries = "once" if self._patience.retries == 0 else f"{self._patience.retries + 1} times in a row"
        raise InputError(f"The server at {self._base} failed {tries} ({failed}): start it again.")

    def _wait(self, attempt: int, failed: _Failed) -> float:
        """Seconds before try number `attempt` (1 is the second)."""
        if failed.wait is not None:
            return min(failed.wait, _LONGEST_WAIT)
        return min(self._patience.first_wait * 2.0 ** (attempt - 1), _LONGEST_WAIT) * random.uniform(0.5, 1.0)

    def _post(self, path: str, body: Mapping[str, Any], problem_id: str) -> Any:
        request = urllib.request.Request(
            f"{self._base}/{path}", data=json.dumps(body).encode(), headers={"Content-Type": "application/json"}
        )
        key = os.environ.get(API_KEY)
        if key:
            request.add_unredirected_header("Authorization", f"Bearer {key}")  # for this host alone
        try:
            with urllib.request.urlopen(request, timeout=self._patience.timeout) as response:
                data = response.read(_LARGEST_REPLY)
        except urllib.error.HTTPError as error:
            with error:
                reason = _reason(error)
            if error.code in _AGAIN:
                raise _Failed(reason, _retry_after(error.headers.get("Retry-After"))) from error
            raise InputError(f"The server at {self._base} refuses problem '{problem_id}' ({reason}).") from error
        except (OSError, http.client.HTTPException) as error:  # refused, reset, timed out, cut off
            raise _Failed(str(getattr(error, "reason", None) or error) or type(error).__name__) from error
        try:
            return json.loads(data)
        except ValueError as error:
            raise _Failed("its reply is not JSON") from error


def _base_url(url: str) -> str:
    parts = urllib.parse.urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise InputError(f"'{url}' is not the address of a server: write it like http://localhost:8000.")
    if parts.username or parts.password or parts.query:
        raise InputError(f"Put no user, password or query into the address of the server: a key goes into {API_KEY}.")
    path = parts.path.rstrip("/").removesuffix("/completions").removesuffix("/chat")
    return f"{parts.scheme}://{parts.netloc}{path or '/v1'}"


def _reason(error: urllib.error.HTTPError) -> str:
    """Status and, as far as the server gives one, its message."""
    try:
        content = json.loads(error.read(1 << 16))
        content = content.get("error", content)
        message = content if isinstance(content, str) else content.get("message") or ""
    except (OSError, http.client.HTTPException, ValueError, AttributeError):
        message = ""
    return f"{error.code} {' '.join(str(message).split())[:300] or error.reason}"


def _retry_after(value: str | None) -> float | None:
    """Seconds to wait by a Retry-After header, which holds seconds or a date."""
    if value is None:
        return None
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except ValueError:
        return None


def read_reply(reply: Any, prompt: str | Sequence[Mapping[str, str]]) -> Completion:
    """The completion in a reply of `/v1/completions` or `/v1/chat/completions`.

    Reasoning that a server splits off a chat message is put back in front of it, between `<think>` tags.

    Raises:
        _Failed: the reply is not of that form.
    """
    try:
        choice = reply["choices"][0]
        logprobs = choice.get("logprobs") or {}
        if "message" in choice:
            message = choice["message"]
            text = message.get("content") or ""
            reasoning = message.get("reasoning_content") or message.get("reasoning")
            if reasoning:
                text = f"<think>\n{reasoning}\n</think>\n\n{text}"
            places = logprobs.get("content") or []
            tokens = [str(place["token"]) for place in places]
            values = [float(place["logprob"]) for place in places]
            tops = [
                [TopToken(str(t["token"]), float(t["logprob"])) for t in place.get("top_logprobs") or []]
                for place in places
            ]
        elif "content" in logprobs:  # llama.cpp's /v1/completions answers in the form of chat
            return read_reply({**reply, "choices": [{**choice, "message": {"content": choice["text"]}}]}, prompt)
        else:
            text = choice["text"]
            tokens = [str(token) for token in logprobs.get("tokens") or []]
            values = [float(value) for value in logprobs.get("token_logprobs") or []]
            tops = [
                [TopToken(str(token), float(value)) for token, value in (place or {}).items()]
                for place in logprobs.get("top_logprobs") or []
            ]
        n_tokens = (reply.get("usage") or {}).get("completion_tokens")
        if n_tokens is None:
            n_tokens = len(tokens) or None
        return Completion(
            text=str(text),
            prompt=prompt if isinstance(prompt, str) else json.dumps(prompt, ensure_ascii=False),
            n_tokens=n_tokens,
            finish_reason=choice.get("finish_reason"),
            tokens=tokens or None,
            logprobs=values or None,
            top_logprobs=tops if any(tops) else None,
        )
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        raise _Failed("its reply has another form than that of an OpenAI-compatible server") from error
