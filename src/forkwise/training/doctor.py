"""What the curves of a run say, as facts; `forkwise.report.doctor` has the sentences. It needs no torch.

"Start" and "end" are means over the first and the last tenth of the logged values (at least 3, if there are 6). A trend
is Kendall's tau between time and value (Mann-Kendall), over at most 30 means of successive blocks, which takes most of
the dependence between neighbouring steps out; it is said to be one at p < 0.05, two-sided.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean, median
from typing import Any

import numpy as np
from scipy import stats

from forkwise.errors import InputError
from forkwise.folders import is_held
from forkwise.folders.metrics import METRICS, STATE, checkpoints, is_of_verl, metrics_file, read_metrics, read_state
from forkwise.reading import read_yaml
from forkwise.training.folder import SETTINGS, damage, finished

__all__ = ["Diagnosis", "RunFinding", "Trend", "diagnose", "series", "trend"]

BLOCKS = 30  # values that the trend test sees at most
FEWEST = 8  # values below which nothing is said about a trend
SIGNIFICANT = 0.05
KEPT = "non_finite"  # written by forkwise.training.health

Row = dict[str, Any]
_NUMBERS = (
    "alpha",
    "kappa",
    "max_steps",
    "max_grad_norm",
    "health_min_entropy",
    "health_max_length",
    "critic_warmup_steps",
)


@dataclass(frozen=True)
class RunFinding:
    """One thing that a run's curves or files say.

    Attributes:
        topic: what it is about; what follows a colon tells apart several sentences about it.
        facts: its numbers and names, as the sentence needs them.
        warning: whether something should be done about it.
    """

    topic: str
    facts: dict[str, Any] = field(default_factory=dict)
    warning: bool = False


@dataclass(frozen=True)
class Diagnosis:
    """All findings on one run: its folder, what kind of run it is, and the last logged step."""

    folder: Path
    kind: str
    """`GRPO`, `PPO`, `verl`, or empty for another trainer's."""
    alpha: Any
    """What the settings say; None where they do not."""
    steps: int
    findings: list[RunFinding]


@dataclass(frozen=True)
class Trend:
    """A curve's start and end, and the two-sided p of the Mann-Kendall test that it neither rises nor falls."""

    start: float
    end: float
    tau: float
    p: float

    @property
    def word(self) -> str:
        """Names the trend: `rose`, `fell`, or `no trend`."""
        if not self.p < SIGNIFICANT:
            return "no trend"
        return "rose" if self.tau > 0 else "fell"


def trend(values: Sequence[float]) -> Trend:
    """Finds start, end and trend of values in order of time; p is NaN for fewer than 8."""
    tenth = max(min(3, (len(values) + 1) // 2), len(values) // 10)
    start, end = fmean(values[:tenth]), fmean(values[-tenth:])
    if len(values) < FEWEST:
        return Trend(start, end, float("nan"), float("nan"))
    means = [float(block.mean()) for block in np.array_split(np.asarray(values), min(BLOCKS, len(values)))]
    if len(set(means)) == 1:
        return Trend(start, end, 0.0, 1.0)
    test = stats.kendalltau(np.arange(len(means)), means)
    return Trend(start, end, float(test.statistic), float(test.pvalue))


def series(rows: Sequence[Row], key: str) -> list[float]:
    """Returns the finite logged values of one metric, in order of step."""
    return [float(row[key]) for row in rows if isinstance(row.get(key), int | float) and np.isfinite(row[key])]


def diagnose(folder: Path) -> list[Diagnosis]:
    """Finds what there is to say of the run in `folder`, or of each run of a quickstart or study.

    Raises:
        InputError: the folder holds no run.
    """
    arms = [path for path in sorted((folder / "arms").glob("*")) if (path / SETTINGS).is_file()]
    return [_diagnose(arm) for arm in (arms if arms and not _is_run(folder) else [folder])]


def _is_run(folder: Path) -> bool:
    """Tells whether it is a run of ours, of verl, or of any trainer that writes `trainer_state.json`."""
    path = metrics_file(folder)
    return (folder / SETTINGS).is_file() or (
        path is not None and (path.name == STATE or is_of_verl(read_metrics(folder)))
    )


def _diagnose(folder: Path) -> Diagnosis:
    settings, rows = _read(folder)
    steps = [row for row in rows if "loss" in row]
    of_verl = is_of_verl(rows)
    state = _state_of_verl(rows) if of_verl else _state(folder, settings, steps)
    findings = [*state, *_not_finite(folder, steps)]
    if steps:
        findings += [finding for look in _LOOKS for finding in look(steps, settings)]
    trainer = "PPO" if "critic_learning_rate" in settings else "GRPO"
    kind = "verl" if of_verl else trainer if (folder / SETTINGS).is_file() else ""
    return Diagnosis(folder, kind, settings.get("alpha"), steps[-1]["step"] if steps else 0, findings)


def _read(folder: Path) -> tuple[dict[str, Any], list[Row]]:
    if not _is_run(folder):
        raise InputError(
            f"'{folder}' holds no training run (it has no {SETTINGS}); give the --output_dir of forkwise grpo or ppo, "
            f"the folder of a quickstart or study, that of another trainer (with {STATE}), or one with the file of "
            f"verl's logger 'file' under the name {METRICS} (VERL_FILE_LOGGER_PATH)."
        )
    if not (folder / SETTINGS).is_file():
        return {}, read_metrics(folder)
    settings = read_yaml(folder / SETTINGS)
    if not isinstance(settings, dict):
        raise InputError(f"'{folder / SETTINGS}' holds no settings: restore it.")
    for name in _NUMBERS:
        value = settings.get(name)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int | float) or math.isnan(value)):
            raise InputError(f"'{folder / SETTINGS}' has {name}: {value}, which is no number: restore it.")
    numbers = {name: settings[name] for name in _NUMBERS if settings.get(name) is not None}
    further = {name: value for name, value in settings.items() if name not in _NUMBERS}
    return {**further, **numbers}, read_metrics(folder)


def _state(folder: Path, settings: dict[str, Any], steps: list[Row]) -> Iterator[RunFinding]:
    if not (folder / SETTINGS).is_file():
        path = metrics_file(folder) or folder / STATE
        state = read_state(path)
        reached, planned = state.get("global_step"), state.get("max_steps")
        yield RunFinding("state: another trainer's", {"reached": reached, "planned": planned, "path": path})
        return
    planned = settings.get("max_steps", -1)
    if finished(folder, max(planned, 1)):
        yield RunFinding("state: finished")
        return
    if is_held(folder):
        yield RunFinding("state: running")
        return
    whole = None
    for checkpoint in checkpoints(folder):
        why = damage(checkpoint)
        if why is None:
            whole = checkpoint.name
            break
        yield RunFinding("state: damaged checkpoint", {"name": checkpoint.name, "why": why}, warning=True)
    last = steps[-1]["step"] if steps else 0
    command = "ppo" if "critic_learning_rate" in settings else "grpo"
    again = f"forkwise {command} --config {folder / SETTINGS} --output_dir {folder} --resume"
    stopped = {"step": last, "planned": planned, "whole": whole, "again": again}
    yield RunFinding("state: stopped", stopped, warning=True)


def _state_of_verl(rows: list[Row]) -> Iterator[RunFinding]:
    """Finds how far verl came, whose log does not tell how far it was to go."""
    last = rows[-1]["step"]
    trained = sum("loss" in row for row in rows)
    yield RunFinding("state: verl", {"step": last})
    if last and not trained:
        yield RunFinding("policy", {"steps": last}, warning=True)
    if trained and not any(name.startswith(("shaping/", "method/")) for row in rows for name in row):
        yield RunFinding("shaping: none")


def _not_finite(folder: Path, steps: list[Row]) -> Iterator[RunFinding]:
    if batches := sorted((folder / KEPT).glob("step_*.pt")):
        yield RunFinding("finite: batches", {"paths": batches}, warning=True)
    for key in ("loss", "grad_norm", "entropy"):
        bad = [row["step"] for row in steps if isinstance(row.get(key), float) and not np.isfinite(row[key])]
        if bad:
            yield RunFinding("finite: curve", {"key": key, "first": bad[0], "later": len(bad) - 1}, warning=True)


def _policy(rows: list[Row], settings: dict[str, Any]) -> Iterator[RunFinding]:
    warmup, last = settings.get("critic_warmup_steps", 0), rows[-1]["step"]
    if "critic_learning_rate" in settings and last <= warmup:
        yield RunFinding("policy: warm-up", {"steps": last, "warmup": warmup}, warning=True)


def _reward(rows: list[Row], _: dict[str, Any]) -> Iterator[RunFinding]:
    values = series(rows, "reward")
    if not values:
        return
    curve = trend(values)
    if max(values) == min(values):
        yield RunFinding("reward: flat", {"value": values[0]}, warning=True)
    else:
        yield RunFinding("reward", {"curve": curve, "rollouts": len(values)}, warning=curve.word == "fell")


def _entropy(rows: list[Row], settings: dict[str, Any]) -> Iterator[RunFinding]:
    values = series(rows, "entropy")
    if not values:
        return
    curve = trend(values)
    collapsed = curve.end < settings.get("health_min_entropy", 0.1) * curve.start
    doubled = not collapsed and curve.word == "rose" and curve.end > 2 * curve.start
    yield RunFinding("entropy", {"curve": curve, "collapsed": collapsed}, warning=collapsed or doubled)


def _length(rows: list[Row], settings: dict[str, Any]) -> Iterator[RunFinding]:
    if values := series(rows, "completions/mean_length"):
        curve = trend(values)
        exploded = curve.end > settings.get("health_max_length", 3.0) * curve.start
        yield RunFinding("length", {"curve": curve}, warning=exploded)
    if cut := series(rows, "completions/clipped_ratio"):
        curve = trend(cut)
        yield RunFinding("truncated", {"curve": curve}, warning=curve.end > 0.3)


def _shaping(rows: list[Row], settings: dict[str, Any]) -> Iterator[RunFinding]:
    values = series(rows, "shaping/capped_frac")
    if not values:
        if settings.get("alpha") == 0:
            yield RunFinding("shaping: off")
        return
    capped, share = fmean(values), fmean(series(rows, "shaping/psi_over_adv") or [0.0])
    most = 1 / (settings.get("kappa", 2) or math.inf)
    yield RunFinding("shaping", {"share": share, "most": most, "capped": capped}, warning=capped > 0.9)


def _clipping(rows: list[Row], _: dict[str, Any]) -> Iterator[RunFinding]:
    if values := series(rows, "clip_ratio/region_mean"):
        mean = fmean(values)
        yield RunFinding("clipping", {"mean": mean, "worst": max(values)}, warning=mean > 0.2)


def _groups(rows: list[Row], settings: dict[str, Any]) -> Iterator[RunFinding]:
    values = series(rows, "frac_reward_zero_std")
    if not values or settings.get("num_generations") == 1 or "critic_learning_rate" in settings:
        return
    yield RunFinding("groups", {"mean": fmean(values)}, warning=trend(values).end > 0.8)


def _gradient(rows: list[Row], settings: dict[str, Any]) -> Iterator[RunFinding]:
    values = series(rows, "grad_norm")
    if not values:
        return
    middle, top = median(values), max(values)
    step = next(row["step"] for row in rows if row.get("grad_norm") == top)
    limit = settings.get("max_grad_norm", 1.0)
    clipped = fmean(v > limit for v in values) if limit else 0.0
    often, spike = clipped > 0.5, middle > 0 and top > 10 * middle
    facts = {"middle": middle, "top": top, "step": step, "limit": limit, "clipped": clipped if often else None}
    yield RunFinding("gradient", facts, warning=often or spike)


def _kl(rows: list[Row], _: dict[str, Any]) -> Iterator[RunFinding]:
    if values := series(rows, "kl"):
        yield RunFinding("kl", {"curve": trend(values)})


def _critic(rows: list[Row], _: dict[str, Any]) -> Iterator[RunFinding]:
    if values := series(rows, "critic/explained_variance"):
        curve = trend(values)
        yield RunFinding("critic", {"curve": curve}, warning=len(values) >= FEWEST and curve.end <= 0)


_LOOKS = (_policy, _reward, _entropy, _length, _shaping, _clipping, _groups, _gradient, _kl, _critic)
