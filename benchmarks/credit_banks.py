"""Makes the banks of true advantages: both embedded tasks, the base model and GRPO at mid-training.

Each bank is what four commands make, printed before they run: `forkwise grpo` (of the trained ones), `sample`, `forks`,
and `credit --pack`. All of them are seeded and continue where they were killed, and so does this script.

    python benchmarks/credit_banks.py --out banks                   # all four, in the package's sizes
    python benchmarks/credit_banks.py --out banks --only story-base --states 260 --problems 80
    python benchmarks/credit_banks.py --out banks --only countdown-base --continuations 32
    python benchmarks/credit_banks.py --out banks --list            # the commands alone
"""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

RECIPE = Path(__file__).parents[1] / "examples" / "credit_grpo.yaml"


@dataclass(frozen=True)
class Task:
    """An embedded task: its name, the model that knows it, the longest completion, and words that begin a sentence."""

    task: str
    model: str
    max_tokens: int
    breaks: str = ""


TASKS = {
    "countdown": Task("countdown:4", "embedded", 104, "try,maybe,because,check,wait,hmm,instead,so"),
    "story": Task("story:4", "embedded:story", 116),
}


@dataclass(frozen=True)
class Size:
    """How much of a bank is drawn: problems with 32 samples each, states, and continuations of a state."""

    problems: int
    states: int
    continuations: int


SIZES = {
    "countdown-base": Size(120, 3000, 48),
    "story-base": Size(120, 3000, 16),
    "countdown-grpo": Size(120, 2000, 96),
    "story-grpo": Size(120, 3000, 16),
}
"""Of the package's banks: ten times the states of the first trials; more continuations where tokens are worth less."""
BANKS = list(SIZES)


def commands(bank: str, out: Path, size: Size | None = None) -> list[list[str]]:
    """Returns the commands that make a bank, each a list of words behind `forkwise`; by default in its own size."""
    size = size or SIZES[bank]
    name, _, policy = bank.partition("-")
    task = TASKS[name]
    model, made = task.model, []
    if policy == "grpo":
        model = str(out / "grpo" / name)
        length = ["--max_completion_length", str(task.max_tokens)]
        train = ["--model", task.model, "--task", task.task, "--train_problems", "240", *length]
        made.append(["grpo", *train, "--config", str(RECIPE), "--output_dir", model, "--resume", "true"])
    samples, forked = str(out / "samples" / bank), str(out / "forked" / bank)
    drawn = ["--problems", str(size.problems), "-n", "32", "--max-tokens", str(task.max_tokens)]
    breaks = ["--breaks", task.breaks] if task.breaks else []
    made.append(["sample", "--model", model, "--task", task.task, *drawn, "--out", samples, "--run", bank])
    budget = ["--states", str(size.states), "--continuations", str(size.continuations)]
    made.append(["forks", samples, "--model", model, *budget, *breaks, "--out", forked, "--brief"])
    made.append(["credit", forked, "--brief", "--pack", str(out / f"{bank}.parquet")])
    return made


def main() -> None:
    """Runs the commands, or lists them."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", choices=BANKS, nargs="+", default=BANKS)
    for name in ("problems", "states", "continuations"):
        parser.add_argument(f"--{name}", type=int, help="default: each bank's own number")
    parser.add_argument("--list", action="store_true", help="print the commands and run none")
    given = parser.parse_args()
    for bank in given.only:
        asked = {name: n for name in ("problems", "states", "continuations") if (n := getattr(given, name)) is not None}
        for words in commands(bank, given.out, replace(SIZES[bank], **asked)):
            print("forkwise", shlex.join(words), flush=True)
            if not given.list:
                done = subprocess.run([sys.executable, "-m", "forkwise", *words], check=False)
                if done.returncode:
                    sys.exit(done.returncode)


if __name__ == "__main__":
    main()
