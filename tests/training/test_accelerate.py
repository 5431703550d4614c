"""The shipped accelerate configurations: composed by accelerate; FSDP2 and DeepSpeed run on two CPU processes."""

from __future__ import annotations

import importlib.util
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

import forkwise
from forkwise.training.folder import damage, newest_complete_checkpoint, read_metrics

HERE = Path(__file__).parent
CONFIGS = HERE.parents[1] / "examples" / "accelerate"
ENVIRONMENT = {k: v for k, v in os.environ.items() if k not in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_PORT")}
ENVIRONMENT |= {
    "OMP_NUM_THREADS": "1",
    "HF_HUB_OFFLINE": "1",
    "PYTHONPATH": f"{HERE}:{os.environ.get('PYTHONPATH', '')}",
    "PATH": f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}",
    "CUDA_VISIBLE_DEVICES": "",
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
        _, variables = prepare_deepspeed_cmd_env(args)
    else:
        variables = prepare_multi_gpu_env(args)
    for key, value in variables.items():
        if key.startswith(("ACCELERATE_", "FSDP_")):
            monkeypatch.setenv(key, value)
    return dict(variables)


def test_every_configuration_is_one_of_accelerates() -> None:
    kinds = {path.name: load_config_from_file(str(path)).distributed_type for path in CONFIGS.glob("*.yaml")}
    assert kinds == {
        "ddp.yaml": DistributedType.MULTI_GPU,
        "fsdp2.yaml": DistributedType.FSDP,
        "deepspeed_zero2.yaml": DistributedType.DEEPSPEED,
        "deepspeed_zero3.yaml": DistributedType.DEEPSPEED,
    }


def test_ddp_composes(monkeypatch: pytest.MonkeyPatch) -> None:
    variables = environment("ddp.yaml", monkeypatch)
    assert variables["ACCELERATE_MIXED_PRECISION"] == "bf16"
    assert "ACCELERATE_USE_FSDP" not in variables


def test_fsdp2_composes(monkeypatch: pytest.MonkeyPatch) -> None:
    variables = environment("fsdp2.yaml", monkeypatch)
    assert variables["ACCELERATE_USE_FSDP"] == "true"
    plugin = FullyShardedDataParallelPlugin()
    assert plugin.fsdp_version == 2
    assert plugin.reshard_after_forward is True
    assert "SHARDED" in str(plugin.state_dict_type)
    assert plugin.cpu_ram_efficient_loading is False


@pytest.mark.parametrize("stage", [2, 3])
def test_deepspeed_composes(monkeypatch: pytest.MonkeyPatch, stage: int) -> None:
    variables = environment(f"deepspeed_zero{stage}.yaml", monkeypatch)
    assert variables["ACCELERATE_USE_DEEPSPEED"] == "true"
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
    # Updates 1 and 2 learn from all of the first rollout, 3 and 4 from all of the second.
    "steps_per_generation": 2,
    "gradient_accumulation_steps": 2,
    "num_iterations": 2,
    "max_completion_length": 16,
    "optim": "sgd",  # Adam's first step is the sign of the gradient, which rounding may flip where it is near 0
    "learning_rate": 0.1,
    "lr_scheduler_type": "linear",
    "max_steps": 4,
    "save_steps": 1,
    "logging_steps": 1,
    "reward": ["row_noise:letters"],
    "top_k": 1,
    "report_to": "none",
    "bf16": False,
    "gradient_checkpointing": False,
    "disable_tqdm": True,
}


PPO: dict[str, Any] = {"critic_warmup_steps": 1, "critic_learning_rate": 0.1, "critic_epochs": 2}
LORA: dict[str, Any] = {"use_peft": True, "lora_r": 4, "lora_target_modules": ["q_proj", "v_proj"], "lora_dropout": 0.0}

deepspeed = pytest.mark.skipif(
    not (importlib.util.find_spec("deepspeed") and shutil.which("g++")),
    reason="deepspeed is not installed, or there is no g++ for its communication on CPUs",
)
KINDS = ["fsdp2", *(pytest.param(f"deepspeed_zero{stage}", marks=deepspeed) for stage in (2, 3))]


def start(command: list[str], **environment: str) -> None:
    line = [sys.executable, *command]
    result = subprocess.run(
        line, capture_output=True, text=True, env={**ENVIRONMENT, **environment}, timeout=900, check=False
    )
    assert result.returncode == 0, result.stderr[-3000:]


def launch(command: str, kind: str, path: Path, out: Path, *flags: str) -> None:
    """Two processes, by `accelerate launch` with the shipped configuration."""
    launcher = ["-m", "accelerate.commands.launch", "--config_file", str(CONFIGS / f"{kind}.yaml")]
    fixed = ["--num_processes", "2", "--mixed_precision", "no", "--main_process_port", "0", "--dynamo_backend", "no"]
    settings = [command, "--config", str(path), "--output_dir", str(out), *flags]
    if kind.startswith("deepspeed"):  # accelerate turns it off where it is told to use CPUs
        start([*launcher, *fixed, str(HERE / "deepspeed_on_cpu.py"), *settings], DS_ACCELERATOR="cpu")
    else:
        script = str(HERE / "fsdp2_on_cpu.py")
        start([*launcher, *fixed, script, *settings, "--use_cpu", "true"], ACCELERATE_USE_CPU="true")


def metrics(folder: Path) -> list[dict[str, float]]:
    return [{k: v for k, v in row.items() if k not in CLOCK} for row in read_metrics(folder)]


def check_sharded(tmp_path: Path, command: str, kind: str, **settings: object) -> None:
    """A sharded run equals that of one process, resumes exactly within a rollout, and leaves whole models."""
    path = tmp_path / "c.yaml"
    path.write_text(yaml.safe_dump({**COMMON, **settings}))
    sharded, alone = tmp_path / kind, tmp_path / "alone"
    launch(command, kind, path, sharded)
    size = ["--per_device_train_batch_size", str(2 * COMMON["per_device_train_batch_size"]), "--use_cpu", "true"]
    start(["-m", "forkwise", command, "--config", str(path), "--output_dir", str(alone), *size])

    before = metrics(sharded)
    if command == "grpo":
        assert before[0]["shaping/entropy_error"] > 0  # log-probs come from our operator
    # During warm-up the policy's engine has no gradient norm to tell.
    untold = {"grad_norm"} if command == "ppo" and kind.startswith("deepspeed") else set()
    for step, (ours, theirs) in enumerate(zip(before, metrics(alone), strict=True)):
        expected = {k: v for k, v in theirs.items() if step or k not in untold}
        assert ours == pytest.approx(expected, rel=1e-4, abs=1e-6)
    adapter = "use_peft" in settings
    files = ["adapter_model.safetensors" if adapter else "model.safetensors"]
    files += ["critic/model.safetensors"] if command == "ppo" else []
    for file in files:
        a, b = load_file(sharded / file), load_file(alone / file)
        for name, tensor in b.items():
            torch.testing.assert_close(a[name], tensor, rtol=0, atol=1e-4)
    if not adapter:
        AutoModelForCausalLM.from_pretrained(sharded)
    if command == "ppo":
        AutoModelForTokenClassification.from_pretrained(sharded / "critic")

    for step in (4, 3, 2):
        shutil.rmtree(sharded / f"checkpoint-{step}")
    (sharded / "complete").unlink()
    launch(command, kind, path, sharded, "--resume")
    assert metrics(sharded) == before
    newest = newest_complete_checkpoint(sharded)
    assert newest == sharded / "checkpoint-4"
    assert damage(newest) is None
    shards = "optimizer_0" if kind == "fsdp2" else "global_step*"  # DeepSpeed does not count warm-up steps
    assert any(path.is_dir() for path in newest.glob(shards))  # it was sharded indeed
    if kind == "fsdp2":
        assert not (newest / "model.safetensors").exists()


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_grpo_runs_sharded(tmp_path: Path, kind: str) -> None:
    check_sharded(tmp_path, "grpo", kind)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("lora", [{}, LORA], ids=["full", "lora"])
def test_ppo_runs_sharded(tmp_path: Path, kind: str, lora: dict[str, Any]) -> None:
    check_sharded(tmp_path, "ppo", kind, **PPO, **lora)


@pytest.mark.parametrize(
    ("launcher", "asked"),
    [
        (["--cpu", "--num_processes", "2"], 2),
        (["--cpu", "--num-processes=3"], 3),
        (["--cpu", "--num_processes", "1"], 0),
        (["--cpu", "--config_file", "launch.yaml"], 4),
    ],
)
def test_one_process_where_several_were_asked_for_is_noticed(tmp_path: Path, launcher: list[str], asked: int) -> None:
    (tmp_path / "launch.yaml").write_text("{distributed_type: MULTI_CPU, num_processes: 4, use_cpu: true}")
    script = tmp_path / "script.py"
    module = str(Path(forkwise.__file__).parent / "engines" / "trl" / "launched.py")  # without its package: no TRL
    script.write_text(
        f"import runpy\nsaid = runpy.run_path({module!r})['more_asked_than_started']\nprint(said(1))\nprint(said(2))\n"
    )
    command = [str(Path(sys.executable).with_name("accelerate")), "launch", "--num_machines", "1", *launcher]
    done = subprocess.run(
        [*command, str(script)], env=ENVIRONMENT, capture_output=True, text=True, check=True, cwd=tmp_path
    )
    alone, both = done.stdout.splitlines()
    assert both == "None"
    if asked:
        assert alone.startswith(f"accelerate launch was asked for {asked} processes and has started one, which trains")
    else:
        assert alone == "None"
