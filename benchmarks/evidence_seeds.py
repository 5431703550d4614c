"""What docs/evidence.md says of single seeds, of two halves of the problems, and of p before the correction for arms.

    python benchmarks/evidence_seeds.py

Reads the samples in runs/central-grpo, runs/ablations, runs/followers and runs/grid (docs/evidence.md).
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
from scipy.stats import t as student

from forkwise.passk import Arm, compare, k_grid, make_arm
from forkwise.samples import read_samples

METHOD = "grpo-entropy-advantage"
PLACEBOS = ("placebo--permuted", "placebo--constant", "placebo--scaling")
OTHERS = ("entropy-advantage", "positive-only", "negative-only", "multiplicative", "no-cap", "old-entropy", *PLACEBOS)
QUICKSTART = 64  # its problems are the first of the task's test problems, its samples the first 256


def seeds(folder: Path, arm: str) -> Arm:
    runs = sorted(path.name for path in (folder / "samples").glob(f"{arm}-seed*"))
    return part(folder, runs, 10**9, slice(None))


def seed_zero(folder: Path) -> list[str]:
    return sorted(path.name.removesuffix("-seed0") for path in (folder / "samples").glob("*-seed0"))


def part(folder: Path, runs: list[str], samples: int, problems: slice) -> Arm:
    """Some problems, in the task's order, by the first samples of each run; without lengths."""
    columns: dict[str, list[Any]] = {"run": [], "problem_id": [], "correct": []}
    for run in runs:
        shards = sorted((folder / "samples" / run).glob("*.parquet"))
        chosen = list(dict.fromkeys(shard.stem.partition("-")[0] for shard in shards))[problems]  # a problem's place
        for shard in (shard for shard in shards if shard.stem.partition("-")[0] in chosen):
            table = read_samples(shard, [*columns, "sample_id"])
            table = table.filter(pc.less(table["sample_id"], samples))
            for key in columns:
                columns[key] += table[key].to_pylist()
    return make_arm(runs[0], columns["problem_id"], columns["correct"], run=columns["run"])


def signed(values: np.ndarray) -> str:
    return "  ".join(f"{value:+.3f}" for value in values)


def one_more(runs_SK: np.ndarray, level: float = 0.95) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean of the runs, half-width of Student's interval for one more, and the standard error in it, each `(K,)`."""
    n = len(runs_SK)
    error = runs_SK.std(axis=0, ddof=1) * np.sqrt(1 + 1 / n)
    return runs_SK.mean(axis=0), student.ppf((1 + level) / 2, n - 1) * error, error


def single_seeds(central: Path) -> None:
    ks = [1, 4, 16, 64, 256, 1024]
    print(f"Entropy advantage minus GRPO, K = {', '.join(map(str, ks))}")
    difference = (seeds(central, METHOD).curves(ks) - seeds(central, "grpo").curves(ks)).mean(axis=1)
    for seed, row in enumerate(difference):
        print(f"seed {seed}                        {signed(row)}")
    for samples in (256, 1024):
        shown = [k for k in ks if k <= samples]
        for name, which in ((f"first {QUICKSTART}", slice(QUICKSTART)), ("the other", slice(QUICKSTART, None))):
            method, plain = (part(central, [f"{arm}-seed0"], samples, which) for arm in (METHOD, "grpo"))
            row = (method.curves(shown) - plain.curves(shown)).mean(axis=(0, 1))
            print(f"seed 0, {name:9} x {samples:4}     {signed(row)}")


def unadjusted(ablations: Path) -> None:
    print("\nAblations: smallest p at any K, adjusted for K and not for the number of arms")
    grpo, shaped = seeds(ablations, "grpo"), seeds(ablations, "entropy-advantage")
    ks = k_grid(256)
    for arm in OTHERS:
        against = {"GRPO": grpo} | ({"the method": shaped} if arm in PLACEBOS else {})
        for name, reference in against.items():
            difference = compare(reference, seeds(ablations, arm), ks=ks).differences[0]
            at = [ks.index(k) for k in (1, 16, 256)]
            means = signed(difference.interval.mean[at])
            print(f"{arm:20} against {name:10}  {difference.adjusted_p.min():.3f}   K = 1, 16, 256: {means}")


def followers_beside(grpo: Arm, followers: Path) -> None:
    ks = [1, 4, 16, 64, 256]
    five = grpo.curves(ks).mean(axis=1)
    mean, width, error = one_more(five)
    arms = seed_zero(followers)
    rows = (len(arms) - 1) * len(ks)  # without GRPO's own
    print(f"\nOne run of each method minus the mean of GRPO's five (by 256 samples, K = {', '.join(map(str, ks))})")
    print(f"{'one more run of GRPO, 95 %':26} {'  '.join(f'+-{x:.3f}' for x in width)}")
    for arm in arms:
        row = seeds(followers, arm).curves(ks).mean(axis=(0, 1)) - mean
        outside = ", ".join(str(k) for k, far in zip(ks, np.abs(row) > width, strict=True) if far)
        p = 2 * student.sf(np.abs(row) / error, len(five) - 1).min()
        note = f"outside at {outside}; p x {rows}: {p * rows:.2g}" if outside else ""
        print(f"{arm:26} {signed(row)}  {note}".rstrip())


def grid_choice(grpo: Arm, grid: Path) -> None:
    ks = [2**i for i in range(9)]
    print(f"\nGrid: mean of Pass@K over K = {', '.join(map(str, ks))} on the validation problems")
    means = {arm: float(seeds(grid, arm).curves(ks).mean()) for arm in seed_zero(grid)}
    for arm, value in sorted(means.items(), key=lambda item: -item[1]):
        print(f"{arm:14} {value:.4f}")
    cells = [value for arm, value in means.items() if arm != "grpo"]
    runs_S = grpo.curves(ks).mean(axis=(1, 2))
    print(f"Standard deviation of the {len(cells)} cells {np.std(cells, ddof=1):.4f};", end=" ")
    print(f"of GRPO's {len(runs_S)} seeds on the test problems {runs_S.std(ddof=1):.4f}")


def training(folder: Path, run: str) -> None:
    """A line about one run: results, and means of what its training logged."""
    text = (folder / "arms" / run / "metrics.jsonl").read_text(encoding="utf-8")
    logged = [row for row in map(json.loads, text.splitlines()) if "entropy" in row]

    def mean(key: str, rows: list[dict[str, Any]]) -> float:
        return float(np.mean([row[key] for row in rows if key in row] or [np.nan]))

    first, last = logged[:10], logged[-10:]
    passed = part(folder, [run], 256, slice(None)).curves([1, 256]).mean(axis=(0, 1))
    shown = (
        *passed,
        *(mean("entropy", rows) for rows in (first, last)),
        min(row["entropy"] for row in logged),
        mean("completions/clipped_ratio", last),
        mean("clip_ratio/region_mean", last),
        mean("frac_reward_zero_std", first),
        mean("grad_norm", logged),
    )
    print(f"{run:30} {'  '.join(f'{value:8.4f}' for value in shown)}")


def trainings(central: Path, followers: Path) -> None:
    columns = ("Pass@1", "Pass@256", "H first", "H last", "H least", "cut off", "clipped", "no contr.", "gradient")
    print("\nTrainings: first and last 10 updates; answers cut off, ratios clipped, groups without contrast, mean norm")
    print(f"{'':30} {'  '.join(f'{name:>8}' for name in columns)}")
    for seed in range(5):
        training(central, f"grpo-seed{seed}")
    for arm in seed_zero(followers):
        if arm != "grpo":
            training(followers, f"{arm}-seed0")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("central-grpo", "ablations", "followers", "grid"):
        parser.add_argument(f"--{name}", type=Path, default=Path("runs") / name)
    args = parser.parse_args()
    single_seeds(args.central_grpo)
    unadjusted(args.ablations)
    grpo = seeds(args.ablations, "grpo")
    followers_beside(grpo, args.followers)
    grid_choice(grpo, args.grid)
    trainings(args.central_grpo, args.followers)


if __name__ == "__main__":
    main()
