"""Checks the environment for `forkwise doctor`: versions, missing extras, GPUs, and what to install."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, requires, version
from shutil import get_terminal_size, which
from textwrap import TextWrapper

from packaging.requirements import Requirement

from forkwise.cli.common import cores
from forkwise.engines.tested import ENGINES
from forkwise.report.doctor import Remark
from forkwise.version import __version__

# What each extra is for; `docs` and `dev` are for those who work on forkwise.
_EXTRAS = {
    "train": "grpo, ppo, quickstart, study, sample, explore --model",
    "math": "mathematical answers",
    "tasks": "the tasks of Reasoning Gym",
    "verl": "entropy-shaped advantages in verl",
    "vllm": "sample --engine vllm",
    "sbert": "passk --embed, explore --base",
}


def report() -> str:
    """Writes all findings on the environment, a line each, under a headline."""
    head = f"forkwise {__version__}, Python {platform.python_version()}, {platform.system()} {platform.machine()}"
    lines = [f"{head}, {cores()} cores", *map(str, [*_packages(), *_engines(), *_gpus()])]
    wrap = TextWrapper(get_terminal_size().columns, subsequent_indent=" " * 13, break_on_hyphens=False)
    return "\n".join(map(wrap.fill, lines))


def _packages() -> Iterator[Remark]:
    try:
        declared = [Requirement(line) for line in requires("forkwise") or []]
    except PackageNotFoundError:
        yield Remark("packages", "forkwise itself is not installed: pip install it, not only its sources.", True)
        return
    for extra, use in {"": "", **_EXTRAS}.items():
        of_extra = [
            requirement
            for requirement in declared
            if bool(requirement.marker and "extra" in str(requirement.marker)) == bool(extra)
            and (requirement.marker is None or requirement.marker.evaluate({"extra": extra}))
        ]
        yield from _group(extra, use, of_extra)


def _engines() -> Iterator[Remark]:
    """Names the engines that can be imported here, and what of them was tested; docs/engines.md has the rest."""
    for engine in ENGINES:
        if text := engine.says():
            yield Remark("engine", text)


def _group(extra: str, use: str, requirements: list[Requirement]) -> Iterator[Remark]:
    package = f"forkwise[{extra}]" if extra else "forkwise"
    topic = extra or "evaluation"
    present, missing = {}, []
    for requirement in requirements:
        try:
            present[requirement.name] = version(requirement.name)
        except PackageNotFoundError:
            missing.append(requirement.name)
    if present:
        yield Remark(topic, ", ".join(f"{name} {release}" for name, release in present.items()))
    if missing:
        state = "not installed" if len(missing) == len(requirements) else f"{', '.join(missing)} missing"
        purpose = f", for {use}" if use else ""
        remedy = "docs/verl.md begins with verl's own installation" if extra == "verl" else f'pip install "{package}"'
        yield Remark(topic, f"{state}{purpose}: {remedy}", warning=not extra)
    for requirement in requirements:
        release = present.get(requirement.name)
        if release is not None and not requirement.specifier.contains(release, prereleases=True):
            text = f"{requirement.name} {release} does not fit {requirement.specifier}"
            if wanted := _held_back(requirement):
                text += f", and {wanted}: train with its hook, and give our own trainers an environment of their own"
                yield Remark(topic, text)
            else:
                yield Remark(topic, f'{text}: pip install --upgrade "{package}"', warning=True)


def _held_back(requirement: Requirement) -> str:
    """Says which engine that is here wants a package in versions that are too old for us; "" if none does."""
    oldest = next((bound.version for bound in requirement.specifier if bound.operator == ">="), None)
    for engine in ENGINES if oldest else ():
        for line in engine.requires():
            other = Requirement(line)
            applies = other.marker is None or other.marker.evaluate({"extra": ""})
            if applies and other.name == requirement.name and not other.specifier.contains(str(oldest)):
                return f"{engine.name} wants {other.name}{other.specifier}"
    return ""


def _gpus() -> Iterator[Remark]:
    try:
        import torch
    except ImportError:
        yield Remark("GPU", "not looked for, because torch is not installed.")
        return
    except Exception as error:  # a broken installation fails in ways of its own
        yield Remark("GPU", f"torch cannot be loaded ({str(error).strip().splitlines()[0]}): install it again.", True)
        return
    for index in range(torch.cuda.device_count()):
        gpu = torch.cuda.get_device_properties(index)
        yield Remark("GPU", f"cuda:{index} {gpu.name}, {gpu.total_memory / 2**30:.0f} GiB")
    if torch.cuda.device_count():
        return
    if which("nvidia-smi"):
        text = f"there is an NVIDIA driver, but torch {torch.__version__} sees no GPU: install a torch built for it"
        yield Remark("GPU", f"{text} (https://pytorch.org/get-started).", warning=True)
    else:
        yield Remark("GPU", "none: training and sampling run on the CPU, which is enough for the embedded model.")
