"""Continuations of a state: which they are, what the judge gets, and what they depend on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from tiny_decoders import byte_tokenizer, tiny_decoder

from forkwise.forks.continuing import Continuer
from forkwise.forks.stored import State
from forkwise.sampling.recipe import Sampling
from forkwise.sampling.verify import Judge
from forkwise.tasks import Problem, Verdict

LIMIT = 12
PROBLEM = Problem("p", "The sum of 17 and 25")


def state(name: str = "p/0/3", prefix: str = "is ", token: str | None = "4") -> State:
    tokenizer = byte_tokenizer()
    ids = [tokenizer(text)["input_ids"] for text in (str(PROBLEM.prompt), prefix, token or "")]
    return State(0, name, ids[0], ids[1], ids[2][0] if token else None, PROBLEM)


def continuer(judged: list[str], seed: int = 0, number: int = 8) -> Continuer:
    def verify(texts: Sequence[str], problems: Sequence[Problem]) -> list[Verdict]:
        judged.extend(texts)
        assert set(map(id, problems)) == {id(PROBLEM)}
        return [Verdict(len(text) % 2 == 0, text[-1:], "length") for text in texts]

    sampling = Sampling(max_tokens=LIMIT)
    return Continuer(tiny_decoder("llama"), byte_tokenizer(), sampling, number, seed, Judge(verify), print)


def test_a_state_s_continuations_depend_on_it_and_the_seed_alone() -> None:
    made = continuer([])
    alone = made.draw(state())
    other = made.draw(state(name="p/1/3"))
    assert made.draw(state()) == alone == continuer([]).draw(state())
    assert other.continuations != alone.continuations
    assert continuer([], seed=1).draw(state()).continuations != alone.continuations


def test_the_judge_gets_whole_completions_and_the_sample_s_token_comes_first() -> None:
    judged: list[str] = []
    continued = continuer(judged).draw(state())
    first = continued.first
    assert continued.texts[0] == "4"
    assert sum(first.sizes) == len(continued.continuations) == len(judged) == 8
    assert judged == [f"is {text}" for text in continued.continuations]
    starts = [text for text, size in zip(continued.texts, first.sizes, strict=True) for _ in range(size)]
    assert all(text.startswith(start) for text, start in zip(continued.continuations, starts, strict=True))
    assert continued.correct == [len(text) % 2 == 0 for text in judged]
    assert continued.generated <= 8 * (LIMIT - 4)  # three tokens of the prefix, one forced


def test_at_the_limit_nothing_is_drawn_behind_the_first_token() -> None:
    judged: list[str] = []
    continued = continuer(judged).draw(state(prefix="x" * (LIMIT - 1)))
    assert continued.generated == 0
    assert [len(text) for text in judged] == [LIMIT] * 8
    assert continued.cut == 8


def test_the_end_can_be_forced_and_decides_at_once() -> None:
    judged: list[str] = []
    made = continuer(judged)
    end = replace(state(), token=made._ends[0])
    continued = made.draw(end)
    assert continued.continuations[: continued.first.sizes[0]] == [""] * continued.first.sizes[0]
    assert judged[: continued.first.sizes[0]] == ["is "] * continued.first.sizes[0]


def test_without_a_forced_token_all_are_drawn() -> None:
    continued = continuer([], number=20).draw(state(token=None))
    assert (continued.first.forced, continued.first.sizes) == (0, [1] * 20)
    assert len(set(continued.first.tokens)) > 3
    assert continued.first.weights == pytest.approx([1 / 20] * 20)
