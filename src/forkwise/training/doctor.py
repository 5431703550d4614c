"""`forkwise doctor run FOLDER`: what a run's curves say, in words. It reads the folder and needs no torch.

"Start" and "end" are means over the first and the last tenth of the logged values (at least 3, if there are 6). A trend
is Kendall's tau between time and value (Mann-Kendall), over at most 30 means of successive blocks, which takes most of
the dependence between neighbouring steps out; it is said to be one at p < 0.05, two-sided.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median
from typing import Any

import numpy as np
from scipy import stats

from forkwise.errors import InputError
from forkwise.folders import is_held
from forkwise.folders.metrics import METRICS, STATE, checkpoints, is_of_verl, metrics_file, read_metrics, read_state
from forkwise.reading import read_yaml
from forkwise.terminal import counted
from forkwise.training.folder import SETTINGS, damage, finished

__all__ = ["Remark", "Trend", "report", "series", "trend"]

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
class Remark:
    """One thing that the curves say; `warning` where something should be done about it."""

    topic: str
    text: str
    warning: bool = False

    def __str__(self) -> str:
        return f"{'!' if self.warning else ' '} {self.topic:<10} {self.text}"


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

    def describe(self, form: str = ".3g") -> str:
        """Describes the trend: `rose from 0.05 to 0.31 (tau 0.62, p = 0.0001)`."""
        values = f"from {self.start:{form}} to {self.end:{form}}"
        if np.isnan(self.p):
            return f"{values} (too few values for a trend)"
        return f"{self.word} {'(' + values + ', ' if self.word == 'no trend' else values + ' ('}{self._test()})"

    def _test(self) -> str:
        return f"tau {self.tau:+.2f}, p {'< 0.0001' if self.p < 1e-4 else f'= {self.p:.2g}'}"


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


def report(folder: Path) -> str:
    """Reports all findings on the run in `folder`, or on each run of a quickstart or study, under a headline.

    Raises:
        InputError: the folder holds no run.
    """
    arms = [path for path in sorted((folder / "arms").glob("*")) if (path / SETTINGS).is_file()]
    if not _is_run(folder) and arms:
        return "\n\n".join(map(_report, arms))
    return _report(folder)


def _is_run(folder: Path) -> bool:
    """Tells whether it is a run of ours, of verl, or of any trainer that writes `trainer_state.json`."""
    path = metrics_file(folder)
    return (folder / SETTINGS).is_file() or (
        path is not None and (path.name == STATE or is_of_verl(read_metrics(folder)))
    )


def _report(folder: Path) -> str:
    settings, rows = _read(folder)
    steps = [row for row in rows if "loss" in row]
    of_verl = is_of_verl(rows)
    state = _state_of_verl(rows) if of_verl else _state(folder, settings, steps)
    findings = [*state, *_not_finite(folder, steps)]
    if steps:
        findings += [f for look in _LOOKS for f in look(steps, settings)]
    alarms = sum(finding.warning for finding in findings)
    kind = "PPO" if "critic_learning_rate" in settings else "GRPO"
    kind = f"{kind}, alpha {settings.get('alpha', '?')}" if (folder / SETTINGS).is_file() else "another trainer's run"
    kind = "a run of verl" if of_verl else kind
    last = steps[-1]["step"] if steps else 0
    head = f"{folder}: {kind}, {counted(last, 'step')} logged; "
    head += f"{counted(alarms, 'thing')} to look at (!)" if alarms else "nothing alarming"
    return "\n".join([head, *map(str, findings)])


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
    others = {name: value for name, value in settings.items() if name not in _NUMBERS}
    return {**others, **numbers}, read_metrics(folder)


def _state(folder: Path, settings: dict[str, Any], steps: list[Row]) -> Iterator[Remark]:
    if not (folder / SETTINGS).is_file():
        yield _state_of_another_trainer(folder)
        return
    planned = settings.get("max_steps", -1)
    if finished(folder, max(planned, 1)):
        yield Remark("state", "finished.")
        return
    if is_held(folder):
        yield Remark("state", "still running.")
        return
    last = steps[-1]["step"] if steps else 0
    of = f" of {planned}" if planned > 0 else ""
    whole = None
    for checkpoint in checkpoints(folder):
        why = damage(checkpoint)
        if why is None:
            whole = checkpoint
            break
        yield Remark("state", f"{checkpoint.name} does not count: {why}.", warning=True)
    command = "ppo" if "critic_learning_rate" in settings else "grpo"
    again = f"forkwise {command} --config {folder / SETTINGS} --output_dir {folder} --resume"
    outcome = f"continues after {whole.name}" if whole else "starts over (there is no whole checkpoint)"
    yield Remark("state", f"stopped at step {last}{of} without finishing. This {outcome}: {again}", warning=True)


def _state_of_verl(rows: list[Row]) -> Iterator[Remark]:
    """Says how far verl came, whose log does not tell how far it was to go."""
    last = rows[-1]["step"]
    trained = sum("loss" in row for row in rows)
    yield Remark("state", f"at step {last} when its log was last written.")
    if last and not trained:
        yield Remark(
            "policy",
            f"has not been trained: all {last} steps were the critic's alone. Train longer, or lower "
            "trainer.critic_warmup.",
            warning=True,
        )
    if trained and not any(name.startswith(("shaping/", "method/")) for row in rows for name in row):
        yield Remark("shaping", "nothing of forkwise acted: verl's own run, or alpha 0.")


def _state_of_another_trainer(folder: Path) -> Remark:
    path = metrics_file(folder) or folder / STATE
    state = read_state(path)
    reached, planned = state.get("global_step"), state.get("max_steps")
    if isinstance(reached, int) and isinstance(planned, int) and reached >= planned > 0:
        return Remark("state", f"finished at step {reached} ({path}).")
    return Remark("state", f"at step {reached} of {planned} when {path} was written.")


def _not_finite(folder: Path, steps: list[Row]) -> Iterator[Remark]:
    if batches := sorted((folder / KEPT).glob("step_*.pt")):
        yield Remark(
            "finite",
            f"a number was not finite, and the run was stopped; the batch is in {', '.join(map(str, batches))} "
            "(torch.load). Lower learning_rate or max_grad_norm, or train in float32.",
            warning=True,
        )
    for key in ("loss", "grad_norm", "entropy"):
        bad = [row["step"] for row in steps if isinstance(row.get(key), float) and not np.isfinite(row[key])]
        if bad:
            yield Remark("finite", f"{key} is not finite at step {bad[0]} and {len(bad) - 1} later ones.", warning=True)


def _policy(rows: list[Row], settings: dict[str, Any]) -> Iterator[Remark]:
    warmup, last = settings.get("critic_warmup_steps", 0), rows[-1]["step"]
    if "critic_learning_rate" in settings and last <= warmup:
        yield Remark(
            "policy",
            f"has not been trained: all {last} steps were the critic's alone. Train longer, or lower "
            f"critic_warmup_steps ({warmup}).",
            warning=True,
        )


def _reward(rows: list[Row], _: dict[str, Any]) -> Iterator[Remark]:
    values = series(rows, "reward")
    if not values:
        return
    curve = trend(values)
    text = f"{curve.describe()} over {len(values)} rollouts."
    if max(values) == min(values):
        text = (
            f"is {values[0]:g} in every rollout: nothing can be learned from it. Look at the reward and the problems."
        )
        yield Remark("reward", text, warning=True)
    elif curve.word == "fell":
        yield Remark("reward", f"{text} Try a lower learning_rate or beta > 0.", warning=True)
    elif curve.word == "no trend" and len(values) >= FEWEST:
        yield Remark("reward", f"{text} More rollouts or a higher learning_rate may show one.")
    else:
        yield Remark("reward", text)


def _entropy(rows: list[Row], settings: dict[str, Any]) -> Iterator[Remark]:
    values = series(rows, "entropy")
    if not values:
        return
    curve = trend(values)
    text = f"{curve.describe()} nats."
    collapsed = curve.end < settings.get("health_min_entropy", 0.1) * curve.start
    if collapsed:
        text += " It has collapsed: the policy hardly explores. Try a larger alpha or epsilon_high, a lower "
        text += "learning_rate, or beta > 0."
    elif curve.word == "rose" and curve.end > 2 * curve.start:
        collapsed = True
        text += " It has more than doubled, which can end in noise. Lower alpha, or entropy_coef if it is set."
    yield Remark("entropy", text, warning=collapsed)


def _length(rows: list[Row], settings: dict[str, Any]) -> Iterator[Remark]:
    values = series(rows, "completions/mean_length")
    if values:
        curve = trend(values)
        exploded = curve.end > settings.get("health_max_length", 3.0) * curve.start
        advice = " It has exploded: read some completions (log_completions); try mask_truncated_completions."
        yield Remark("length", f"{curve.describe('.0f')} tokens.{advice if exploded else ''}", warning=exploded)
    if cut := series(rows, "completions/clipped_ratio"):
        curve = trend(cut)
        many = curve.end > 0.3
        advice = " Their answers are lost: raise max_completion_length." if many else ""
        yield Remark("truncated", f"share of completions {curve.describe('.0%')}.{advice}", warning=many)


def _shaping(rows: list[Row], settings: dict[str, Any]) -> Iterator[Remark]:
    values = series(rows, "shaping/capped_frac")
    if not values:
        if settings.get("alpha") == 0:
            yield Remark("shaping", "off (alpha 0).")
        return
    mean, share = fmean(values), fmean(series(rows, "shaping/psi_over_adv") or [0.0])
    most = 1 / (settings.get("kappa", 2) or math.inf)
    text = f"adds {share:.1%} of |A| on average (at most {most:.0%}); {mean:.0%} of tokens at the cap."
    if mean > 0.9:
        text += " Entropy hardly matters there: lower alpha, or start from a policy with less entropy."
    yield Remark("shaping", text, warning=mean > 0.9)


def _clipping(rows: list[Row], _: dict[str, Any]) -> Iterator[Remark]:
    values = series(rows, "clip_ratio/region_mean")
    if not values:
        return
    mean = fmean(values)
    text = f"{mean:.2%} of tokens outside the trust region, {max(values):.2%} in the worst step."
    if mean > 0.2:
        text += " Updates go far from the rollout: lower learning_rate, num_iterations or steps_per_generation."
    yield Remark("clipping", text, warning=mean > 0.2)


def _groups(rows: list[Row], settings: dict[str, Any]) -> Iterator[Remark]:
    values = series(rows, "frac_reward_zero_std")
    if not values or settings.get("num_generations") == 1 or "critic_learning_rate" in settings:
        return
    curve = trend(values)
    text = f"all completions of a group have the same reward in {fmean(values):.0%} of groups."
    if curve.end > 0.8:
        text += " Most of the work teaches nothing: use problems of middling difficulty, or more num_generations."
    yield Remark("groups", text, warning=curve.end > 0.8)


def _gradient(rows: list[Row], settings: dict[str, Any]) -> Iterator[Remark]:
    values = series(rows, "grad_norm")
    if not values:
        return
    middle, top = median(values), max(values)
    at = next(row["step"] for row in rows if row.get("grad_norm") == top)
    text = f"norm {middle:.3g} (median), {top:.3g} at most (step {at})."
    limit = settings.get("max_grad_norm", 1.0)
    clipped = fmean(v > limit for v in values) if limit else 0.0
    if clipped > 0.5:
        text += (
            f" max_grad_norm={limit:g} clips {clipped:.0%} of steps, so it sets the step length: lower learning_rate?"
        )
    elif middle > 0 and top > 10 * middle:
        text += " A spike of more than ten medians: look at the batches around it (log_completions)."
    yield Remark("gradient", text, warning=clipped > 0.5 or (middle > 0 and top > 10 * middle))


def _kl(rows: list[Row], _: dict[str, Any]) -> Iterator[Remark]:
    if values := series(rows, "kl"):
        yield Remark("kl", f"{trend(values).describe()} nats per token to the reference.")


def _critic(rows: list[Row], _: dict[str, Any]) -> Iterator[Remark]:
    values = series(rows, "critic/explained_variance")
    if not values:
        return
    curve = trend(values)
    useless = len(values) >= FEWEST and curve.end <= 0
    advice = " The critic is no better than a constant: raise critic_learning_rate or critic_warmup_steps."
    yield Remark("critic", f"explained variance {curve.describe()}.{advice if useless else ''}", warning=useless)


_LOOKS = (_policy, _reward, _entropy, _length, _shaping, _clipping, _groups, _gradient, _kl, _critic)
