"""Studies: experiments written down as YAML, so that one command runs each of them, or any arm of it, again.

    title: the paper's central comparison
    algorithm: grpo            # of arms that do not say
    seeds: 5
    steps: 70
    problems: 100
    samples: 1024
    arms:                      # the first is the reference
      GRPO: {alpha: 0}
      GRPO + entropy advantage: {alpha: 0.4}
      PPO: {algorithm: ppo, alpha: 0}

Besides `algorithm`, an arm holds the settings of `forkwise grpo` or `forkwise ppo` in which it differs from the lab's
recipe.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from importlib import resources
from pathlib import Path
from typing import Any

from forkwise.errors import InputError, nearest
from forkwise.lab.arms import gpus
from forkwise.lab.options import StudyOptions
from forkwise.lab.spec import Experiment, TrainingArm
from forkwise.reading import parse_yaml, read_bytes

_SETTINGS = {f.name for f in fields(Experiment)} - {"arms", "device"}


def studies() -> list[str]:
    """Lists the names of the studies that come with forkwise."""
    folder = resources.files("forkwise.lab") / "studies"
    return sorted(Path(file.name).stem for file in folder.iterdir() if file.name.endswith(".yaml"))


def load_study(name: str) -> Experiment:
    """Returns a study of ours by name, or of anyone's by file.

    Raises:
        InputError: no such study or file, not YAML, unknown settings, arms that are none.
    """
    if name in studies():
        data = (resources.files("forkwise.lab") / "studies" / f"{name}.yaml").read_bytes()
    elif Path(name).is_file():
        data = read_bytes(Path(name))
    else:
        raise InputError(f"There is no study '{name}': give a YAML file, or one of {', '.join(studies())}.")
    study = parse_yaml(data, name)
    if not isinstance(study, dict) or not isinstance(study.get("arms"), dict):
        raise InputError(f"The study '{name}' has no arms: it needs a mapping 'arms' of names to settings.")
    return _experiment(name, study)


def _experiment(name: str, study: Mapping[str, Any]) -> Experiment:
    unknown = [str(key) for key in study if key not in {*_SETTINGS, "arms", "algorithm"}]
    if unknown:
        hint = nearest(unknown[0], [*_SETTINGS, "arms", "algorithm"])
        raise InputError(f"The study '{name}' has an unknown setting '{unknown[0]}'.{hint}")
    default = study.get("algorithm", "grpo")
    arms = []
    for arm, settings in study["arms"].items():
        if not isinstance(settings, dict):
            raise InputError(f"The arm '{arm}' of '{name}' must be a mapping of settings, such as {{alpha: 0.4}}.")
        own = {key: value for key, value in settings.items() if key != "algorithm"}
        arms.append(TrainingArm(str(arm), settings.get("algorithm", default), own))
    shared = {key: study[key] for key in _SETTINGS & set(study)}
    return Experiment(arms=tuple(arms), **{"title": name, **shared})


def choose(options: StudyOptions) -> Experiment:
    """Returns the experiment that the flags of `forkwise lab compare` ask for.

    Raises:
        InputError: neither a study nor methods, or both; and what `load_study` and `only` raise.
    """
    if (options.study is None) == (not options.methods):
        raise InputError("Say what to compare: either --study, or --methods once per arm.")
    if options.study is not None:
        experiment = load_study(options.study)
    else:
        experiment = methods_study(options.methods or [], options.algorithm)
    device = ("cuda" if gpus() else "cpu") if options.device == "auto" else options.device
    sizes = {name: getattr(options, name) for name in ("seeds", "steps", "problems", "samples", "split")}
    given: dict[str, Any] = {name: value for name, value in sizes.items() if value is not None}
    return replace(only(experiment, options.only or []), **{**given, "device": device})


def methods_study(methods: Sequence[str], algorithm: str) -> Experiment:
    """Sets plain GRPO or PPO against one arm per `--methods` entry, methods of one arm joined by a plus sign."""
    plain = TrainingArm(algorithm.upper(), algorithm, {"alpha": 0.0})
    arms = [TrainingArm(spec, algorithm, {"alpha": 0.0, "method": spec.split("+")}) for spec in methods]
    return Experiment(arms=(plain, *arms), seeds=5, title=f"{algorithm.upper()} against {', '.join(methods)}")


def only(experiment: Experiment, names: Sequence[str]) -> Experiment:
    """Returns the reference and the arms named, by their own name or by that of their folder.

    Raises:
        InputError: an arm that the study does not have.
    """
    reference, *others = experiment.arms
    known = {key: arm for arm in others for key in (arm.name, arm.slug)}
    for name in names:
        if name not in known:
            raise InputError(f"The study has no arm '{name}': its arms are {', '.join(arm.name for arm in others)}.")
    return replace(experiment, arms=(reference, *(known[name] for name in names))) if names else experiment
