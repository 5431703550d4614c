"""The benchmark for a GPU, tried on a CPU with tiny shapes: that it will run where nobody could try it before."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("trl")

import torch

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"


def test_the_operator_is_right_on_this_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [str(BENCHMARKS), *sys.path])
    from gpu_correctness import Bench, correctness

    bench = Bench(torch.device("cpu"), True, time.monotonic() + 1000)
    correctness(bench)
    assert len(bench.lines) == 2 * 3 * 3  # shapes, dtypes; log-probs, entropies, gradients
    assert all(line.met and line.value is not None for line in bench.lines), bench.lines


def test_an_update_is_the_trainers_own_by_each_head(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "path", [str(BENCHMARKS), *sys.path])
    import gpu
    from gpu_correctness import Bench

    from forkwise.engines.trl import EntropyShapedGRPOTrainer

    losses: list[float] = []
    compute = EntropyShapedGRPOTrainer._compute_loss

    def counting(self: EntropyShapedGRPOTrainer, *args: object) -> torch.Tensor:
        loss = compute(self, *args)
        losses.append(float(loss.detach()))
        return loss

    monkeypatch.setattr(EntropyShapedGRPOTrainer, "_compute_loss", counting)
    bench = Bench(torch.device("cpu"), True, time.monotonic() + 1000)
    gpu.update(bench)
    assert [line.what for line in bench.lines] == [gpu.OURS, gpu.TRL, gpu.LOGITS], capsys.readouterr().out
    assert all("cannot run" not in line.note for line in bench.lines)
    # Three updates of each head, all of one model and batch: the loss is the same but for the rounding of bfloat16.
    assert len(losses) == 9
    assert max(losses) - min(losses) < 1e-2
    assert min(map(abs, losses)) > 0
