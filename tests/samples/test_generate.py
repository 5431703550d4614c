"""Sampling against a plain loop without any cache, and against the probabilities that it should follow."""

from __future__ import annotations

import copy
import io
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from scipy import stats

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

import tiny_models
from tiny_decoders import ROWS, byte_tokenizer, save_decoder, tiny_decoder
from tiny_models import of_words
from transformers import PreTrainedTokenizerFast

from forkwise.core import token_entropy
from forkwise.errors import InputError
from forkwise.explore.tokenisation import completion_ids
from forkwise.progress import Meter
from forkwise.sampling.decoding import Decoder, draw_tokens, uniforms
from forkwise.sampling.engine import Block
from forkwise.sampling.generate import (
    Sampling,
    TransformersEngine,
    Vocabulary,
    _complete,
    end_tokens,
    sample_problem,
    sample_seed,
)
from forkwise.tasks import Problem, Verdict

WORDS = ["<eos>", *"abcdefghijk"]
PROMPT = "a b c"
MAX_TOKENS = 12


class LengthTask:
    """Correct are completions of exactly three words: something to verify, nothing to learn."""

    name = "length"

    def problems(self, split: Any, n: int | None = None, *, seed: int = 0) -> list[Problem]:
        return []

    def verify(self, completions: Any, problems: Any) -> list[Verdict]:
        assert len(completions) == len(problems)
        return [Verdict(len(c.split()) == 3, c, "length") for c in completions]


@pytest.fixture(scope="module")
def policy() -> tuple[Any, Any]:
    words = PreTrainedTokenizerFast(tokenizer_object=of_words(WORDS, "<eos>"), eos_token="<eos>", pad_token="<eos>")
    return tiny_models.policy(1, vocab_size=len(WORDS), eos_token_id=0, pad_token_id=None).eval(), words


def draw(policy: tuple[Any, Any], n: int, problem: str = "p", **sampling: Any) -> list[dict[str, Any]]:
    model, tokenizer = policy
    settings = Sampling(max_tokens=MAX_TOKENS, **sampling)
    return list(
        sample_problem(model, tokenizer, Problem(problem, PROMPT), LengthTask(), n, run="r", seed=5, sampling=settings)
    )


def complete(policy: tuple[Any, Any], problem: Problem, seeds: Any, sampling: Sampling, **options: Any) -> list[Any]:
    model, tokenizer = policy
    decoder = Decoder(model, end_tokens(model, tokenizer))
    return _complete(decoder, Vocabulary(tokenizer, model), problem, seeds, sampling, **options)


@torch.no_grad()
def plain_loop(policy: tuple[Any, Any], sample_id: int, temperature: float) -> str:
    """One sample, one token at a time, no cache, no batch: numpy inverts the distribution function."""
    model, tokenizer = policy
    ids = tokenizer(PROMPT)["input_ids"]
    u = uniforms([sample_seed(5, "p", sample_id)], MAX_TOKENS)[0].numpy()
    new: list[int] = []
    while len(new) < MAX_TOKENS:
        logits = model(torch.tensor([ids + new])).logits[0, -1].double().numpy() / temperature
        p = np.exp(logits - logits.max())
        token = int((np.cumsum(p) <= u[len(new)] * p.sum()).sum())
        if token == 0:
            break
        new.append(token)
    return " ".join(WORDS[i] for i in new)


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_equals_a_plain_loop_and_does_not_depend_on_the_batch(policy: tuple[Any, Any], temperature: float) -> None:
    expected = [plain_loop(policy, i, temperature) for i in range(7)]
    assert len(set(expected)) > 1
    for batch_size in (7, 3, 1):
        rows = draw(policy, 7, temperature=temperature, batch_size=batch_size)
        assert [row["completion"] for row in rows] == expected
    for row in rows:
        words = row["completion"].split()
        assert row["finish_reason"] == ("stop" if len(words) < MAX_TOKENS else "length")
        assert row["n_tokens"] == len(words) + (row["finish_reason"] == "stop")
        assert row["correct"] == (len(words) == 3)


def test_another_problem_or_seed_is_another_stream(policy: tuple[Any, Any]) -> None:
    ours = [row["completion"] for row in draw(policy, 5)]
    assert ours != [row["completion"] for row in draw(policy, 5, problem="q")]
    assert len({sample_seed(s, p, i) for s in range(3) for p in "pq" for i in range(3)}) == 18


@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (0.5, 1.0), (1.0, 0.9)])
def test_first_tokens_follow_the_distribution(policy: tuple[Any, Any], temperature: float, top_p: float) -> None:
    model, tokenizer = policy
    with torch.no_grad():
        logits = model(torch.tensor([tokenizer(PROMPT)["input_ids"]])).logits[0, -1].double().numpy() / temperature
    p = np.exp(logits - logits.max())
    p /= p.sum()
    if top_p < 1:  # the smallest set of likeliest tokens that holds at least top_p
        order = np.argsort(-p)
        kept = order[: int(np.searchsorted(np.cumsum(p[order]), top_p)) + 1]
        p = np.where(np.isin(np.arange(len(p)), kept), p, 0)
        p /= p.sum()
        assert 0 < (p == 0).sum() < len(p) - 1
    n = 3000
    rows = draw(policy, n, temperature=temperature, top_p=top_p, batch_size=n)
    first = [WORDS.index(row["completion"].split()[0]) if row["completion"] else 0 for row in rows]
    observed = np.bincount(first, minlength=len(WORDS))
    assert (observed[p == 0] == 0).all()
    assert stats.chisquare(observed[p > 0], n * p[p > 0]).pvalue > 1e-3


@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (0.6, 0.8), (0.0, 1.0)])
def test_log_probs_and_entropies_are_those_of_one_forward_pass_over_the_whole_text(
    policy: tuple[Any, Any], temperature: float, top_p: float
) -> None:
    model, tokenizer = policy
    sampling = Sampling(temperature=temperature, top_p=top_p, max_tokens=MAX_TOKENS)
    completions = complete(policy, Problem("p", PROMPT), range(20), sampling, traces=20)
    ids = tokenizer(PROMPT)["input_ids"]
    assert len({completion.n_tokens for completion in completions}) > 2 or temperature == 0
    for completion in completions:
        new = completion.token_ids
        assert new is not None
        assert completion.n_tokens == len(new)
        assert (new[-1] == 0) == (completion.finish_reason == "stop")
        with torch.no_grad():
            logits = model(torch.tensor([ids + new])).logits[0, len(ids) - 1 : -1].double()
        # before the nucleus cut, at the sampling temperature; at 1 where decoding is greedy
        logits = logits / (temperature or 1.0)
        logprobs = torch.log_softmax(logits, -1)[torch.arange(len(new)), new]
        np.testing.assert_allclose(completion.logprobs, logprobs, atol=1e-5)
        np.testing.assert_allclose(completion.entropies, token_entropy(logits), atol=1e-5)
        assert completion.tokens == [WORDS[i] for i in new]
    if temperature == 0:
        assert len({completion.text for completion in completions}) == 1


def test_the_generation_config_of_a_checkpoint_changes_nothing(policy: tuple[Any, Any]) -> None:
    model, _ = policy
    before = [row["completion"] for row in draw(policy, 5)]
    model.generation_config.repetition_penalty = 5.0
    model.generation_config.min_new_tokens = 8
    try:
        assert [row["completion"] for row in draw(policy, 5)] == before
    finally:
        model.generation_config.repetition_penalty = model.generation_config.min_new_tokens = None


def test_a_prompt_of_one_token_and_one_of_none(policy: tuple[Any, Any]) -> None:
    sampling = Sampling(max_tokens=3)
    assert len(complete(policy, Problem("p", "a"), [1, 2], sampling)) == 2
    with pytest.raises(InputError, match="prompt of problem 'p' is empty"):
        complete(policy, Problem("p", ""), [1, 2], sampling)


def test_logits_that_are_no_numbers_are_said(policy: tuple[Any, Any]) -> None:
    model, tokenizer = policy
    broken = copy.deepcopy(model)
    broken.lm_head.weight.data[3] = float("nan")
    with pytest.raises(InputError, match="not numbers"):
        complete((broken, tokenizer), Problem("p", PROMPT), [1], Sampling(max_tokens=3))


@pytest.mark.parametrize(
    ("model", "options", "sentence"),
    [
        ("no model at all", {}, "'no model at all' cannot be loaded"),
        ("embedded", {"dtype": "int3"}, "no dtype 'int3'"),
        ("embedded", {"device": "cuda:7"}, "cannot be moved to the device 'cuda:7'"),
    ],
)
def test_a_model_that_cannot_be_used_is_said(model: str, options: dict[str, Any], sentence: str) -> None:
    if options.get("device") and torch.cuda.device_count() > 7:
        pytest.skip("this machine has that device")
    with pytest.raises(InputError, match=sentence):
        TransformersEngine(model, 0, Sampling(), **options)


def test_another_checkpoint_has_another_fingerprint() -> None:
    engine = TransformersEngine("embedded", 0, Sampling())
    first = engine.settings()
    assert TransformersEngine("embedded", 0, Sampling()).settings() == first
    engine._model.lm_head.weight.data.mul_(1.0001)
    assert engine.settings()["weights"] != first["weights"]
    assert first["device"] == "cpu" or torch.cuda.is_available()


def tiny(rows: int = ROWS, *more: str, template: str | None = None) -> tuple[Any, Any]:
    return tiny_decoder("llama", vocab_size=rows), byte_tokenizer(*more, template=template)


def test_rows_beyond_the_tokenizer_stand_for_no_text_and_are_said(tmp_path: Path) -> None:
    save_decoder(tmp_path)
    said = io.StringIO()
    sampling = Sampling(max_tokens=60)
    engine = TransformersEngine(str(tmp_path), 0, sampling, device="cpu")
    with torch.no_grad():
        engine._model.lm_head.weight[260:] *= 3  # so that they are drawn
    with Meter(8, 0, Console(file=said, width=400)) as meter:
        ((_, completions),) = engine.draw([Block(0, Problem("p", "abc"), range(8))], meter)
    assert said.getvalue().count("The model has 272 rows, more than its tokenizer has tokens") == 1
    drawn = [i for completion in completions for i in completion.token_ids or ()]
    assert sum(i >= 260 for i in drawn) > 3
    tokenizer = byte_tokenizer()
    for completion in completions:
        ids, tokens = completion.token_ids, completion.tokens
        assert ids is not None
        assert tokens is not None
        assert all(token == "" for i, token in zip(ids, tokens, strict=True) if i >= 260)
        ours = tokenizer.decode([i for i in ids if i < 260], skip_special_tokens=True)
        assert completion.text == ours
        # explore reads such samples again
        row = {"completion": completion.text, "token_ids": ids}
        assert completion_ids(tokenizer, row, "here", rows=272) == ids
    with pytest.raises(InputError, match="it has no token 300"):
        completion_ids(tokenizer, {"completion": "", "token_ids": [300]}, "here", rows=272)


def test_a_prompt_with_tokens_that_the_model_lacks_is_said() -> None:
    with pytest.raises(InputError, match=r"token 272 \('<new>'\), and the model has 272 rows"):
        complete(tiny(ROWS, *(f"<{i}>" for i in range(12)), "<new>"), Problem("p", "a<new>"), [1], Sampling())


@pytest.mark.parametrize(
    ("template", "sentence"),
    [
        (None, "has no chat template for the conversation of problem 'p'"),
        (
            "{{ raise_exception('System role not supported') }}",
            r"of problem 'p' .System role not supported",
        ),
        ("{% for %}", "refuses the conversation of problem 'p'"),
        ("{{ messages[7].content.strip() }}", "refuses the conversation of problem 'p'"),
    ],
)
def test_a_conversation_without_a_template_that_takes_it_is_said(template: str | None, sentence: str) -> None:
    talk = [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}]
    with pytest.raises(InputError, match=sentence) as caught:
        complete(tiny(template=template), Problem("p", talk), [1], Sampling())
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("impossible", [False, True])
def test_varentropies_by_hand_also_beside_a_token_that_cannot_come(impossible: bool) -> None:
    logits = torch.tensor([[0.5, 0.25, 0.25, 0.0 if impossible else 1e-30]]).log()
    u = torch.tensor([0.1], dtype=torch.float64)
    # Surprisals log 2, log 4, log 4 with chances 1/2, 1/4, 1/4: the variance is (log 2)^2 / 4.
    assert draw_tokens(logits, u, Sampling(1.0))[3].item() == pytest.approx(math.log(2) ** 2 / 4, abs=1e-6)
    # At temperature 1/2 the chances are 2/3, 1/6, 1/6, and surprisals lie log 4 apart: 2/3 1/3 (log 4)^2.
    assert draw_tokens(logits, u, Sampling(0.5))[3].item() == pytest.approx(2 / 9 * math.log(4) ** 2, abs=1e-6)
