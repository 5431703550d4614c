r"""How many answers per CPU second does verification decide, and do its short cuts change any verdict?

    python benchmarks/verification.py            # the table of docs/sampling.md, some minutes on one core

CPU seconds are those of this process and of its workers together, starting them included. Answers come from the files
in `../shared/data` (or FORKWISE_SHARED_DATA): MATH-500 and published samples of several models; integers are made here.
The same pairs go three ways: through `MathVerifier`, through `MathVerifier` without its arithmetic on fractions and
decimals, and through math-verify alone. Verdicts are compared with those of math-verify alone.
"""

from __future__ import annotations

import argparse
import contextlib
import gzip
import json
import os
import random
import resource
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

from forkwise.tasks import verification
from forkwise.tasks.base import Verdict
from forkwise.tasks.verification import MathVerifier, compare_exactly, extract_answer

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


def through(pairs: Sequence[Pair], *, rational: bool = True, text: bool = True, timeout: float = 5.0) -> Any:
    """`MathVerifier` on these pairs; without `text`, and so without `rational`, math-verify decides every one."""

    def work() -> list[Verdict]:
        with contextlib.ExitStack() as stack:
            for name, on in (("_compare_rationals", rational), ("compare_exactly", text)):
                if not on:
                    stack.enter_context(mock.patch.object(verification, name, return_value=None))
            verifier = stack.enter_context(MathVerifier(timeout=timeout))
            return verifier.compare([gold for gold, _ in pairs], [answer for _, answer in pairs])

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


def published() -> list[Pair]:
    """Gold answer and answer of every published sample that has one, in a random order."""
    pairs: list[Pair] = []
    for path in sorted((SHARED / "samples").iterdir()):
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
    found = [(extract_answer(gold) or gold, answer) for gold, answer in sorted(pairs) if answer.strip()]
    random.Random(0).shuffle(found)
    return found


def show(name: str, pairs: Sequence[Pair], seconds: float, verdicts: Sequence[Verdict]) -> None:
    """One row of the table."""
    slow = sum(verdict.by == "timeout" for verdict in verdicts)
    rate = len(pairs) / seconds
    print(f"| {name} | {len(pairs):,} | {seconds:.2f} | {rate:,.0f} | {slow} |", flush=True)


def main() -> None:
    """Prints the table, then every pair on which a short cut and math-verify disagree."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--timeout", type=float, default=5.0, help="seconds per answer")
    timeout = parser.parse_args().timeout
    print("| answers | pairs | CPU s | per CPU s | timeouts |\n|---|---|---|---|---|")

    made = integers(50_000)
    with MathVerifier() as verifier:
        seconds, verdicts = cpu_seconds(lambda: verifier.verify([g for g, _ in made], [text for _, text in made]))
    show("integers in completions, all different", made, seconds, verdicts)

    show("starting a worker, and one pair", [("x", "y")], *through([("x", "y")]))
    samples = published()
    with mock.patch.object(verification, "_compare_rationals", return_value=None):
        by_text = {pair: compare_exactly(*pair) for pair in samples}
    latex = [pair for pair in samples if (found := by_text[pair]) is None or found.by != "integer"]
    show("published, as sampled, no integers", latex, *through(latex, timeout=timeout))
    undecided = [pair for pair, verdict in by_text.items() if verdict is None]  # what text comparison leaves
    shares = [compare_exactly(*pair) is not None for pair in undecided]
    print(f"(of the published pairs that text leaves, arithmetic decides {sum(shares)} of {len(shares)})")
    for name, pairs in (("MATH-500, no integers", math500()), ("published, different LaTeX", undecided)):
        ours = through(pairs, timeout=timeout)
        show(name, pairs, *ours)
        show(f"{name}: without arithmetic", pairs, *through(pairs, rational=False, timeout=timeout))
        alone = through(pairs, text=False, timeout=timeout)
        show(f"{name}: math-verify alone", pairs, *alone)
        for pair, one, other in zip(pairs, ours[1], alone[1], strict=True):
            if one.correct != other.correct:
                print(f"\ndisagree: {pair} {one.by} {one.correct}, {other.by} {other.correct}\n")
    again = undecided * 50
    show("published, different LaTeX, 50 times each", again, *through(again, timeout=timeout))


if __name__ == "__main__":
    main()
