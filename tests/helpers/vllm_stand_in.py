"""A local server that speaks the part of vLLM's interface that TRL's asynchronous GRPO needs; transformers answers.

Also what TRL needs of a GPU there: the packed attention, and the transfer of weights, which goes over HTTP instead of
NCCL. TRL's rollout worker, its HTTP client and its trainer are TRL's.
"""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from types import SimpleNamespace
from typing import Any

import requests
import torch
from local_server import LocalServer, listening
from torch import Tensor


class Engine:
    """What is behind the server: a policy that answers one request at a time, unless it is paused."""

    def __init__(self, policy: Any, longest: int) -> None:
        self.policy, self.longest = policy.eval(), longest
        self.requests: list[dict[str, Any]] = []
        self.updates: list[dict[str, Tensor]] = []
        self._running = threading.Event()
        self._running.set()
        self._alone = threading.Lock()

    def complete(self, asked: dict[str, Any]) -> dict[str, Any]:
        """`/v1/completions` of one prompt of token ids, with the log-probs of the drawn tokens."""
        self._running.wait()
        with self._alone, torch.no_grad(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(asked["seed"] % 2**31)
            self.requests.append(asked)
            ids, drawn, logps = torch.tensor([asked["prompt"]]), [], []
            for _ in range(asked["max_tokens"]):
                logp = (self.policy(input_ids=ids).logits[0, -1] / asked["temperature"]).log_softmax(-1)
                token = int(torch.multinomial(logp.exp(), 1))
                drawn.append(token)
                logps.append(float(logp[token]))
                ids = torch.cat([ids, torch.tensor([[token]])], dim=1)
                if token == self.policy.config.eos_token_id:
                    break
        return {"choices": [{"token_ids": drawn, "logprobs": {"token_logprobs": logps}}]}

    def update(self, state: dict[str, Tensor]) -> None:
        assert not self._running.is_set(), "weights arrive while requests are answered"
        with self._alone:
            self.policy.load_state_dict(state)
            self.updates.append(state)

    def pause(self) -> None:
        self._running.clear()

    def resume(self) -> None:
        self._running.set()


@contextmanager
def serving(policy: Any, longest: int = 64) -> Iterator[tuple[str, Engine]]:
    """Serves a policy at an address of this machine; gives the address and what is behind it."""
    engine = Engine(policy, longest)
    said = {"/health": {}, "/v1/models": {"data": [{"max_model_len": longest}]}, "/get_world_size": {"world_size": 1}}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._answer(said[self.path.split("?", maxsplit=1)[0]])

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            path = self.path.split("?", maxsplit=1)[0]
            if path == "/v1/completions":
                self._answer(engine.complete(json.loads(body)))
            else:
                if path == "/update_weights":
                    engine.update(torch.load(io.BytesIO(body)))
                else:
                    {"/pause": engine.pause, "/resume": engine.resume}[path]()
                self._answer({})

        def _answer(self, content: dict[str, Any]) -> None:
            body = json.dumps(content).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    with listening(LocalServer(Handler)) as server:
        try:
            yield server.url, engine
        finally:
            engine.resume()


class Transfer:
    """TRL's `WeightTransferProtocol`: its client pauses and resumes the server, the weights go in one request."""

    def __init__(self, client: Any) -> None:
        self.client = client

    def init_weight_transfer(self) -> None:
        self.client.wait_for_server_ready()

    def pause(self) -> None:
        self.client.pause()

    def send_weights(self, weights: Iterator[tuple[str, Tensor]]) -> None:
        body = io.BytesIO()
        torch.save({name: tensor.detach().cpu().clone() for name, tensor in weights}, body)
        requests.post(f"{self.client.server_url}/update_weights", data=body.getvalue(), timeout=60).raise_for_status()

    def resume(self) -> None:
        self.client.resume()

    def destroy(self) -> None:
        pass


def attention_of_segments(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    ends_q: Tensor,
    ends_k: Tensor,
    *_: Any,
    softmax_scale: float,
    causal: bool,
    window_size: tuple[int, int],
) -> Tensor:
    """Flash attention's `flash_attn_varlen_func` by its definition: segment by segment, aligned at their ends."""
    assert causal
    assert window_size == (-1, -1)
    made = []
    for s in range(len(ends_q) - 1):
        q, k, v = (
            x[ends[s] : ends[s + 1]].transpose(0, 1) for x, ends in ((query, ends_q), (key, ends_k), (value, ends_k))
        )
        scores = softmax_scale * q @ k.repeat_interleave(len(q) // len(k), dim=0).transpose(1, 2)
        late = torch.ones_like(scores[0], dtype=torch.bool).triu(k.shape[1] - q.shape[1] + 1)
        weights = scores.masked_fill(late, float("-inf")).softmax(dim=-1)
        made.append((weights @ v.repeat_interleave(len(q) // len(v), dim=0)).transpose(0, 1))
    return torch.cat(made)


KERNELS = SimpleNamespace(flash_attn_varlen_func=attention_of_segments)
"""Takes the place of the kernels that TRL downloads."""
