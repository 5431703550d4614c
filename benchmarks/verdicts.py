r"""Does verification judge answers as a careful person does? Agreement with labels, beside math-verify as released.

    python benchmarks/verdicts.py                    # the table of docs/sampling.md, a minute on one core
    python benchmarks/verdicts.py FILE.jsonl         # your own rows {"format", "gold", "completion", "right"}

The rows in `benchmarks/data/verdicts.jsonl` were labelled by reading, before any rule was tuned on them;
`verdicts_aside.jsonl` was read by nobody who wrote a rule. Every disagreement is printed below the table.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from forkwise.tasks.answers import MathVerifier

DATA = Path(__file__).parent / "data"

AS_RELEASED = r"""
import json, logging, signal, sys
from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse, verify
logging.disable(logging.CRITICAL)
extraction = [LatexExtractionConfig(), ExprExtractionConfig()]
class Overrun(BaseException):
    pass
def stop(*_):
    raise Overrun
def read(text, gold):
    found = parse(text, extraction, parsing_timeout=None)
    if gold and ("boxed" not in text and "####" not in text and len(text) < 150 or not found):
        found = parse(f"\\boxed{{{text}}}", extraction, parsing_timeout=None)
    return found
def equal(gold, completion):
    signal.setitimer(signal.ITIMER_VIRTUAL, 5.0)
    try:
        return bool(verify(read(gold, True), read(completion, False), timeout_seconds=None))
    except (Overrun, Exception):
        return False
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
signal.signal(signal.SIGVTALRM, stop)
json.dump([equal(*pair) for pair in json.load(sys.stdin)], sys.stdout)
"""


def as_released(rows: Sequence[dict[str, Any]]) -> list[bool]:
    """Verdicts of math-verify itself, with both of its extractors; what it cannot read is wrong."""
    pairs = json.dumps([(row["gold"], row["completion"]) for row in rows])
    done = subprocess.run([sys.executable, "-c", AS_RELEASED], input=pairs, capture_output=True, text=True, check=True)
    verdicts: list[bool] = json.loads(done.stdout)
    return verdicts


def ours(rows: Sequence[dict[str, Any]]) -> list[bool | None]:
    """Verdicts of `MathVerifier`."""
    with MathVerifier() as verifier:
        verdicts = verifier.verify([row["gold"] for row in rows], [row["completion"] for row in rows])
    return [verdict.correct for verdict in verdicts]


def main() -> None:
    """Prints one table per file, a row per format."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", type=Path, default=[DATA / "verdicts.jsonl", DATA / "verdicts_aside.jsonl"])
    for path in parser.parse_args().files:
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        verdicts, released = ours(rows), as_released(rows)
        total, right, agreed, wrongly, theirs, theirs_wrongly = (Counter[str]() for _ in range(6))
        for row, verdict, other in zip(rows, verdicts, released, strict=True):
            for name in (row.get("format") or row["kind"], "**all**"):
                total[name] += 1
                right[name] += row["right"]
                agreed[name] += verdict == row["right"]
                wrongly[name] += bool(verdict) and not row["right"]
                theirs[name] += other == row["right"]
                theirs_wrongly[name] += other and not row["right"]
        print(f"\n{path.name}\n")
        print("| format | pairs | right ones | agreed | wrong called right | math-verify agreed | wrong called right |")
        print("|---|---|---|---|---|---|---|")
        for name in total:
            counts = (total, right, agreed, wrongly, theirs, theirs_wrongly)
            print(f"| {name} | " + " | ".join(str(counter[name]) for counter in counts) + " |")
        for row, verdict in zip(rows, verdicts, strict=True):
            if verdict != row["right"]:
                texts = f"{row['gold'][-100:]!r} {row['completion'][-200:]!r}"
                print(f"\ndisagree: {texts} labelled {row['right']}, judged {verdict}")


if __name__ == "__main__":
    main()
