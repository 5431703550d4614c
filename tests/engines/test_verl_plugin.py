"""verl finds the plugin, its Hydra configuration takes our keys, and what cannot be honoured is refused."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest

pytest.importorskip("verl", reason="verl is not installed; 'make test' runs these in an environment that has it")

import tiny_verl as tiny
from omegaconf import OmegaConf
from verl.trainer.ppo.utils import need_critic, need_reference_policy
from verl.trainer.ppo.v1 import PPOTrainerColocateAsync, PPOTrainerSeparateAsync, PPOTrainerSync, get_trainer_cls
from verl.utils.config import validate_config

from forkwise.engines.verl.settings import EntropyShaping, read_settings
from forkwise.errors import InputError

EXAMPLES = Path(__file__).parents[2] / "examples"
SEPARATE = [
    "trainer.v1.trainer_mode=entropy_separate_async",
    "data.train_batch_size=1024",
    "actor_rollout_ref.rollout.nnodes=1",
    "actor_rollout_ref.rollout.checkpoint_engine.backend=nccl",
]


def environment_of_a_user() -> dict[str, str]:
    """Without what test_verl_training sets for its workers, when it runs in this very process."""
    return {k: v for k, v in os.environ.items() if k not in ("VERL_USE_EXTERNAL_MODULES", "VERL_ENGINE_DEVICE")}


def python(code: str, **environment: str) -> str:
    """What a fresh interpreter prints."""
    environment = {**environment_of_a_user(), **environment}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


class TestThePlugin:
    def test_is_discovered_by_verl_and_registers_its_trainers(self) -> None:
        (point,) = [point for point in entry_points(group="verl.plugins") if point.name == "forkwise"]
        assert point.value == "forkwise.engines.verl"
        for mode, base in [
            ("entropy_sync", PPOTrainerSync),
            ("entropy_colocate_async", PPOTrainerColocateAsync),
            ("entropy_separate_async", PPOTrainerSeparateAsync),
        ]:
            assert issubclass(get_trainer_cls(mode), base)
            assert get_trainer_cls(mode).__module__ == "forkwise.engines.verl.trainer"

    def test_imports_no_trainer_with_verl(self) -> None:
        """It would cost every Ray worker seconds."""
        code = (
            "import sys, verl; assert 'forkwise.engines.verl' in sys.modules;"
            "heavy = 'verl.trainer', 'forkwise.core', 'forkwise.engines.verl.trainer', 'forkwise.engines.verl.loss';"
            "print([m for m in sys.modules if m.startswith(heavy)])"
        )
        assert python(code).splitlines()[-1] == "[]"

    def test_can_be_switched_off(self) -> None:
        code = "import sys, verl; print('forkwise.engines.verl' in sys.modules)"
        assert python(code, VERL_USE_EXTERNAL_PLUGINS="none").splitlines()[-1] == "False"

    def test_registers_its_trainers_too_if_they_are_imported_before_verl(self) -> None:
        code = (
            "import forkwise.engines.verl.trainer; from verl.trainer.ppo.v1 import get_trainer_cls;"
            "print(get_trainer_cls('entropy_sync'))"
        )
        assert "EntropyShapedSync" in python(code).splitlines()[-1]


class TestConfiguration:
    @pytest.mark.parametrize("overrides", [tiny.SHAPED, tiny.CURRENT], ids=["old", "current"])
    def test_composes_and_passes_verls_own_checks(self, overrides: list[str]) -> None:
        config = tiny.config(*overrides, "+algorithm.entropy_shaping.kappa=3", "algorithm.adv_estimator=grpo")
        config.actor_rollout_ref.rollout.log_prob_micro_batch_size_per_gpu = 1
        validate_config(config, need_reference_policy(config), need_critic(config))
        entropy = "current" if overrides is tiny.CURRENT else "old"
        assert read_settings(config) == EntropyShaping(alpha=0.4, kappa=3, entropy=entropy)

    @pytest.mark.parametrize("mode", ["entropy_sync", "entropy_colocate_async", "entropy_separate_async"])
    def test_constructs_each_trainer_under_the_mode_that_verl_knows(self, mode: str) -> None:
        config = tiny.config(*tiny.SHAPED, *SEPARATE, f"trainer.v1.trainer_mode={mode}")
        trainer = get_trainer_cls(mode)(config)
        assert trainer.trainer_mode == config.trainer.v1.trainer_mode == mode.removeprefix("entropy_")
        assert trainer.parameter_sync_step == (4 if mode == "entropy_separate_async" else 1)
        assert trainer.shaping == EntropyShaping(alpha=0.4)

    @pytest.mark.parametrize(
        ("overrides", "message"),
        [
            ([], r"needs an alpha: the paper has .*0\.4 for GRPO and 0\.1 for PPO"),
            (["+algorithm.entropy_shaping.kappa=2"], "needs an alpha"),
            (["+algorithm.entropy_shaping=0.4"], "needs an alpha"),
            (
                ["+algorithm.entropy_shaping.alpha=-1"],
                r"shaping\.alpha must be a finite number of at least 0, got -1",
            ),
            (["+algorithm.entropy_shaping.alpha=inf"], "alpha must be a finite number"),
            (["+algorithm.entropy_shaping.alpha=high"], "alpha must be a number, not 'high'"),
            (
                [*tiny.SHAPED, "+algorithm.entropy_shaping.kappa=1"],
                "kappa must be a finite number greater than 1, got",
            ),
            ([*tiny.SHAPED, "+algorithm.entropy_shaping.entropy=new"], "must be old or current, not 'new'"),
            ([*tiny.SHAPED, "+algorithm.entropy_shaping.kapa=2"], r"kapa does not exist: .*Did you mean 'kappa'"),
            (
                [*tiny.SHAPED, "+algorithm.entropy_shaping.method=gtpo"],
                r"entropy_shaping\.method=gtpo has no effect under",
            ),
            ([*tiny.SHAPED, "+algorithm.method=erc"], r"algorithm\.method=erc has no effect under verl"),
            ([*tiny.SHAPED, "+method=steer"], r"^method=steer has no effect under verl.* forkwise grpo --method"),
            ([*tiny.SHAPED, "algorithm.rollout_correction.bypass_mode=True"], "bypass_mode=True skips the forward"),
            ([*tiny.SHAPED, "distillation.enabled=True"], "distillation.enabled=True replaces the loss"),
            ([*tiny.CURRENT, "distillation.enabled=True"], "distillation.enabled=True replaces the loss"),
            ([*tiny.CURRENT, "actor_rollout_ref.actor.calculate_entropy=False"], "calculate_entropy=True"),
            ([*tiny.SHAPED, "actor_rollout_ref.actor.policy_loss.loss_mode=geo_mean"], "geo_mean averages"),
        ],
    )
    def test_that_cannot_be_honoured_is_refused(self, overrides: list[str], message: str) -> None:
        with pytest.raises(InputError, match=message) as caught:
            get_trainer_cls("entropy_sync")(tiny.config(*overrides))
        assert "\n" not in str(caught.value)

    def test_that_can_be_honoured_is_not(self) -> None:
        """The current policy's entropy needs no forward pass before the update, and an entropy bonus computes it."""
        bypass = tiny.config(*tiny.CURRENT, "algorithm.rollout_correction.bypass_mode=True")
        assert read_settings(bypass).in_loss
        bonus = ["actor_rollout_ref.actor.calculate_entropy=False", "actor_rollout_ref.actor.entropy_coeff=0.01"]
        assert read_settings(tiny.config(*tiny.CURRENT, *bonus)).in_loss
        assert not read_settings(tiny.config("+algorithm.entropy_shaping.alpha=0")).in_loss


def recipe(script: str, where: Path, **environment: str) -> tuple[list[str], list[str]]:
    """Module and overrides that an example hands to Python."""
    echo = where / "python"
    echo.write_text("#!/bin/sh\nprintf '%s\\n' \"$@\"\n")
    echo.chmod(0o755)
    done = subprocess.run(
        ["bash", str(EXAMPLES / script), "trainer.seed_of_the_test=1"],
        capture_output=True,
        text=True,
        env={**environment_of_a_user(), "PYTHON": str(echo), **environment},
        check=True,
    )
    words = done.stdout.splitlines()
    assert words[-1] == "trainer.seed_of_the_test=1"  # arguments of the user come last, so that they win
    return words[:2], words[2:-1]


class TestExamples:
    @pytest.mark.parametrize("gpus", [1, 8])
    @pytest.mark.parametrize("entropy", ["old", "current"])
    @pytest.mark.parametrize(("script", "alpha"), [("verl_grpo.sh", 0.4), ("verl_ppo.sh", 0.1)])
    def test_say_what_the_paper_says_and_pass_verls_checks(
        self, script: str, alpha: float, entropy: str, gpus: int, tmp_path: Path
    ) -> None:
        tiny.save_policy(tmp_path)  # verl's checks read the critic's files
        command, overrides = recipe(script, tmp_path, GPUS=str(gpus), ENTROPY=entropy, MODEL=str(tmp_path))
        assert command == ["-m", "verl.trainer.main_ppo"]
        config = tiny.config(*overrides)
        validate_config(config, need_reference_policy(config), need_critic(config))
        OmegaConf.resolve(config)
        assert read_settings(config) == EntropyShaping(alpha, 2.0, entropy)
        actor, rollout = config.actor_rollout_ref.actor, config.actor_rollout_ref.rollout
        assert (actor.clip_ratio_low, actor.clip_ratio_high, actor.loss_agg_mode) == (0.2, 0.28, "token-mean")
        assert (actor.optim.lr, actor.entropy_coeff, rollout.temperature) == (1e-6, 0, 1.0)
        assert (config.data.train_batch_size, rollout.n, config.data.max_response_length) == (512, 8, 8192)
        assert config.data.train_batch_size / actor.ppo_mini_batch_size == 16  # updates per rollout
        updates = config.trainer.total_training_steps - max(config.trainer.critic_warmup - 1, 0)
        assert updates * 16 == 2000
        assert actor.ppo_max_token_len_per_gpu >= config.data.max_prompt_length + config.data.max_response_length
        assert not need_reference_policy(config)
        assert need_critic(config) == (script == "verl_ppo.sh")
        assert config.trainer.n_gpus_per_node == gpus
        if need_critic(config):
            assert (config.critic.optim.lr, config.algorithm.gamma, config.algorithm.lam) == (2e-6, 1.0, 1.0)
            assert config.critic.model.path == config.actor_rollout_ref.model.path

    @pytest.mark.parametrize(("gpus", "model"), [(1, "Qwen/Qwen2.5-1.5B"), (8, "Qwen/Qwen2.5-7B")])
    def test_train_a_model_that_fits(self, gpus: int, model: str, tmp_path: Path) -> None:
        for script in ("verl_grpo.sh", "verl_ppo.sh"):
            assert f"actor_rollout_ref.model.path={model}" in recipe(script, tmp_path, GPUS=str(gpus))[1]
