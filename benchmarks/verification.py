r"""How many answers per CPU second does verification decide, and do its short cuts change any verdict?

    python benchmarks/verification.py            # the table of docs/sampling.md, some minutes on one core

CPU seconds are those of this process and of its workers together, starting them included. Answers come from the files
in `../shared/data` (or FORKWISE_SHARED_DATA): MATH-500 and published samples of several models; integers are made here.
Pairs go through `MathVerifier` and through math-verify as released, with the same time limit; verdicts on which the two
disagree are printed.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import random
import resource
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from forkwise.tasks.answers import MathVerifier, compare_exactly, extract_answer
from forkwise.tasks.base import Verdict

SHARED = Path(os.environ.get("FORKWISE_SHARED_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
Pair = tuple[str, str]


def cpu_seconds(work: Callable[[], Sequence[Verdict]]) -> tuple[float, Sequence[Verdict]]:
    """CPU seconds of `work`, its finished child processes included, and what it returned."""

    def spent() -> float:
        usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        return sum(usage.ru_utime + usage.ru_stime for usage in usages)

    before = spent()
    verdicts = work()
    return spent() - before, verdicts


def through(pairs: Sequence[Pair], *, timeout: float = 5.0) -> tuple[float, Sequence[Verdict]]:
    """CPU seconds and verdicts of `MathVerifier` on these pairs."""

    def work() -> list[Verdict]:
        with MathVerifier(timeout=timeout) as verifier:
            return verifier.compare([gold for gold, _ in pairs], [answer for _, answer in pairs])

    return cpu_seconds(work)


AS_RELEASED = r"""
import json, logging, signal, sys
from math_verify import LatexExtractionConfig, parse, verify
logging.disable(logging.CRITICAL)
extraction = [LatexExtractionConfig(boxed_match_priority=0)]
class Overrun(BaseException):
    pass
def stop(*_):
    raise Overrun
def read(answer):
    return parse(f"\\boxed{{{answer}}}", extraction, parsing_timeout=None)
def equal(gold, answer):
    signal.setitimer(signal.ITIMER_VIRTUAL, float(sys.argv[1]))
    try:
        return bool(verify(read(gold), read(answer), timeout_seconds=None))
    except Overrun:
        return None
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
signal.signal(signal.SIGVTALRM, stop)
json.dump([equal(*pair) for pair in json.load(sys.stdin)], sys.stdout)
"""


def as_released(pairs: Sequence[Pair], *, timeout: float = 5.0) -> tuple[float, Sequence[Verdict]]:
    """CPU seconds and verdicts of math-verify itself, in one process; its limit is in processor time, as ours is."""

    def work() -> list[Verdict]:
        command = [sys.executable, "-c", AS_RELEASED, str(timeout)]
        done = subprocess.run(command, input=json.dumps(pairs), capture_output=True, text=True, check=True)
        timed = json.loads(done.stdout)
        return [Verdict(bool(correct), None, "timeout" if correct is None else "math-verify") for correct in timed]

    return cpu_seconds(work)


def integers(count: int) -> list[Pair]:
    """Different integers, as completions that say them; half of them right."""
    rng = random.Random(0)
    return [(str(i), f"... so the answer is \\boxed{{{i + rng.randint(0, 1)}}}.") for i in range(count)]


def math500() -> list[Pair]:
    """The answers of MATH-500 that are no integers, each against the one that its own solution states."""
    rows = [json.loads(line) for line in (SHARED / "bench" / "math500_test.jsonl").open(encoding="utf-8")]
    pairs = [(row["answer"], extract_answer(row["solution"]) or "") for row in rows]
    return [pair for pair in pairs if not pair[0].isdigit()]


def published(names: str = "") -> list[Pair]:
    """Gold answer and answer of the published samples that have one, shuffled; `names`: part of the files' names."""
    pairs: list[Pair] = []
    for path in sorted(path for path in (SHARED / "samples").iterdir() if names in path.name):
        opener: Any = gzip.open if path.suffix == ".gz" else open
        with opener(path, "rt", encoding="utf-8") as file:
            if path.name.startswith("rg_llama3b"):
                for item in json.load(file)["categories"][0]["datasets"][0]["results"]:
                    texts = [c.get("full_model_response") or c["model_answer"] or "" for c in item["completions"]]
                    pairs += [(str(item["expected_answer"]), extract_answer(text) or "") for text in texts]
            elif ".jsonl" in path.name and "gsm8k" not in path.name:
                for line in file:
                    row = json.loads(line)
                    texts = row["code"] if isinstance(row["code"], list) else [row["code"]]
                    pairs += [(str(row.get("gt") or row["answer"]), extract_answer(text) or "") for text in texts]
    answered = [(extract_answer(gold) or gold, answer) for gold, answer in sorted(pairs) if answer.strip()]
    random.Random(0).shuffle(answered)
    return answered


def show(name: str, pairs: Sequence[Pair], seconds: float, verdicts: Sequence[Verdict]) -> None:
    """One row of the table."""
    slow = sum(verdict.by.endswith("timeout") for verdict in verdicts)
    rate = len(pairs) / seconds
    print(f"| {name} | {len(pairs):,} | {seconds:.2f} | {rate:,.0f} | {slow} |", flush=True)


def main() -> None:
    """Prints the table, then every pair on which we and math-verify disagree."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--timeout", type=float, default=5.0, help="seconds per answer")
    timeout = parser.parse_args().timeout
    print("| answers | pairs | CPU s | per CPU s | timeouts |\n|---|---|---|---|---|")

    made = integers(50_000)
    with MathVerifier() as verifier:
        seconds, verdicts = cpu_seconds(lambda: verifier.verify([g for g, _ in made], [text for _, text in made]))
    show("integers in completions, all different", made, seconds, verdicts)
    show("starting a worker, and one pair", [("x", "y")], *through([(r"\sum_{k=1}^{3} k", "6")]))  # beyond our grammar
    solutions = math500()
    show("MATH-500 against its own solutions", solutions, *through(solutions))
    everything = published()
    for name, pairs in (
        ("MATH, as three models answered", published("math500") + published("math100")),
        ("Minerva, as two models answered", published("minerva")),
        ("all files, as sampled", everything),
    ):
        latex = [pair for pair in pairs if not pair[0].lstrip("-").isdigit()]
        show(name, latex, *through(latex, timeout=timeout))

    undecided = [pair for pair in dict.fromkeys(everything) if compare_exactly(*pair) is None]
    ours, theirs = through(undecided, timeout=timeout), as_released(undecided, timeout=timeout)
    show("the hardest: all different, no integers, not equal as text", undecided, *ours)
    show("the same, math-verify as released", undecided, *theirs)
    again = undecided * 50
    show("the same, 50 times each", again, *through(again, timeout=timeout))
    for pair, one, other in zip(undecided, ours[1], theirs[1], strict=True):
        if one.correct != other.correct:
            print(f"\ndisagree: {pair} {one.by} {one.correct}, as released {other.by} {other.correct}")


if __name__ == "__main__":
    main()
