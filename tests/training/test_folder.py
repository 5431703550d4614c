"""Run folders: nothing is overwritten, and only checkpoints written to their end are picked up."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from forkwise.errors import InputError
from forkwise.training.folder import check_folder, newest_complete_checkpoint, read_metrics


def test_a_new_folder_is_not_created_by_the_check(tmp_path: Path) -> None:
    assert check_folder(tmp_path / "a" / "b", resume=False) is False
    assert not (tmp_path / "a").exists()


def test_a_used_folder_needs_resume(tmp_path: Path) -> None:
    (tmp_path / "something").write_text("precious")
    with pytest.raises(InputError, match="add --resume"):
        check_folder(tmp_path, resume=False)
    with pytest.raises(InputError, match="holds no run to resume"):
        check_folder(tmp_path, resume=True)
    (tmp_path / "run.yaml").write_text("alpha: 0.4\n")
    assert check_folder(tmp_path, resume=True) is True


def test_the_newest_complete_checkpoint_is_found(tmp_path: Path) -> None:
    for step in (5, 10, 20):
        (tmp_path / f"checkpoint-{step}").mkdir()
    for step in (5, 10):
        (tmp_path / f"checkpoint-{step}" / "complete").write_text(f"step {step}\n")
    (tmp_path / "checkpoint-best").mkdir()
    assert newest_complete_checkpoint(tmp_path) == tmp_path / "checkpoint-10"


def test_refusals(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(InputError, match="is a file"):
        check_folder(file, resume=False)
    with pytest.raises(InputError, match="cannot be written"):
        check_folder(file / "below", resume=False)
    if os.geteuid():  # root may write anywhere
        locked = tmp_path / "locked"
        locked.mkdir(mode=0o500)
        with pytest.raises(InputError, match="cannot be written"):
            check_folder(locked / "run", resume=False)


def test_metrics_survive_a_cut_line_and_a_resume(tmp_path: Path) -> None:
    lines = [{"step": 1, "reward": 0.1}, {"step": 2, "reward": 0.2}, {"step": 2, "reward": 0.3}, {"step": 2, "x": 1}]
    text = "\n".join(json.dumps(line) for line in lines) + '\n{"step": 3, "rew'
    (tmp_path / "metrics.jsonl").write_text(text)
    assert read_metrics(tmp_path) == [{"step": 1, "reward": 0.1}, {"step": 2, "reward": 0.3, "x": 1}]
