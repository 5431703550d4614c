"""`forkwise doctor verl` says in one sentence what keeps verl from shaping, and how to change it."""

from __future__ import annotations

import importlib.util
import os
from importlib.metadata import EntryPoint, version
from pathlib import Path

import pytest
from typer.testing import CliRunner

from forkwise.cli import app
from forkwise.engines.verl import doctor
from forkwise.errors import InputError

needs_verl = pytest.mark.skipif(
    importlib.util.find_spec("verl") is None, reason="verl is not installed; 'make test' has an environment with it"
)


@pytest.mark.skipif("FORKWISE_EXPECTED_VERL" not in os.environ, reason="not the environment with verl")
def test_the_suite_runs_on_the_verl_that_it_was_asked_to_run_on() -> None:
    assert version("verl") == os.environ["FORKWISE_EXPECTED_VERL"]


@pytest.mark.skipif(importlib.util.find_spec("verl") is not None, reason="verl is installed")
def test_without_verl_says_how_to_install_it() -> None:
    with pytest.raises(InputError, match=r"verl is not installed .*as its own pages say, .*docs/verl\.md"):
        doctor.report()


@needs_verl
def test_reports_version_and_modes() -> None:
    done = CliRunner().invoke(app, ["doctor", "verl"])
    assert done.exit_code == 0, done.output
    assert "verl 0.9" in done.output
    assert "entropy_sync, entropy_colocate_async, entropy_separate_async" in done.output
    assert "Refused with these keys, since they shape nothing: " in done.output
    assert "fully async, one step off" in done.output
    page = (Path(__file__).parents[2] / "docs" / "verl.md").read_text()
    assert done.output.strip().split(": ", 1)[1].split("\n", 1)[1] in page  # but for the versions


@needs_verl
def test_says_that_plugins_are_switched_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VERL_USE_EXTERNAL_PLUGINS", "other")
    with pytest.raises(InputError, match="VERL_USE_EXTERNAL_PLUGINS=other keeps verl from loading .* add forkwise"):
        doctor.report()


@needs_verl
def test_says_that_an_old_installation_declares_no_plugin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "entry_points", lambda group: [])
    with pytest.raises(InputError, match=r"declares no entry point in verl\.plugins.*install forkwise again"):
        doctor.report()


@needs_verl
def test_says_why_the_plugin_cannot_be_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    broken = EntryPoint("forkwise", "forkwise.engines.no_such_module", "verl.plugins")
    monkeypatch.setattr(doctor, "entry_points", lambda group: [broken])
    with pytest.raises(InputError, match="cannot load it: ModuleNotFoundError.*no_such_module"):
        doctor.report()


@needs_verl
def test_says_why_trainers_are_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    from verl.trainer.ppo.v1 import trainer_base

    from forkwise.engines.verl import plugin

    monkeypatch.setattr(trainer_base, "TRAINER_REGISTRY", {"sync": None})
    monkeypatch.setattr(plugin, "registration_errors", [AttributeError("PPOTrainerSync")])
    with pytest.raises(InputError, match=r"entropy_sync.* could not be registered: AttributeError\('PPOTrainerSync'\)"):
        doctor.report()


@needs_verl
def test_says_that_our_keys_could_be_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    from forkwise.engines.verl import plugin

    monkeypatch.setattr(plugin, "registration_errors", [AttributeError("compute_advantage")])
    with pytest.raises(InputError, match=r"ignore the keys without a word: AttributeError\('compute_advantage'\)"):
        doctor.report()


@needs_verl
def test_says_that_verl_cannot_build_actors_beside_a_newer_trl(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_VALUE_HEAD", "AClassThatTRLHasNoMore")
    with pytest.raises(InputError, match=r"cannot build actors beside trl 0\.27\.0.*pip install trl==0\.27\.0"):
        doctor.report()


@pytest.mark.parametrize(("found", "accepted"), [("0.8.0", False), ("0.9.1", True), ("0.10.0.dev0", True)])
def test_knows_which_versions_have_plugins(monkeypatch: pytest.MonkeyPatch, found: str, accepted: bool) -> None:
    monkeypatch.setattr(doctor, "version", lambda _: found)
    if accepted:
        assert doctor._verl_version() == found
    else:
        with pytest.raises(InputError, match=r"verl 0\.8\.0 has no plugins"):
            doctor._verl_version()
