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

from forkwise.engines.verl.reading import read_settings
from forkwise.engines.verl.refusals import GIVEN_ON_VERL
from forkwise.engines.verl.settings import MethodStage, VerlSettings
from forkwise.errors import InputError
from forkwise.methods import (
    Condition,
    Need,
    RewardMethod,
    Scope,
    SettingsMethod,
    all_methods,
    parse_methods,
)
from forkwise.methods.clips import CLIP
from forkwise.methods.entropy_advantage import EntropyAdvantage

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
        config = tiny.config(*overrides, *GRPO, "+algorithm.entropy_shaping.kappa=3")
        config.actor_rollout_ref.rollout.log_prob_micro_batch_size_per_gpu = 1
        validate_config(config, need_reference_policy(config), need_critic(config))
        entropy = "current" if overrides is tiny.CURRENT else "old"
        assert read_settings(config) == VerlSettings((EntropyAdvantage(0.4, 3),), policy=entropy)

    @pytest.mark.parametrize("mode", ["entropy_sync", "entropy_colocate_async", "entropy_separate_async"])
    def test_constructs_each_trainer_under_the_mode_that_verl_knows(self, mode: str) -> None:
        config = tiny.config(*tiny.SHAPED, *SEPARATE, f"trainer.v1.trainer_mode={mode}")
        trainer = get_trainer_cls(mode)(config)
        assert trainer.trainer_mode == config.trainer.v1.trainer_mode == mode.removeprefix("entropy_")
        assert trainer.parameter_sync_step == (4 if mode == "entropy_separate_async" else 1)
        assert trainer.shaping == VerlSettings((EntropyAdvantage(0.4),))

    @pytest.mark.parametrize(
        ("overrides", "message"),
        [
            ([], r"needs an alpha or methods: the paper has .*0\.4 for GRPO and 0\.1 for PPO"),
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
            ([*tiny.SHAPED, "+algorithm.entropy_shaping.method=gtpo"], r"shaping\.method does not exist: the"),
            (
                [*tiny.SHAPED, "+algorithm.method=erc"],
                r"algorithm\.method=erc has no effect: write it as \+algorithm\.f",
            ),
            (
                [*tiny.SHAPED, "+method=steer"],
                r"^method=steer has no effect: write it as \+algorithm\.forkwise\.method",
            ),
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
        assert read_settings(bypass).stage is MethodStage.LOSS
        bonus = ["actor_rollout_ref.actor.calculate_entropy=False", "actor_rollout_ref.actor.entropy_coeff=0.01"]
        assert read_settings(tiny.config(*tiny.CURRENT, *bonus)).stage is MethodStage.LOSS
        assert read_settings(tiny.config("+algorithm.entropy_shaping.alpha=0")) == VerlSettings()


GRPO = ["algorithm.adv_estimator=grpo", "actor_rollout_ref.rollout.n=8"]
ACTOR = "actor_rollout_ref.actor"


def named(*specs: str, policy: str = "old", also: tuple[str, ...] = ()) -> list[str]:
    """Overrides that ask for methods."""
    listed = ",".join(f'"{spec}"' for spec in specs)
    keys = [f"+algorithm.forkwise.method=[{listed}]", f"+algorithm.forkwise.policy={policy}"]
    return ["trainer.v1.trainer_mode=entropy_sync", *GRPO, *keys, *also]


class TestMethods:
    def test_are_read_in_the_order_in_which_they_act(self) -> None:
        settings = read_settings(tiny.config(*named("forking_tokens:share=0.3", "rloo"), "+algorithm.forkwise.seed=5"))
        assert settings == VerlSettings(parse_methods(["rloo", "forking_tokens:share=0.3"]), "old", 5)

    def test_of_the_shorthand_are_those_named(self) -> None:
        assert read_settings(tiny.config(*named("entropy_advantage:alpha=0.4"))) == read_settings(
            tiny.config(*tiny.SHAPED)
        )

    @pytest.mark.parametrize("policy", ["old", "current"])
    @pytest.mark.parametrize("name", sorted(all_methods()))
    def test_every_one_acts_somewhere_or_is_refused_for_what_it_declares(self, name: str, policy: str) -> None:
        """By its declaration: a method that is added later is placed, or refused, like these."""
        kind = all_methods()[name]
        config = tiny.config(*named("rloo", also=(f"{ACTOR}.calculate_entropy=True", f"{ACTOR}.ppo_epochs=2")))
        config.data.max_response_length = 20480  # DAPO's, for overlong
        config.algorithm.forkwise.method, config.algorithm.forkwise.policy = [name], policy  # composing takes long
        try:
            settings = read_settings(config)
        except InputError as error:
            message = str(error)
            method = kind()
            if method.slot == CLIP and "takes the place of verl's clip, which must be opened: set" in message:
                return
            compares = Condition.OFF_POLICY in method.holds_under() and method.needs() & {Need.ENTROPY, Need.LOGPROBS}
            assert (
                (issubclass(kind, SettingsMethod) and ("keys of verl's own" in message or "of TRL to" in message))
                or (policy == "old" and compares and "+algorithm.forkwise.policy=current" in message)
                or ((method.needs() - GIVEN_ON_VERL or method.first_state()) and "under TRL only" in message)
            ), message
            return
        if issubclass(kind, SettingsMethod):
            assert settings.methods == ()
        elif issubclass(kind, RewardMethod) or kind.scope is Scope.ROLLOUT:
            assert settings.stage is MethodStage.NOWHERE
        elif kind.scope is Scope.UPDATE:
            assert settings.stage is MethodStage.UPDATE
        else:
            assert settings.stage is (MethodStage.DRIVER if policy == "old" else MethodStage.LOSS)

    @pytest.mark.parametrize(
        ("overrides", "message"),
        [
            (named("forking_token"), "no method 'forking_token'. Did you mean 'forking_tokens'"),
            (named("clip_cov:share=2"), "share of the method 'clip_cov' must be"),
            (
                [*named("rloo"), "+algorithm.forkwise.metod=1"],
                r"forkwise\.metod does not exist: .*Did you mean 'method'",
            ),
            ([*named("rloo"), "+algorithm.forkwise.seed=-1"], "seed must be a whole number of at least 0, not -1"),
            (named("rloo", policy="newest"), "policy must be old or current, not 'newest'"),
            ([*GRPO, "+algorithm.forkwise.policy=old"], r"forkwise\.method must be a list of methods, such as"),
            ([*named("rloo"), "+algorithm.entropy_shaping.alpha=0.4"], "is the shorthand of one method; beside"),
            (
                [*named("rloo"), "algorithm.adv_estimator=gae"],
                "'rloo' makes the advantages of groups itself, .*not gae",
            ),
            ([*named("rloo"), "algorithm.use_kl_in_reward=True"], "go by the rewards, from which .*use_kl_in_reward"),
            ([*named("gtpo"), "algorithm.rollout_correction.bypass_mode=True"], "comes from: set it to False.$"),
            (
                [*named("forking_tokens"), "algorithm.rollout_correction.bypass_mode=True"],
                r"set it to False, or the policy \(algorithm.forkwise.policy, .*\) to current.$",
            ),
            (
                named("entropy_advantage", policy="current"),
                r"entropy of the policy under update is needed: set .*=True",
            ),
            (
                named("erc"),
                r"'erc' compares the policy under update .* it would do nothing: \+algorithm.forkwise.policy",
            ),
            (
                named("kl_cov", policy="current", also=("data.train_batch_size=256",)),
                "one update per rollout is the same, so it would do nothing: set actor_rollout_ref.actor.ppo_epochs=2",
            ),
            (
                named("kl_cov", policy="current", also=(f"{ACTOR}.policy_loss.loss_mode=gspo",)),
                "only where the loss weighs each token by its own ratio: set .*loss_mode=vanilla, not gspo",
            ),
            (named("placebo_scaling", also=(f"{ACTOR}.policy_loss.loss_mode=geo_mean",)), "geo_mean averages"),
            (named("rloo", also=("distillation.enabled=True",)), "distillation.enabled=True replaces the loss"),
            *[
                (
                    named(name, also=("actor_rollout_ref.rollout.n=1",)),
                    f"'{name}' compares the completions of a prompt, .* 1",
                )
                for name in ("rloo", "qae", "unlikeliness", "gpg", "opo", "gtpo")
            ],
            (
                named("asym_grpo", also=("actor_rollout_ref.rollout.n=2",)),
                "'asym_grpo' goes by the odds of a group, .* 2 answers .* 3 or more",
            ),
            (
                named("entropy_advantage", also=("actor_rollout_ref.rollout.n=1",)),
                r"adv_estimator=grpo compares the responses .*: set actor_rollout_ref.rollout.n=8",
            ),
            (named("overlong"), "none is longer than 512 here, so it would do nothing: set overlong:limit=512"),
            (
                named("miner", also=("data.train_batch_size=1", f"{ACTOR}.ppo_mini_batch_size=1")),
                "'miner' pays .* a rollout has one prompt, .* on verl data.train_batch_size",
            ),
            (named("ucpo", also=("actor_rollout_ref.rollout.n=2",)), "'ucpo' .* 2 answers leave one at most"),
            (named("passk_training:k=16"), "'passk_training' is 16, but groups have 8 completions"),
            (
                named("entropy_advantage:alpha=0.4@target:0.3"),
                "'entropy_advantage' needs state across steps, which forkwise has under TRL only",
            ),
            (
                named("gppo", policy="current"),
                r"'gppo' takes the place of verl's clip, which must be opened: set actor_rollout_ref.actor.clip_ratio_"
                r"low=1.0 actor_rollout_ref.actor.clip_ratio_high=1000000000.0 .*clip_ratio_c=1000000000.0",
            ),
            (
                named("dr_grpo"),
                r"'dr_grpo' is, on verl, keys of verl's own: set algorithm.norm_adv_by_std_in_grpo=False "
                r"actor_rollout_ref.actor.loss_agg_mode=seq-mean-token-sum-norm .*loss_scale_factor=512",
            ),
            (named("adaptive_entropy_bonus"), "sets use_adaptive_entropy of TRL to True, which verl does not have"),
        ],
    )
    def test_that_cannot_be_honoured_are_refused(self, overrides: list[str], message: str) -> None:
        with pytest.raises(InputError, match=message) as caught:
            read_settings(tiny.config(*overrides))
        assert "\n" not in str(caught.value)

    def test_that_select_need_fsdp_if_the_policy_under_update_is_scored(self) -> None:
        megatron = tiny.config(*named("forking_tokens", policy="current"))
        megatron.actor_rollout_ref.actor.strategy = "megatron"
        with pytest.raises(InputError, match="'forking_tokens' select among .*strategy=fsdp or fsdp2, not megatron"):
            read_settings(megatron)
        megatron.algorithm.forkwise.policy = "old"
        assert read_settings(megatron).stage is MethodStage.UPDATE

    def test_with_a_clip_of_their_own_act_with_verls_opened(self) -> None:
        keys = (f"{ACTOR}.clip_ratio_low=1.0", f"{ACTOR}.clip_ratio_high=1e9", f"{ACTOR}.clip_ratio_c=1e9")
        assert read_settings(tiny.config(*named("gppo", policy="current", also=keys))).methods == parse_methods(
            ["gppo"]
        )

    def test_options_that_change_over_the_steps_are_those_of_the_step(self) -> None:
        settings = read_settings(tiny.config(*named("entropy_advantage:alpha=0.4->0.1@linear")))
        assert [settings.at(done).methods[0].alpha for done in (0.0, 0.5)] == pytest.approx([0.4, 0.25])

    def test_presets_with_their_keys_are_verl_itself(self) -> None:
        keys = ("algorithm.norm_adv_by_std_in_grpo=False", f"{ACTOR}.loss_agg_mode=seq-mean-token-sum-norm")
        keys += (f"{ACTOR}.loss_scale_factor=512", f"{ACTOR}.clip_ratio_low=0.2", f"{ACTOR}.clip_ratio_high=0.28")
        assert read_settings(tiny.config(*named("dr_grpo", "clip_higher", also=keys))) == VerlSettings()
        cispo = (f"{ACTOR}.policy_loss.loss_mode=cispo", f"{ACTOR}.clip_ratio_low=1.0", f"{ACTOR}.clip_ratio_high=4.0")
        assert read_settings(tiny.config(*named("cispo", also=cispo))) == VerlSettings()

    def test_that_need_what_verl_has_not_are_refused(self, monkeypatch: pytest.MonkeyPatch) -> None:
        from forkwise.engines.verl import refusals

        monkeypatch.setattr(refusals, "GIVEN_ON_VERL", GIVEN_ON_VERL - {Need.GROUPS})
        with pytest.raises(InputError, match="'rloo' needs groups, which forkwise has under TRL only"):
            read_settings(tiny.config(*named("rloo")))


def recipe(script: str, where: Path, **environment: str) -> tuple[list[str], list[str]]:
    """Module and overrides that an example hands to Python."""
    echo = where / "python"
    echo.write_text("#!/bin/sh\nprintf '%s\\n' \"$@\"\n")
    echo.chmod(0o755)
    done = subprocess.run(
        ["bash", str(EXAMPLES / script), "trainer.seed_of_the_test=1"],
        capture_output=True,
        text=True,
        cwd=where,
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
        assert read_settings(config) == VerlSettings((EntropyAdvantage(alpha, 2.0),), policy=entropy)
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
        assert (config.actor_rollout_ref.actor.strategy, actor.optim.weight_decay, actor.clip_ratio_c) == (
            "fsdp",
            0.01,
            3,
        )
        if need_critic(config):
            assert (config.critic.optim.lr, config.algorithm.gamma, config.algorithm.lam) == (2e-6, 1.0, 1.0)
            assert config.critic.model.path == config.actor_rollout_ref.model.path

    @pytest.mark.parametrize("script", ["verl_grpo.sh", "verl_ppo.sh"])
    def test_name_runs_so_that_none_continues_another(self, script: str, tmp_path: Path) -> None:
        settings: list[dict[str, str]] = [{}, {"ALPHA": "0"}, {"ENTROPY": "old"}, {"SEED": "1"}, {"MODEL": "a/b"}]
        folders = {}
        for changed in settings:
            config = tiny.config(*recipe(script, tmp_path, **changed)[1])
            folders[config.trainer.default_local_dir] = config.trainer.experiment_name
            assert config.trainer.rollout_data_dir.startswith(f"{tmp_path}/runs/verl/{config.trainer.experiment_name}/")
        assert len(folders) == len(set(folders.values())) == len(settings)

    def test_write_where_the_docs_say_on_a_ray_cluster_that_already_runs(self, tmp_path: Path) -> None:
        """Its processes stand elsewhere, in another environment: paths are absolute, and two are in verl's runtime."""
        config = tiny.config(*recipe("verl_grpo.sh", tmp_path, NAME="run", TRAIN="data/t.parquet")[1])
        run = tmp_path / "runs" / "verl" / "run"
        assert OmegaConf.to_container(config.ray_kwargs.ray_init.runtime_env.env_vars) == {
            "VERL_FILE_LOGGER_PATH": str(run / "metrics.jsonl"),
            "TENSORBOARD_DIR": str(run / "tensorboard"),
        }
        assert config.trainer.default_local_dir == str(run / "checkpoints")
        assert config.data.train_files == str(tmp_path / "data" / "t.parquet")
        assert config.data.val_files == str(tmp_path / "data" / "aime-2024.parquet")
        given = {"TRAIN": "['a.parquet','b.parquet']", "VALIDATION": "/data/v.parquet", "RUNS": f"{tmp_path}/r"}
        config = tiny.config(*recipe("verl_grpo.sh", tmp_path, NAME="run", **given)[1])
        assert config.data.train_files == ["a.parquet", "b.parquet"]
        assert config.data.val_files == "/data/v.parquet"
        assert config.trainer.default_local_dir == f"{tmp_path}/r/run/checkpoints"

    def test_keep_the_log_of_an_earlier_start(self, tmp_path: Path) -> None:
        """verl empties the file of its logger when a run starts."""
        recipe("verl_grpo.sh", tmp_path, NAME="run")
        log = tmp_path / "runs" / "verl" / "run" / "metrics.jsonl"
        log.write_text("earlier\n")
        recipe("verl_grpo.sh", tmp_path, NAME="run")
        (kept,) = log.parent.glob("metrics-before-*.jsonl")
        assert kept.read_text() == "earlier\n"
        assert not log.exists()

    def test_the_baseline_is_verl_and_computes_no_entropy_for_us(self, tmp_path: Path) -> None:
        config = tiny.config(*recipe("verl_grpo.sh", tmp_path, ALPHA="0")[1])
        assert read_settings(config) == VerlSettings(policy="current")
        assert not config.actor_rollout_ref.actor.calculate_entropy

    def test_take_other_methods_under_a_name(self, tmp_path: Path) -> None:
        methods = {"METHOD": '["rloo","forking_tokens:share=0.2"]', "ENTROPY": "old"}
        config = tiny.config(*recipe("verl_grpo.sh", tmp_path, NAME="rf", **methods)[1])
        assert read_settings(config) == VerlSettings(parse_methods(["rloo", "forking_tokens:share=0.2"]))
        with pytest.raises(subprocess.CalledProcessError) as caught:
            recipe("verl_grpo.sh", tmp_path, **methods)
        assert "names the run" in caught.value.stderr

    @pytest.mark.parametrize(("gpus", "model"), [(1, "Qwen/Qwen2.5-1.5B"), (8, "Qwen/Qwen2.5-7B")])
    def test_train_a_model_that_fits(self, gpus: int, model: str, tmp_path: Path) -> None:
        for script in ("verl_grpo.sh", "verl_ppo.sh"):
            assert f"actor_rollout_ref.model.path={model}" in recipe(script, tmp_path, GPUS=str(gpus))[1]
