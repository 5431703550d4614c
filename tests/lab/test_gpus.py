"""Which GPU every run and every sampling process gets; a whole experiment on a GPU where there is one."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console

torch = pytest.importorskip("torch")
pytest.importorskip("trl")

from forkwise.errors import InputError
from forkwise.lab import arms
from forkwise.lab.experiment import run
from forkwise.lab.options import QuickstartOptions
from forkwise.lab.quickstart import quickstart
from forkwise.lab.spec import Device, Experiment
from forkwise.training.folder import COMPLETE


@pytest.mark.parametrize(
    ("visible", "count", "expected"),
    [
        (None, 0, []),
        (None, 2, ["0", "1"]),
        ("", 0, []),
        ("5,7", 2, ["5", "7"]),
        ("GPU-1f2e,GPU-9a9b", 2, ["GPU-1f2e", "GPU-9a9b"]),
        ("3", 0, []),  # named, but not there
    ],
)
def test_gpus_are_named_as_the_environment_names_them(
    visible: str | None, count: int, expected: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    assert arms.gpus() == expected


class _Finished:
    """A process that has ended as a training run does."""

    returncode = 0

    def __init__(self, command: list[str], env: dict[str, str], **_: Any) -> None:
        settings = yaml.safe_load(Path(command[-1]).read_text())
        started.append((env.get("CUDA_VISIBLE_DEVICES"), settings["use_cpu"]))
        Path(settings["output_dir"]).mkdir()
        (Path(settings["output_dir"]) / COMPLETE).write_text(f"step {settings['max_steps']}\n")

    def poll(self) -> int:
        return 0


started: list[tuple[str | None, bool]] = []


@pytest.mark.parametrize(
    ("device", "expected"),
    [
        ("cuda", [("0", False), ("0", False), ("1", False), ("1", False)]),
        ("cpu", [(None, True)] * 4),
    ],
)
def test_runs_side_by_side_are_spread_over_the_gpus(
    device: Device, expected: list[tuple[str | None, bool]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(subprocess, "Popen", _Finished)
    started.clear()
    both = quickstart(QuickstartOptions(seeds=2)).arms
    said = StringIO()
    arms.train(tmp_path, both, 2, 3, jobs=4, console=Console(file=said), device=device)
    assert sorted(started, key=str) == expected
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in said.getvalue().splitlines() if "seed" in line]
    assert rows == [[f"{arm.name}, seed {seed}", "1", "0"] for seed in range(2) for arm in both]


def test_a_device_that_is_not_there_is_refused_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(InputError, match="no GPU that CUDA can use"):
        run(tmp_path / "out", replace(quickstart(QuickstartOptions()), device="cuda"), jobs=1, resume=False)
    assert not (tmp_path / "out").exists()
    with pytest.raises(InputError, match="device is 'gpu': it must be cpu or cuda"):
        Experiment(quickstart(QuickstartOptions()).arms, device="gpu")  # type: ignore[arg-type]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_an_experiment_on_the_gpu(tmp_path: Path) -> None:
    small = replace(quickstart(QuickstartOptions(steps=2, problems=2, samples=4)), device="cuda")
    results = run(tmp_path / "out", small, jobs=2, resume=False, console=Console(file=StringIO()))
    assert results.comparison.problems == 2
    assert len(list((tmp_path / "out" / "samples").glob("*/*.parquet"))) == 3 * 2
