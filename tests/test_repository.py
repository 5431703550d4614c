"""The files of the repository that say a version agree with each other, and what they point at exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

import forkwise

ROOT = Path(__file__).parents[1]
PINS = {
    line.split("==")[0]: line.split("==")[1].split()[0]
    for line in (ROOT / "constraints.txt").read_text().splitlines()
    if "==" in line.split("#")[0]
}


def test_citation_is_of_this_version_and_of_the_paper() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == forkwise.__version__
    assert citation["license"] == "Apache-2.0"
    assert citation["references"][0]["url"] == "https://arxiv.org/abs/2506.14758"


def test_changelog_dates_this_version_as_the_citation_does() -> None:
    text = (ROOT / "CHANGELOG.md").read_text()
    headings = re.findall(r"^## (.+)$", text, re.MULTILINE)
    date = yaml.safe_load((ROOT / "CITATION.cff").read_text())["date-released"]
    assert headings[:2] == ["Unreleased", f"{forkwise.__version__} - {date}"]


def test_pre_commit_runs_the_pinned_ruff() -> None:
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
    assert [hook["entry"].split()[:2] for hook in hooks] == [["ruff", "check"], ["ruff", "format"]]
    assert {pin for hook in hooks for pin in hook["additional_dependencies"]} == {f"ruff=={PINS['ruff']}"}


def test_workflow_calls_what_a_developer_calls() -> None:
    jobs = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())["jobs"]
    commands = [step["run"] for job in jobs.values() for step in job["steps"] if "run" in step]
    assert ".ci/run" in commands
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert {command.split()[1] for command in commands if command.startswith("make ")} <= targets


@pytest.mark.parametrize("template", ["bug", "method"])
def test_issue_templates_have_what_a_form_needs(template: str) -> None:
    form = yaml.safe_load((ROOT / f".github/ISSUE_TEMPLATE/{template}.yml").read_text())
    assert {"name", "description", "body"} <= set(form)
    names = [field["id"] for field in form["body"]]
    assert len(set(names)) == len(names)
    assert all(field["attributes"]["label"] for field in form["body"])


def test_source_distribution_takes_files_that_exist() -> None:
    tomllib = pytest.importorskip("tomllib", reason="Python 3.10 reads no TOML")
    included = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["sdist"]
    assert [name for name in included["include"] if not (ROOT / name).exists()] == []
