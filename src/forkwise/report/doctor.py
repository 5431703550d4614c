"""What `forkwise doctor` says: one sentence for each topic of `forkwise.training.doctor`, under a headline."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from forkwise.terminal import counted
from forkwise.training.doctor import FEWEST, Diagnosis, RunFinding, Trend


@dataclass(frozen=True)
class Remark:
    """One line of a doctor; `warning` where something should be done about it."""

    topic: str
    text: str
    warning: bool = False

    def __str__(self) -> str:
        return f"{'!' if self.warning else ' '} {self.topic:<10} {self.text}"


def diagnoses(runs: Iterable[Diagnosis]) -> str:
    """Says all that was found on each run, a line each under its headline."""
    return "\n\n".join(map(_run, runs))


def _run(run: Diagnosis) -> str:
    alarms = sum(finding.warning for finding in run.findings)
    kinds = {"verl": "a run of verl", "": "another trainer's run"}
    kind = kinds.get(run.kind) or f"{run.kind}, alpha {'?' if run.alpha is None else run.alpha}"
    head = f"{run.folder}: {kind}, {counted(run.steps, 'step')} logged; "
    verdicts = ["no curve can be judged: nothing was logged (logging_steps)"] if not run.steps else []
    verdicts += [f"{counted(alarms, 'thing')} to look at (!)"] if alarms else []
    head += "; ".join(verdicts) or "nothing alarming"
    return "\n".join([head, *(str(remark(finding)) for finding in run.findings)])


def remark(finding: RunFinding) -> Remark:
    """Puts a finding into words."""
    text = SENTENCES[finding.topic](finding.warning, **finding.facts)
    return Remark(finding.topic.partition(":")[0], text, finding.warning)


def over_time(curve: Trend, form: str = ".3g") -> str:
    """Describes a trend: `rose from 0.05 to 0.31 (tau +0.62, p = 0.0001)`."""
    values = f"from {curve.start:{form}} to {curve.end:{form}}"
    if np.isnan(curve.p):
        return f"{values} (too few values for a trend)"
    test = f"tau {curve.tau:+.2f}, p {'< 0.0001' if curve.p < 1e-4 else f'= {curve.p:.2g}'}"
    return f"no trend ({values}, {test})" if curve.word == "no trend" else f"{curve.word} {values} ({test})"


def _another_trainers(_: bool, reached: Any, planned: Any, path: Path) -> str:
    if isinstance(reached, int) and isinstance(planned, int) and reached >= planned > 0:
        return f"finished at step {reached} ({path})."
    return f"at step {reached} of {planned} when {path} was written."


def _stopped(_: bool, step: int, planned: int, whole: str | None, again: str) -> str:
    of = f" of {planned}" if planned > 0 else ""
    outcome = f"continues after {whole}" if whole else "starts over (there is no whole checkpoint)"
    return f"stopped at step {step}{of} without finishing. This {outcome}: {again}"


def _reward(alarm: bool, curve: Trend, rollouts: int) -> str:
    text = f"{over_time(curve)} over {rollouts} rollouts."
    if alarm:
        return f"{text} Try a lower learning_rate or beta > 0."
    if curve.word == "no trend" and rollouts >= FEWEST:
        return f"{text} More rollouts or a higher learning_rate may show one."
    return text


def _entropy(alarm: bool, curve: Trend, collapsed: bool) -> str:
    advice = ""
    if collapsed:
        advice = " It has collapsed: the policy hardly explores. Try a larger alpha or epsilon_high, a lower "
        advice += "learning_rate, or beta > 0."
    elif alarm:
        advice = " It has more than doubled, which can end in noise. Lower alpha, or entropy_coef if it is set."
    return f"{over_time(curve)} nats.{advice}"


def _length(alarm: bool, curve: Trend) -> str:
    advice = " It has exploded: read some completions (log_completions); try mask_truncated_completions."
    return f"{over_time(curve, '.0f')} tokens.{advice if alarm else ''}"


def _truncated(alarm: bool, curve: Trend) -> str:
    advice = " Their answers are lost: raise max_completion_length."
    return f"share of completions {over_time(curve, '.0%')}.{advice if alarm else ''}"


def _shaping(alarm: bool, share: float, most: float, capped: float) -> str:
    text = f"adds {share:.1%} of |A| on average (at most {most:.0%}); {capped:.0%} of tokens at the cap."
    advice = " Entropy hardly matters there: lower alpha, or start from a policy with less entropy."
    return f"{text}{advice if alarm else ''}"


def _clipping(alarm: bool, mean: float, worst: float) -> str:
    text = f"{mean:.2%} of tokens outside the trust region, {worst:.2%} in the worst step."
    advice = " Updates go far from the rollout: lower learning_rate, num_iterations or steps_per_generation."
    return f"{text}{advice if alarm else ''}"


def _groups(alarm: bool, mean: float) -> str:
    text = f"all completions of a group have the same reward in {mean:.0%} of groups."
    advice = " Most of the work teaches nothing: use problems of middling difficulty, or more num_generations."
    return f"{text}{advice if alarm else ''}"


def _gradient(alarm: bool, middle: float, top: float, step: int, limit: float, clipped: float | None) -> str:
    text = f"norm {middle:.3g} (median), {top:.3g} at most (step {step})."
    if clipped is not None:
        text += (
            f" max_grad_norm={limit:g} clips {clipped:.0%} of steps, so it sets the step length: lower learning_rate?"
        )
    elif alarm:
        text += " A spike of more than ten medians: look at the batches around it (log_completions)."
    return text


def _critic(alarm: bool, curve: Trend) -> str:
    advice = " The critic is no better than a constant: raise critic_learning_rate or critic_warmup_steps."
    return f"explained variance {over_time(curve)}.{advice if alarm else ''}"


SENTENCES: dict[str, Callable[..., str]] = {
    "state: another trainer's": _another_trainers,
    "state: finished": lambda _: "finished.",
    "state: running": lambda _: "still running.",
    "state: damaged checkpoint": lambda _, name, why: f"{name} does not count: {why}.",
    "state: stopped": _stopped,
    "state: verl": lambda _, step: f"at step {step} when its log was last written.",
    "policy": lambda _, steps: (
        f"has not been trained: all {steps} steps were the critic's alone. Train longer, or lower "
        "trainer.critic_warmup."
    ),
    "policy: warm-up": lambda _, steps, warmup: (
        f"has not been trained: all {steps} steps were the critic's alone. Train longer, or lower "
        f"critic_warmup_steps ({warmup})."
    ),
    "finite: batches": lambda _, paths: (
        f"a number was not finite, and the run was stopped; the batch is in {', '.join(map(str, paths))} "
        "(torch.load). Lower learning_rate or max_grad_norm, or train in float32."
    ),
    "finite: curve": lambda _, key, first, later: f"{key} is not finite at step {first} and {later} later ones.",
    "reward: flat": lambda _, value: (
        f"is {value:g} in every rollout: nothing can be learned from it. Look at the reward and the problems."
    ),
    "reward": _reward,
    "entropy": _entropy,
    "length": _length,
    "truncated": _truncated,
    "shaping": _shaping,
    "shaping: off": lambda _: "off (alpha 0).",
    "shaping: none": lambda _: "nothing of forkwise acted: verl's own run, or alpha 0.",
    "clipping": _clipping,
    "groups": _groups,
    "gradient": _gradient,
    "kl": lambda _, curve: f"{over_time(curve)} nats per token to the reference.",
    "critic": _critic,
}
"""A sentence for each topic, from whether it is a warning and its facts."""
