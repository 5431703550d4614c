"""A real HTTP server on this machine that answers as broken, careless and hostile servers do."""

from __future__ import annotations

import io
import json
import shutil
import socket
import ssl
import subprocess
import threading
import time
import urllib.parse
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
from local_server import LocalServer, listening
from rich.console import Console

from forkwise.errors import InputError
from forkwise.samples import read_samples
from forkwise.samples.reasoning import join_reasoning
from forkwise.sampling.extra import parse_extra
from forkwise.sampling.http import API_KEY, base_url
from forkwise.sampling.manifest import MANIFEST
from forkwise.sampling.recipe import Job, Sampling
from forkwise.sampling.replies import tokens_fit
from forkwise.sampling.run import sample
from forkwise.sampling.server import Patience, ServerEngine
from forkwise.tasks import Problem, Verdict

KEY = "sk-SECRET-0123456789"
TOKENS = ["The", " answer", " is", " 4", "."]


class Server(LocalServer):
    def __init__(self, answer: Callable[[Handler, dict[str, Any]], None]) -> None:
        super().__init__(Handler)
        self.answer = answer
        self.requests: list[tuple[str, str, dict[str, Any], dict[str, str]]] = []


class Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        self.server.requests.append(("GET", self.path, {}, dict(self.headers)))
        self.send(completion())

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.requests.append(("POST", self.path, body, dict(self.headers)))
        self.close_connection = True
        self.server.answer(self, body)

    def send(self, content: Any, status: int = 200, **headers: str) -> None:
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), "Connection": "close", **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)


def completion(**changes: Any) -> dict[str, Any]:
    choice = {
        "index": 0,
        "text": "".join(TOKENS),
        "finish_reason": "stop",
        "logprobs": {
            "tokens": TOKENS,
            "token_logprobs": [-0.25] * 5,
            "top_logprobs": [{token: -0.25, "x": -2.0} for token in TOKENS],
        },
    }
    usage = changes.pop("usage", {"completion_tokens": 6})
    return {"choices": [{**choice, **changes}], "usage": usage}


def chat(message: dict[str, Any], tokens: list[str] | None = None) -> dict[str, Any]:
    choice: dict[str, Any] = {"index": 0, "message": {"role": "assistant", **message}, "finish_reason": "stop"}
    if tokens is not None:
        choice["logprobs"] = {"content": [{"token": token, "logprob": -0.25, "top_logprobs": []} for token in tokens]}
    return {"choices": [choice], "usage": {"completion_tokens": 6}}


def serve(answer: Callable[[Handler, dict[str, Any]], None]) -> AbstractContextManager[Server]:
    return listening(Server(answer))


class Even:
    name = "even"

    def problems(self, split: Any, n: int | None = None, *, seed: int = 0) -> list[Problem]:
        return [Problem("p0", "2+2?")]

    def verify(self, completions: Any, problems: Any) -> list[Verdict]:
        return [Verdict(True, text, "even") for text in completions]


JOB = Job(run="r", model="m", task="even", n=2, seed=3, sampling=Sampling(max_tokens=9), engine="server")


def run(url: str, out: Path, *, timeout: float = 30.0, retries: int = 1, **options: Any) -> tuple[list[Any], str]:
    """The rows that are stored, and what was printed."""
    task, said = Even(), io.StringIO()

    def engine() -> ServerEngine:
        patience = Patience(timeout, retries, first_wait=0.01)
        return ServerEngine(url, "m", 3, JOB.sampling, patience=patience, **options)

    sample(JOB, task, task.problems("test"), engine, out, console=Console(file=said, width=500))
    return read_samples(out).to_pylist(), said.getvalue()


def refusal(url: str, out: Path, **options: Any) -> str:
    with pytest.raises(InputError) as caught:
        run(url, out, **options)
    message = str(caught.value)
    assert message.isprintable()
    return message


def stored(out: Path) -> bytes:
    return b"".join(path.read_bytes() for path in out.rglob("*") if path.is_file())


# ------------------------------------------------------------------------------------------------------------ fields


@pytest.mark.parametrize(
    ("content", "field"),
    [
        (completion(text=None), "'choices[0].text' is null, not text"),
        (completion(text=42), "'choices[0].text' is a number, not text"),
        (completion(text=["a", "b"]), "'choices[0].text' is a list, not text"),
        (completion(text={"a": 1}), "'choices[0].text' is an object, not text"),
        (completion(message=None), "'choices[0].message' is null, not an object"),
        (chat({"content": None}), "'choices[0].message.content' is null, not text"),
        (chat({"content": [{"type": "image_url"}]}), "'choices[0].message.content' is a list, not text"),
        (chat({"content": "4", "reasoning": {"effort": 1}}), "'choices[0].message.reasoning' is an object, not text"),
        (chat({"content": "4", "thinking": 3}), "'choices[0].message.thinking' is a number, not text"),
        (chat({"content": ["4"]}), "'choices[0].message.content[0]' is text, not an object"),
        (chat({"content": [{"text": 4}]}), "'choices[0].message.content[0].text' is a number, not text"),
        (chat({}), "'choices[0].message.content' is missing, not text"),
        ({"choices": []}, "'choices' is empty"),
        ({"choices": None}, "'choices' is null, not a list"),
        ({"choices": [3.5]}, "'choices[0]' is a number, not an object"),
        ({"choices": [None]}, "'choices[0]' is null, not an object"),
        ({}, "'choices' is missing, not a list"),
        ([completion()], "'it' is a list, not an object"),
        (None, "'it' is null, not an object"),
        (b"", "not JSON"),
        (b'{"choices": [{"text": "a"', "not JSON"),
        (b"<html>", "not JSON"),
        (b"[" * 200_000, "not JSON"),
        (json.dumps(completion()).replace("The", "Th\xe9", 1).encode("latin-1"), "not JSON"),
    ],
)
def test_a_reply_without_a_completion_is_refused_and_the_field_is_named(
    tmp_path: Path, content: Any, field: str
) -> None:
    with serve(lambda handler, _: handler.send(content)) as server:
        message = refusal(server.url, tmp_path)
    assert field in message
    assert "failed 2 times in a row" in message
    assert not list(tmp_path.glob("*.parquet"))


BROKEN_LOGPROBS: list[tuple[dict[str, Any], str]] = [
    ({"token_logprobs": [-0.25, None, -0.25, -0.25, -0.25]}, "a log-prob is null"),
    ({"token_logprobs": [float("nan")] * 5}, "a log-prob is nan"),
    ({"token_logprobs": [float("-inf")] * 5}, "a log-prob is -inf"),
    ({"token_logprobs": [7.5] * 5}, "a log-prob is 7.5"),
    ({"token_logprobs": ["-0.25"] * 5}, "a log-prob is text"),
    ({"token_logprobs": [-(2**200)] * 5}, "a log-prob is a number"),
    ({"token_logprobs": [-0.25] * 2}, "5 tokens, 2 log-probs and 5 lists"),
    ({"top_logprobs": [{"The": -0.25}]}, "5 tokens, 5 log-probs and 1 lists"),
    ({"top_logprobs": [{"The": None}] * 5}, "a log-prob is null"),
    ({"top_logprobs": [3] * 5}, "'logprobs.top_logprobs' holds more than objects"),
    ({"tokens": ["The", None, " is", " 4", "."]}, "a token is no text"),
    ({"tokens": ["The", " answer", " is", " 5", "."]}, "join to another text"),
    ({"tokens": TOKENS[:4], "token_logprobs": [-0.25] * 4, "top_logprobs": []}, "join to another text"),
    ({"tokens": 3}, "'logprobs.tokens' is no list"),
    ({"tokens": 0}, "'logprobs.tokens' is no list"),
    ({"content": 3}, "'logprobs.content' is no list"),
    ({"content": [3]}, "'logprobs.content' holds more than objects"),
]


@pytest.mark.parametrize(("broken", "what"), BROKEN_LOGPROBS)
def test_log_probs_that_cannot_be_are_left_out_and_said(tmp_path: Path, broken: dict[str, Any], what: str) -> None:
    content = completion()
    content["choices"][0]["logprobs"] |= broken
    with serve(lambda handler, _: handler.send(content)) as server:
        rows, said = run(server.url, tmp_path)
    assert [row["completion"] for row in rows] == ["The answer is 4."] * 2
    assert all(row[name] is None for row in rows for name in ("tokens", "logprobs", "top_logprobs"))
    assert said.count("Left out") == 1
    assert what in said
    assert "2 replies had fields that were left out" in said


@pytest.mark.parametrize(
    ("usage", "fault"),
    [
        *(
            ({"completion_tokens": number}, "'usage.completion_tokens' is no number of tokens")
            for number in ("twelve", 2**70, -5, 3.7, True)
        ),
        ([1], "'usage' is a list, not an object"),
        (3, "'usage' is a number, not an object"),
        ("x", "'usage' is text, not an object"),
    ],
)
def test_a_usage_that_is_no_number_of_tokens_is_left_out_and_said(tmp_path: Path, usage: Any, fault: str) -> None:
    with serve(lambda handler, _: handler.send(completion(usage=usage))) as server:
        rows, said = run(server.url, tmp_path)
    assert [row["n_tokens"] for row in rows] == [5, 5]  # the tokens that came
    assert fault in said


@pytest.mark.parametrize("reason", [3, {"a": 1}, ["stop"], "stop\x1b[31m", "x" * 1000])
def test_a_finish_reason_that_is_no_word_is_left_out_and_said(tmp_path: Path, reason: Any) -> None:
    with serve(lambda handler, _: handler.send(completion(finish_reason=reason))) as server:
        rows, said = run(server.url, tmp_path)
    assert [row["finish_reason"] for row in rows] == [None, None]
    assert "'finish_reason' is no word" in said


@pytest.mark.parametrize("logprobs", [0, [], "", [1], False])
def test_log_probs_that_are_no_object_are_left_out_and_said(tmp_path: Path, logprobs: Any) -> None:
    with serve(lambda handler, _: handler.send(completion(logprobs=logprobs))) as server:
        rows, said = run(server.url, tmp_path)
    assert [row["tokens"] for row in rows] == [None, None]
    assert "'logprobs' is no object" in said


def test_rounding_above_zero_and_impossible_candidates_are_no_fault(tmp_path: Path) -> None:
    content = completion()
    content["choices"][0]["logprobs"]["token_logprobs"] = [1e-7] * 5
    content["choices"][0]["logprobs"]["top_logprobs"][0] = {"The": 0.0, "x": float("-inf")}
    with serve(lambda handler, _: handler.send(content)) as server:
        rows, said = run(server.url, tmp_path)
    assert rows[0]["logprobs"] == [0.0] * 5
    assert rows[0]["top_logprobs"][0] == [{"token": "The", "logprob": 0.0}]
    assert not said


@pytest.mark.parametrize(
    ("tokens", "text", "fits"),
    [
        (["a", " b"], "a b", True),
        (["a", "b"], "a b", True),  # SentencePiece, one by one
        (["a", " b", "</s>"], "a b", True),
        (["a"], "a b", False),
        (["a", " b", "c"], "a b", False),
        (["\ufffd", "\ufffd", " ok"], "é ok", True),
        (["bytes:\\xc3", "bytes:\\xa9"], "é", True),
        (["<0xC3>", "<0xA9>", "x"], "éx", True),
        (["\ufffd"], "é" + "and much more text that no single token holds", False),
        ([], "", True),
        ([], "a", False),
    ],
)
def test_tokens_fit_a_text_that_they_join_to(tokens: list[str], text: str, fits: bool) -> None:
    assert tokens_fit(tokens, text) is fits


# --------------------------------------------------------------------------------------------------------- reasoning


def test_reasoning_stands_before_the_answer_and_stays_open_without_one() -> None:
    assert join_reasoning("So 4.", "The answer is 4.") == "<think>\nSo 4.\n</think>\n\nThe answer is 4."
    for content in (None, ""):
        assert join_reasoning("So \\boxed{5}", content) == "<think>\nSo \\boxed{5}"
    for reasoning in (None, ""):
        assert join_reasoning(reasoning, "4") == "4"
        assert join_reasoning(reasoning, None) == ""


@pytest.mark.parametrize("field", ["reasoning", "reasoning_content"])
@pytest.mark.parametrize("content", ["The answer is 4.", None])
def test_reasoning_that_a_server_split_off_is_stored(tmp_path: Path, field: str, content: str | None) -> None:
    message = {field: "First \\boxed{5}.", "content": content}
    with serve(lambda handler, _: handler.send(chat(message, TOKENS if content else []))) as server:
        rows, said = run(server.url, tmp_path, chat=True)
    end = "\n</think>\n\nThe answer is 4." if content else ""
    assert rows[0]["completion"] == f"<think>\nFirst \\boxed{{5}}.{end}"
    assert rows[0]["n_tokens"] == 6
    assert rows[0]["logprobs"] is None
    assert ("the answer without its reasoning" in said) == (content is not None)


def test_log_probs_of_reasoning_and_answer_together_are_kept(tmp_path: Path) -> None:
    tokens = ["<think>", "\n", "So 4.", "\n", "</think>", "\n\n", "It is 4."]
    message = {"reasoning": "So 4.", "content": "It is 4."}
    with serve(lambda handler, _: handler.send(chat(message, tokens))) as server:
        rows, said = run(server.url, tmp_path, chat=True)
    assert rows[0]["tokens"] == tokens
    assert not said


# --------------------------------------------------------------------------------------------------------- parameters


def picky(refused: str, message: str, code: str | None = "unsupported_parameter") -> Callable[..., None]:
    def answer(handler: Handler, body: dict[str, Any]) -> None:
        if refused in body:
            handler.send({"error": {"message": message, "param": refused, "code": code}}, 400)
        else:
            handler.send(chat({"content": "4"}))

    return answer


def test_max_completion_tokens_is_sent_where_it_is_asked_for(tmp_path: Path) -> None:
    message = (
        "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead."
    )
    with serve(picky("max_tokens", message)) as server:
        rows, said = run(server.url, tmp_path, chat=True, concurrency=2, retries=0)
    assert len(rows) == 2
    assert said.count("max_completion_tokens") == 1
    bodies = [body for _, _, body, _ in server.requests]
    assert [body.get("max_completion_tokens") for body in bodies if "max_tokens" not in body] == [9, 9]


def test_a_length_that_is_too_large_is_no_wish_for_another_name(tmp_path: Path) -> None:
    message = "'max_tokens' or 'max_completion_tokens' is too large: 9."
    with serve(picky("max_tokens", message, None)) as server:
        assert "too large: 9" in refusal(server.url, tmp_path, concurrency=1)
    assert len(server.requests) == 1


@pytest.mark.parametrize("name", ["temperature", "top_p", "seed"])
def test_a_parameter_that_says_nothing_is_left_out_where_it_is_refused(tmp_path: Path, name: str) -> None:
    with serve(picky(name, f"Unsupported value: '{name}'.")) as server:
        rows, said = run(server.url, tmp_path, chat=True, retries=0)
    assert len(rows) == 2
    assert f"takes no {name}; it is left out" in said


@pytest.mark.parametrize("odd", [["seed"], {"seed": 1}, 3])
def test_a_refused_parameter_that_is_no_text(tmp_path: Path, odd: Any) -> None:
    def answer(handler: Handler, body: dict[str, Any]) -> None:
        refused = {"error": {"message": "Unsupported value: 'seed'.", "param": odd, "code": odd}}
        handler.send(*((refused, 400) if "seed" in body else (completion(),)))

    with serve(answer) as server:
        rows, said = run(server.url, tmp_path, retries=0)
    assert len(rows) == 2
    assert "takes no seed; it is left out" in said  # the message names it


@pytest.mark.parametrize(
    ("name", "hint"), [("logprobs", "--no-token-data"), ("top_logprobs", "--no-token-data"), ("model", "")]
)
def test_a_parameter_that_is_needed_is_not_left_out(tmp_path: Path, name: str, hint: str) -> None:
    with serve(picky(name, f"{name} are not supported with reasoning models.")) as server:
        message = refusal(server.url, tmp_path, chat=True)
    assert "refuses problem 'p0'" in message
    assert hint in message


def test_further_keys_go_into_the_request_and_belong_to_the_recipe(tmp_path: Path) -> None:
    extra = parse_extra(["top_k=20", 'chat_template_kwargs={"enable_thinking": false}', "stop=a=b", "x=NaN", "y="])
    assert extra == {
        "top_k": 20,
        "chat_template_kwargs": {"enable_thinking": False},
        "stop": "a=b",
        "x": "NaN",
        "y": "",
    }
    with serve(lambda handler, body: handler.send(completion() if body["seed"] % 2 else b"")) as server:
        refusal(server.url, tmp_path, extra=extra)
        assert extra.items() <= server.requests[0][2].items()
        assert json.loads(json.loads((tmp_path / MANIFEST).read_text())["engine"]["extra"]) == extra
        for other in ({}, {**extra, "top_k": 21}):
            assert "holds samples with other settings (extra = " in refusal(server.url, tmp_path, extra=other)


@pytest.mark.parametrize(
    ("pairs", "sentence"),
    [
        *(([f"{key}=1"], f"cannot set '{key}'") for key in ("model", "prompt", "messages", "n", "seed", "stream")),
        *(([f"{key}=1"], f"cannot set '{key}'") for key in ("max_tokens", "max_completion_tokens", "logprobs")),
        (["top_k"], "no key or no value"),
        (["=3"], "no key or no value"),
        (["a=1", "a=2"], "twice"),
        ([f"api_key={KEY}"], "holds the key"),
    ],
)
def test_keys_that_are_ours_are_refused(monkeypatch: pytest.MonkeyPatch, pairs: list[str], sentence: str) -> None:
    monkeypatch.setenv(API_KEY, KEY)
    with pytest.raises(InputError, match=sentence) as caught:
        parse_extra(pairs)
    assert KEY not in str(caught.value)


# ---------------------------------------------------------------------------------------------------- time and place


def drip(handler: Handler, data: bytes, pieces: int = 40) -> None:
    for _ in range(pieces):
        handler.wfile.write(data)
        handler.wfile.flush()
        time.sleep(0.1)


def slow_body(handler: Handler, _: Any) -> None:
    handler.send_response(200)
    handler.send_header("Content-Length", "100000")
    handler.end_headers()
    drip(handler, b" ")


def slow_body_without_length(handler: Handler, _: Any) -> None:
    handler.send_response(200)
    handler.send_header("Connection", "close")
    handler.end_headers()
    handler.wfile.write(json.dumps(completion()).encode())
    drip(handler, b" ")


def slow_headers(handler: Handler, _: Any) -> None:
    handler.wfile.write(b"HTTP/1.1 200 OK\r\n")
    drip(handler, b"X: a\r\n")


def only_continue(handler: Handler, _: Any) -> None:
    drip(handler, b"HTTP/1.1 100 Continue\r\n\r\n")


def slow_error(handler: Handler, _: Any) -> None:
    handler.send_response(500)
    handler.send_header("Content-Length", "100000")
    handler.end_headers()
    drip(handler, b" ")


def silence(handler: Handler, _: Any) -> None:
    time.sleep(4)


@pytest.mark.parametrize(
    "answer", [slow_body, slow_body_without_length, slow_headers, only_continue, slow_error, silence]
)
def test_a_request_ends_in_time_however_the_server_stretches_it(
    tmp_path: Path, answer: Callable[[Handler, Any], None]
) -> None:
    with serve(answer) as server:
        start = time.monotonic()
        message = refusal(server.url, tmp_path, timeout=0.5)
        took = time.monotonic() - start
    assert "failed 2 times in a row" in message
    assert "no whole reply within 0.5 s" in message or "500" in message
    assert 1.0 <= took < 3.0
    assert not list(tmp_path.glob("*.parquet"))


def test_a_slow_reply_is_tried_again(tmp_path: Path) -> None:
    seen: set[int] = set()

    def answer(handler: Handler, body: dict[str, Any]) -> None:
        if body["seed"] not in seen:
            seen.add(body["seed"])
            slow_body(handler, body)
        else:
            handler.send(completion())

    with serve(answer) as server:
        rows, _ = run(server.url, tmp_path, timeout=1.0)
    assert len(rows) == 2


def test_a_reply_without_end_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("forkwise.sampling.http._LARGEST_REPLY", 1 << 20)
    with serve(lambda handler, _: handler.send(b" " * (1 << 21))) as server:
        assert "replies of more than 1 MB" in refusal(server.url, tmp_path)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirection_is_refused_and_neither_prompt_nor_key_follows_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    monkeypatch.setenv(API_KEY, KEY)
    with serve(lambda handler, _: handler.send(completion())) as other:
        target = other.url.replace("//", "//user:pw@") + "/v1/completions?token=x\x1b[31m"
        with serve(lambda handler, _: handler.send(b"", status, Location=target)) as server:
            message = refusal(server.url, tmp_path)
        assert f"({status}, to {other.url}/v1/completions)" in message
        assert "pw" not in message
        assert other.requests == []
    with serve(lambda handler, _: handler.send(b"", status, Location=handler.path)) as server:
        assert "elsewhere" in refusal(server.url, tmp_path)
        assert {method for method, _, _, _ in server.requests} == {"POST"}


# ---------------------------------------------------------------------------------------------------------- secrets


@pytest.mark.parametrize("status", [200, 400, 401, 500])
def test_a_key_that_the_server_echoes_is_neither_printed_nor_stored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], status: int
) -> None:
    monkeypatch.setenv(API_KEY, f"{KEY}\n")

    def answer(handler: Handler, _: Any) -> None:
        sent = handler.headers["Authorization"]
        message = f"Incorrect API key provided: {sent}. \x1b[31mRED\x1b]0;pwned\x07 \x9b1m \u202e " + "x" * 290 + sent
        handler.send(completion(text=message) if status == 200 else {"error": {"message": message}}, status)

    with serve(answer) as server:
        if status == 200:
            rows, said = run(server.url, tmp_path)
            said += rows[0]["completion"]
        else:
            said = refusal(server.url, tmp_path)
            assert "Incorrect API key provided: Bearer [the key]" in said
        assert server.requests[0][3]["Authorization"] == f"Bearer {KEY}"
    assert KEY[:14] not in said + "".join(capfd.readouterr())
    assert KEY.encode() not in stored(tmp_path)


@pytest.mark.parametrize("escaped", ["slashes", "codes", "utf-16", "redirection"])
def test_a_key_that_the_server_echoes_in_another_spelling_is_hidden_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, escaped: str
) -> None:
    key = "sk-SE/CRET+SE/CRET"
    monkeypatch.setenv(API_KEY, key)

    def answer(handler: Handler, _: Any) -> None:
        data = json.dumps(completion(text=f"You sent {key}."))
        if escaped == "redirection":
            handler.send_response(302)
            handler.send_header("Location", f"http://h/{urllib.parse.quote(key, safe='')}/x")
            handler.send_header("Content-Length", "0")
            handler.end_headers()
            return
        if escaped == "slashes":
            data = data.replace("/", "\\/")
        if escaped == "codes":
            data = data.replace(key, "".join(f"\\u{ord(letter):04x}" for letter in key))
        sent = data.encode("utf-16" if escaped == "utf-16" else "ascii")
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(sent)))
        handler.end_headers()
        handler.wfile.write(sent)

    with serve(answer) as server:
        if escaped == "redirection":
            assert "to http://h/[the key]/x" in refusal(server.url, tmp_path)
        else:
            rows, _ = run(server.url, tmp_path)
            assert rows[0]["completion"] == "You sent [the key]."


@pytest.mark.parametrize("key", ["sk-SE CRET", "sk-SECR\u00c9T", "sk-SEC\nRET", "sk-SEC\x1bRET"])
def test_a_key_that_no_header_carries_is_refused_without_being_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    monkeypatch.setenv(API_KEY, key)
    message = refusal("http://127.0.0.1:9", tmp_path)
    assert "copy it again" in message
    assert "SE" not in message.replace("FORKWISE_API_KEY", "").replace("SES", "")


@pytest.mark.parametrize(
    "url",
    [
        "http://user:SECRET@h",
        "user:SECRET@h",
        "http://SECRET@h/v1",
        "http://h/v1?api_key=SECRET",
        "http://h/v1#SECRET",
        "http://us er:SECRET@[h",
    ],
)
def test_a_secret_in_the_address_is_refused_without_being_printed(url: str) -> None:
    with pytest.raises(InputError, match="Put no user") as caught:
        base_url(url)
    assert "SECRET" not in str(caught.value)


@pytest.mark.parametrize(
    "url", ["http://[::1", "http://h:99999", "http://h:x", "http://h\x1b[31m", "http://a b", "file:///x"]
)
def test_an_address_that_is_none_is_said(url: str) -> None:
    with pytest.raises(InputError, match="not the address of") as caught:
        base_url(url)
    assert str(caught.value).isprintable()


# --------------------------------------------------------------------------------------------------------------- TLS


@pytest.fixture
def certificate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """A certificate for localhost, which clients of this test trust, and its key."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl makes the certificate")
    key, chain = tmp_path / "key.pem", tmp_path / "chain.pem"
    subject = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost", "-days", "2"]
    make = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", str(key), "-out", str(chain)]
    subprocess.run([*make, *subject], check=True, capture_output=True)
    monkeypatch.setenv("SSL_CERT_FILE", str(chain))
    return chain, key


def test_over_tls_a_request_ends_in_time_too(tmp_path: Path, certificate: tuple[Path, Path]) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    for name, answer in [("slow", slow_body), ("good", lambda handler, _: handler.send(completion()))]:
        with serve(answer) as server:
            server.socket = context.wrap_socket(server.socket, server_side=True)
            url = server.url.replace("http://127.0.0.1", "https://localhost")
            if name == "good":
                assert len(run(url, tmp_path / name)[0]) == 2
            else:
                start = time.monotonic()
                assert "no whole reply within 0.7 s" in refusal(url, tmp_path / name, timeout=0.7, retries=0)
                assert time.monotonic() - start < 2.5


def test_a_tls_handshake_without_end_is_ended(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def shake() -> None:
            connection, _ = listener.accept()
            with connection, suppress(OSError):
                connection.sendall(b"\x16\x03\x03\x40\x00")
                for _ in range(40):
                    connection.sendall(b"\x00")
                    time.sleep(0.1)

        threading.Thread(target=shake, daemon=True).start()
        start = time.monotonic()
        url = f"https://127.0.0.1:{listener.getsockname()[1]}"
        assert "no whole reply within 0.5 s" in refusal(url, tmp_path, timeout=0.5, retries=0, concurrency=1)
        assert time.monotonic() - start < 2.5


def test_a_server_that_stopped_and_holds_its_connections_open_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # vLLM 0.32 after SIGTERM with requests in flight: the engine is gone, the port closed, the connections stay.
    monkeypatch.setattr("forkwise.sampling.http._LOOK", 0.1)
    held = []
    listener = socket.create_server(("127.0.0.1", 0))

    def accept_and_close() -> None:
        held.append(listener.accept()[0])
        listener.close()

    threading.Thread(target=accept_and_close, daemon=True).start()
    start = time.monotonic()
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    message = refusal(url, tmp_path, timeout=30.0, retries=0, concurrency=1)
    assert "takes no connections any more" in message
    assert time.monotonic() - start < 10


def test_a_slow_server_that_listens_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("forkwise.sampling.http._LOOK", 0.05)

    def answer(handler: Any, body: Any) -> None:
        time.sleep(0.6)
        handler.send(completion())

    with serve(answer) as server:
        assert len(run(server.url, tmp_path)[0]) == 2


@pytest.mark.parametrize("reason", ["abort", "error"])
def test_a_completion_that_the_server_broke_off_is_no_sample(tmp_path: Path, reason: str) -> None:
    # vLLM's reason for requests that were in flight when somebody paused or stopped it.
    with serve(lambda handler, _: handler.send(completion(finish_reason=reason))) as server:
        assert f"failed 2 times in a row (it broke a completion off ('{reason}'))" in refusal(server.url, tmp_path)


def test_a_limit_of_the_server_s_own_is_said_once(tmp_path: Path) -> None:
    # vLLM 0.32 draws as many tokens as --max-model-len leaves, and says "length" like at --max-tokens.
    usage = {"prompt_tokens": 3, "completion_tokens": 4}
    with serve(lambda handler, _: handler.send({**completion(finish_reason="length"), "usage": usage})) as server:
        rows, said = run(server.url, tmp_path)
    assert [row["n_tokens"] for row in rows] == [4, 4]
    assert said.count("cut a completion off after 4 tokens, where --max-tokens allows 9") == 1
    whole = {**usage, "completion_tokens": 9}
    with serve(lambda handler, _: handler.send({**completion(finish_reason="length"), "usage": whole})) as server:
        assert "cut a completion off" not in run(server.url, tmp_path / "whole")[1]


@pytest.mark.parametrize(
    ("ids", "fault"),
    [([5, 6, 7, 8, 9], None), ([5, 6], "there are 5 tokens and 2 ids"), ([5, -1, 7, 8, 9], "'token_ids' is no list")],
)
def test_token_ids_that_a_server_names_are_stored(tmp_path: Path, ids: list[int], fault: str | None) -> None:
    with serve(lambda handler, _: handler.send(completion(token_ids=ids))) as server:
        rows, said = run(server.url, tmp_path, extra={"return_token_ids": True})
    assert [row["token_ids"] for row in rows] == [None if fault else ids] * 2
    assert [row["logprobs"] for row in rows] == [[-0.25] * 5] * 2
    assert fault is None or fault in said
    assert server.requests[0][2]["return_token_ids"] is True
