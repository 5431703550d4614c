"""The shipped accelerate configurations: read and composed by accelerate itself, and FSDP2 run on two CPU processes."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

pytest.importorskip("trl")

import torch
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils import DeepSpeedPlugin, DistributedType, FullyShardedDataParallelPlugin
from accelerate.utils.launch import prepare_deepspeed_cmd_env, prepare_multi_gpu_env
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoModelForTokenClassification

from forkwise.training.folder import damage, newest_complete_checkpoint, read_metrics

HERE = Path(__file__).parent
CONFIGS = HERE.parents[1] / "examples" / "accelerate"
ENVIRONMENT = {k: v for k, v in os.environ.items() if k not in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_PORT")}
ENVIRONMENT |= {
    "OMP_NUM_THREADS": "1",
    "HF_HUB_OFFLINE": "1",
    "PYTHONPATH": f"{HERE}:{os.environ.get('PYTHONPATH', '')}",
    "ACCELERATE_USE_CPU": "true",
}
CLOCK = ("step_time", "train_runtime", "train_samples_per_second", "train_steps_per_second", "train_loss")


def environment(name: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """What `accelerate launch --config_file NAME` gives to the processes that it starts."""
    monkeypatch.delenv("ACCELERATE_USE_CPU", raising=False)
    args = launch_command_parser().parse_args(["--config_file", str(CONFIGS / name), "-m", "forkwise", "grpo"])
    args, config, _ = _validate_launch_command(args)
    assert config.num_processes == 8
    if args.use_deepspeed:
        args.deepspeed_fields_from_accelerate_config = ",".join(config.deepspeed_config)  # as its command does
        _, found = prepare_deepspeed_cmd_env(args)
    else:
        found = prepare_multi_gpu_env(args)
    for key, value in found.items():
        if key.startswith(("ACCELERATE_", "FSDP_")):
            monkeypatch.setenv(key, value)
    return dict(found)


def test_every_configuration_is_one_of_accelerates() -> None:
    kinds = {path.name: load_config_from_file(str(path)).distributed_type for path in CONFIGS.glob("*.yaml")}
    assert kinds == {
        "ddp.yaml": DistributedType.MULTI_GPU,
        "fsdp2.yaml": DistributedType.FSDP,
        "deepspeed_zero2.yaml": DistributedType.DEEPSPEED,
        "deepspeed_zero3.yaml": DistributedType.DEEPSPEED,
    }


def test_ddp_composes(monkeypatch: pytest.MonkeyPatch) -> None:
    found = environment("ddp.yaml", monkeypatch)
    assert found["ACCELERATE_MIXED_PRECISION"] == "bf16"
    assert "ACCELERATE_USE_FSDP" not in found


def test_fsdp2_composes(monkeypatch: pytest.MonkeyPatch) -> None:
    found = environment("fsdp2.yaml", monkeypatch)
    assert found["ACCELERATE_USE_FSDP"] == "true"
    plugin = FullyShardedDataParallelPlugin()
    assert plugin.fsdp_version == 2
    assert plugin.reshard_after_forward is True
    assert "SHARDED" in str(plugin.state_dict_type)
    assert plugin.cpu_ram_efficient_loading is False


@pytest.mark.parametrize("stage", [2, 3])
def test_deepspeed_composes(monkeypatch: pytest.MonkeyPatch, stage: int) -> None:
    found = environment(f"deepspeed_zero{stage}.yaml", monkeypatch)
    assert found["ACCELERATE_USE_DEEPSPEED"] == "true"
    plugin = DeepSpeedPlugin()
    assert plugin.zero_stage == stage
    assert plugin.zero3_save_16bit_model is (stage == 3)
    assert plugin.deepspeed_config["gradient_accumulation_steps"] == "auto"  # the trainer fills it in


COMMON: dict[str, Any] = {
    "model": "embedded",
    "task": "countdown:3",
    "train_problems": 8,
    "num_generations": 2,
    "per_device_train_batch_size": 4,
    "steps_per_generation": 2,
    "max_completion_length": 16,
    "optim": "sgd",  # Adam's first step is the sign of the gradient, which rounding may flip where it is near 0
    "learning_rate": 0.1,
    "lr_scheduler_type": "constant",
    "max_steps": 4,
    "save_steps": 1,
    "logging_steps": 1,
    "reward": ["row_noise:letters"],
    "top_k": 1,
    "report_to": "none",
    "use_cpu": True,
    "bf16": False,
    "gradient_checkpointing": False,
    "disable_tqdm": True,
}


def launch(command: str, kind: str, path: Path, out: Path, *flags: str) -> None:
    """Two processes, by `accelerate launch` with the shipped configuration."""
    accelerate = shutil.which("accelerate", path=str(Path(sys.executable).parent))
    assert accelerate, "accelerate is part of the train extra"
    fixed = ["--num_processes", "2", "--mixed_precision", "no", "--main_process_port", "0", "--dynamo_backend", "no"]
    script = [str(HERE / "fsdp2_on_cpu.py"), command, "--config", str(path), "--output_dir", str(out), *flags]
    line = [accelerate, "launch", "--config_file", str(CONFIGS / f"{kind}.yaml"), *fixed, *script]
    result = subprocess.run(line, capture_output=True, text=True, env=ENVIRONMENT, timeout=600, check=False)
    assert result.returncode == 0, result.stderr[-3000:]


def metrics(folder: Path) -> list[dict[str, float]]:
    return [{k: v for k, v in row.items() if k not in CLOCK} for row in read_metrics(folder)]


def check_fsdp2(tmp_path: Path, command: str, **settings: object) -> Path:
    """Sharded runs equal whole ones, and resume exactly; the model at the end is whole."""
    path = tmp_path / "c.yaml"
    path.write_text(yaml.safe_dump({**COMMON, **settings}))
    for kind in ("fsdp2", "ddp"):
        launch(command, kind, path, tmp_path / kind)
    sharded, whole = tmp_path / "fsdp2", tmp_path / "ddp"
    assert (sharded / "checkpoint-4" / "optimizer_0").is_dir()
    assert not (sharded / "checkpoint-4" / "model.safetensors").exists()
    for ours, theirs in zip(metrics(sharded), metrics(whole), strict=True):
        assert ours == pytest.approx(theirs, rel=1e-4, abs=1e-6)
    a, b = (load_file(folder / "model.safetensors") for folder in (sharded, whole))
    for name, tensor in b.items():
        torch.testing.assert_close(a[name], tensor, rtol=0, atol=1e-4)
    AutoModelForCausalLM.from_pretrained(sharded)

    before = metrics(sharded)
    for step in (4, 3):
        shutil.rmtree(sharded / f"checkpoint-{step}")
    (sharded / "complete").unlink()
    launch(command, "fsdp2", path, sharded, "--resume")
    assert metrics(sharded) == before
    newest = newest_complete_checkpoint(sharded)
    assert newest == sharded / "checkpoint-4"
    assert damage(newest) is None
    return sharded


@pytest.mark.slow
def test_grpo_runs_sharded_by_fsdp2(tmp_path: Path) -> None:
    check_fsdp2(tmp_path, "grpo")


@pytest.mark.slow
def test_ppo_runs_sharded_by_fsdp2(tmp_path: Path) -> None:
    out = check_fsdp2(tmp_path, "ppo", critic_warmup_steps=1, critic_learning_rate=0.1)
    AutoModelForTokenClassification.from_pretrained(out / "critic")
