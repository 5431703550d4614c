r"""Is this answer the gold answer? Text and plain numbers are compared here, math-verify in workers does the rest.

The answer of a completion is its last `\boxed{...}`; math-verify itself would make a set of several boxes.

Known to be wrong in math-verify 0.9: it takes `4` for `4\sqrt(2)`, `1/2004!` for `1/2006!`, and deliberately `10\%`
for `10`; it does not see that `\sqrt{1/n}` is `1/\sqrt n`.
"""

from __future__ import annotations

import importlib.util
import re
from collections import OrderedDict
from collections.abc import Sequence
from fractions import Fraction
from types import TracebackType

from forkwise.errors import InputError
from forkwise.tasks.base import Verdict
from forkwise.tasks.workers import WorkerPool, WorkerStats

LONGEST_ANSWER = 2_000
"""Characters. The longest of MATH-500 has 53; what is longer counts as wrong without being parsed."""

_LONGEST_TEXT = 200_000  # characters from the end of a completion in which an answer is looked for
_BOX = re.compile(r"\\boxed\s{0,8}\{")
_BRACE = re.compile(r"\\boxed\s{0,8}\{|\\.|[{}]", re.DOTALL)
# Every repetition is bounded, so that the time is linear in the text.
_STATEMENT = re.compile(
    r"(?<![a-z])answer[\s*]{0,8}(?:is\b|:|=)[\s*:]{0,8}|^####[ \t]{0,8}(?=[-+$\\.(]{0,3}[0-9]|[$\\])",
    re.IGNORECASE | re.MULTILINE,
)
_DELIMITERS = (("$$", "$$"), ("$", "$"), (r"\(", r"\)"), (r"\[", r"\]"))
_SENTENCE_END = re.compile(r"[.!?](?=\s|$)|\n")


def extract_boxed(text: str) -> str | None:
    r"""What the last closed `\boxed{...}` holds, stripped, its braces balanced; None if no box is closed.

    An escaped brace (`\{`) is not a brace. Time is linear in the text, of which the last 200,000 characters count.
    """
    text = text[-_LONGEST_TEXT:]
    last = text.rfind(r"\boxed")
    if last < 0:
        return None
    # Nearly always the very last box is closed; otherwise (a completion that was cut off) look at all of them.
    return _last_closed_box(text, last) or _last_closed_box(text, 0)


def _last_closed_box(text: str, start: int) -> str | None:
    open_braces: list[int | None] = []  # where the content of a box starts, None for any other brace
    content: slice | None = None
    for token in _BRACE.finditer(text, start):
        if token[0] == "}":
            opened = open_braces.pop() if open_braces else None
            if opened is not None and (content is None or opened > content.start):
                content = slice(opened, token.start())
                if start and not open_braces:
                    break
        elif token[0] == "{":
            open_braces.append(None)
        elif token[0].startswith(r"\boxed"):
            open_braces.append(token.end())
    return None if content is None else text[content].strip()


def extract_answer(text: str) -> str | None:
    r"""The final answer that a completion states, or None if it states none.

    That is the last `\boxed{...}`; without a box, what follows the last of "answer is", "answer:", "answer =" and
    "####" (GSM8K) up to the end of the sentence or of the math environment, without `$` and `**`.
    """
    boxed = extract_boxed(text)
    if boxed is None:
        text = text[-_LONGEST_TEXT:]
        end = None
        for match in _STATEMENT.finditer(text):
            end = match.end()
        if end is None:
            return None
        boxed = _first_statement(text[end : end + 2 * LONGEST_ANSWER].lstrip())
    # A lone surrogate cannot be stored as UTF-8.
    return boxed.encode("utf-8", "replace").decode() or None


def _first_statement(text: str) -> str:
    for opening, closing in _DELIMITERS:
        if text.startswith(opening):
            end = text.find(closing, len(opening))
            if end > 0:
                return text[len(opening) : end].strip()
    end_of_sentence = _SENTENCE_END.search(text)
    return text[: end_of_sentence.start() if end_of_sentence else None].strip(" \t*$`,;:")


_INTEGER = re.compile(r"([+-]?)([0-9]+|[0-9]{1,3}(?:(?:,|\{,\}|,\\!)[0-9]{3})+)")
_SPACING = re.compile(r"(?<!\\)\\[,!;: ]|~|\\left\b|\\right\b")  # not the end of a row, "\\ "
_NEEDLESS_BLANK = re.compile(r"(?<![A-Za-z0-9]) | (?![A-Za-z0-9])")  # 1 2 is not 12
_TEXT = re.compile(r"\\(?:text|textbf|mathrm|mbox)\{([^{}\\]*)\}")


def _bare(answer: str) -> str:
    return answer.strip().strip("$").strip()


def normalize(answer: str) -> str:
    r"""`answer` without what does not change it: outer `$`, last period, spacing, `\left`, `\text`, `\dfrac`."""
    answer = _bare(answer).rstrip(".").replace(r"\dfrac", r"\frac").replace(r"\tfrac", r"\frac")
    answer = " ".join(_TEXT.sub(r"\1", _SPACING.sub(" ", answer)).split())
    return _NEEDLESS_BLANK.sub("", answer)


def _integer(answer: str) -> str | None:
    """The canonical digits of an integer. Text, because `int` refuses more than 4,300 digits."""
    match = _INTEGER.fullmatch(answer)
    if match is None:
        return None
    digits = re.sub("[^0-9]", "", match[2]).lstrip("0") or "0"
    return "-" + digits if match[1] == "-" and digits != "0" else digits


_DIGITS = "[0-9]{1,40}"
_FRACTION = re.compile(
    rf"([+-]?)(?:\\frac(?:\{{([+-]?{_DIGITS})\}}\{{([+-]?{_DIGITS})\}}|([0-9])([0-9]))|({_DIGITS})/({_DIGITS}))"
)
_DECIMAL = re.compile(r"[+-]?(?:[0-9]{1,9}\.[0-9]{0,9}|\.[0-9]{1,9})")
_CLEARLY_DIFFERENT = Fraction(2, 10**6)  # math-verify rounds to six decimals where one side is a decimal number


def _rational(normalized: str) -> tuple[Fraction, bool] | None:
    """The value of an integer, decimal or fraction, and whether it is a decimal; None for anything else."""
    integer = _integer(normalized)
    if integer is not None:
        return (Fraction(integer), False) if len(integer) <= 40 else None
    if _DECIMAL.fullmatch(normalized):
        return Fraction(normalized), True
    match = _FRACTION.fullmatch(normalized)
    if match is None:
        return None
    numerator, denominator = (match[i] or match[i + 2] or match[i + 4] for i in (2, 3))
    if int(denominator) == 0:
        return None
    value = Fraction(int(numerator), int(denominator))
    return (-value if match[1] == "-" else value), False


def _compare_rationals(gold: str, answer: str) -> bool | None:
    """What math-verify says of two normalized numbers; None where one is no plain number, or rounding could matter."""
    ours, theirs = _rational(gold), _rational(answer)
    if ours is None or theirs is None:
        return None
    difference = abs(ours[0] - theirs[0])
    if difference and (ours[1] or theirs[1]) and difference < _CLEARLY_DIFFERENT:
        return None
    return difference == 0


def compare_exactly(gold: str, answer: str) -> Verdict | None:
    """The verdict where no algebra is needed, else None: two integers, the same text, or two rational numbers."""
    gold_integer, integer = _integer(_bare(gold)), _integer(_bare(answer))
    if gold_integer is not None and integer is not None:
        return Verdict(gold_integer == integer, answer, "integer")
    gold_text, text = normalize(gold), normalize(answer)
    if gold_text == text != "":
        return Verdict(True, answer, "exact")
    equal = _compare_rationals(gold_text, text)
    return None if equal is None else Verdict(equal, answer, "rational")


def require_math_verify() -> None:
    """Raise InputError unless math-verify is installed."""
    if importlib.util.find_spec("math_verify") is None:
        raise InputError('Comparing LaTeX answers needs math-verify: pip install "forkwise[math]".')


class MathVerifier:
    r"""Verdicts on mathematical answers, whoever wrote them: bounded in time and memory, and never evaluated.

    `Verdict.by` says which path decided:

    * `"integer"`, `"exact"`, `"rational"` (fractions and decimals, in exact arithmetic): compared in this process; all
      that most tasks need, and no extra package;
    * `"math-verify"`: in a worker process, started when the first such pair arrives;
    * `"no-answer"`: the completion states none; `"too-long"`: over 2,000 characters, not parsed; both wrong;
    * `"timeout"`: over `timeout` seconds. Wrong: the limits are part of the rules, and a reward must not pay for
      answers that cannot be read. The worker is killed and replaced;
    * `"error"`: the verifier failed twice on this pair. `correct` is None: unscored, not wrong.

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
        """What the workers did: one request per different pair that text comparison could not decide."""
        return self._pool.stats

    def pids(self) -> list[int]:
        """Process ids of the workers that are alive now."""
        return self._pool.pids()

    def close(self) -> None:
        """End the workers; they also end with the interpreter."""
        self._pool.close()

    def __enter__(self) -> MathVerifier:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def verify(self, golds: Sequence[str], completions: Sequence[str]) -> list[Verdict]:
        """One verdict per completion, on the answer that `extract_answer` finds in it."""
        return self.compare(golds, [extract_answer(completion) for completion in completions])

    def compare(self, golds: Sequence[str], answers: Sequence[str | None]) -> list[Verdict]:
        """One verdict per answer; None is no answer. A gold may also be a solution that states its answer.

        Raises:
            InputError: not as many golds as answers, or a pair needs math-verify and it is not installed.
        """
        if len(golds) != len(answers):
            raise InputError(f"Give one gold answer per answer, not {len(golds)} for {len(answers)}.")
        pairs = [(extract_answer(gold) or gold, answer) for gold, answer in zip(golds, answers, strict=True)]
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
        if verdict is None and (gold, answer) in self._cache:
            self._cache.move_to_end((gold, answer))
            return self._cache[gold, answer]
        return verdict


def _verdict(answer: str, reply: dict[str, object]) -> Verdict:
    if "correct" in reply:
        return Verdict(bool(reply["correct"]), answer, "math-verify")
    if reply["failure"] == "timeout":
        return Verdict(False, answer, "timeout")
    return Verdict(None, answer, "error")
