"""Runs that two experiments share are trained and sampled once: the second takes them from the first."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import yaml

from forkwise.embedded import EMBEDDED_MODEL
from forkwise.errors import InputError
from forkwise.folders import write_text
from forkwise.lab.arms import recipe
from forkwise.lab.spec import Experiment
from forkwise.reading import parse_json, read_yaml
from forkwise.samples import read_samples, write_shard
from forkwise.training.folder import finished

_PLACE = ("output_dir", "resume")  # settings in which two configurations of one training may differ


def take(folder: Path, experiment: Experiment, other: Path) -> list[str]:
    """Copies into `folder` the finished runs of `experiment` that the experiment in `other` has.

    A run is taken if its configuration is the same to the letter; its samples too, if problems and traces are the
    same and there are enough of them. The files in `folder` stay. Both must come from the same version of forkwise:
    that is not checked.

    Returns:
        The training runs taken.

    Raises:
        InputError: `other` is no experiment.
    """
    try:
        recorded: dict[str, Any] = dict(parse_json((other / "settings.json").read_bytes()))
    except (OSError, ValueError, TypeError) as error:
        raise InputError(f"'{other}' is no folder of an experiment: --reuse takes the --out of another one.") from error
    trained = {}
    for file in sorted((other / "arms").glob("*.yaml")):
        settings = read_yaml(file)
        if finished(other / "arms" / file.stem, settings["max_steps"]):
            trained[_key(settings)] = other / "arms" / file.stem
    equal = all(recorded.get(key) == getattr(experiment, key) for key in ("problems", "split", "traces"))
    equal &= recorded.get("device", "cpu") == experiment.device
    samples = equal and recorded.get("samples", 0) >= experiment.samples
    if samples:
        _copy_samples(other / "samples" / "base", folder / "samples" / "base", EMBEDDED_MODEL.name, experiment.samples)
    reused = []
    for arm, seed in experiment.runs():
        run = arm.run(seed)
        settings = recipe(arm, seed, experiment.steps, folder / "arms" / run, experiment.device)
        source = trained.get(_key(settings))
        if source is None:
            continue
        if not (folder / "arms" / run).exists():
            _copy_folder(source, folder / "arms" / run)
            write_text(folder / "arms" / f"{run}.yaml", yaml.safe_dump(settings, sort_keys=False))
            reused.append(run)
        if samples:
            _copy_samples(other / "samples" / source.name, folder / "samples" / run, run, experiment.samples)
    return reused


def _key(settings: dict[str, Any]) -> str:
    return json.dumps({key: value for key, value in settings.items() if key not in _PLACE}, sort_keys=True)


def _copy_folder(source: Path, target: Path) -> None:
    partial = target.with_name(f".{target.name}.copy")
    shutil.rmtree(partial, ignore_errors=True)
    shutil.copytree(source, partial)
    os.replace(partial, target)


def _copy_samples(source: Path, target: Path, model: str, n: int) -> None:
    for shard in sorted(source.glob("*.parquet")):
        if not (target / shard.name).exists():
            rows = [row for row in read_samples(shard).to_pylist() if row["sample_id"] < n]
            write_shard(target, shard.stem, [{**row, "run": target.name, "model": model} for row in rows])
