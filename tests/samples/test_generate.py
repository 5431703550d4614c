"""Sampling against a plain loop without any cache, and against the probabilities that it should follow."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy import stats

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from tokenizers import Tokenizer, models, pre_tokenizers

from forkwise.samples.generate import Sampling, _uniforms, sample_problem, sample_seed
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
    torch.manual_seed(0)
    backend = Tokenizer(models.WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token="<eos>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<eos>", pad_token="<eos>")
    config = transformers.LlamaConfig(
        vocab_size=len(WORDS),
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        eos_token_id=0,
        initializer_range=0.3,  # far from uniform
    )
    return transformers.LlamaForCausalLM(config).eval(), tokenizer


def draw(policy: tuple[Any, Any], n: int, problem: str = "p", **sampling: Any) -> list[dict[str, Any]]:
    model, tokenizer = policy
    settings = Sampling(max_tokens=MAX_TOKENS, **sampling)
    return list(
        sample_problem(model, tokenizer, Problem(problem, PROMPT), LengthTask(), n, run="r", seed=5, sampling=settings)
    )


@torch.no_grad()
def plain_loop(policy: tuple[Any, Any], sample_id: int, temperature: float) -> str:
    """One sample, one token at a time, no cache, no batch: numpy inverts the distribution function."""
    model, tokenizer = policy
    ids = tokenizer(PROMPT)["input_ids"]
    u = _uniforms([sample_seed(5, "p", sample_id)], MAX_TOKENS)[0].numpy()
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
