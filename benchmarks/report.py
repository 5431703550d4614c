"""Measures how long `forkwise report` takes over long traces, and how large its page is.

    python benchmarks/report.py                          # 50 traces of 8,000 tokens, with entropies and log-probs
    python benchmarks/report.py --top --trace-mb 20      # with five likely tokens at each place, all of them shown

The traces are words drawn at random, the same in every call. Seconds are from samples on disk to a page on
disk, in one process that has imported everything.
"""

from __future__ import annotations

import argparse
import math
import random
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from forkwise.report.command import write_report
from forkwise.samples import write_shard

_WORDS = [f"w{i}" for i in range(2000)]  # drawn unevenly, as words of a text are


def _tokens(rng: random.Random, n: int) -> Iterator[str]:
    for i in range(n):
        yield ".\n" if i % 25 == 24 else " wait" if i % 60 == 5 else f" {_WORDS[int(2000 * rng.random() ** 4)]}"


def _row(rng: random.Random, run: str, problem: int, n: int, top: bool) -> dict[str, Any]:
    tokens = list(_tokens(rng, n))
    entropies = [4 * rng.random() ** 4 for _ in tokens]
    row: dict[str, Any] = {
        **{"run": run, "model": run, "problem_id": f"p{problem:03d}", "sample_id": 0, "prompt": "A long question."},
        **{"completion": "".join(tokens), "correct": rng.random() < 0.5, "n_tokens": n},
        **{"tokens": tokens, "entropies": entropies, "logprobs": [-entropy for entropy in entropies]},
    }
    if top:
        row["top_logprobs"] = [
            [{"token": other, "logprob": math.log(0.5) * (j + 1)} for j, other in enumerate([token, *_tokens(rng, 4)])]
            for token in tokens
        ]
    return row


def main() -> None:
    """Makes the samples, writes the page, and prints what it took."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--traces", type=int, default=50)
    parser.add_argument("--tokens", type=int, default=8000)
    parser.add_argument("--top", action="store_true", help="store the five likeliest tokens too")
    parser.add_argument("--trace-mb", type=float, default=2.0)
    given = parser.parse_args()
    rng = random.Random(0)
    with tempfile.TemporaryDirectory() as temporary:
        folders = [Path(temporary) / run for run in ("plain", "shaped")]
        for folder in folders:
            rows = [_row(rng, folder.name, q, given.tokens, given.top) for q in range(given.traces // 2)]
            write_shard(folder, "0000", rows)
        page = Path(temporary) / "report.html"
        start, start_cpu = time.monotonic(), time.process_time()
        content = write_report(folders, page, trace_bytes=1e6 * given.trace_mb)
        seconds, cpu = time.monotonic() - start, time.process_time() - start_cpu
        shown = content.traces.shown if content.traces else 0
        size = page.stat().st_size / 1e6
        print(f"{shown} of {given.traces} traces in {size:.1f} MB, written in {seconds:.1f} s ({cpu:.1f} s of CPU)")


if __name__ == "__main__":
    main()
