"""`forkwise grpo --method ...` end to end on the embedded model, and `forkwise ppo` with methods."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import yaml

pytest.importorskip("trl")

import tiny_ppo as tiny
from installed import runnable
from test_grpo import config_file, metrics

from forkwise.errors import InputError
from forkwise.methods import Need, Scope, SettingsMethod, all_methods, parse_method
from forkwise.tasks import load_task, problem_range
from forkwise.training.grpo import main

SHORT = {"max_steps": 2, "max_completion_length": 24, "num_generations": 8, "num_iterations": 2, "train_problems": 4}


def run(folder: Path, *words: str, **settings: Any) -> Path:
    run_folder = folder / "run"
    path = config_file(folder / "c.yaml", **{**SHORT, "save_strategy": "no", **settings})
    main(["--config", str(path), "--output_dir", str(run_folder), *words])
    return run_folder


def test_a_run_with_methods_says_what_they_did_and_which_they_were(tmp_path: Path) -> None:
    words = ["--method", "entropy_advantage:alpha=0.2", "--method", "forking_tokens:share=0.5"]
    folder = run(tmp_path, *words, save_strategy="steps")
    shares = metrics(folder, "method/forking_tokens/changed")
    assert len(shares) == 2
    assert max(shares) <= 0.5
    for key in ("method/entropy_advantage/changed", "shaping/psi_over_adv", "shaping/capped_frac"):
        assert len(metrics(folder, key)) == 2
    recorded = yaml.safe_load((folder / "run.yaml").read_text())
    assert recorded["method"] == [str(parse_method(spec)) for spec in words[1::2]]
    assert recorded["alpha"] == 0.2
    again = {**recorded, "output_dir": str(tmp_path / "again"), "max_steps": 1}
    (tmp_path / "again.yaml").write_text(yaml.safe_dump(again))
    main(["--config", str(tmp_path / "again.yaml")])  # what it wrote, runs
    assert metrics(tmp_path / "again", "reward")[0] == metrics(folder, "reward")[0]
    with pytest.raises(InputError, match="other settings .*method"):
        main(["--config", str(tmp_path / "c.yaml"), "--output_dir", str(folder), "--resume", "--method", "grpo"])


@pytest.mark.slow
@pytest.mark.parametrize("name", runnable(sorted(all_methods())))
def test_two_steps_of_the_embedded_model_with_every_method(tmp_path: Path, name: str) -> None:
    if Need.MEMORY in parse_method(name).needs():
        pytest.skip("acts on prompts that recur")
    if Need.IMAGE_SIMILARITY in parse_method(name).needs():
        pytest.skip("acts on images")
    one = problem_range(load_task("countdown:3"), "train", 4, first=0, seed=3)[0].id
    (tmp_path / "text").write_text("Try something unusual.")
    spec = {
        "heal": f"heal:column=problem_id,target={one},shortest=4",
        "policy_split": f"policy_split:eta=0.1,mix=0.5,cap=2,prompt={tmp_path / 'text'}",
        "minerva": "minerva:column=problem_id",
        "overlong": "overlong:limit=24,buffer=8",
    }.get(name, name)
    two_prompts = {"num_generations": 4} if name in ("heal", "miner") else {}  # they compare answers to several
    folder = run(tmp_path, "--method", spec, **two_prompts)
    method = parse_method(name)
    assert all(map(math.isfinite, metrics(folder, "loss")))
    if not isinstance(method, SettingsMethod):
        assert len(metrics(folder, f"method/{name}/changed")) == (1 if method.scope is Scope.ROLLOUT else 2)


@pytest.mark.slow
def test_meds_on_prompts_that_recur(tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    folder = run(tmp_path, "--method", "meds:marker==", max_steps=16, num_iterations=1, learning_rate=1e-4)
    assert all(map(math.isfinite, metrics(folder, "loss")))
    shares = metrics(folder, "method/meds/changed")
    assert len(shares) == 16
    assert max(shares) > 0  # not GRPO's own advantages


class TestPpo:
    @pytest.mark.parametrize("name", ["forking_tokens", "kl_cov"])
    def test_methods_act_on_the_critics_advantages(self, tmp_path: Path, name: str) -> None:
        options = {"max_steps": 4, "critic_warmup_steps": 1, "num_iterations": 2, "gradient_accumulation_steps": 2}
        trainer = tiny.make(tmp_path, method=[name], learning_rate=1e-3, **options)
        before = tiny.flat(trainer.model)
        trainer.train()
        assert float((tiny.flat(trainer.model) - before).norm()) > 0
        rows = [row for row in trainer.state.log_history if f"method/{name}/changed" in row]
        assert len(rows) == 3  # not in the step in which only the critic learns
        assert max(row[f"method/{name}/changed"] for row in rows) > 0

    def test_the_same_however_the_update_is_cut(self, tmp_path: Path) -> None:
        runs = []
        for size in (8, 2):
            cut = {"per_device_train_batch_size": size, "gradient_accumulation_steps": 8 // size, "max_steps": 2}
            trainer = tiny.make(tmp_path, method=["placebo_permuted"], critic_warmup_steps=0, **cut)
            tiny.stir(trainer.critic)
            before = tiny.flat(trainer.model)
            tiny.torch.manual_seed(0)
            trainer.train()
            runs.append(tiny.flat(trainer.model) - before)
        assert tiny.relative(runs[1], runs[0]) < 1e-3

    def test_the_named_shorthand_is_the_shorthand(self, tmp_path: Path) -> None:
        short, named = (
            tiny.make(tmp_path, max_steps=2, critic_warmup_steps=0, **options)
            for options in ({"alpha": 0.1}, {"method": ["entropy_advantage"]})
        )
        assert str(named.args.methods[0]).startswith("entropy_advantage:alpha=0.1,kappa=2.0")
        for trainer in (short, named):
            tiny.torch.manual_seed(0)
            trainer.train()
        assert tiny.torch.equal(tiny.flat(short.model), tiny.flat(named.model))
