"""What it costs to know that a checkpoint is whole: the list of checksums, beside writing the checkpoint itself.

    python benchmarks/checkpoint.py --gb 2 --folder /where/runs/are

writes weights and an optimizer's two moments in float32, as a trainer does, puts them on the disk, marks the checkpoint
complete, and checks it as `--resume` does. Printed: seconds of the clock and of the CPU for each GB (10^9 bytes).
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import save_file

from forkwise.training.folder import damage, mark_complete

GB = 10**9


def save(checkpoint: Path, gb: float) -> None:
    """A third is weights, the rest the moments; all on the disk."""
    layers = 12
    draw = torch.Generator().manual_seed(0)
    size = int(gb * GB / 4 / 3 / layers)
    weights = {f"layer.{i}": torch.rand(size, generator=draw) for i in range(layers)}
    state = {i: {"exp_avg": w * 0.1, "exp_avg_sq": w * w} for i, w in enumerate(weights.values())}
    began = clock()
    save_file(weights, checkpoint / "model.safetensors")
    torch.save({"state": state}, checkpoint / "optimizer.pt")
    for path in checkpoint.iterdir():
        descriptor = os.open(path, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)
    show("save and fsync", began, checkpoint)


def clock() -> tuple[float, float]:
    """Wall and CPU seconds."""
    return time.perf_counter(), time.process_time()


def show(what: str, began: tuple[float, float], checkpoint: Path) -> None:
    """One row of the table."""
    size = sum(path.stat().st_size for path in checkpoint.iterdir()) / GB
    wall, cpu = (now - then for now, then in zip(clock(), began, strict=True))
    print(f"| {what} | {wall / size:.2f} | {cpu / size:.2f} |", flush=True)


def timed(what: str, checkpoint: Path, action: Callable[[Path], object]) -> None:
    """Measures `action` on the checkpoint."""
    began = clock()
    result = action(checkpoint)
    if result is not None:
        raise SystemExit(f"{what}: {result}")
    show(what, began, checkpoint)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gb", type=float, default=2.0)
    parser.add_argument("--folder", type=Path, default=None, help="a folder on the disk to be measured")
    args = parser.parse_args()
    checkpoint = Path(tempfile.mkdtemp(dir=args.folder)) / "checkpoint-1"
    checkpoint.mkdir()
    try:
        print("| for each GB | seconds | CPU seconds |\n|---|---|---|")
        save(checkpoint, args.gb)
        timed("mark complete (fsync, CRC-32)", checkpoint, mark_complete)
        timed("check on `--resume`", checkpoint, damage)
    finally:
        shutil.rmtree(checkpoint.parent)


if __name__ == "__main__":
    main()
