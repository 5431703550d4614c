"""Figures over training: which checkpoints belong together, and that page and files show them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from test_page import exploration

from forkwise.explore import results as explored
from forkwise.explore.results import TrainingRow
from forkwise.report.content import gather
from forkwise.report.figures import figures
from forkwise.report.series import UNNAMED, series_name, series_panels
from forkwise.report.sources import find_sources
from forkwise.report.views import charts


def point(run: str, step: int | None, **more: Any) -> TrainingRow:
    values: dict[str, Any] = {
        "run": run, "step": step, "samples": 8, "accuracy": 0.25, "mean_length": 60.0, "length_unit": "tokens",
        "mean_entropy": None, "pivotal": 16, "pivotal_per_response": 2.0, "pivotal_per_1000_words": 30.0,
        "pivotal_entropy": None, "reflective": 8, "reflective_per_response": 1.0, "reflective_share": 0.5,
        "reflective_entropy": None, "repetition": 0.1,
    }  # fmt: skip
    return TrainingRow(**(values | more))


@pytest.mark.parametrize(
    ("run", "name"),
    [
        ("step-400", UNNAMED),
        ("checkpoint-100", UNNAMED),
        ("grpo-seed0-step-20", "grpo-seed0"),
        ("grpo (checkpoint_20)", "grpo"),
        ("step-20-grpo", "grpo"),
        ("grpo", "grpo"),  # the table's name has the step
        ("footstep", "footstep"),
    ],
)
def test_checkpoints_of_a_run_share_its_name_without_the_step(run: str, name: str) -> None:
    assert series_name(run) == name


def test_lines_rise_in_steps_and_leave_out_what_is_not_known(tmp_path: Path) -> None:
    rows = [
        point("a-step-20", 20, pivotal_per_response=4.0, pivotal_entropy=1.5),
        point("a-step-5", 5, pivotal_per_response=1.0, pivotal_entropy=0.5),
        point("a-step-10", 10, pivotal_per_response=3.0),
        point("b-step-5", 5),  # one point is no line
        point("base", None),
    ]
    lines_by_label = {panel.label: panel.lines for panel in series_panels([exploration("", series=rows)])}
    (line,) = lines_by_label["pivotal tokens per response"]
    assert (line.name, line.steps, line.values) == ("a", [5, 10, 20], [1.0, 3.0, 4.0])
    (line,) = lines_by_label["entropy of pivotal tokens (nats)"]
    assert (line.steps, line.values) == ([5, 20], [0.5, 1.5])
    assert "response length (tokens)" in lines_by_label
    assert "token entropy (nats)" not in lines_by_label

    explored.write(tmp_path, exploration(str(tmp_path / "gone"), series=rows))
    content = gather(find_sources([tmp_path]))
    assert "a" in content.arms()  # so that it can be switched on and off
    panels = charts(content)["series"]
    assert {panel["label"] for panel in panels} == set(lines_by_label)
    assert panels[0]["lines"] == [{"arm": "a", "x": [5, 10, 20], "mean": [1.0, 3.0, 4.0]}]
    drawn = figures(content)["checkpoints"]
    assert [axis.get_title() for axis in drawn.axes] == list(lines_by_label)
    assert drawn.axes[0].lines[0].get_xydata().tolist() == [[5, 1], [10, 3], [20, 4]]


def test_runs_without_steps_have_no_chart() -> None:
    assert series_panels([exploration("", series=[point("base", None), point("grpo", None)])]) == []
