"""Reads study files: YAML with the fields of `Study`, strictly."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import msgspec

from forkwise.embedded import is_embedded
from forkwise.errors import InputError, nearest
from forkwise.folders.results import sha256_of_path
from forkwise.reading import read_yaml
from forkwise.study.recipes import RECIPES
from forkwise.study.spec import EvaluationPlan, Futility, Primary, Stopping, Study, TrainingArm
from forkwise.study.yardstick import Yardstick


def read_study(path: Path) -> Study:
    """Reads a study file.

    Raises:
        InputError: it cannot be read, has unknown keys (naming the nearest), or its parts do not fit together.
    """
    study = parse_study(read_yaml(path), str(path))
    if study.contents:
        raise InputError(f"The study '{path}' sets contents, which forkwise finds by itself: leave it out.")
    return replace(study, contents=contents_of(study))


def contents_of(study: Study) -> dict[str, str]:
    """Hashes what is local of the model and the data sets, so that other contents under a path are another plan.

    Raises:
        InputError: something of it cannot be read.
    """
    named = [study.model, study.dataset, study.evaluation.dataset]
    local = [name for name in named if name is not None and not is_embedded(name) and Path(name).expanduser().exists()]
    return {name: sha256_of_path(Path(name).expanduser()) for name in dict.fromkeys(local)}


def parse_study(content: Any, name: str) -> Study:
    """Makes a study from what its file holds; `name` is what messages call it.

    Raises:
        InputError: as `read_study`.
    """
    if not isinstance(content, dict) or not isinstance(content.get("arms"), dict):
        raise InputError(f"The study '{name}' has no arms: it needs a mapping 'arms' of names to settings.")
    _refuse_unknown(content, Study, name)
    if content.get("engine", "trl") == "verl":
        raise InputError(
            "A study cannot run on verl yet: verl takes one method, in a configuration of its own; use engine: trl."
        )
    evaluation = content.get("evaluation")
    if isinstance(evaluation, dict) and evaluation.get("engine") == "server":
        raise InputError(
            "A study cannot sample from a server: each run ends in a checkpoint of its own, which no running server "
            "has; use engine: vllm or transformers in evaluation."
        )
    content = {"title": Path(name).stem, **content}
    algorithm = content.get("algorithm", "grpo")
    content["recipe"] = _recipe(content.get("recipe", {}), name)
    content["seeds"] = _seeds(content.get("seeds"))
    if isinstance(content.get("yardstick"), dict):
        content["yardstick"] = {
            **content["yardstick"],
            "seeds": _seeds(content["yardstick"].get("seeds"), "yardstick."),
        }
    arms = tuple(_arm(str(arm), settings, algorithm, name) for arm, settings in content["arms"].items())
    plain = {**content, "arms": [{**asdict(arm)} for arm in arms]}
    try:
        return msgspec.convert(plain, Study)
    except msgspec.ValidationError as error:
        if isinstance(error.__cause__, InputError):
            raise error.__cause__ from error
        raise InputError(f"The study '{name}' cannot be used: {_place(str(error))}.") from error
    except InputError:
        raise
    except (ValueError, TypeError, OverflowError) as error:
        raise InputError(f"The study '{name}' has a setting that cannot be recorded ({error}): change it.") from error


def _place(message: str) -> str:
    """Turns `Expected X, got Y - at $.a.b` of msgspec into `a.b: expected X, got Y`."""
    fault, _, where = message.partition(" - at `$.")
    return f"{where.rstrip('`')}: {fault[:1].lower()}{fault[1:]}" if where else fault


def _refuse_unknown(content: Mapping[Any, Any], kind: Any, name: str, section: str = "") -> None:
    known = {f.name: f for f in fields(kind)}
    for key, value in content.items():
        if key not in known:
            raise InputError(f"The study '{name}' has an unknown setting '{section}{key}'.{nearest(str(key), known)}")
        nested = _NESTED.get(f"{section}{key}")
        if nested is not None and isinstance(value, dict):
            _refuse_unknown(value, nested, name, f"{section}{key}.")


_NESTED: dict[str, type] = {
    "evaluation": EvaluationPlan,
    "primary": Primary,
    "yardstick": Yardstick,
    "stopping": Stopping,
    "stopping.futility": Futility,
}


def _recipe(recipe: Any, name: str) -> dict[str, Any]:
    if not isinstance(recipe, dict) or not all(isinstance(key, str) for key in recipe):
        raise InputError(f"recipe of '{name}' must be a mapping of settings, such as {{max_steps: 100}}.")
    settings = dict(recipe)
    like = settings.pop("like", None)
    if like is not None and (not isinstance(like, str) or like not in RECIPES):
        raise InputError(f"There is no recipe '{like}': like can be {', '.join(RECIPES)}.{nearest(str(like), RECIPES)}")
    return {**(RECIPES[like] if like else {}), **settings}


def _seeds(seeds: Any, section: str = "") -> Any:
    """Returns a list of seeds; `100-131` is a range."""
    if isinstance(seeds, str) and (span := re.fullmatch(r"\s*(\d{1,9})\s*-\s*(\d{1,9})\s*", seeds)):
        first, last = int(span[1]), int(span[2])
        if not first <= last <= first + 9999:
            raise InputError(f"{section}seeds are '{seeds}': a range such as 100-131 rises, and holds at most 10,000.")
        return list(range(first, last + 1))
    if not isinstance(seeds, list):
        raise InputError(f"{section}seeds are {seeds}: give a list, or a range such as 100-131.")
    return seeds


def _arm(arm: str, settings: Any, algorithm: Any, name: str) -> TrainingArm:
    if isinstance(settings, str):
        settings = {"method": settings.split("+")}
    if not isinstance(settings, dict):
        raise InputError(
            f"The arm '{arm}' of '{name}' must be a mapping of settings, such as {{alpha: 0.4}}, or a method."
        )
    options = {str(key): value for key, value in settings.items() if key != "algorithm"}
    return TrainingArm(arm, settings.get("algorithm", algorithm), options)
