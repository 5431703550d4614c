"""Run folders made by hand, for the tests of the report."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from forkwise.explore.findings import Estimate
from forkwise.folders.results import write_result
from forkwise.forks import results, stored
from forkwise.forks.branches import FirstTokens
from forkwise.forks.cost import Cost
from forkwise.forks.estimators import Budget
from forkwise.forks.stored import Continued
from forkwise.samples import write_shard

HOSTILE = (
    '</script><script>window.pwned=1</script><img src=x onerror="window.pwned=2"> <!-- <svg onload=window.pwned=3> '
    "\u202egnp.exe\u2028 \x00 \x1b[31m &amp;&lt; ${window.pwned=4} {{ 7*7 }} ]]> \"' $x_1$"
)
WORDS = ("try", "3", "+", "5", "=", "8", ",", "check", "no", "wait", "so", "answer", ":", "hmm", "maybe", "yes")


def sample(
    run: str,
    problem: str,
    i: int,
    *,
    correct: bool | None = True,
    tokens: Sequence[str] | None = None,
    completion: str | None = None,
    prompt: str = "use 3 5 to make 8 :",
    entropies: Sequence[float] | None = None,
    top: bool = False,
) -> dict[str, Any]:
    """A row of the samples table; tokens get entropies, log-probs and, if wanted, alternatives."""
    row: dict[str, Any] = {
        "run": run,
        "model": run,
        "problem_id": problem,
        "sample_id": i,
        "prompt": prompt,
        "completion": completion,
        "correct": correct,
        "finish_reason": "stop",
    }
    if tokens is not None:
        values = entropies or [0.1 * (j % 20) for j in range(len(tokens))]
        row |= {
            "completion": "".join(tokens) if completion is None else completion,
            "n_tokens": len(tokens),
            "token_ids": list(range(len(tokens))),
            "tokens": list(tokens),
            "logprobs": [-value / 2 for value in values],
            "entropies": list(values),
        }
        if top:
            row["top_logprobs"] = [
                [
                    {"token": token, "logprob": -0.3},
                    {"token": " else", "logprob": -1.5},
                    {"token": "!", "logprob": -20.0},
                ]
                for token in tokens
            ]
    elif completion is not None:
        row["n_tokens"] = len(completion.split())
    return row


def random_tokens(rng: random.Random, n: int) -> list[str]:
    """Word tokens of which some begin a line or a sentence."""
    pieces: list[str] = []
    for i in range(n):
        word = rng.choice(WORDS)
        pieces.append(word if not pieces else ".\n" if i % 25 == 24 else " " + word)
    return pieces


def experiment(folder: Path, *, seeds: int = 1, problems: int = 4, samples: int = 8, tokens: bool = True) -> Path:
    """What a quickstart leaves: base and two arms, with training metrics, settings and results."""
    rng = random.Random(0)
    arms = {"GRPO": "grpo", "GRPO + entropy advantage": "grpo-entropy-advantage"}
    runs = {"base": ["base"]} | {name: [f"{slug}-seed{s}" for s in range(seeds)] for name, slug in arms.items()}
    chance = {"base": 0.2, "GRPO": 0.5, "GRPO + entropy advantage": 0.6}
    for arm, names in runs.items():
        for run in names:
            for p in range(problems):
                rows = []
                for i in range(samples):
                    words = random_tokens(rng, rng.randrange(20, 60))
                    right = rng.random() < chance[arm]
                    if tokens:
                        rows.append(sample(run, f"p{p}", i, correct=right, tokens=words, top=i == 0))
                    else:
                        rows.append(sample(run, f"p{p}", i, correct=right, completion="".join(words)))
                write_shard(folder / "samples" / run, f"{p:04d}", rows)
    for alpha, names in zip((0.0, 0.3), list(runs.values())[1:], strict=True):
        for run in names:
            metrics(folder / "arms" / run)
            (folder / "arms" / run / "run.yaml").write_text(f"alpha: {alpha}\nkappa: 2.5\nmethod: []\n")
    record = {"settings": {"title": "quickstart"}, "conclusion": "No evidence of a difference.", "runs": runs}
    (folder / "results.json").write_text(json.dumps(record), encoding="utf-8")
    return folder


def metrics(folder: Path, steps: int = 12) -> Path:
    """A training run's `metrics.jsonl`."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = [{"step": s, "reward": 0.1 + 0.02 * s, "entropy": 0.5 - 0.01 * s, "loss": 0.0} for s in range(1, steps + 1)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return folder


def forked(folder: Path, row: dict[str, Any]) -> Path:
    """What `forkwise forks` leaves of one sample: a state before its second token, with three ways from there.

    " we" (chance .5) went right once and wrong once, " go" (.3) wrong twice, and of the tail " no" was drawn, right.
    """
    first = FirstTokens([1, 7, 8], [0.5, 0.3, 0.1], [0.5, 0.3, 0.2], [2, 2, 2], forced=2)
    ends = [
        (" we win", True),
        (" we lose", False),
        (" go on", False),
        (" go off", False),
        (" no 8", True),
        (" no 9", True),
    ]
    answers = [text[-1] for text, _ in ends]
    state = Continued(
        1, first, [" we", " go", " no"], [text for text, _ in ends], list(answers), [right for _, right in ends], 6, 0
    )
    write_result(folder / "continuations" / "00000.json", stored._Chunk([state]))
    known = results.StateRow(
        *(row["run"], row["problem_id"], row["sample_id"], 1, "we", "other", 0.1, 0.5, row["correct"]),
        *(0.45, 0.0321, 0.2, 0.25, []),
        value_error=0.1,
    )
    none, budget = Estimate(None), Budget(*[Estimate(0.2, 0.1, 0.3)] * 2, Estimate(0.1, 0.05, 0.15), 0.01)
    everything = results.Part("all", 1, 1.0, 0.1, none, none, none, None)
    forks = results.Forks(
        *("samples", "embedded", "correct", [], {"breaks": "", "quantile": 0.8}, "lexicon", "patterns", 3, 4, 0, 1),
        *(1, 3, Cost(1, 6, 0, 6, 0.1, 0.2), 6, 0, 0, 0, 0, 0.0, budget, 1.0, everything, [], [], [], [], []),
        *([], [], [], [known]),
    )
    results.write(folder, forks)
    write_shard(folder / "tokens", "0000", [row])
    return folder
