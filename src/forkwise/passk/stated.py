"""Variance components that somebody states: a YAML or JSON file, or the result of an earlier `forkwise plan --json`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from forkwise.errors import InputError, nearest
from forkwise.passk.components import Components, Noise, chi_square_interval, is_endpoint
from forkwise.passk.differences import CURVE
from forkwise.passk.plan import read_plan
from forkwise.reading import parse_yaml, read_bytes

_TOP = ("components", "samples", "problems", "freedom", "rho")
_PARTS = ("run", "run_problem", "sampling", "method_problem", "problem")
_ENTRY = (*(f"{part}_{unit}" for part in _PARTS for unit in ("sd", "variance")), "mean")


@dataclass(frozen=True)
class Stated:
    """The components of every endpoint in a file, and the numbers of problems and samples that they come from."""

    components: list[Components]
    problems: int | None
    samples: int | None


def read_stated(path: Path, level: float) -> Stated:
    """Reads the components in a file.

    Raises:
        InputError: it cannot be read, or does not say what `docs/plan.md` asks for.
    """
    content = parse_yaml(read_bytes(path), str(path))
    if not isinstance(content, Mapping) or not isinstance(content.get("components"), Mapping):
        raise InputError(
            f"'{path}' states no components: write a mapping 'components' from each K to its variances, such as "
            "'16: {run_sd: 0.023, sampling_variance: 0.025}'."
        )
    _check_names(content, _TOP, path, "it")
    samples, problems = (_whole(content.get(name), name, path) for name in ("samples", "problems"))
    freedom = _whole(content.get("freedom"), "freedom", path) or 0
    rho = content.get("rho")
    if rho is not None and not (_is_number(rho) and -1 <= rho <= 1):
        raise InputError(f"'{path}': rho is {rho!r}, and a correlation lies between -1 and 1.")
    entries = {str(name): entry for name, entry in content["components"].items()}
    if not entries:
        raise InputError(f"'{path}' states no components: its mapping 'components' is empty.")
    ks = [_k(name, path) for name in entries if name != CURVE]
    components = []
    for name, entry in entries.items():
        reader = _Entry(path, name, entry, samples)
        noise = reader.noise()
        largest_k = int(name) if name != CURVE else max(ks, default=noise[0].n)
        run = reader.variance("run")
        if run is None:
            raise InputError(f"'{path}', {name}: it does not say how runs differ: add run_sd, or run_variance.")
        low, high = chi_square_interval(run, freedom, level) if freedom else (run, run)
        components.append(
            Components(
                endpoint=name,
                largest_k=largest_k,
                run=run,
                run_low=low,
                run_high=high,
                run_freedom=freedom,
                run_problem=reader.variance("run_problem") or 0.0,
                noise=noise,
                method_problem=reader.variance("method_problem"),
                problem=reader.variance("problem"),
                mean=reader.number("mean"),
                rho=None if rho is None else float(rho),
            )
        )
    return Stated(components, problems, samples)


def read_earlier(path: Path) -> Stated:
    """Reads the components in the result of an earlier plan.

    Raises:
        InputError: it is none, or holds what is no variance.
    """
    plan = read_plan(path).plan
    for c in plan.components:
        numbers = [c.run, c.run_low, c.run_high, c.run_problem, *(noise.variance for noise in c.noise)]
        numbers += [x for x in (c.method_problem, c.problem, c.mean) if x is not None]
        ns = [noise.n for noise in c.noise]
        whole = (
            is_endpoint(c.endpoint) and c.largest_k >= 1 and c.run_freedom >= 0 and bool(ns) and ns == sorted(set(ns))
        )
        whole = whole and _is_number(c.cluster_size) and c.cluster_size >= 1
        if not whole or ns[0] < 1 or not all(_is_number(x) and x >= 0 for x in numbers):
            raise InputError(f"'{path}' is damaged (its components are no variances): run forkwise plan --json again.")
        if any(x is not None and not -1 <= x <= 1 for x in (c.rho, c.rho_low, c.rho_high)):
            raise InputError(f"'{path}' is damaged (rho is no correlation): run forkwise plan --json again.")
    if not plan.components or len({c.endpoint for c in plan.components}) < len(plan.components):
        raise InputError(f"'{path}' is damaged (it has no components): run forkwise plan --json again.")
    return Stated(plan.components, plan.size.problems, plan.size.samples)


@dataclass(frozen=True)
class _Entry:
    """What a file says of one endpoint."""

    path: Path
    name: str
    content: Any
    samples: int | None

    def __post_init__(self) -> None:
        if not isinstance(self.content, Mapping):
            raise InputError(f"'{self.path}', {self.name}: it is {self.content!r}, where a mapping is needed.")
        _check_names(self.content, _ENTRY, self.path, self.name)

    def number(self, name: str) -> float | None:
        """Returns a number that is not below 0."""
        value = self.content.get(name)
        return None if value is None else self._checked(value, name)

    def variance(self, part: str) -> float | None:
        """Returns the variance of a part, stated as such or as a standard deviation."""
        values = self._of(part)
        if values is None or not isinstance(values, Mapping):
            return values
        raise InputError(f"'{self.path}', {self.name}: {part} is one number, only sampling depends on n.")

    def noise(self) -> list[Noise]:
        """Returns the sampling variance by n."""
        values = self._of("sampling")
        if values is None:
            values = 0.0
        if not isinstance(values, Mapping):
            if self.samples is None:
                raise InputError(
                    f"'{self.path}', {self.name}: it does not say of how many samples: add 'samples: N' to the file, "
                    "or write sampling_variance as a mapping from n."
                )
            values = {self.samples: values}
        return [Noise(n, values[n]) for n in sorted(values)]

    def _of(self, part: str) -> Any:
        sd, variance = (self.content.get(f"{part}_{unit}") for unit in ("sd", "variance"))
        if sd is not None and variance is not None:
            raise InputError(f"'{self.path}', {self.name}: {part}_sd and {part}_variance say the same: leave one out.")
        value, power, name = (sd, 2, f"{part}_sd") if variance is None else (variance, 1, f"{part}_variance")
        if value is None:
            return None
        if not isinstance(value, Mapping):
            return self._checked(value, name) ** power
        if not value:
            raise InputError(f"'{self.path}', {self.name}: {name} is empty.")
        return {
            _whole(n, f"a number of samples in {name}", self.path): self._checked(v, name) ** power
            for n, v in value.items()
        }

    def _checked(self, value: Any, name: str) -> float:
        if not _is_number(value) or not 0 <= value <= 1:
            raise InputError(
                f"'{self.path}', {self.name}: {name} is {value!r}, and Pass@K, its deviations and its variances lie "
                "between 0 and 1."
            )
        return float(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _whole(value: Any, name: str, path: Path) -> int | None:
    if value is None:
        return None
    if isinstance(value, str) and is_endpoint(value) and value != CURVE:  # a JSON object has texts for keys
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value < 10**9:
        raise InputError(f"'{path}': {name} is {value!r:.40}, and a whole number from 1 to a billion is needed.")
    return value


def _k(name: str, path: Path) -> int:
    if not is_endpoint(name):
        raise InputError(f"'{path}' has components of '{name:.40}': each belongs to a K, such as 16, or to {CURVE}.")
    return int(name)


def _check_names(content: Mapping[Any, Any], known: tuple[str, ...], path: Path, part: str) -> None:
    unknown = [str(name) for name in content if str(name) not in known]
    if unknown:
        raise InputError(
            f"'{path}', {part}: '{unknown[0]}' means nothing here.{nearest(unknown[0], known)} Known are "
            f"{', '.join(known)}."
        )
