"""A RUN is recognised by what lies in it, and anything else is refused in one sentence."""

from __future__ import annotations

import json
from pathlib import Path

import made
import pytest

from forkwise.errors import InputError
from forkwise.report.sources import Shaping, find_source, find_sources
from forkwise.samples import write_shard


def test_an_experiment_has_its_arms_in_order_under_their_names(tmp_path: Path) -> None:
    source = find_source(made.experiment(tmp_path / "run", seeds=2))
    assert [arm.name for arm in source.samples] == ["base", "GRPO", "GRPO + entropy advantage"]
    assert source.samples[1].runs == ("grpo-seed0", "grpo-seed1")
    assert [path.name for path in source.samples[2].tables] == [
        "grpo-entropy-advantage-seed0",
        "grpo-entropy-advantage-seed1",
    ]
    assert [arm.name for arm in source.training] == ["GRPO", "GRPO + entropy advantage"]
    assert len(source.training[0].folders) == 2
    assert source.conclusion == "No evidence of a difference."
    assert source.experiment


def test_an_experiment_without_a_record_is_grouped_by_seed(tmp_path: Path) -> None:
    folder = made.experiment(tmp_path / "run", seeds=2)
    (folder / "results.json").write_text("{ damaged")
    source = find_source(folder)
    assert [(arm.name, len(arm.runs)) for arm in source.samples] == [
        ("base", 1),
        ("grpo", 2),
        ("grpo-entropy-advantage", 2),
    ]
    assert source.conclusion is None


def test_a_training_run_a_table_and_a_folder_of_tables(tmp_path: Path) -> None:
    training = find_source(made.metrics(tmp_path / "train"))
    assert [arm.name for arm in training.training] == ["train"]
    assert not training.samples
    rows = [made.sample(run, "p", 0, completion="x") for run in ("a", "b")]
    table = write_shard(tmp_path / "samples", "0000", rows)
    for path in (table, table.parent):
        assert [(arm.name, arm.runs) for arm in find_source(path).samples] == [("a", ("a",)), ("b", ("b",))]


def test_arms_of_one_name_are_told_apart_by_their_folder(tmp_path: Path) -> None:
    paths = []
    for name in ("one", "two"):
        paths.append(write_shard(tmp_path / name, "0000", [made.sample("same", "p", 0, completion="x")]).parent)
    names = [arm.name for source in find_sources(paths) for arm in source.samples]
    assert names == [f"{paths[0]}: same", f"{paths[1]}: same"]
    with pytest.raises(InputError, match="given twice"):
        find_sources([paths[0], paths[0]])


def test_receipts_of_a_study_are_for_its_own_command(tmp_path: Path) -> None:
    from forkwise.study.registration import PLAN

    (tmp_path / PLAN).write_text("plan: {}")
    (tmp_path / "grpo-seed0.json").write_text('{"schema": 1, "forkwise": "0", "plan": "x", "run": "grpo-seed0"}')
    for path in (tmp_path, tmp_path / "grpo-seed0.json"):
        with pytest.raises(InputError, match=f"holds receipts of a study.*forkwise study analyse {tmp_path} "):
            find_source(path)


def test_refusals_say_what_a_report_takes(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="There is no"):
        find_source(tmp_path / "missing")
    with pytest.raises(InputError, match="holds nothing to report on"):
        find_source(tmp_path)
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(InputError, match="holds nothing to report on"):
        find_source(tmp_path / "notes.txt")
    (tmp_path / "broken.parquet").write_text("hello")
    with pytest.raises(InputError, match="is not a samples table"):
        find_source(tmp_path / "broken.parquet")


def test_metrics_survive_a_line_that_was_cut_short_and_lines_that_are_no_rows(tmp_path: Path) -> None:
    from forkwise.folders.metrics import read_metrics

    lines = ['{"step": 2, "x": 1}', "[]", '{"step": "3"}', '{"step": 1}', '{"step": 2, "y": 2}', '{"step": 3, "x"']
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines))
    assert read_metrics(tmp_path) == [{"step": 1}, {"step": 2, "x": 1, "y": 2}]
    assert json.dumps(read_metrics(tmp_path / "nowhere")) == "[]"


def test_shaping_is_what_the_runs_of_an_arm_say_if_they_agree(tmp_path: Path) -> None:
    folder = made.experiment(tmp_path / "run", seeds=2)
    base, plain, shaped = find_source(folder).samples
    assert (base.shaping, plain.shaping, shaped.shaping) == (None, Shaping(0.0, 2.5), Shaping(0.3, 2.5))
    (folder / "arms" / "grpo-seed1" / "run.yaml").write_text("alpha: 0.1\nkappa: 2.5\n")
    assert find_source(folder).samples[1].shaping is None
    alone = made.metrics(tmp_path / "alone")
    write_shard(alone / "samples", "0000", [made.sample("any\0/../name", "p", 0, completion="x")])
    for text, expected in (
        ("alpha: 0\nkappa: 3\nmethod: ['gtpo:base=1.0']", Shaping(0.0, 3.0, ("gtpo:base=1.0",))),
        ("alpha: yes\nkappa: 2", None),
        ("alpha: .inf\nkappa: 2", None),
        ("alpha: 0.4\nkappa: 1", None),
        ("- 0.4", None),
        ("alpha: [", None),
    ):
        (alone / "run.yaml").write_text(text)
        assert find_source(alone).samples[0].shaping == expected, text
    (other,) = find_source(alone / "samples").samples
    assert other.shaping is None


def test_the_folder_of_any_trainer_is_a_training_run(tmp_path: Path) -> None:
    checkpoint = tmp_path / "sft" / "checkpoint-8"
    checkpoint.mkdir(parents=True)
    (checkpoint / "trainer_state.json").write_text('{"log_history": [{"step": 8, "loss": 0.5}]}')
    [arm] = find_source(tmp_path / "sft").training
    assert (arm.name, arm.folders) == ("sft", (tmp_path / "sft",))
    arms = tmp_path / "study" / "arms"
    arms.mkdir(parents=True)
    (tmp_path / "sft").rename(arms / "a-seed0")
    (arms / "a-seed0.yaml").write_text("alpha: 0\n")
    assert [arm.name for arm in find_source(tmp_path / "study").training] == ["a-seed0"]
