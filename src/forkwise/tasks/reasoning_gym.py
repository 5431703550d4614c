"""Procedural problems of reasoning-gym: as many as wanted, each with a scorer, and solved means a score of exactly 1.

All of reasoning-gym runs in a worker process: some of its generators depend on the hash seed of the interpreter, which
is fixed there, and some of its scorers evaluate the model's text, which is refused there.
"""

from __future__ import annotations

import importlib.util
import itertools
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, get_args

from forkwise.errors import InputError, nearest
from forkwise.tasks.answers import extract_answer
from forkwise.tasks.base import Problem, Split, Verdict
from forkwise.tasks.verify_worker import question_hash
from forkwise.tasks.workers import Reply, WorkerPool

PROMPT = "{question}\n\nThink step by step, then give the final answer, and nothing else, as <answer>...</answer>."
DEFAULT_SIZE: dict[Split, int] = {"train": 5_000, "validation": 500, "test": 500}
LONGEST_ANSWER = 20_000
"""Longest answer in characters; the longest gold answers are grids of a few thousand."""

_CHUNK = 256  # items of one reasoning-gym dataset; its item i is item 0 of seed + i, so seeds are a chunk apart
_STEP = 32  # items made at a time; few, because the slowest take half a second each
_DRY_STEPS = 64  # so many in a row without a new question of the split: there are no more
_MAKE_LIMIT = 60.0  # seconds for one item; the slowest generator (knight_swap) takes 0.6
_ANSWER = re.compile(r"<answer>(.{0,20000}?)</answer>", re.DOTALL | re.IGNORECASE)


class ReasoningGym:
    """Problems of one reasoning-gym dataset.

    A question belongs to one split for ever: the hash of its text decides (half train, a quarter each validation and
    test), so the splits are disjoint whatever the seeds, and no question occurs twice in a split.

    The answer of a completion is what its last `<answer>...</answer>` holds, else what `extract_answer` finds, else the
    whole text. Only a score of 1 is correct: reasoning-gym also gives parts of a point, for junk too. `Verdict.by` is
    `"exact"` (the gold answer), `"reasoning-gym"` (its scorer; wrong where that raises), `"no-answer"`, `"too-long"`,
    `"timeout"` (wrong), or `"error"` (unscored: the worker died, or cannot make the question again).

    Args:
        task: the name of the dataset, such as `"chain_sum"`.
        config: the settings of the dataset, such as `{"max_terms": 3}`; not `seed` and `size`.
        prompt: template with the field `{question}`.
        workers, timeout, memory_mb: as for `MathVerifier`, per scored answer.
    """

    def __init__(
        self,
        task: str,
        config: Mapping[str, Any] | None = None,
        *,
        prompt: str = PROMPT,
        workers: int = 1,
        timeout: float = 5.0,
        memory_mb: int = 2048,
    ) -> None:
        if importlib.util.find_spec("reasoning_gym") is None:
            raise InputError('The reasoning-gym tasks need another package: pip install "forkwise[tasks]".')
        if "{question}" not in prompt:
            raise InputError("The prompt of a reasoning-gym task must contain the field {question}.")
        self.name = f"reasoning-gym:{task}"
        self._config = json.dumps(dict(config or {}), sort_keys=True)
        self._base = {"name": task, "config": self._config, "size": _CHUNK}
        self._prompt = prompt
        self._pool = WorkerPool("reasoning-gym", workers=workers, timeout=timeout, memory_mb=memory_mb)
        names = self._ask({"op": "names"})["names"]
        if task not in names:
            hint = nearest(task, names) or f" It has {', '.join(names)}."
            raise InputError(f"reasoning-gym has no dataset '{task}'.{hint}")
        check = self._ask({"op": "check", **self._base})
        for key in config or {}:
            if key not in check["fields"]:
                fields = ", ".join(check["fields"])
                raise InputError(f"{self.name} has no setting '{key}', only {fields}.{nearest(key, check['fields'])}")
        if "problem" in check:
            raise InputError(f"{self.name} cannot be made with {self._config}: {check['problem']}.")

    def problems(self, split: Split, n: int | None = None, *, seed: int = 0) -> list[Problem]:
        """Returns the first `n` problems of a split that `seed` generates; a larger `n` only appends.

        With None there are 5,000 for train and 500 for validation and test, or as many as can be made.

        Raises:
            InputError: there are fewer different questions than `n`, or the dataset has no gold answers.
        """
        if split not in get_args(Split):
            raise InputError(f"There is no split '{split}': use train, validation or test.")
        count = DEFAULT_SIZE[split] if n is None else n
        by_id: dict[str, Problem] = {}
        dry = 0
        for batch in self._batches(seed):
            if len(by_id) >= count or dry == _DRY_STEPS:
                break
            before = len(by_id)
            for problem in batch:
                if _split_of(problem.id) == split and len(by_id) < count:
                    by_id.setdefault(problem.id, problem)
            dry = dry + 1 if len(by_id) == before else 0
        if n is not None and len(by_id) < n:
            raise InputError(
                f"{self.name} has only {len(by_id)} different {split} questions; ask for no more than that."
            )
        return list(by_id.values())

    def _batches(self, seed: int) -> Iterator[list[Problem]]:
        first = seed * 1_000_003
        for start in itertools.count(0, _STEP):
            numbers = range(start, start + _STEP)
            places = [((first + i // _CHUNK * _CHUNK) % 2**31, i % _CHUNK) for i in numbers]
            requests = [{"op": "make", **self._base, "seed": s, "index": i} for s, i in places]
            replies = self._pool.map(requests, timeout=_MAKE_LIMIT)
            problems = []
            for (s, i), reply in zip(places, replies, strict=True):
                if "failure" in reply:
                    continue  # a few generators give up on a few seeds
                if reply["answer"] is None:
                    raise InputError(
                        f"{self.name} has no gold answers, so nothing shows that its scorer recognises a solution; "
                        "choose another dataset, such as reasoning-gym:chain_sum."
                    )
                prompt = self._prompt.replace("{question}", reply["question"])
                key = question_hash(f"{self.name}\n{reply['question']}")
                meta = {"seed": s, "index": i, "question_hash": question_hash(reply["question"])}
                problems.append(Problem(f"{self.name}-{key}", prompt, reply["answer"], meta))
            yield problems

    def verify(self, completions: Sequence[str], problems: Sequence[Problem]) -> list[Verdict]:
        """Returns one verdict per completion; equal answers to a problem are scored once."""
        if len(completions) != len(problems):
            raise InputError(f"Give one problem per completion, not {len(problems)} for {len(completions)}.")
        answers = [find_answer(completion) for completion in completions]
        requests: dict[tuple[str, str], Reply] = {}
        for answer, problem in zip(answers, problems, strict=True):
            if 0 < len(answer) <= LONGEST_ANSWER and answer != problem.answer:
                requests[problem.id, answer] = {"op": "score", **self._base, **problem.meta, "answer": answer}
        scored = dict(zip(requests, self._pool.map(list(requests.values())), strict=True))
        return [
            _verdict(answer, problem, scored.get((problem.id, answer)))
            for answer, problem in zip(answers, problems, strict=True)
        ]

    def close(self) -> None:
        """Ends the worker; it also ends with the interpreter."""
        self._pool.close()

    def _ask(self, request: Reply) -> Reply:
        (reply,) = self._pool.map([request], timeout=_MAKE_LIMIT)
        if "failure" in reply:
            raise InputError(f"{self.name} does not answer: {reply.get('detail', reply['failure'])}.")
        return reply


def find_answer(completion: str) -> str:
    """Finds the bare answer: the last `<answer>...</answer>`, a box, an "answer:" line, or else everything."""
    answer = completion
    tags = None
    at = completion.lower().rfind("<answer>")
    if at >= 0:
        tags = _ANSWER.match(completion, at)
    if tags is not None:
        answer = tags[1]
    elif len(completion) <= 10 * LONGEST_ANSWER:
        answer = extract_answer(completion) or completion
    return answer.encode("utf-8", "replace").decode().strip()


def _split_of(problem_id: str) -> Split:
    position = int(question_hash(problem_id), 16) % 4
    return "train" if position < 2 else "validation" if position == 2 else "test"


def _verdict(answer: str, problem: Problem, reply: Reply | None) -> Verdict:
    if not answer:
        return Verdict(False, None, "no-answer")
    if len(answer) > LONGEST_ANSWER:
        return Verdict(False, answer[:LONGEST_ANSWER], "too-long")
    if reply is None:
        return Verdict(True, answer, "exact")
    if "score" in reply:
        return Verdict(reply["score"] == 1.0, answer, "reasoning-gym")
    return Verdict(False, answer, "timeout") if reply["failure"] == "timeout" else Verdict(None, answer, "error")
