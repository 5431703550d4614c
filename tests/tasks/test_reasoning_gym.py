"""reasoning-gym: disjoint splits, the same questions everywhere, a score of 1 or nothing, no text evaluated."""

import importlib.util
import os
import subprocess
import sys
import textwrap

import pytest

from forkwise.errors import InputError
from forkwise.tasks import load_task
from forkwise.tasks.reasoning_gym import ReasoningGym, find_answer
from forkwise.tasks.verify_worker import check_harmless

needs_reasoning_gym = pytest.mark.skipif(
    importlib.util.find_spec("reasoning_gym") is None, reason="reasoning-gym is not installed"
)


@needs_reasoning_gym
def test_splits_are_disjoint_whatever_the_seeds_and_nothing_repeats():
    task = ReasoningGym("chain_sum", {"min_terms": 2, "max_terms": 2, "min_digits": 1, "max_digits": 1})
    splits = {
        split: [p.prompt for seed in (0, 1) for p in task.problems(split, 20, seed=seed)]
        for split in ("train", "validation", "test")
    }
    assert not set(splits["train"]) & set(splits["test"])
    assert not set(splits["train"]) & set(splits["validation"])
    assert not set(splits["validation"]) & set(splits["test"])
    twenty = task.problems("train", 20)
    assert len({p.prompt for p in twenty}) == 20
    assert task.problems("train", 5) == twenty[:5]
    assert task.problems("train", 20, seed=1) != twenty
    task.close()


@needs_reasoning_gym
def test_questions_do_not_depend_on_the_hash_seed_of_the_caller():
    # ransom_note iterates over a set of letters: in the caller's interpreter its questions would change with every run.
    script = """
        from forkwise.tasks.reasoning_gym import ReasoningGym
        print([(p.id, p.answer) for p in ReasoningGym("ransom_note").problems("test", 3)])
    """
    outputs = {
        subprocess.run(
            [sys.executable, "-c", textwrap.dedent(script)],
            env={**os.environ, "PYTHONHASHSEED": seed},
            stdout=subprocess.PIPE,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(outputs) == 1


@needs_reasoning_gym
def test_only_a_score_of_one_is_solved():
    task = load_task("reasoning-gym:chain_sum")
    (problem,) = task.problems("test", 1)
    gold = problem.answer
    completions = [
        f"<answer> {gold}\n</answer>",
        f"So \\boxed{{{gold}}}",
        gold,
        f"<answer>It is {gold}</answer>",
        "",
        "?",
    ]
    verdicts = task.verify(completions, [problem] * 6)
    assert [v.correct for v in verdicts] == [True, True, True, False, False, False]
    assert [v.by for v in verdicts] == ["exact"] * 3 + ["reasoning-gym", "no-answer", "reasoning-gym"]


@needs_reasoning_gym
def test_another_solution_than_the_gold_is_solved_too():
    task = ReasoningGym("countdown", {"min_numbers": 3, "max_numbers": 3})
    (problem,) = task.problems("test", 1)
    (verdict,) = task.verify([f"<answer>0 + {problem.answer} - 0*1</answer>"], [problem])
    assert verdict.correct is False  # other numbers
    (verdict,) = task.verify([f"<answer>({problem.answer})</answer>"], [problem])
    assert (verdict.correct, verdict.by) == (True, "reasoning-gym")


@needs_reasoning_gym
@pytest.mark.parametrize("name", ["n_queens", "countdown"])  # one that calls eval, one that calls sympy's parse_expr
def test_text_of_a_model_is_never_evaluated(name, tmp_path):
    proof = tmp_path / "evaluated"
    task = ReasoningGym(name)
    (problem,) = task.problems("test", 1)
    (verdict,) = task.verify([f"<answer>open({str(proof)!r}, 'w')</answer>"], [problem])
    assert verdict.correct is False
    assert not proof.exists()
    (verdict,) = task.verify(["<answer>" + "9" * 30_000 + "</answer>"], [problem])
    assert verdict.correct is False


@needs_reasoning_gym
def test_an_answer_that_takes_too_long_is_wrong():
    task = ReasoningGym("polynomial_multiplication", timeout=1.0)
    (problem,) = task.problems("test", 1)
    slow, gold = task.verify(["<answer>9**9**9**9**9</answer>", f"<answer>{problem.answer} </answer>"], [problem] * 2)
    assert (slow.correct, slow.by) == (False, "timeout")
    assert gold.correct is True


@needs_reasoning_gym
def test_a_scorer_that_raises_says_wrong():
    task = ReasoningGym("prime_factorization")
    (problem,) = task.problems("test", 1)
    assert task.verify(["<answer>abc</answer>"], [problem])[0].correct is False


@needs_reasoning_gym
def test_a_question_that_cannot_be_made_again_is_unscored():
    from dataclasses import replace

    task = ReasoningGym("chain_sum")
    (problem,) = task.problems("test", 1)
    (verdict,) = task.verify(["<answer>1</answer>"], [replace(problem, meta={**problem.meta, "question_hash": "0"})])
    assert (verdict.correct, verdict.by) == (None, "error")


@needs_reasoning_gym
@pytest.mark.parametrize(
    ("spec", "sentence"),
    [
        ("reasoning-gym:chain_sm", "no dataset 'chain_sm'. Did you mean 'chain_sum'"),
        ("reasoning-gym:chain_sum,max_term=3", "no setting 'max_term'.* Did you mean 'max_terms'"),
        ("reasoning-gym:chain_sum,max_terms=1", "max_terms must be >= min_terms"),
        ("reasoning-gym:chain_sum,max_terms", "write NAME=VALUE"),
    ],
)
def test_wrong_names_and_settings_are_one_sentence(spec, sentence):
    with pytest.raises(InputError, match=sentence):
        load_task(spec)


@needs_reasoning_gym
def test_datasets_without_golds_and_with_few_questions_say_so():
    with pytest.raises(InputError, match="has no gold answers"):
        ReasoningGym("boxnet").problems("test", 1)
    task = ReasoningGym("coin_flip", {"min_trials": 3, "max_trials": 3})
    everything = [p for split in ("train", "validation", "test") for p in task.problems(split)]
    assert len({p.prompt for p in everything}) == len(everything) < 100
    with pytest.raises(InputError, match="only .* different test questions"):
        task.problems("test", 1000)


def test_without_reasoning_gym_the_sentence_names_the_extra(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r'pip install "forkwise\[tasks\]"'):
        load_task("reasoning-gym:chain_sum")


@pytest.mark.parametrize(
    ("completion", "answer"),
    [
        ("<answer>1</answer> no <answer>\n2 3\n</answer>", "2 3"),
        ("<ANSWER>1</ANSWER>", "1"),
        ("<answer>1</answer> <answer>cut", "cut"),
        (r"\boxed{4}", "4"),
        (" 5 ", "5"),
        ("\ud800", "?"),
    ],
)
def test_the_answer_is_what_the_last_tags_hold(completion, answer):
    assert find_answer(completion) == answer


@pytest.mark.parametrize("source", ["[[1, 0], [0, 1]]", "['a', '_']", "-3 + 4 // 2", "0x1f << 2"])
def test_literals_and_arithmetic_are_harmless(source):
    check_harmless(source, symbols=False)


@pytest.mark.parametrize("source", ["x", "f(1)", "().__class__", "[x for x in ()]", "lambda: 1", "f'{1}'", "a[0]"])
def test_everything_else_is_not(source):
    with pytest.raises((ValueError, SyntaxError)):
        check_harmless(source, symbols=False)


@pytest.mark.parametrize("source", ["x**2 + sin(y)", "2*x", "(1 + 2)*3"])
def test_formulas_are_harmless_with_symbols(source):
    check_harmless(source, symbols=True)


@pytest.mark.parametrize(
    "source", ["open(1)", "sin('x')", "'x'", "x.y", "__name__", "sin(x=1)", "sin(*x)", "(sin)(x)(y)"]
)
def test_strings_and_other_calls_are_not_even_with_symbols(source):
    with pytest.raises(ValueError, match="is not arithmetic"):
        check_harmless(source, symbols=True)
