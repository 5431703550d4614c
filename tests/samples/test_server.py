"""Sampling over HTTP, against a real server on this machine that answers in the shape of vLLM, llama.cpp and OpenAI.

It can fail in every way that servers do: too many requests, internal errors, connections dropped before and within the
reply. TLS and hostile servers are in test_server_hostile. Not covered: a real model behind the server.
"""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
from local_server import LocalServer, listening
from rich.console import Console

from forkwise.errors import InputError
from forkwise.samples import read_samples
from forkwise.sampling.http import API_KEY, FailedTry, base_url, retry_after
from forkwise.sampling.recipe import Job, Sampling
from forkwise.sampling.replies import read_reply
from forkwise.sampling.run import sample
from forkwise.sampling.server import Patience, ServerEngine
from forkwise.tasks import Problem, Verdict

Fault = Callable[[int, int], Any]
"""(seed, how many requests came with it before) -> None to answer, a status, ("status", headers), "drop" or "cut"."""


class Server(LocalServer):
    def __init__(self, fault: Fault) -> None:
        super().__init__(Handler)
        self.fault = fault
        self.requests: list[tuple[str, dict[str, Any], dict[str, str]]] = []
        self.seen: Counter[int] = Counter()
        self.lock = threading.Lock()
        self.busy = self.busiest = 0


class Handler(BaseHTTPRequestHandler):
    server: Server

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        """What a client makes of a redirected POST."""
        self.server.requests.append((self.path, {}, dict(self.headers)))
        self.send_error(404)

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        seed = int(body["seed"])
        with self.server.lock:
            before = self.server.seen[seed]
            self.server.seen[seed] += 1
            self.server.requests.append((self.path, body, dict(self.headers)))
            self.server.busy += 1
            self.server.busiest = max(self.server.busiest, self.server.busy)
        time.sleep(0.002)
        with self.server.lock:  # before the client can have the answer, and ask again
            self.server.busy -= 1
        self.answer(body, self.server.fault(seed, before))

    def answer(self, body: dict[str, Any], fault: Any) -> None:
        if fault == "drop":
            self.close_connection = True
            self.connection.close()
            return
        status, headers = (
            (fault if isinstance(fault, tuple) else (fault, {})) if fault not in (None, "cut") else (200, {})
        )
        content = json.dumps(
            reply(self.path, body) if status == 200 else {"error": {"message": f"no {status}"}}
        ).encode()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content[: len(content) // 2] if fault == "cut" else content)
        if fault == "cut":
            self.close_connection = True


def reply(path: str, body: dict[str, Any]) -> dict[str, Any]:
    """A deterministic completion of two to six digits, in the form of the endpoint."""
    digest = hashlib.sha256(json.dumps([body["seed"], body.get("prompt"), body.get("messages")]).encode()).hexdigest()
    tokens = list(str(int(digest, 16)))[: 2 + int(digest[0], 16) % 5]
    usage = {"prompt_tokens": 3, "completion_tokens": len(tokens) + 1, "total_tokens": len(tokens) + 4}
    choice: dict[str, Any] = {"index": 0, "finish_reason": "stop", "logprobs": None}
    if path == "/v1/completions":
        choice["text"] = "".join(tokens)
        if body.get("logprobs"):
            choice["logprobs"] = {
                "tokens": tokens,
                "token_logprobs": [-0.25] * len(tokens),
                "top_logprobs": [{token: -0.25, "x": -2.0} for token in tokens],
                "text_offset": list(range(len(tokens))),
            }
    elif path == "/v1/chat/completions":
        choice["message"] = {"role": "assistant", "content": "".join(tokens), "reasoning_content": "hm"}
        if body.get("logprobs"):
            tops = [{"token": "x", "logprob": -2.0, "bytes": [120]}]
            choice["logprobs"] = {
                "content": [
                    {
                        "token": t,
                        "logprob": -0.25,
                        "bytes": [1],
                        "top_logprobs": [{"token": t, "logprob": -0.25}, *tops],
                    }
                    for t in tokens
                ]
            }
    return {"id": "1", "object": "x", "created": 1, "model": body["model"], "choices": [choice], "usage": usage}


def serve(fault: Fault = lambda seed, before: None) -> AbstractContextManager[Server]:
    return listening(Server(fault))


class Even:
    name = "even"

    def problems(self, split: Any, n: int | None = None, *, seed: int = 0) -> list[Problem]:
        return [Problem(f"p{i}", f"{i}?") for i in range(6)]

    def verify(self, completions: Any, problems: Any) -> list[Verdict]:
        return [Verdict(text[-1] in "02468", text, "even") for text in completions]


SAMPLING = Sampling(temperature=0.5, top_p=0.9, max_tokens=9, batch_size=4)
JOB = Job(run="r", model="m", task="even", n=10, seed=3, sampling=SAMPLING, engine="server")
QUICK = Patience(timeout=5, retries=4, first_wait=0.01)


def run(url: str, out: Path, *, patience: Patience = QUICK, job: Job = JOB, **options: Any) -> Any:
    def engine() -> ServerEngine:
        return ServerEngine(url, job.model, job.seed, job.sampling, patience=patience, **options)

    task = Even()
    return sample(job, task, task.problems("test"), engine, out, console=Console(file=io.StringIO()))


def test_one_request_per_sample_with_its_own_seed_and_what_comes_back_is_stored(tmp_path: Path) -> None:
    with serve() as server:
        run(server.url, tmp_path, concurrency=3)
    assert len(server.requests) == 60
    assert len({body["seed"] for _, body, _ in server.requests}) == 60
    assert 1 < server.busiest <= 3
    path, body, headers = server.requests[0]
    assert path == "/v1/completions"
    assert {k: v for k, v in body.items() if k not in ("seed", "prompt")} == {
        "model": "m",
        "max_tokens": 9,
        "temperature": 0.5,
        "top_p": 0.9,
        "logprobs": 20,
    }
    assert "Authorization" not in headers
    rows = read_samples(tmp_path).to_pylist()
    assert len(rows) == 60
    for row in rows:
        assert row["n_tokens"] == len(row["completion"]) + 1  # what `usage` says, the end of the sequence included
        assert row["tokens"] == list(row["completion"])
        assert row["logprobs"] == [-0.25] * len(row["tokens"])
        assert row["top_logprobs"][0] == [
            {"token": row["tokens"][0], "logprob": -0.25},
            {"token": "x", "logprob": -2.0},
        ]
        assert row["entropies"] is None
        assert row["correct"] == (row["completion"][-1] in "02468")


def test_conversations_go_to_the_chat_endpoint_and_their_reasoning_is_kept(tmp_path: Path) -> None:
    with serve() as server:
        run(server.url + "/v1/", tmp_path, chat=True)
    path, body, _ = server.requests[0]
    assert path == "/v1/chat/completions"
    assert [m["role"] for m in body["messages"]] == ["user"]
    assert (body["logprobs"], body["top_logprobs"]) == (True, 20)
    row = read_samples(tmp_path).to_pylist()[0]
    assert row["completion"].startswith("<think>\nhm\n</think>\n\n")
    assert json.loads(row["prompt"]) == [{"role": "user", "content": "0?"}]
    assert row["tokens"] is None  # they were those of the answer alone


def test_without_token_data_none_is_asked_for(tmp_path: Path) -> None:
    with serve() as server:
        run(server.url, tmp_path, top_logprobs=0)
    assert "logprobs" not in server.requests[0][1]
    assert read_samples(tmp_path)["logprobs"].null_count == 60


def trouble(seed: int, before: int) -> Any:
    """Each seed fails once or twice, in its own way."""
    if before > seed % 2:
        return None
    return [429, 500, (503, {"Retry-After": "0"}), "drop", "cut", 502][seed % 6]


def test_a_server_that_keeps_failing_costs_time_and_nothing_else(tmp_path: Path) -> None:
    with serve() as server:
        run(server.url, tmp_path / "calm")
    with serve(trouble) as server:
        run(server.url, tmp_path / "trouble")
    assert len(server.requests) > 90
    assert read_samples(tmp_path / "trouble").equals(read_samples(tmp_path / "calm"))


def test_a_server_that_dies_ends_the_run_in_a_sentence_and_another_one_finishes_it(tmp_path: Path) -> None:
    with serve() as server:
        run(server.url, tmp_path / "calm")
    answered = Counter[str]()

    def die(seed: int, before: int) -> Any:
        answered["all"] += 1
        return "drop" if answered["all"] > 30 else None

    impatient = Patience(timeout=5, retries=1, first_wait=0.0)
    with serve(die) as server, pytest.raises(InputError) as caught:
        run(server.url, tmp_path / "s", patience=impatient, concurrency=2)
    message = str(caught.value)
    assert "failed 2 times in a row" in message
    assert "of 60 samples are safe" in message
    files_before = {path.name: path.read_bytes() for path in (tmp_path / "s").glob("*.parquet")}
    # With two requests at a time, at most two blocks of 4 were incomplete when 30 replies had been given.
    assert len(files_before) >= 5
    assert read_samples(tmp_path / "s").num_rows < 60
    with pytest.raises(InputError, match="failed 2 times in a row"):  # nobody listens
        run(server.url, tmp_path / "s", patience=impatient)
    with serve() as server:
        run(server.url, tmp_path / "s")
    assert len(server.requests) == 60 - sum(4 if name[-9] != "8" else 2 for name in files_before)
    assert {
        p.name: p.read_bytes() for p in (tmp_path / "s").glob("*.parquet") if p.name in files_before
    } == files_before
    assert read_samples(tmp_path / "s").equals(read_samples(tmp_path / "calm"))


def test_a_refusal_is_not_repeated_and_its_reason_is_said(tmp_path: Path) -> None:
    with (
        serve(lambda seed, before: 404) as server,
        pytest.raises(InputError, match=r"refuses problem 'p0' \(404 no 404"),
    ):
        run(server.url, tmp_path, concurrency=1)
    assert len(server.requests) == 1


def test_the_wait_that_a_server_asks_for_is_kept(tmp_path: Path) -> None:
    times: dict[int, list[float]] = {}

    def busy(seed: int, before: int) -> Any:
        times.setdefault(seed, []).append(time.monotonic())
        return (429, {"Retry-After": "0.3"}) if before == 0 else None

    with serve(busy) as server:
        run(server.url, tmp_path, job=Job(**{**vars(JOB), "n": 1}), patience=Patience(first_wait=0.0))
    assert all(0.3 <= second - first < 3 for first, second in times.values())
    assert len(times) == 6


def test_waits_double_and_are_bounded() -> None:
    patience = Patience(first_wait=2.0)
    for attempt, most in [(1, 2), (2, 4), (3, 8), (6, 60), (30, 60)]:
        waits = [patience.wait(attempt, FailedTry("x")) for _ in range(200)]
        assert most / 2 <= min(waits) < max(waits) <= most
    assert patience.wait(1, FailedTry("x", 7.0)) == 7.0
    assert patience.wait(1, FailedTry("x", 1e9)) == 60.0


def test_retry_after_is_seconds_or_a_date() -> None:
    assert retry_after(None) is None
    assert retry_after("12") == 12.0
    assert retry_after("soon") is None
    wait = retry_after(formatdate(time.time() + 20, usegmt=True))
    assert wait is not None
    assert 18 <= wait <= 20


def test_the_key_comes_from_the_environment_and_appears_nowhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(API_KEY, "s3cret")
    with serve() as server:
        run(server.url, tmp_path)
    assert {headers["Authorization"] for _, _, headers in server.requests} == {"Bearer s3cret"}
    with serve(lambda seed, before: 401) as server, pytest.raises(InputError) as caught:
        run(server.url, tmp_path / "other")
    assert "s3cret" not in str(caught.value) + "".join(capsys.readouterr())
    assert not any(b"s3cret" in path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())


@pytest.mark.parametrize(
    ("url", "base"),
    [
        ("http://h:8000", "http://h:8000/v1"),
        ("http://h:8000/v1/", "http://h:8000/v1"),
        ("https://h/api/v1/chat/completions", "https://h/api/v1"),
        ("http://h/v1/completions", "http://h/v1"),
    ],
)
def test_addresses_are_understood_as_people_write_them(url: str, base: str) -> None:
    assert base_url(url) == base


@pytest.mark.parametrize("url", ["localhost:8000", "ftp://h", "http://", "http://u:pw@h", "http://h?key=1", ""])
def test_other_addresses_are_refused(url: str) -> None:
    with pytest.raises(InputError, match="address of"):
        base_url(url)


@pytest.mark.parametrize("options", [{"concurrency": 0}, {"top_logprobs": -1}], ids=" ".join)
def test_impossible_options_are_refused(options: dict[str, int]) -> None:
    with pytest.raises(InputError, match="must be at least 1"):
        ServerEngine("http://h", "m", 0, SAMPLING, **options)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="timeout"):
        Patience(timeout=0)


def test_a_completion_in_the_form_of_llama_cpp_is_read() -> None:
    place = {"id": 5, "token": " a", "logprob": -0.5, "bytes": [], "top_logprobs": [{"token": " a", "logprob": -0.5}]}
    choice = {"text": " a", "index": 0, "logprobs": {"content": [place]}, "finish_reason": "length"}
    completion = read_reply({"choices": [choice], "usage": {"completion_tokens": 1}}, "p").completion
    assert (completion.text, completion.tokens, completion.logprobs, completion.finish_reason) == (
        " a",
        [" a"],
        [-0.5],
        "length",
    )


def test_the_command_samples_from_a_server_without_torch(tmp_path: Path) -> None:
    code = "import sys; sys.modules['torch'] = None; from forkwise.cli import main; main()"
    argv = ["sample", "--model", "m", "--task", "countdown", "-n", "3", "--problems", "2", "--out", "s", "--server"]
    with serve() as server:
        done = subprocess.run(
            [sys.executable, "-c", code, *argv, server.url], capture_output=True, text=True, cwd=tmp_path, check=False
        )
    assert done.returncode == 0, done.stderr
    assert "6 samples of 2 problems" in done.stdout
    dead = subprocess.run(
        [sys.executable, "-c", code, *argv[:-2], "t", "--retries", "0", "--server", server.url],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=False,
    )
    assert dead.returncode == 2
    assert dead.stderr.startswith("forkwise: The server at http://127.0.0.1")
    assert "failed once" in dead.stderr
    assert "Traceback" not in dead.stderr
