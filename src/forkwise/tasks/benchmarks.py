r"""The evaluation sets of the reasoning literature by their Hub ids, and the settings that the paper samples with.

Problem statements are loaded, never shipped: those of AIME and AMC are © MAA.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from forkwise.errors import InputError
from forkwise.tasks.answers import MathVerifier, extract_answer
from forkwise.tasks.base import Problem, Split, Verdict, question_id
from forkwise.tasks.dataset import DatasetTask
from forkwise.tasks.math import TEMPLATES, question


@dataclass(frozen=True)
class HubSource:
    """The source of a benchmark: its Hub id, its configuration there, and how many different problems it has.

    `last_number` tells whether the last number of a completion is its answer where it states none.
    """

    hub_id: str
    size: int
    config: str | None = None
    last_number: bool = False


BENCHMARKS = {
    "aime24": HubSource("HuggingFaceH4/aime_2024", 30),
    "aime25": HubSource("math-ai/aime25", 30),
    "amc23": HubSource("AI-MO/aimo-validation-amc", 83),  # AMC 12 of 2022 and 2023: the 83 problems of the paper
    "math500": HubSource("HuggingFaceH4/MATH-500", 500),
    "gsm8k": HubSource("openai/gsm8k", 1319, config="main", last_number=True),
    "minerva": HubSource("math-ai/minervamath", 272),
}


@dataclass(frozen=True)
class SamplingPreset:
    """The settings to sample a benchmark with: `n` completions per problem, temperature, nucleus, length in tokens."""

    n: int
    temperature: float
    top_p: float
    max_tokens: int


# arXiv 2506.14758, evaluation: temperature 0.6, top-p 0.95, 8K tokens; K = 256, 256, 128 and 16.
PRESETS = {
    "paper": {
        name: SamplingPreset(k, temperature=0.6, top_p=0.95, max_tokens=8192)
        for name, k in {"aime24": 256, "aime25": 256, "amc23": 128, "math500": 16}.items()
    }
}


def sampling_preset(preset: str, task: str) -> SamplingPreset:
    """Returns the sampling settings that `preset` has for `task` (`"aime24"`, `"aime24:dapo"`).

    Raises:
        InputError: no such preset, or it says nothing of this task.
    """
    if preset not in PRESETS:
        raise InputError(f"There is no preset '{preset}': use {', '.join(PRESETS)}.")
    name = task.partition(":")[0]
    if name not in PRESETS[preset]:
        raise InputError(
            f"The preset '{preset}' says nothing of the task '{task}', only of {', '.join(PRESETS[preset])}: give -n, "
            "--temperature, --top-p and --max-tokens yourself."
        )
    return PRESETS[preset][name]


class BenchmarkTask:
    """All problems of one benchmark, as its `test` split, verified by `MathVerifier`.

    The id of a problem is the hash of its text, as `forkwise import` makes it: runs drawn here pair with those of other
    tools, whatever they number the problems.

    Args:
        name: one of `BENCHMARKS`.
        template: the prompt around a problem, see `forkwise.tasks.math.TEMPLATES`. The paper uses `boxed` for
            Qwen2.5-Math-7B and `dapo` for Qwen2.5-7B.
        source: a file or another Hub id with the same problems, instead of the one in `BENCHMARKS`.
        answer_column: of `source`, where it has another name (`solution`).
        verifier: shared with other tasks.
    """

    def __init__(
        self,
        name: str,
        template: Literal["boxed", "dapo"] = "boxed",
        *,
        source: str | Path | None = None,
        answer_column: str | None = None,
        verifier: MathVerifier | None = None,
    ) -> None:
        if name not in BENCHMARKS:
            raise InputError(f"There is no benchmark '{name}': use {', '.join(BENCHMARKS)}.")
        self.name = name
        self._template = TEMPLATES[template]
        self._dataset = DatasetTask(
            source or BENCHMARKS[name].hub_id,
            config=None if source else BENCHMARKS[name].config,
            answer_column=answer_column,
            last_number=BENCHMARKS[name].last_number,
            test_fraction=1.0,  # some sets call their only split "train"
            math_verifier=verifier,
        )

    def problems(self, split: Split, n: int | None = None, *, seed: int = 0) -> list[Problem]:
        """Returns the first `n` problems in the order that `seed` gives (None: all). A larger `n` only appends.

        Raises:
            InputError: another split than test, the dataset cannot be loaded, or it has fewer problems than `n`.
        """
        if split != "test":
            raise InputError(f"{self.name} is for evaluation and has no {split} split: use test.")
        return [self._dress(problem) for problem in self._dataset.problems("test", n, seed=seed)]

    def verify(self, completions: Sequence[str], problems: Sequence[Problem]) -> list[Verdict]:
        """Returns one verdict per completion; see `MathVerifier` for what `Verdict.by` says."""
        return self._dataset.verify(completions, problems)

    def _dress(self, problem: Problem) -> Problem:
        gold = problem.answer or ""
        gold = extract_answer(gold) or gold  # "... #### 18" of GSM8K, solutions with a box
        gold = re.sub(r"(?<=\d)\.0$", "", gold)  # AMC answers are stored as floats
        text = question(problem.prompt)
        return replace(problem, id=question_id(text), prompt=self._template.replace("{problem}", text), answer=gold)
