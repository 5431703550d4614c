"""Studies: what a YAML file or flags become, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("trl")

from forkwise.errors import InputError
from forkwise.lab.arms import recipe
from forkwise.lab.experiment import run
from forkwise.lab.options import StudyOptions
from forkwise.lab.study import choose, load_study, only, studies
from forkwise.training.arguments import parse_run
from forkwise.training.grpo import EntropyShapedGRPOConfig
from forkwise.training.ppo_config import EntropyShapedPPOConfig

TEXT = """
title: two ways
seeds: 3
problems: 7
arms:
  plain: {alpha: 0}
  shaped a: {alpha: 0.4}
  ppo: {algorithm: ppo}
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "study.yaml"
    path.write_text(TEXT)
    return path


def test_a_study_file(file: Path) -> None:
    study = load_study(str(file))
    assert (study.seeds, study.problems, study.title) == (3, 7, "two ways")
    assert [(a.name, a.algorithm, dict(a.settings)) for a in study.arms] == [
        ("plain", "grpo", {"alpha": 0}),
        ("shaped a", "grpo", {"alpha": 0.4}),
        ("ppo", "ppo", {}),
    ]
    assert [arm.run(1) for arm in study.arms] == ["plain-seed1", "shaped-a-seed1", "ppo-seed1"]


def test_flags_change_a_study_and_choose_arms(file: Path) -> None:
    study = choose(
        StudyOptions(str(file), only=["shaped-a"], seeds=1, problems=2, samples=4, split="validation", device="cpu")
    )
    assert [a.name for a in study.arms] == ["plain", "shaped a"]
    assert (study.seeds, study.steps, study.problems, study.samples) == (1, 70, 2, 4)
    assert study.split == "validation"
    with pytest.raises(InputError, match="no arm 'shaped b'.*shaped a, ppo"):
        only(load_study(str(file)), ["shaped b"])


def test_methods_make_arms_against_the_plain_algorithm() -> None:
    study = choose(
        StudyOptions(methods=["entropy_advantage:alpha=0.2,kappa=3", "kl_cov+gtpo"], algorithm="ppo", device="cpu")
    )
    assert [dict(a.settings) for a in study.arms] == [
        {"alpha": 0.0},
        {"alpha": 0.0, "method": ["entropy_advantage:alpha=0.2,kappa=3"]},
        {"alpha": 0.0, "method": ["kl_cov", "gtpo"]},
    ]
    assert {a.algorithm for a in study.arms} == {"ppo"}


def test_one_method_need_not_be_a_list(tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_text("arms: {a: {alpha: 0}, b: {method: 'clip_higher:high=0.4'}}")
    arm = load_study(str(tmp_path / "s.yaml")).arms[1]
    assert recipe(arm, 0, 70, tmp_path / "out")["epsilon_high"] == 0.4


@pytest.mark.parametrize("name", studies())
def test_every_setting_of_our_studies_is_one_of_the_command(name: str, tmp_path: Path) -> None:
    for arm in load_study(name).arms:
        flags = [
            part
            for key, value in recipe(arm, 0, 70, tmp_path / "out").items()
            for part in (f"--{key}", *(map(str, value) if isinstance(value, list) else [str(value)]))
        ]
        config = EntropyShapedPPOConfig if arm.algorithm == "ppo" else EntropyShapedGRPOConfig
        parse_run(flags, config, arm.algorithm)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("arms: {a: {}, b: 3}", "'b'.*mapping"),
        ("arms: {a: {}}", "at least two"),
        ("sedes: 3\narms: {a: {}, b: {}}", "unknown setting 'sedes'. Did you mean 'seeds'"),
        ("seeds: 0\narms: {a: {}, b: {}}", "seeds is 0"),
        ("a: [", "not YAML"),
        ("[]", "no arms"),
        ("seeds: five\narms: {a: {}, b: {}}", "seeds is five: it must be a whole number"),
        ("seeds: 2.5\narms: {a: {}, b: {}}", "seeds is 2.5: it must be a whole number"),
        ("steps:\narms: {a: {}, b: {}}", "steps is None"),
        ("traces: -1\narms: {a: {}, b: {}}", "traces is -1: .* at least 0"),
        ("split: tset\narms: {a: {}, b: {}}", "split is 'tset': it must be one of train, validation, test"),
        ("title: [1]\narms: {a: {}, b: {}}", "title is .*: it must be text"),
        ("algorithm: [grpo]\narms: {a: {}, b: {}}", "no algorithm '.'grpo'.'"),
        ("3: 4\nx: 5\narms: {a: {}, b: {}}", "unknown setting '3'"),
        ("arms: {a: {}, b: {method: 3}}", "method of the arm 'b' must be a text"),
        ("arms: {a: {}, b: {method: }}", "method of the arm 'b' must be a text"),
        ("arms: {a: {}, b: {num_generations: 8}}", "'b' sets num_generations, which has to be the same in all arms"),
        ("arms: {a: {}, b: {seed: 9}}", "'b' sets seed"),
    ],
)
def test_what_is_no_study(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "s.yaml").write_text(text)
    with pytest.raises(InputError, match=said):
        load_study(str(tmp_path / "s.yaml"))


def test_a_study_in_another_encoding_and_one_that_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_text(TEXT, encoding="utf-16")
    assert load_study(str(tmp_path / "s.yaml")).title == "two ways"
    (tmp_path / "s.yaml").write_bytes(b"title: \xff\xfe\xfa")
    with pytest.raises(InputError, match="not YAML"):
        load_study(str(tmp_path / "s.yaml"))


def test_an_arm_that_no_trainer_would_take_is_refused_before_anything_is_trained(tmp_path: Path) -> None:
    study = choose(StudyOptions(methods=["rloo"], algorithm="ppo", device="cpu"))
    with pytest.raises(InputError, match="The arm 'rloo' cannot be trained: .*critic"):
        run(tmp_path / "out", study, jobs=1, resume=False)
    assert not (tmp_path / "out").exists()


def test_studies_that_do_not_exist_and_flags_that_say_nothing() -> None:
    with pytest.raises(InputError, match="no study 'centrl'.*central-grpo"):
        load_study("centrl")
    with pytest.raises(InputError, match="either --study, or --methods"):
        choose(StudyOptions())
    with pytest.raises(InputError, match="either --study, or --methods"):
        choose(StudyOptions("central-grpo", ["gtpo"]))
