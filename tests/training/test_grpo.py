"""`forkwise grpo` end to end on the embedded model: TRL underneath, shaped, resumable, on two processes."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

pytest.importorskip("trl")

import torch
from safetensors.torch import load_file

from forkwise.errors import InputError
from forkwise.training.folder import newest_complete_checkpoint, only_writer, read_metrics
from forkwise.training.grpo import main

COMMON = {
    "model": "embedded",
    "task": "countdown:3",
    "train_problems": 24,
    "num_generations": 4,
    "max_completion_length": 48,
    "learning_rate": 1e-3,
    "lr_scheduler_type": "constant",
    "logging_steps": 1,
    "save_steps": 2,
    "report_to": "none",
    "use_cpu": True,
    "bf16": False,
    "gradient_checkpointing": False,
    "disable_tqdm": True,
    "seed": 3,
}
# Whatever a shell or an earlier test left of a launcher must not reach the children.
ENVIRONMENT = {k: v for k, v in os.environ.items() if k not in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_PORT")}
ENVIRONMENT |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


def config_file(path: Path, **settings: object) -> Path:
    path.write_text(yaml.safe_dump({**COMMON, **settings}))
    return path


def metrics(folder: Path, key: str) -> list[float]:
    return [row[key] for row in read_metrics(folder) if key in row]


def test_a_run_leaves_a_model_metrics_and_settings(tmp_path: Path) -> None:
    out = tmp_path / "run"
    main(["--config", str(config_file(tmp_path / "c.yaml")), "--max_steps", "3", "--output_dir", str(out)])
    for key in (
        "shaping/psi_over_adv",
        "shaping/capped_frac",
        "shaping/psi_pos",
        "shaping/psi_neg",
        "entropy",
        "reward",
    ):
        assert len(metrics(out, key)) == 3, key
    assert max(metrics(out, "shaping/psi_over_adv")) <= 0.5  # 1 / kappa
    assert max(metrics(out, "shaping/psi_over_adv")) > 0
    assert (out / "model.safetensors").exists()
    recorded = yaml.safe_load((out / "run.yaml").read_text())
    assert (recorded["alpha"], recorded["kappa"], recorded["task"]) == (0.4, 2.0, "countdown:3")
    # The settings that it wrote run again.
    again = yaml.safe_load((out / "run.yaml").read_text())
    again["output_dir"] = str(tmp_path / "again")
    (tmp_path / "again.yaml").write_text(yaml.safe_dump(again))
    main(["--config", str(tmp_path / "again.yaml")])
    assert metrics(tmp_path / "again", "reward") == metrics(out, "reward")
    ours, theirs = (load_file(folder / "model.safetensors") for folder in (out, tmp_path / "again"))
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_a_resumed_run_goes_on_where_it_stopped(tmp_path: Path) -> None:
    path = str(config_file(tmp_path / "c.yaml", max_steps=4))
    main(["--config", path, "--output_dir", str(tmp_path / "whole")])
    main(["--config", path, "--output_dir", str(tmp_path / "cut")])
    # As after a kill between steps 2 and 4: the checkpoint of step 4 was begun, and its marker is missing.
    cut = tmp_path / "cut"
    (cut / "checkpoint-4" / "complete").unlink()
    (cut / "checkpoint-4" / "model.safetensors").write_bytes(b"")
    (cut / "model.safetensors").unlink()
    assert newest_complete_checkpoint(cut) == cut / "checkpoint-2"
    main(["--config", path, "--output_dir", str(cut), "--resume"])
    assert metrics(cut, "loss") == pytest.approx(metrics(tmp_path / "whole", "loss"), abs=1e-6)
    assert metrics(cut, "reward") == metrics(tmp_path / "whole", "reward")
    ours, theirs = (load_file(folder / "model.safetensors") for folder in (cut, tmp_path / "whole"))
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name], atol=1e-6, rtol=0)


def test_a_resumed_run_must_be_the_same_run(tmp_path: Path) -> None:
    path = str(config_file(tmp_path / "c.yaml", max_steps=2))
    out = tmp_path / "run"
    main(["--config", path, "--output_dir", str(out)])
    before = (out / "model.safetensors").read_bytes()
    with pytest.raises(InputError, match="other settings .alpha 0.4 -> 0.2"):
        main(["--config", path, "--output_dir", str(out), "--resume", "--alpha", "0.2"])
    with only_writer(out), pytest.raises(InputError, match="Another process is training"):
        main(["--config", path, "--output_dir", str(out), "--resume"])
    for checkpoint in out.glob("checkpoint-*"):
        shutil.rmtree(checkpoint)
    with pytest.raises(InputError, match="is finished and kept no checkpoint"):
        main(["--config", path, "--output_dir", str(out), "--resume"])
    assert (out / "model.safetensors").read_bytes() == before


def test_accelerate_launch_with_two_processes(tmp_path: Path) -> None:
    out = tmp_path / "two"
    path = config_file(tmp_path / "c.yaml", max_steps=2, per_device_train_batch_size=4)
    accelerate = shutil.which("accelerate", path=str(Path(sys.executable).parent))
    assert accelerate, "accelerate is part of the train extra"
    # With --cpu accelerate starts one process unless there is MPI; its torchrun launcher goes by the name of multi_gpu.
    flags = ["--multi_gpu", "--num_processes", "2", "--num_machines", "1", "--mixed_precision", "no"]
    flags += ["--dynamo_backend", "no", "--main_process_port", "0", "-m"]
    command = [accelerate, "launch", *flags, "forkwise", "grpo", "--config", str(path), "--output_dir", str(out)]
    result = subprocess.run(
        command,
        capture_output=True,
        text=True,
        env=ENVIRONMENT | {"ACCELERATE_USE_CPU": "true"},
        timeout=240,
        check=False,
    )
    assert result.returncode == 0, result.stderr[-2000:]
    assert len(metrics(out, "shaping/psi_over_adv")) == 2
    assert max(metrics(out, "shaping/psi_over_adv")) > 0
    assert len(read_metrics(out)) >= 2
    assert (out / "checkpoint-2" / "complete").exists()
    assert "# processes 2" in (out / "run.yaml").read_text()
