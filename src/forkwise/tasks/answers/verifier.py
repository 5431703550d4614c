r"""Verdicts: is the answer of a completion the gold answer? Own rules decide, math-verify in workers the rest.

`forkwise.tasks.answers.finding` finds the answer, `comparing` decides by exact arithmetic and by values. What its
grammar cannot read goes to math-verify, which is the last resort: its numeric comparison is made relative to size.
"""

from __future__ import annotations

import importlib.util
import re
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import replace
from types import TracebackType

from forkwise.errors import InputError
from forkwise.tasks.answers.boxes import boxed
from forkwise.tasks.answers.comparing import compare
from forkwise.tasks.answers.finding import Finding, find_answer
from forkwise.tasks.answers.limits import LONGEST_ANSWER
from forkwise.tasks.answers.notation import tidy
from forkwise.tasks.answers.statements import hashed, stated, tagged
from forkwise.tasks.base import Verdict
from forkwise.tasks.workers import WorkerPool, WorkerStats

_INTEGER = re.compile(r"([+-]?)([0-9]+|[0-9]{1,3}(?:(?:,|\{,\}|,\\!)[0-9]{3})+)")
_NEEDLESS_BLANK = re.compile(r"(?<![A-Za-z0-9]) | (?![A-Za-z0-9])")  # 1 2 is not 12
_WORD = re.compile(r"(?!d[a-z](?![^\W\d_]))[^\W\d_]{2,}")  # dx is no word
_COMMAND = re.compile(
    r"\\(?:begin|end)\s?\{[^{}]*\}|\\[A-Za-z]+|[_^]\s?\{[^{}]*\}|(?<![A-Za-z])(?:sin|cos|tan|log|ln|exp|lim|max"
    r"|min|mod)(?![A-Za-z])"
)
_NUMBER = re.compile(r"[0-9.]+")
_SHORT_GOLD = 150  # characters: a gold answer, not a solution, of one line


def _bare(answer: str) -> str:
    return answer.strip().strip("$").strip()


def _integer(answer: str) -> str | None:
    """Returns the canonical digits of an integer. Text, because `int` refuses more than 4,300 digits."""
    match = _INTEGER.fullmatch(answer)
    if match is None:
        return None
    digits = re.sub("[^0-9]", "", match[2]).lstrip("0") or "0"
    return "-" + digits if match[1] == "-" and digits != "0" else digits


def gold_answer_of(gold: str) -> str:
    """Finds the gold answer in `gold`, a whole solution that states it; a short text is the answer itself."""
    if len(gold) < _SHORT_GOLD and "\n" not in gold.strip():
        if not any(mark in gold for mark in ("oxed", "fbox", "####", "nswer", "<")):
            return gold
        return tagged(gold) or boxed(gold) or hashed(gold) or stated(gold) or gold
    return find_answer(gold).answer or gold


def compare_exactly(gold: str, answer: str) -> Verdict | None:
    """Decides where no algebra is needed, else gives None: two integers, or the same text but for notation."""
    gold_integer, integer = _integer(_bare(gold)), _integer(_bare(answer))
    if gold_integer is not None and integer is not None:
        return Verdict(gold_integer == integer, answer, "integer")
    gold_text, text = tidy(gold), tidy(answer)
    if _NEEDLESS_BLANK.sub("", gold_text) == _NEEDLESS_BLANK.sub("", text) != "":
        return Verdict(True, answer, "exact")
    return None


def _words(text: str) -> set[str]:
    return {word.lower() for word in _WORD.findall(_COMMAND.sub(" ", tidy(text)))} - {"and", "or"}


def _are_reordered(gold: str, answer: str) -> bool:
    """Tells whether two texts with words between numbers have the same numbers in another order."""
    numbers, answered = (_NUMBER.findall(tidy(text)) for text in (gold, answer))
    return bool(_words(gold)) and numbers != answered and sorted(numbers) == sorted(answered)


def compare_by_value(gold: str, answer: str) -> Verdict | None:
    """Returns the verdict by exact arithmetic and by values, part by part; None where the grammar does not suffice."""
    equal = compare(gold, answer)
    if equal is None and (_words(gold) != _words(answer) or _are_reordered(gold, answer)):
        equal = False  # math-verify drops words: nanometers would be picometers, 3 against 2 would be 2 against 3
    return None if equal is None else Verdict(equal, answer, "value")


def require_math_verify() -> None:
    """Raises InputError unless math-verify is installed."""
    if importlib.util.find_spec("math_verify") is None:
        raise InputError('Comparing LaTeX answers needs math-verify: pip install "forkwise[math]".')


class MathVerifier:
    r"""Verdicts on mathematical answers, whoever wrote them: bounded in time and memory, and never evaluated.

    `Verdict.by` of `verify` is the rule that found the answer, see `Finding`, a slash, and the path that decided; that
    of `compare` is the path alone:

    * `"integer"`, `"exact"` (the same text but for notation), `"value"` (exact arithmetic, or values to at least 120
      digits, part by part): decided in this process;
    * `"math-verify"`: in a worker process, started when the first such pair arrives;
    * `"timeout"`: over `timeout` seconds. Wrong: the limits are part of the rules, and a reward must not pay for
      answers that cannot be read. The worker is killed and replaced;
    * `"error"`: the verifier failed twice on this pair. `correct` is None: unscored, not wrong.

    Without a slash: `"no-answer"`: the completion states none; `"unfinished"`: it ends inside its reasoning;
    `"too-long"`: over 2,000 characters, not parsed; all wrong.

    Each pair of gold and answer is verified once, also across calls (the last `cache_size` pairs are kept).

    Args:
        workers: processes at most.
        timeout: seconds per pair, see `WorkerPool`. Of MATH-500 answers the slowest takes 0.2 s.
        memory_mb: address space of one worker in MiB.
        cache_size: pairs.
    """

    def __init__(
        self, *, workers: int = 1, timeout: float = 5.0, memory_mb: int = 1024, cache_size: int = 100_000
    ) -> None:
        self._pool = WorkerPool("math", workers=workers, timeout=timeout, memory_mb=memory_mb)
        self._cache: OrderedDict[tuple[str, str], Verdict] = OrderedDict()
        self._cache_size = cache_size

    @property
    def stats(self) -> WorkerStats:
        """Returns what the workers did: one request per different pair that text comparison could not decide."""
        return self._pool.stats

    def pids(self) -> list[int]:
        """Returns the process ids of the workers that are alive now."""
        return self._pool.pids()

    def close(self) -> None:
        """Ends the workers; they also end with the interpreter."""
        self._pool.close()

    def __enter__(self) -> MathVerifier:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def verify(self, golds: Sequence[str], completions: Sequence[str], *, last_number: bool = False) -> list[Verdict]:
        """Returns one verdict per completion, on the answer that `find_answer` finds in it."""
        findings = [find_answer(completion, last_number=last_number) for completion in completions]
        verdicts = self.compare(golds, [finding.answer for finding in findings])
        return [_found_and_compared(f, verdict) for f, verdict in zip(findings, verdicts, strict=True)]

    def compare(self, golds: Sequence[str], answers: Sequence[str | None]) -> list[Verdict]:
        """Returns one verdict per answer; None is no answer. A gold may also be a solution that states its answer.

        Raises:
            InputError: not as many golds as answers, or a pair needs math-verify and it is not installed.
        """
        if len(golds) != len(answers):
            raise InputError(f"Give one gold answer per answer, not {len(golds)} for {len(answers)}.")
        stated = {gold: gold_answer_of(gold) for gold in set(golds)}
        pairs = [(stated[gold], answer) for gold, answer in zip(golds, answers, strict=True)]
        verdicts: dict[tuple[str, str | None], Verdict] = {}
        open_pairs: list[tuple[str, str]] = []
        for gold, answer in set(pairs):
            verdict = self._decide_here(gold, answer)
            if verdict is not None:
                verdicts[gold, answer] = verdict
            elif answer is not None:
                open_pairs.append((gold, answer))
        if open_pairs:
            require_math_verify()
            open_pairs.sort()  # sets have no order, workers shall see the same sequence in every run
            replies = self._pool.map([{"gold": _bare(g), "prediction": _bare(a)} for g, a in open_pairs])
            for pair, reply in zip(open_pairs, replies, strict=True):
                verdict = verdicts[pair] = _verdict(pair[1], reply)
                if verdict.correct is not None:
                    self._cache[pair] = verdict
            while len(self._cache) > self._cache_size:
                self._cache.popitem(last=False)
        return [verdicts[pair] for pair in pairs]

    def _decide_here(self, gold: str, answer: str | None) -> Verdict | None:
        if answer is None or not answer.strip():
            return Verdict(False, None, "no-answer")
        if max(len(gold), len(answer)) > LONGEST_ANSWER:
            same = gold.strip() == answer.strip()
            return Verdict(same, answer[:LONGEST_ANSWER], "exact" if same else "too-long")
        verdict = compare_exactly(gold, answer)
        if verdict is not None:
            return verdict
        if (gold, answer) in self._cache:
            self._cache.move_to_end((gold, answer))
            return self._cache[gold, answer]
        verdict = compare_by_value(gold, answer)
        if verdict is not None:
            self._cache[gold, answer] = verdict
        return verdict


def _found_and_compared(finding: Finding, verdict: Verdict) -> Verdict:
    if verdict.by == "no-answer":
        return replace(verdict, by="unfinished") if finding.rule == "unfinished" else verdict
    return verdict if verdict.by == "too-long" else replace(verdict, by=f"{finding.rule}/{verdict.by}")


def _verdict(answer: str, reply: dict[str, object]) -> Verdict:
    if "correct" in reply:
        return Verdict(bool(reply["correct"]), answer, "math-verify")
    if reply["failure"] == "timeout":
        return Verdict(False, answer, "timeout")
    return Verdict(None, answer, "error")
