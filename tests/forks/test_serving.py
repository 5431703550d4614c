"""Forks through a server: a real HTTP server on this machine, shaped like vLLM's, whose policy is a table."""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from local_server import LocalServer, listening

pytest.importorskip("torch")
pytest.importorskip("transformers")

from test_estimators import LENGTH, TOKENS, Tabular
from tiny_decoders import byte_tokenizer

from forkwise.credit.packing import make_bank
from forkwise.errors import InputError
from forkwise.forks import prepare
from forkwise.forks.command import run_forks
from forkwise.forks.estimators import state_value
from forkwise.forks.options import ForksOptions
from forkwise.forks.serving import (
    PLAIN,
    Connection,
    ServerContinuer,
    changing_draws,
    compare,
    not_continued,
    write_tokens,
)
from forkwise.forks.stored import State
from forkwise.samples import read_samples, write_shard
from forkwise.sampling.options import JudgeOptions
from forkwise.sampling.recipe import Sampling
from forkwise.sampling.server import Patience
from forkwise.sampling.verify import Judge
from forkwise.tasks import Problem, Verdict

PROMPT = "Q:"
LETTERS = "abc"
TOKENIZER = byte_tokenizer()
IDS = [TOKENIZER(letter)["input_ids"][-1] for letter in LETTERS]
OF_PROMPT = TOKENIZER(PROMPT)["input_ids"]
STOP = TOKENIZER("!")["input_ids"][-1]


class Model(LocalServer):
    """Texts are three letters, drawn from a table; the seed decides. `fault` makes it a server that is no use."""

    def __init__(self, policy: Tabular, fault: str = "") -> None:
        super().__init__(Handler)
        self.policy, self.fault, self.asked = policy, fault, 0
        self.bodies: list[dict[str, Any]] = []
        self.failures = 2 if fault == "busy" else 0
        self.lock = threading.Lock()


class Handler(BaseHTTPRequestHandler):
    server: Model

    def log_message(self, *_: object) -> None:
        pass

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.lock:
            self.server.asked += 1
            self.server.bodies.append(body)
            failing, self.server.failures = self.server.failures > 0, self.server.failures - 1
        status, content = (503, {"error": {"message": "busy"}}) if failing else answer(self.server, body)
        data = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


def answer(server: Model, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    prompt = body["prompt"]
    if server.fault == "text only":
        return 400, {"error": {"message": "prompt must be a string"}}
    text = tuple(IDS.index(token) for token in prompt[len(OF_PROMPT) :])
    rng, ids, logprobs, tops = np.random.default_rng(body["seed"]), [], [], []
    while len(ids) < body["max_tokens"] and len(text) < LENGTH:
        probs = server.policy.next[text]
        token = int(rng.choice(TOKENS, p=probs))
        ids.append(IDS[token])
        logprobs.append(math.log(probs[token]))
        tops.append({f"token_id:{IDS[a]}": math.log(p) for a, p in enumerate(probs)})
        text = (*text, token)
    if server.fault == "short":  # as vLLM does at its --max-model-len: it says that the limit was reached
        ids, logprobs, tops = ids[:1], logprobs[:1], tops[:1]
    ended = len(text) == LENGTH and len(ids) < body["max_tokens"] and server.fault != "short"
    if server.fault == "masks":
        tops[0] = {"token_id:17": -0.8872629404067993, "token_id:16": -0.5306564569473267, "token_id:85": -9999.0}
    if server.fault == "names the end" and len(text) == LENGTH:
        ids, ended = [*ids[:-1], STOP], True
    named = [f"token_id:{i}" if server.fault != "texts" else LETTERS[IDS.index(i)] for i in ids]
    read = len(prompt) + (1 if server.fault == "adds a token" else 0)
    choice = {
        "text": "".join(LETTERS[IDS.index(i)] for i in ids if i != STOP),
        "finish_reason": "abort" if server.fault == "aborts" else "stop" if ended else "length",
        "stop_reason": STOP if server.fault == "names the end" and ended else None,
        "logprobs": {"tokens": named, "token_logprobs": logprobs, "top_logprobs": tops},
    }
    choices = [choice] * (len(prompt) if server.fault == "one for each id" else 1)
    return 200, {"choices": choices, "usage": {"prompt_tokens": read, "completion_tokens": len(ids)}}


@contextmanager
def running(policy: Tabular, fault: str = "") -> Iterator[tuple[Model, str]]:
    with listening(Model(policy, fault)) as server:
        yield server, server.url


def judge(policy: Tabular) -> Judge:
    def verify(texts: Sequence[str], problems: Sequence[Problem]) -> list[Verdict]:
        letters = [tuple(LETTERS.index(letter) for letter in text) for text in texts]
        return [Verdict(bool(policy.right.get(text, 0.0)), None, "table") for text in letters]

    return Judge(verify)


FAST = Patience(timeout=20, retries=3, first_wait=0.01)
SAMPLING = Sampling(max_tokens=LENGTH)


def test_what_a_server_s_tokens_decide_is_the_truth_of_its_table() -> None:
    policy = max((Tabular(seed) for seed in range(20)), key=lambda table: table.decided(()))
    with running(policy) as (_, url):
        made = ServerContinuer(Connection(url, "m", SAMPLING, FAST), TOKENIZER, SAMPLING, 24, 0, judge(policy))
        # The start, and the first token after which most is decided.
        for prefix in ((), max(((a,) for a in range(TOKENS)), key=policy.decided)):
            estimates = []
            for i in range(40):
                ids = [IDS[a] for a in prefix]
                state = State(i, f"p/{i}/{len(prefix)}", OF_PROMPT, ids, IDS[0], Problem("p", PROMPT))
                continued = made.draw(state)
                assert continued.first.sizes == [2] * 12
                assert all(len(text) == LENGTH - len(prefix) for text in continued.continuations)
                outcome = np.array([[c is True] for c in continued.correct], dtype=float)
                value = state_value(continued.first.branches, outcome)
                estimates.append((float(value.value_C[0]), value.decided))
            mean, error = np.mean(estimates, axis=0), np.std(estimates, axis=0) / np.sqrt(40)
            assert policy.decided(prefix) > 0.01
            assert (np.abs(mean - [policy.value(prefix), policy.decided(prefix)]) < 4 * error).all()
        assert made.draw(state) == continued  # as far as the server honours seeds
        drawn = made.draw(State(0, "s", OF_PROMPT, [], None, Problem("p", PROMPT)))
        assert drawn.first.sizes == [1] * 24


@pytest.mark.parametrize(
    ("fault", "why"),
    [
        ("text only", "400 prompt must be a string"),
        ("texts", "should be ids such as token_id:7"),
        ("adds a token", "of a prompt of .* token ids it read"),
    ],
)
def test_a_server_that_cannot_continue_from_tokens_is_refused(fault: str, why: str) -> None:
    with (
        running(Tabular(3), fault) as (_, url),
        pytest.raises(InputError, match=f"cannot continue from tokens .*{why}"),
    ):
        Connection(url, "m", SAMPLING, FAST).prove(OF_PROMPT)


def test_a_server_that_takes_ids_for_several_prompts_is_refused_and_a_busy_one_asked_again() -> None:
    with running(Tabular(3), "one for each id") as (_, url), pytest.raises(InputError, match="with 2 completions"):
        Connection(url, "m", SAMPLING, FAST).prove(OF_PROMPT)
    with running(Tabular(3), "busy") as (server, url):
        Connection(url, "m", SAMPLING, FAST).prove(OF_PROMPT)
        assert server.asked == 3


def test_a_continuation_that_ends_for_the_server_s_reasons_is_none() -> None:
    with (
        running(Tabular(3), "short") as (_, url),
        pytest.raises(InputError, match="ended a continuation at 1 tokens, where 3 .* room for .* no limit of its own"),
    ):
        Connection(url, "m", SAMPLING, FAST).ask(OF_PROMPT, LENGTH, 0)
    with running(Tabular(3), "aborts") as (server, url):
        with pytest.raises(InputError, match=r"4 times in a row .*before its end or limit \('abort'\)"):
            Connection(url, "m", SAMPLING, FAST).ask(OF_PROMPT, LENGTH, 0)
        assert server.asked == 4


def test_another_token_that_ends_a_completion_is_no_part_of_the_text() -> None:
    # An end token of the model's generation config, such as Llama 3's <|eom_id|>: vLLM names it as the stop_reason.
    texts = []

    def verify(written: Sequence[str], problems: Sequence[Problem]) -> list[Verdict]:
        texts.extend(written)
        return [Verdict(True, None, "any")] * len(written)

    sampling = Sampling(max_tokens=LENGTH + 1)
    with running(Tabular(3), "names the end") as (_, url):
        drawn = ServerContinuer(Connection(url, "m", sampling, FAST), TOKENIZER, sampling, 8, 0, Judge(verify)).draw(
            State(0, "s", OF_PROMPT, [], IDS[0], Problem("p", PROMPT))
        )
    assert drawn.cut == 0
    assert all(len(text) == LENGTH - 1 and set(text) <= set(LETTERS) for text in texts)


def test_probabilities_are_those_of_the_draws() -> None:
    # A server's log-probs are of temperature 1; of other draws it is the share that is known.
    policy, state = Tabular(3), State(0, "s", OF_PROMPT, [], IDS[0], Problem("p", PROMPT))
    true = {IDS[a]: p for a, p in enumerate(policy.next[()])}
    for sampling in (SAMPLING, Sampling(max_tokens=LENGTH, temperature=0.7), Sampling(max_tokens=LENGTH, top_p=0.9)):
        with running(policy) as (_, url):
            connection = Connection(url, "m", sampling, FAST)
            first = ServerContinuer(connection, TOKENIZER, sampling, 24, 0, judge(policy)).draw(state).first
        if sampling is SAMPLING:
            assert first.probabilities == pytest.approx([true[token] for token in first.tokens])
        else:
            assert first.probabilities == [first.tokens.count(token) / 12 for token in first.tokens]


def table(folder: Path, policies: dict[str, Tabular], n: int = 12) -> Path:
    """Samples as a server's: tokens with log-probs and candidates, no ids, no entropies."""
    rng, rows = np.random.default_rng(1), []
    for problem, policy in policies.items():
        for i in range(n):
            text = policy.text(rng)
            probs = [policy.next[text[:t]] for t in range(LENGTH)]
            rows.append(
                {
                    "run": "served",
                    "model": "m",
                    "problem_id": problem,
                    "sample_id": i,
                    "prompt": PROMPT,
                    "completion": "".join(LETTERS[a] for a in text),
                    "correct": bool(policy.right[text]),
                    "finish_reason": "length",
                    "n_tokens": LENGTH,
                    "tokens": [LETTERS[a] for a in text],
                    "logprobs": [math.log(p[a]) for p, a in zip(probs, text, strict=True)],
                    "top_logprobs": [
                        [{"token": LETTERS[a], "logprob": math.log(q)} for a, q in enumerate(p)] for p in probs
                    ],
                    "sampling": {"temperature": 1.0, "top_p": 1.0, "max_tokens": LENGTH},
                }
            )
    write_shard(folder, "a", rows)
    return folder


def through_a_server(tmp_path: Path, samples: Path, url: str, **more: Any) -> Any:
    TOKENIZER.save_pretrained(tmp_path / "tokenizer")
    (tmp_path / "tokenizer" / "config.json").write_text(json.dumps({"model_type": "llama"}))
    size = {"states": 60, "level": 0.5, "tokenizer": str(tmp_path / "tokenizer"), **more}
    options = ForksOptions(model="m", out=tmp_path / "out", server=url, **size)
    return run_forks(samples, options, JudgeOptions(), lambda cost: None)


def drawn_by(samples: Path, engine: str, **extra: Any) -> Path:
    """Gives the table the `sampling.json` of an engine."""
    settings = {"engine": engine, "task": "countdown", "dataset": None, "split": "test", "problems": 8, "sampling": {}}
    manifest = {"settings": settings, "engine": {"extra": json.dumps(extra)} if extra else {}}
    (samples / "sampling.json").write_text(json.dumps(manifest))
    return samples


@pytest.mark.parametrize(
    ("engine", "extra", "seen"),
    [
        # vLLM fills in what is not given from the model's generation_config.json.
        ("transformers", {}, PLAIN),
        ("server", {}, {}),
        ("server", {"top_k": 2}, {"top_k": 2}),
    ],
)
def test_continuations_are_drawn_as_the_samples_were(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, engine: str, extra: dict[str, Any], seen: dict[str, Any]
) -> None:
    policy = Tabular(3)
    samples = drawn_by(table(tmp_path / "t", {f"p{q}": policy for q in range(8)}), engine, **extra)
    problems = {f"p{q}": Problem(f"p{q}", PROMPT) for q in range(8)}
    monkeypatch.setattr(prepare, "find_judge", lambda path, options: Judge(judge(policy).verify, problems))
    with running(policy) as (server, url):
        through_a_server(tmp_path, samples, url)
    assert PLAIN["top_k"] == -1  # all, for vLLM
    assert all({name: body[name] for name in PLAIN if name in body} == seen for body in server.bodies)


def test_keys_that_this_machine_cannot_do_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    policy = Tabular(3)
    samples = drawn_by(table(tmp_path / "t", {f"p{q}": policy for q in range(8)}), "server", top_k=2)
    problems = {f"p{q}": Problem(f"p{q}", PROMPT) for q in range(8)}
    monkeypatch.setattr(prepare, "find_judge", lambda path, options: Judge(judge(policy).verify, problems))
    options = ForksOptions(model="embedded", out=tmp_path / "out", states=60, level=0.5)
    with pytest.raises(InputError, match="--extra top_k=2, which transformers does not do: .* with --server"):
        run_forks(samples, options, JudgeOptions(), lambda cost: None)
    drawn_by(samples, "server", chat_template_kwargs={"enable_thinking": False})
    with running(policy) as (server, url), pytest.raises(InputError, match="prompts or texts were changed"):
        through_a_server(tmp_path, samples, url)
    # vLLM 0.32: of tokens drawn in one go and behind the same prefix, log-probs differ by up to 1.8 nats.
    drawn_by(samples, "server", presence_penalty=2.0, top_k=-1)
    with running(policy) as (server, url), pytest.raises(InputError, match="extra presence_penalty=2.0: .*begins"):
        through_a_server(tmp_path, samples, url)
    assert not server.bodies


def test_keys_are_told_apart_by_what_they_do() -> None:
    keys = {"top_k": 0, "min_p": 0, "repetition_penalty": 1, "presence_penalty": 0, "return_token_ids": True}
    assert changing_draws(keys | PLAIN) == {}
    assert changing_draws({"top_k": 0, "repetition_penalty": 1.1, "min_tokens": 4}) == {
        "repetition_penalty": 1.1,
        "min_tokens": 4,
    }
    # Like repetition_penalty these count the prompt too, so that a continuation is drawn as the sample was.
    assert not_continued({"repetition_penalty": 1.1, "top_k": 5, "stop_token_ids": [3], "logit_bias": {"1": 2}}) == {}
    from_the_start = {
        "stop": ["."],
        "min_tokens": 3,
        "frequency_penalty": 0.1,
        "structured_outputs": {},
        "bad_words": [],
    }
    assert not_continued(from_the_start | {"top_k": 1}) == from_the_start


def test_another_model_is_found_at_any_temperature(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    policy = Tabular(3)
    samples = table(tmp_path / "t", {f"p{q}": policy for q in range(8)})
    rows = [{**row, "sampling": {**row["sampling"], "temperature": 0.7}} for row in read_samples(samples).to_pylist()]
    write_shard(samples, "a", rows)  # a server's log-probs are of temperature 1, however it draws
    problems = {f"p{q}": Problem(f"p{q}", PROMPT) for q in range(8)}
    monkeypatch.setattr(prepare, "find_judge", lambda path, options: Judge(judge(policy).verify, problems))
    with running(policy) as (_, url):
        assert through_a_server(tmp_path, samples, url).log_prob_difference == pytest.approx(0, abs=1e-6)
    with running(Tabular(4)) as (_, url), pytest.raises(InputError, match="did not draw these samples"):
        through_a_server(tmp_path, samples, url)


def test_a_token_that_the_server_does_not_list_counts_as_far_as_it_must() -> None:
    rows = [{"problem_id": "p", "token_ids": [7, 8, 9], "logprobs": [-0.1, -2.0, -9.0]}]
    asked = []

    def ask(ids: Sequence[int], limit: int, seed: int, top: int) -> SimpleNamespace:
        asked.append(list(ids))
        return SimpleNamespace(top={1: -0.5, 2: -3.5})

    # The third token need not be among the 20 likeliest of the model that drew it; the second, of 0.14, must be: here
    # it is less likely than all that are listed, so at least 1.5 nats apart.
    assert compare(SimpleNamespace(ask=ask), rows, {"p": [5]}) == pytest.approx([1.5])  # type: ignore[arg-type]
    assert asked == [[5, 7]]


def test_a_log_prob_of_0_is_no_number_of_nats() -> None:
    # vLLM with --logprobs-mode processed_logprobs and a top-k of 2, as it came: the third candidate is masked.
    with running(Tabular(3), "masks") as (_, url):
        piece = Connection(url, "m", SAMPLING, FAST).ask(OF_PROMPT, 1, 0, top=3)
        assert set(piece.top) == {17, 16}
        rows = [{"problem_id": "p", "token_ids": [85], "logprobs": [-1.3]}]
        # The masked token is at least as far from -1.3 as the least likely of those that are listed.
        assert compare(Connection(url, "m", SAMPLING, FAST), rows, {"p": OF_PROMPT}) == [0.0]
        rows = [{"problem_id": "p", "token_ids": [85], "logprobs": [-0.5]}]
        assert compare(Connection(url, "m", SAMPLING, FAST), rows, {"p": OF_PROMPT}) == pytest.approx(
            [0.3873], abs=1e-4
        )


def test_the_whole_command_through_a_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    policy = Tabular(3)
    samples = table(tmp_path / "t", {f"p{q}": policy for q in range(8)})
    problems = {f"p{q}": Problem(f"p{q}", PROMPT) for q in range(8)}
    monkeypatch.setattr(prepare, "find_judge", lambda path, options: Judge(judge(policy).verify, problems))
    with running(policy) as (server, url):
        measured = through_a_server(tmp_path, samples, url)
        asked = server.asked
        assert measured.log_prob_difference == pytest.approx(0, abs=1e-6)
        assert measured.entropies == "top-k"
        assert measured.settings["server"] is True
        assert all(state.forced == [] for state in measured.states)
        assert len(measured.states) == 60
        through_a_server(tmp_path, samples, url)
        assert server.asked - asked == 1 + 16  # the proof and the comparison: what is there is not drawn again
    with pytest.raises(InputError, match="which forces no tokens"):
        make_bank(tmp_path / "out")
    with running(Tabular(4)) as (_, url), pytest.raises(InputError, match="did not draw these samples"):
        through_a_server(tmp_path, samples, url)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"top_logprobs": None}, "has no entropies or log-probs, by which tokens are drawn"),
        ({"tokens": None}, "has no entropies or log-probs"),
        (
            {"tokens": ["".join(LETTERS[:2]), LETTERS[2]]},
            "tokenizer is not the one of the samples.* return_token_ids=true",
        ),
    ],
)
def test_samples_of_which_a_server_cannot_be_asked_are_refused(
    tmp_path: Path, change: dict[str, Any], why: str
) -> None:
    rows = read_samples(table(tmp_path / "t", {"p": Tabular(3)})).to_pylist()
    write_shard(tmp_path / "changed", "a", [{**row, "completion": LETTERS, **change} for row in rows])
    with pytest.raises(InputError, match=why):
        write_tokens(tmp_path / "changed", tmp_path / "out", TOKENIZER)
