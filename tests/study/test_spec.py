"""Study files: what they become, what is refused, and what a registration holds fast."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from made_studies import content, study

from forkwise.errors import InputError
from forkwise.study.reading import parse_study, read_study
from forkwise.study.registration import read_plan, register, registered_file, registration_of, write_plan

EVALUATION = {"problems": 3, "n": 4}
SINGLE: dict[str, Any] = {"seeds": [0], "primary": None, "yardstick": {"seeds": [1, 2]}}


def test_a_study_file_becomes_runs_with_their_settings(tmp_path: Path) -> None:
    made = study(seeds="7-9", first_problem=5, primary=None)
    assert made.seeds == [7, 8, 9]
    assert made.runs() == [
        "base",
        *("grpo-seed7", "shaped-seed7", "placebo-seed7"),
        *("grpo-seed8", "shaped-seed8", "placebo-seed8"),
        *("grpo-seed9", "shaped-seed9", "placebo-seed9"),
    ]
    settings = made.configuration(made.arm("placebo"), 8, tmp_path)
    expected = {
        **{"model": "embedded", "task": "countdown:4", "train_problems": 8, "first_problem": 5, "seed": 8},
        **{"method": ["placebo_permuted:alpha=0.4"], "max_steps": 2, "epsilon_high": 0.28, "use_cpu": True},
        "output_dir": str(tmp_path),
    }
    assert {key: settings[key] for key in expected} == expected
    assert "alpha" not in settings
    assert settings["entropy_backend"] == "trl"  # as when the registered studies ran
    other = study(recipe={"max_steps": 2, "entropy_backend": "forkwise"})
    assert other.configuration(other.arm("placebo"), 8, tmp_path)["entropy_backend"] == "forkwise"


def test_a_method_wins_over_the_recipe_and_an_arm_over_both(tmp_path: Path) -> None:
    arms = {"a": "clip_higher:high=0.4", "b": {"method": "clip_higher:high=0.4", "epsilon_high": 0.5}}
    made = study(arms=arms, primary=None)
    widths = [made.configuration(arm, 0, tmp_path)["epsilon_high"] for arm in made.arms]
    assert widths == [0.4, 0.5]


def test_methods_of_one_arm_are_joined_by_a_plus_sign() -> None:
    made = study(arms={"a": {}, "b": "kl_cov+gtpo"}, primary=None)
    assert made.arms[1].settings == {"method": ["kl_cov", "gtpo"]}


def test_the_hash_is_of_what_is_said_and_not_of_the_layout(tmp_path: Path) -> None:
    for name, text in {
        "a.yaml": yaml.safe_dump(content()),
        "b.yaml": "# a comment\n" + yaml.safe_dump(dict(reversed(content().items()))),
        "c.yaml": yaml.safe_dump(content(seeds=[0, 1, 2, 3, 4, 5], title="another title", first_problem=0)),
    }.items():
        (tmp_path / name).write_text(text)
    hashes = {read_study(tmp_path / name).sha256() for name in ("a.yaml", "b.yaml", "c.yaml")}
    assert len(hashes) == 1
    assert study(problems=9).sha256() not in hashes
    assert study(arms={"GRPO": {"alpha": 0}, "shaped": {"alpha": 0.3}}).sha256() not in hashes
    # The order of arms says which is the reference.
    assert study(arms=dict(reversed(content()["arms"].items()))).sha256() not in hashes


def test_other_contents_under_the_same_path_are_another_plan(tmp_path: Path) -> None:
    rows, model = tmp_path / "rows.jsonl", tmp_path / "model"
    (model / "sub").mkdir(parents=True)
    (model / "sub" / "weights").write_bytes(b"abc")
    rows.write_bytes(b"abc")
    file = tmp_path / "mine.yaml"
    evaluation = {**EVALUATION, "dataset": str(rows)}
    file.write_text(yaml.safe_dump(content(model=str(model), evaluation=evaluation)))
    first = read_study(file)
    abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # FIPS 180-2, appendix B.1
    listed = hashlib.sha256(f"sub/weights\0003\0{abc}\n".encode()).hexdigest()
    assert first.contents == {str(rows): abc, str(model): listed}
    target = register(file, first)
    assert read_plan(target)[0] == first
    rows.write_bytes(b"abd")
    assert read_study(file).sha256() != first.sha256()
    with pytest.raises(InputError, match=rf"other settings \(contents.{rows} = {abc}, not "):
        registration_of(file, read_study(file))
    rows.write_bytes(b"abc")
    assert read_study(file).sha256() == first.sha256()
    (model / "sub" / "weights").rename(model / "weights")
    assert read_study(file).sha256() != first.sha256()
    # A plan of forkwise 0.1 has no contents, and is not taken for a changed one.
    target.unlink()
    write_plan(target, replace(first, contents={}))
    with pytest.raises(InputError, match="is of an older version of forkwise, which did not hash the contents"):
        registration_of(file, read_study(file))
    file.write_text(yaml.safe_dump({**content(), "contents": {"a": "b"}}))
    with pytest.raises(InputError, match="sets contents, which forkwise finds by itself"):
        read_study(file)


def test_the_plans_of_this_repository_are_those_that_began() -> None:
    """The pilot of the powered study ran under this hash; nothing that a plan does not say may change it."""
    folder = Path(__file__).parents[2] / "studies"
    recorded, record = read_plan(folder / "receipts" / "pilot" / "study.yaml")
    begun = "17cb73f34ff5d1136a6b093a246300385a2784d0ebe23aefdddbc1be67de3e33"
    assert record["sha256"] == recorded.sha256() == read_study(folder / "paper-regime-pilot.yaml").sha256() == begun
    registered, _ = read_plan(folder / "followers-new.registered.yaml")
    assert registered.sha256() == read_study(folder / "followers-new.yaml").sha256()
    powered = "50832dabc5cff29b7a31984c454beaf2ebee80dfa38cdcf96b2993847bf7e55d"
    assert read_study(folder / "paper-regime.yaml").sha256() == powered


def test_what_is_recorded_is_the_study() -> None:
    made = study(stopping={"futility": {"effect": 0.02}}, looks=[5])
    again = parse_study(made.plain(), "again")
    assert again == made


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"arms": {"a": {}, "b": 3}}, "'b'.*mapping of settings, .*, or a method"),
        ({"arms": {"a": {}}, "primary": None}, "at least two"),
        ({"arms": None}, "no arms"),
        ({"arms": {"A": {}, "a": {}}, "primary": None}, "same name"),
        ({"arms": {"a": {}, "Base": {}}, "primary": None}, "cannot be called 'base'"),
        ({"arms": {"a": {}, "b": {"method": 3}}}, "method of the arm 'b' must be a text"),
        ({"arms": {"a": {}, "b": {"num_generations": 8}}}, "'b' sets num_generations, which has to be the same in all"),
        ({"arms": {"a": {}, "b": {"seed": 9}}}, "'b' sets seed"),
        ({"arms": {"a": {}, "b": {"seeds": [1, 2]}}}, "'b' has seeds of its own: seeds are paired"),
        ({"algorithm": "sac"}, "no algorithm 'sac'"),
        ({"sedes": 3}, "unknown setting 'sedes'. Did you mean 'seeds'"),
        ({"evaluation": {**EVALUATION, "tempreature": 1}}, "'evaluation.tempreature'. Did you mean 'temperature'"),
        ({"stopping": {"futility": {"efect": 1}}}, "'stopping.futility.efect'. Did you mean 'effect'"),
        ({"seeds": 3}, "seeds are 3: give a list, or a range"),
        ({"seeds": "9-3"}, "a range such as 100-131 rises"),
        ({"seeds": [1, 1, 2]}, "different whole numbers"),
        ({"seeds": [1, "x", 2]}, r"seeds\[1\]: expected `int`, got `str`|seeds\[...\]: expected `int`, got `str`"),
        ({"seeds": "0-1"}, "With 2 seeds per arm no .* pairs of seeds are tested from 5 on: give at least 5"),
        ({"seeds": "0-3"}, "With 4 seeds per arm no difference between methods can be claimed"),
        ({"engine": "verl"}, "cannot run on verl yet"),
        ({"engine": "hf"}, "engine: invalid enum value 'hf'"),
        ({"evaluation": {"problems": "x", "n": 4}}, "evaluation.problems: expected `int`, got `str`"),
        (
            {"evaluation": {"problems": 0, "n": 4}},
            "evaluation.problems is 0: it must be a whole number from 2 to",
        ),
        (
            {"evaluation": {"problems": 4, "n": 10**30}},
            "evaluation.n is 10{30}: .* to 10,000,000",
        ),
        ({"evaluation": {**EVALUATION, "first_problem": -1}}, "evaluation.first_problem is -1"),
        ({"evaluation": {"n": 4}}, "missing required field `problems`"),
        ({"evaluation": {**EVALUATION, "split": "tset"}}, "evaluation.split: invalid enum value 'tset'"),
        ({"problems": 0}, "problems is 0"),
        ({"dataset": "rows.jsonl"}, "either a task or a dataset"),
        ({"task": None}, "either a task or a dataset"),
        ({"task": None, "dataset": "rows.jsonl"}, "evaluation needs a task or a dataset of its own: every row"),
        (
            {"task": None, "dataset": "rows.jsonl", "evaluation": {**EVALUATION, "dataset": "rows.jsonl"}},
            "would be on 'rows.jsonl', which is trained on",
        ),
        ({"evaluation": {**EVALUATION, "dataset": "a", "task": "b"}}, "a task and a dataset: give one of them"),
        ({"recipe": [1]}, "recipe of 'made.yaml' must be a mapping"),
        ({"recipe": {"like": "quikstart"}}, "no recipe 'quikstart'.*Did you mean 'quickstart'"),
        ({"recipe": {"like": ["quickstart"]}}, "no recipe"),
        ({"recipe": {"like": "quickstart", "seed": 3}}, "The recipe sets seed, which the study says by itself"),
        ({"recipe": {"loss_type": "dapo"}}, "recipe.max_steps is None: it must be a whole number"),
        ({"recipe": {"max_steps": 2.5}}, "recipe.max_steps is 2.5"),
        ({"primary": {"arm": "shapd"}}, "no arm 'shapd': its arms are GRPO, shaped, placebo. Did you mean 'shaped'"),
        ({"primary": {"arm": "GRPO"}}, "compares 'GRPO' with itself"),
        ({"primary": {"gate": "shaped"}}, "gate is 'shaped', which the primary comparison has already"),
        ({"primary": {"endpoint": 8}}, "K = 8 cannot be estimated from n = 4 samples"),
        ({"primary": {"secondary": [1, 5]}}, "K = 5 cannot be estimated from n = 4 samples"),
        ({"primary": {"endpoint": "cruve"}}, "primary.endpoint: invalid enum value 'cruve'"),
        ({"primary": {"margin": 0}}, "The margin is 0"),
        ({"primary": {"margin": 1.0}}, "The margin is 1.0: .* above 0 and below 1"),
        ({"primary": {"margin": float("inf")}}, "The margin is inf: .* above 0 and below 1"),
        ({"primary": {"margin": float("nan")}}, "The margin is nan"),
        ({"primary": {"endpoint": True}}, "primary.endpoint: "),
        ({"evaluation": {"problems": 1, "n": 4}}, "evaluation.problems is 1: it must be a whole number from 2"),
        ({"primary": {"level": 95}}, "level is 95"),
        ({"looks": [4]}, "looks are .4.: they are rising numbers of seeds, from 5 on and below 6"),
        ({"looks": [5, 5]}, "looks are .5, 5."),
        ({"looks": [6]}, "looks are .6."),
        ({"looks": [5], "primary": None}, "has looks but no primary comparison"),
        ({"stopping": {"equivalence": True}, "primary": None}, "has stopping but no primary comparison"),
        ({"stopping": {"futility": {"effect": 0}}}, "futility needs an effect that is not 0"),
        ({"stopping": {"futility": {"effect": float("nan")}}}, "futility needs an effect that is not 0, between -1"),
        ({"stopping": {"futility": {"effect": -1.0}}}, "futility needs an effect that is not 0, between -1 and 1"),
        ({"pilot": True}, "A pilot tests nothing"),
        ({"title": [1]}, "title: expected `str`, got `array`"),
        ({"processes": 0}, "processes is 0"),
        ({**SINGLE, "primary": {}}, "With 1 seed per arm|with a yardstick tests nothing else"),
        ({**SINGLE, "pilot": True}, "A study with a yardstick tests nothing else, and is no pilot"),
        ({**SINGLE, "seeds": "0-4"}, "one seed per arm, and there are 5: give one, or leave the yardstick out"),
        ({**SINGLE, "yardstick": {"seeds": [0, 1, 2]}}, "yardstick.seeds must be different .* other ones than that of"),
        ({**SINGLE, "yardstick": {"seeds": [1, 1, 2]}}, "yardstick.seeds must be different whole numbers"),
        ({**SINGLE, "yardstick": {"seeds": [-1, 2]}}, "yardstick.seeds must be different whole numbers from 0 on"),
        ({**SINGLE, "yardstick": {"seeds": [1]}}, "'GRPO' has 2 runs, and how training varies shows in 3 at least"),
        ({**SINGLE, "yardstick": {"seeds": 3}}, "yardstick.seeds are 3: give a list, or a range"),
        ({**SINGLE, "yardstick": {"sedes": 3}}, "'yardstick.sedes'. Did you mean 'seeds'"),
        ({**SINGLE, "yardstick": {"seeds": [1, 2], "endpoint": 5}}, "K = 5 cannot be estimated from n = 4 samples"),
        ({**SINGLE, "yardstick": {"seeds": [1, 2], "level": 95}}, "level is 95"),
    ],
)
def test_what_is_no_study(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        study(**changes)


def test_files_that_hold_no_study(tmp_path: Path) -> None:
    file = tmp_path / "s.yaml"
    for text, said in (("a: [", "not YAML"), ("[]", "no arms"), ("", "no arms"), ("arms: 3", "no arms")):
        file.write_text(text)
        with pytest.raises(InputError, match=said):
            read_study(file)
    with pytest.raises(InputError, match="cannot be read"):
        read_study(tmp_path / "none.yaml")


# -------------------------------------------------------------------------------------------------------- registration


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(content()))
    return path


def test_a_registered_plan_is_the_one_that_runs(file: Path) -> None:
    made = read_study(file)
    assert registration_of(file, made) is None
    target = register(file, made)
    assert target == registered_file(file) == file.with_name("mine.registered.yaml")
    registered, record = read_plan(target)
    assert registered == made
    assert record["sha256"] == made.sha256()
    assert {"forkwise", "python"} <= set(record["versions"])
    assert registration_of(file, made) == record
    file.write_text(yaml.safe_dump(content(problems=9, title="x")))
    with pytest.raises(InputError, match=r"registered.yaml' holds a study with other settings \(problems = 8, not 9\)"):
        registration_of(file, read_study(file))


@pytest.mark.parametrize("odd", ["\u202e", "\x85", "\u2028", "\x1b[2J", "é", "\ufeff"])
def test_a_name_with_any_character_is_frozen_as_it_is(file: Path, odd: str) -> None:
    file.write_text(yaml.safe_dump(content(arms={"grpo": {"alpha": 0.0}, f"a{odd}b": {"alpha": 0.4}}, primary=None)))
    made = read_study(file)
    assert read_plan(register(file, made))[0] == made
    assert registration_of(file, made) is not None


def test_a_study_is_registered_once(file: Path) -> None:
    register(file, read_study(file))
    with pytest.raises(InputError, match="holds this plan already: a study is registered once"):
        register(file, read_study(file))
    file.write_text(yaml.safe_dump(content(problems=9)))
    with pytest.raises(InputError, match="holds another plan already"):
        register(file, read_study(file))


def test_a_registration_that_was_changed_is_refused(file: Path) -> None:
    target = register(file, read_study(file))
    target.write_text(target.read_text().replace("problems: 8", "problems: 16"))
    with pytest.raises(InputError, match="was changed after it was written"):
        registration_of(file, read_study(file))
    target.write_text("plan: 3")
    with pytest.raises(InputError, match="is no recorded plan"):
        registration_of(file, read_study(file))
