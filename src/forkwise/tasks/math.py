r"""Competition mathematics: trains on DAPO-Math-17k, tests on MATH-500, as arXiv 2506.14758 does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from forkwise.errors import InputError
from forkwise.tasks.answers import MathVerifier
from forkwise.tasks.base import Problem, Prompt, Split, Verdict
from forkwise.tasks.dataset import DatasetTask

TRAIN = "BytedTsinghua-SIA/DAPO-Math-17k"
TEST = "HuggingFaceH4/MATH-500"

_DAPO_BEFORE = (
    "Solve the following math problem step by step. The last line of your response should be of the form "
    "Answer: $Answer (without quotes) where $Answer is the answer to the problem.\n\n"
)
_DAPO_AFTER = '\n\nRemember to put your answer on its own line after "Answer:".'
TEMPLATES = {
    "boxed": "{problem}\nPlease reason step by step, and put your final answer within \\boxed{}.",
    "dapo": _DAPO_BEFORE + "{problem}" + _DAPO_AFTER,
}
"""`boxed`: for models tuned on mathematics (Qwen2.5-Math-7B in the paper); `dapo`: for base models (Qwen2.5-7B)."""


class MathTask:
    """Mathematical problems and their verification by `MathVerifier`.

    Train and validation (2 %, by hash) are cut from `train`, of whose 1.79 million rows 17,398 are different; test is
    all of `test`. A problem of `test` is never trained on.

    Args:
        template: the prompt around a problem, see `TEMPLATES`. A template that the source already wears is taken off.
        train, test: Hub ids or paths, with columns as `DatasetTask` finds them.
        verifier: shared with other tasks.
    """

    name = "math"

    def __init__(
        self,
        template: Literal["boxed", "dapo"] = "boxed",
        *,
        train: str | Path = TRAIN,
        test: str | Path = TEST,
        verifier: MathVerifier | None = None,
    ) -> None:
        if template not in TEMPLATES:
            raise InputError(f"There is no template '{template}': use {' or '.join(TEMPLATES)}.")
        self._template = TEMPLATES[template]
        self._verifier = verifier or MathVerifier()
        self._train = DatasetTask(train, test_fraction=0.0, validation_fraction=0.02, math_verifier=self._verifier)
        self._test = DatasetTask(test, test_fraction=1.0, math_verifier=self._verifier)
        self._held_out: frozenset[str] | None = None

    def problems(self, split: Split, n: int | None = None, *, seed: int = 0) -> list[Problem]:
        """Returns the first `n` problems (None: all) of a split in the order of `seed`; a larger `n` only appends.

        Raises:
            InputError: a source cannot be read, or there are fewer problems than asked for.
        """
        if split == "test":
            return [self._dress(problem) for problem in self._test.problems("test", n, seed=seed)]
        if self._held_out is None:
            self._held_out = frozenset(question(problem.prompt) for problem in self._test.problems("test"))
        pool = self._train.problems(split, seed=seed)
        problems = [problem for problem in pool if question(problem.prompt) not in self._held_out]
        if n is not None and not 0 <= n <= len(problems):
            raise InputError(f"math has {len(problems)} {split} problems; ask for at most that many, not {n}.")
        return [self._dress(problem) for problem in problems[:n]]

    def verify(self, completions: Sequence[str], problems: Sequence[Problem]) -> list[Verdict]:
        """Returns one verdict per completion; see `MathVerifier` for what `Verdict.by` says."""
        return self._train.verify(completions, problems)

    def _dress(self, problem: Problem) -> Problem:
        return replace(problem, prompt=self._template.replace("{problem}", question(problem.prompt)))


def question(prompt: Prompt) -> str:
    """Returns the problem without a template; of a conversation, the last message of the user."""
    if not isinstance(prompt, str):
        prompt = next((message["content"] for message in reversed(prompt) if message["role"] == "user"), "")
    prompt = prompt.strip()
    for template in TEMPLATES.values():
        before, after = template.split("{problem}")
        if prompt.startswith(before) and prompt.endswith(after):
            prompt = prompt[len(before) : len(prompt) - len(after)].strip()
    return prompt
