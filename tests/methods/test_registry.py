"""Names, options and compositions: what is understood, and what is refused in one sentence; the list; the index."""

from __future__ import annotations

import dataclasses
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from forkwise.cli import app
from forkwise.errors import InputError
from forkwise.methods import Need, Scope, all_methods, describe, parse_method, parse_methods, settings_of

NAMES = sorted(all_methods())
PAPERS = Path(__file__).parents[2] / "docs" / "papers.md"


def test_the_methods_of_the_issue_are_there() -> None:
    assert {
        *("grpo", "dr_grpo", "rloo", "clip_higher", "token_level_loss", "gspo", "cispo"),
        *("entropy_bonus", "adaptive_entropy_bonus", "entropy_advantage"),
        *("placebo_permuted", "placebo_constant", "placebo_scaling"),
        *("credit_weight", "placebo_weight"),
        *("forking_tokens", "clip_cov", "kl_cov", "gtpo", "grpo_s", "erc"),
        *("passk_training", "ucpo", "asym_grpo", "qae", "steer"),
        *("eapo", "edge_grpo", "w_reinforce", "psr", "nsr", "unlikeliness", "maxrl", "miner"),
        *("gpg", "opo", "m2po", "fipo", "ce_gppo", "gppo", "maspo", "dppo", "flexible_clip", "repo_r"),
        *("opefo", "dcpo", "dynamic_sampling", "overlong"),
        *("entropy_balanced_clip", "entropy_balanced_advantage", "gtpo_trajectory", "empg", "siren", "shear", "heal"),
        *("aepo_arbitrary", "meds", "pipo", "uec_rl", "policy_split", "minerva", "vgpo"),
    } <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
class TestEveryMethod:
    def test_says_what_it_is(self, name: str) -> None:
        kind = all_methods()[name]
        assert kind.name == name == name.lower()
        assert kind.title
        assert kind.formula
        assert kind.paper == "" or re.fullmatch(r"\d{4}\.\d{5}", kind.paper)
        assert isinstance(kind.scope, Scope)
        assert all(isinstance(need, Need) for need in kind.requires)

    def test_is_frozen_and_reads_back_from_its_own_text(self, name: str) -> None:
        method = parse_method(name)
        assert parse_method(str(method)) == method
        for field in dataclasses.fields(method):
            with pytest.raises(dataclasses.FrozenInstanceError):
                setattr(method, field.name, 1)

    def test_has_a_section_in_the_index_of_papers(self, name: str) -> None:
        kind = all_methods()[name]
        sections = re.split(r"^## ", PAPERS.read_text(encoding="utf-8"), flags=re.MULTILINE)
        mine = [section for section in sections if f"--method {name}" in section]
        assert mine, f"docs/papers.md has no section that runs --method {name}"
        if kind.paper:
            assert any(kind.paper in section for section in mine)
        for row in ("| idea |", "| formula |", "| run it |", "| deviations |", "| the authors' code |", "| how sure |"):
            assert any(row in section for section in mine), f"the section of {name} has no row {row}"

    def test_refuses_options_that_it_does_not_have(self, name: str) -> None:
        with pytest.raises(InputError, match=f"The method '{name}' has no option 'nonsense'"):
            parse_method(f"{name}:nonsense=1")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("clipcov", "There is no method 'clipcov'. Did you mean 'clip_cov'?"),
        ("KL-Cov", "There is no method 'KL-Cov'. Did you mean 'kl_cov'?"),
        ("entropy_advantag", "Did you mean 'entropy_advantage'?"),
        ("xyz", "There is no method 'xyz'. 'forkwise methods' lists them."),
        ("entropy_advantage:alhpa=1", "has no option 'alhpa'. Did you mean 'alpha'?"),
        ("entropy_advantage:alpha", "'alpha' in the method 'entropy_advantage:alpha' is not of the form key=value."),
        ("entropy_advantage:alpha=1,alpha=2", "gives 'alpha' twice"),
        ("entropy_advantage:alpha=big", "alpha of the method 'entropy_advantage' must be a number, got 'big'."),
        ("entropy_advantage:alpha=0", "must be a finite number greater than 0, got 0.0"),
        (
            "entropy_advantage:kappa=1",
            "kappa of the method 'entropy_advantage' must be a finite number greater than 1, got 1.0",
        ),
        ("entropy_advantage:kappa=nan", "greater than 1, got nan"),
        ("entropy_advantage:kappa=inf", "greater than 1, got inf"),
        ("entropy_advantage:sign=up", "must be one of both, positive, negative, got 'up'"),
        ("entropy_advantage:cap=maybe", "must be true or false, got 'maybe'"),
        ("passk_training:k=2.5", "k of the method 'passk_training' must be a whole number, got '2.5'."),
        ("passk_training:k=0", "must be at least 1, got 0"),
        ("forking_tokens:share=0", "must be greater than 0 and at most 1, got 0.0"),
        ("forking_tokens:share=1.1", "must be greater than 0 and at most 1, got 1.1"),
        ("clip_cov:low=5", "low of the method 'clip_cov' must be below high, got 5.0 and 5.0"),
        ("adaptive_entropy_bonus:largest=1e-5", "largest of the method 'adaptive_entropy_bonus' must be at least step"),
        ("grpo:x=1", "It takes no options."),
    ],
)
def test_what_cannot_be_read_is_one_sentence(spec: str, message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)) as error:
        parse_method(spec)
    assert "\n" not in str(error.value)


def test_defaults_fill_what_the_text_leaves_out() -> None:
    defaults = {"alpha": 0.1, "kappa": 3.0}
    assert str(parse_method("placebo_permuted:alpha=0.2", defaults)) == "placebo_permuted:alpha=0.2,kappa=3.0"
    assert str(parse_method("grpo", defaults)) == "grpo"


@pytest.mark.parametrize(
    ("specs", "message"),
    [
        (["clip_cov", "clip_cov:share=0.1"], "The method 'clip_cov' is given twice."),
        (["entropy_advantage", "placebo_permuted"], "cannot be combined: both decide the entropy shaping"),
        (["ucpo", "qae"], "'ucpo' and 'qae' cannot be combined: both decide the advantages"),
        (["gtpo", "passk_training"], "both decide the advantages"),
        (
            ["grpo", "rloo"],
            "'grpo' and 'rloo' cannot be combined: both decide the advantages. For the loss of a preset",
        ),
        (["gtpo", "dr_grpo"], "'dr_grpo' and 'gtpo' cannot be combined"),
        (["steer", "opefo"], "'steer' and 'opefo' cannot be combined: both decide the entropy shaping"),
        (["clip_cov", "kl_cov"], "both decide the tokens of high covariance"),
        *[
            ([one, other], "cannot be combined: both steer the entropy, and could undo what the other does")
            for one, other in (
                ("repo_r:target=0.3", "adaptive_entropy_bonus"),
                ("dcpo", "siren"),
                ("eapo:alpha=0.2@target:0.3", "flexible_clip:strategy=od"),
                ("aepo_arbitrary", "kl_cov:coef=1@target:0.3"),
            )
        ],
    ],
)
def test_what_does_not_go_together_is_refused(specs: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse_methods(specs)


def test_one_method_may_steer_several_options_and_others_may_shape_beside_it() -> None:
    parse_methods(["eapo:alpha=0.2@target:0.3,phi=9@target:0.3", "clip_higher"])
    parse_methods(["repo_r", "siren", "flexible_clip"])


def test_what_changes_the_trainers_advantages_goes_with_their_preset() -> None:
    assert [m.name for m in parse_methods(["ucpo", "dr_grpo"])] == ["ucpo", "dr_grpo"]


def test_methods_act_in_the_order_of_their_stages() -> None:
    specs = ["kl_cov", "forking_tokens", "entropy_advantage", "clip_higher", "gtpo"]
    assert [m.name for m in parse_methods(specs)] == [
        "clip_higher",
        "gtpo",
        "forking_tokens",
        "entropy_advantage",
        "kl_cov",
    ]


def test_two_settings_of_one_field_must_agree() -> None:
    assert settings_of(parse_methods(["clip_higher", "dr_grpo"]))["loss_type"] == "dr_grpo"
    with pytest.raises(InputError, match="'dr_grpo' and 'token_level_loss' set loss_type differently"):
        settings_of(parse_methods(["dr_grpo", "token_level_loss"]))


STRANGER = """
from forkwise.methods import Method, SettingsMethod

class Stranger(SettingsMethod):
    name, title, formula = "stranger", "A method of another package", "A"
    def settings(self):
        return {}

class Double(Stranger):
    name = "grpo"

class Nameless(SettingsMethod):
    title = "It"

class Idle(Method):
    name, title, formula = "idle", "Derives from no stage", "A"
"""


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("its_module:Stranger", None),
        ("pathlib:Path", "The entry point 'pathlib:Path' is no subclass of forkwise.methods.Method."),
        ("its_module:Double", "The entry point 'its_module:Double' brings a second method named 'grpo'."),
        ("its_module:Nameless", "'its_module:Nameless' brings a method without name and formula."),
        ("its_module:Idle", "brings a method that would never act: derive it from one of SettingsMethod, RewardMethod"),
        (
            "its_module:Absent",
            "The entry point 'stranger = its_module:Absent' of the group forkwise.methods cannot be loaded "
            "(AttributeError: module 'its_module' has no attribute 'Absent'): repair or uninstall the package",
        ),
        ("absent_module", "cannot be loaded (ModuleNotFoundError: No module named 'absent_module')"),
    ],
)
def test_other_packages_can_add_methods(installed: Any, place: str, message: str | None) -> None:
    installed("forkwise.methods", f"stranger = {place}", STRANGER)
    all_methods.cache_clear()
    try:
        if message is None:
            assert all_methods()["stranger"].__module__ == "its_module"
            assert describe()[-1]["stage"] == "settings"
        else:
            with pytest.raises(InputError, match=re.escape(message)) as caught:
                all_methods()
            assert "\n" not in str(caught.value)
    finally:
        all_methods.cache_clear()


class TestListing:
    def test_json(self) -> None:
        done = CliRunner().invoke(app, ["methods", "--json"])
        entries = {entry["name"]: entry for entry in json.loads(done.output)}
        assert sorted(entries) == NAMES
        assert entries["kl_cov"]["paper"] == "2505.22617"
        assert entries["kl_cov"]["defaults"] == {"share": 0.002, "coef": 1.0}
        assert entries["kl_cov"]["requires"] == ["log-probs", "old log-probs"]
        assert entries["kl_cov"]["conditions"] == ["several updates per rollout"]
        assert (entries["erc"]["stage"], entries["erc"]["scope"]) == ("token", "token")

    def test_table(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("COLUMNS", "120")
        table = CliRunner().invoke(app, ["methods"]).output
        assert all(name in table for name in NAMES)
        assert max(map(len, table.splitlines())) == 120
        assert "NAME[:key=value,...]" in table

    def test_narrow_terminals_get_a_list(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("COLUMNS", "80")
        lines = CliRunner().invoke(app, ["methods"]).output.splitlines()
        assert max(map(len, lines)) <= 80
        assert [line.split()[0] for line in lines if line[:1].isalpha()][: len(NAMES)] == list(all_methods())
        at = lines.index("eapo  2604.11056")
        assert lines[at + 2 : at + 5] == [
            "    runs on: TRL, TRL's PPO, verl",
            "    requires: entropy",
            "    options: alpha=0.2, phi=2.0",
        ]

    def test_only_some(self) -> None:
        assert [entry["name"] for entry in describe(["erc", "grpo"])] == ["grpo", "erc"]
        with pytest.raises(InputError, match="There is no method 'erq'. Did you mean 'erc'?"):
            describe(["erq"])

    def test_works_without_torch(self) -> None:
        code = (
            "import sys, importlib.abc\n"
            "class NoTorch(importlib.abc.MetaPathFinder):\n"
            "    def find_spec(self, name, path=None, target=None):\n"
            "        if name.split('.')[0] in ('torch', 'transformers', 'trl'): raise ImportError(name)\n"
            "sys.meta_path.insert(0, NoTorch())\n"
            "sys.argv = ['forkwise', 'methods', '--json']\n"
            "from forkwise.cli import main\n"
            "main()\n"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert len(json.loads(done.stdout)) == len(NAMES)
