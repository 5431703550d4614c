"""The rows that the vLLM engine builds, from a module of the same interface.

vLLM itself did not run here: what it returns is taken from its documentation (0.11: LLM, SamplingParams, RequestOutput,
CompletionOutput, Logprob), not from the program.
"""

from __future__ import annotations

import io
import sys
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import pytest
from rich.console import Console

from forkwise.errors import InputError
from forkwise.samples import read_samples
from forkwise.sampling.engines import make_engine
from forkwise.sampling.options import SamplingOptions
from forkwise.sampling.recipe import Job, Sampling
from forkwise.sampling.run import sample
from forkwise.sampling.vllm import _completion
from forkwise.tasks import Problem, Verdict


@dataclass
class Logprob:
    logprob: float
    rank: int | None = None
    decoded_token: str | None = None


@dataclass
class SamplingParams:
    temperature: float = 1.0
    top_p: float = 1.0
    max_tokens: int | None = 16
    seed: int | None = None
    logprobs: int | None = None
    n: int = 1


@dataclass
class CompletionOutput:
    text: str
    token_ids: list[int]
    logprobs: list[dict[int, Logprob]] | None
    finish_reason: str


@dataclass
class RequestOutput:
    outputs: list[CompletionOutput] = field(default_factory=list)


class Tokenizer:
    chat_template = None

    def encode(self, text: str, add_special_tokens: bool) -> list[int]:
        return [ord(c) for c in text]


class LLM:
    made: ClassVar[list[dict[str, Any]]] = []
    calls: ClassVar[list[int]] = []

    def __init__(self, **options: Any) -> None:
        if options["model"] == "absent":
            raise OSError("no such model\nsecond line")
        LLM.made.append(options)

    def get_tokenizer(self) -> Tokenizer:
        return Tokenizer()

    def generate(self, prompts: list[Any], params: list[SamplingParams], use_tqdm: bool) -> list[RequestOutput]:
        LLM.calls.append(len(prompts))
        outputs = []
        for prompt, p in zip(prompts, params, strict=True):
            token = (p.seed or 0) % 26 + 97
            # Of the candidates the drawn token comes first, whatever its rank.
            place = {token: Logprob(-1.5, 2, chr(token)), 5: Logprob(-0.3, 1, "likeliest")}
            text = chr(prompt["prompt_token_ids"][0]) + chr(token)
            logprobs = [place] if p.logprobs else None
            outputs.append(RequestOutput([CompletionOutput(text, [token], logprobs, "stop")]))
        return outputs


class Any_:
    name = "any"

    def problems(self, split: Any, n: int | None = None, *, seed: int = 0) -> list[Problem]:
        return [Problem(f"p{i}", f"{i}?") for i in range(3)]

    def verify(self, completions: Any, problems: Any) -> list[Verdict]:
        assert [text[0] for text in completions] == [problem.prompt[0] for problem in problems]
        return [Verdict(True, None, "any") for _ in completions]


@pytest.fixture
def vllm(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("vllm")
    module.LLM, module.SamplingParams = LLM, SamplingParams  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "vllm", module)
    monkeypatch.setattr("forkwise.sampling.vllm._AT_ONCE", 4)
    LLM.made, LLM.calls = [], []


def run(out: Path, **options: Any) -> list[dict[str, Any]]:
    job = Job("r", options.pop("model", "m"), "any", 5, 1, Sampling(batch_size=3), engine="vllm")
    task = Any_()
    console = Console(file=io.StringIO())
    sample(
        job,
        task,
        task.problems("test"),
        lambda: make_engine(job, SamplingOptions(job.model, **options)),
        out,
        console=console,
    )
    rows: list[dict[str, Any]] = read_samples(out).to_pylist()
    return rows


@pytest.mark.usefixtures("vllm")
def test_every_row_has_its_own_seed_and_the_drawn_token_among_ranked_candidates(tmp_path: Path) -> None:
    rows = run(tmp_path, top_logprobs=2)
    assert len(rows) == 15
    assert LLM.calls == [5, 5, 5]  # blocks of 3 and 2 go together until there are at least 4
    assert LLM.made[0]["logprobs_mode"] == "raw_logprobs"
    for r in rows:
        assert r["tokens"] == [r["completion"][1]]
        assert r["logprobs"] == [-1.5]
        assert [c["token"] for c in r["top_logprobs"][0]] == ["likeliest", r["tokens"][0]]
        assert (r["n_tokens"], r["finish_reason"], r["entropies"]) == (1, "stop", None)
    letters = [r["tokens"][0] for r in rows[:5]]
    assert [(ord(b) - ord(a)) % 26 for a, b in pairwise(letters)] in ([1] * 4, [1, 1, 1, 25])


@pytest.mark.usefixtures("vllm")
def test_without_token_data_there_is_none(tmp_path: Path) -> None:
    assert all(r["logprobs"] is None and r["top_logprobs"] is None for r in run(tmp_path, token_data=False))


@pytest.mark.usefixtures("vllm")
def test_vllm_is_given_the_folder_of_an_embedded_model(tmp_path: Path) -> None:
    run(tmp_path, model="embedded:story")
    folder = Path(LLM.made[0]["model"])
    assert folder.name == "story"
    assert (folder / "config.json").is_file()


@pytest.mark.usefixtures("vllm")
def test_a_model_that_vllm_cannot_load_is_said(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"vLLM cannot load the model 'absent' \(no such model\)"):
        run(tmp_path, model="absent")


def test_without_vllm_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(InputError, match=r'pip install "forkwise\[vllm\]"'):
        run(tmp_path)
    assert not list(tmp_path.iterdir())


def test_log_probs_that_are_no_numbers_are_refused_and_impossible_candidates_left_out() -> None:
    place = {5: Logprob(-0.5, 1, "a"), 6: Logprob(float("-inf"), 2, "b")}
    completion = _completion("p", CompletionOutput("a", [5], [place], "stop"))
    assert completion.top_logprobs == [[("a", -0.5)]]
    with pytest.raises(InputError, match="not numbers"):
        _completion("p", CompletionOutput("a", [5], [{5: Logprob(float("nan"), 1, "a")}], "stop"))
