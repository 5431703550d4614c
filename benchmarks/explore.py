"""How long does `forkwise explore` take? Public traces against a base model's, and the neighbour search alone.

    python benchmarks/explore.py TABLE --base BASE     # samples tables; prints CPU seconds per part
    python benchmarks/explore.py --neighbours 100000   # n x n unit vectors of 384 dimensions

CPU seconds of this process, all threads; run it with OMP_NUM_THREADS=1 for one thread.
"""

from __future__ import annotations

import argparse
import resource
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from forkwise.explore.analysis import explore_run
from forkwise.explore.encoders import Encoder, load_encoder, remembering
from forkwise.explore.lexicon import load_lexicon, load_reflective
from forkwise.explore.neighbours import Vectors, mean_distances
from forkwise.explore.settings import ExploreSettings
from forkwise.explore.traces import load_traces

SPENT: dict[str, float] = {}


@contextmanager
def timed(what: str) -> Iterator[None]:
    start = time.process_time()
    yield
    SPENT[what] = SPENT.get(what, 0.0) + time.process_time() - start


class TimedEncoder:
    """An encoder that notes how long it takes."""

    def __init__(self, encoder: Encoder) -> None:
        self.name, self._encoder, self.sentences = encoder.name, encoder, 0

    def encode(self, texts: Sequence[str]) -> Vectors:
        with timed("embedding"):
            self.sentences += len(texts)
            return self._encoder.encode(texts)


def whole(table: Path, base: Path, limit: int, dtype: str) -> None:
    with timed("reading, sentences"):
        runs = load_traces(table)
        theirs = [trace for run in load_traces(base, token_data=False) for trace in run.traces]
    encoder = TimedEncoder(load_encoder(dtype=dtype))
    kept = remembering(encoder)
    settings = ExploreSettings(load_lexicon(), load_reflective(), limit=limit)
    for run in runs:
        with timed("all but reading"):
            explored = explore_run(run, settings, base=theirs, encoder=kept)
        rare = explored.rarity
        assert rare is not None
        print(
            f"{run.run}: {explored.samples:,} samples, {explored.sentences:,} sentences, {rare.distinct:,} distinct; "
            f"base {rare.base_sentences:,}, {rare.base_distinct:,} distinct; {encoder.sentences:,} embedded"
        )
    SPENT["statistics, matching, neighbours"] = SPENT.pop("all but reading") - SPENT["embedding"]


def neighbours(n: int) -> None:
    x = np.random.default_rng(0).normal(size=(n, 384)).astype(np.float32)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    with timed(f"{n:,} x {n:,} neighbours"):
        mean_distances(x, x, 5, faiss=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", nargs="?", type=Path)
    parser.add_argument("--base", type=Path)
    parser.add_argument("--limit", type=int, default=50_000)
    parser.add_argument("--encoder-dtype", default="auto")
    parser.add_argument("--neighbours", type=int)
    options = parser.parse_args()
    if options.neighbours:
        neighbours(options.neighbours)
    elif options.table and options.base:
        whole(options.table, options.base, options.limit, options.encoder_dtype)
    else:
        parser.error("give a table and --base, or --neighbours N")
    for what, seconds in SPENT.items():
        print(f"{what}: {seconds:.1f} CPU s")
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    print(f"total: {sum(SPENT.values()):.1f} CPU s, peak memory {memory:.2f} GB")


if __name__ == "__main__":
    main()
