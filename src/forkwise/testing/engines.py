"""Checks that the adapter of every engine must pass; the expected numbers come from plain Python, token by token.

An adapter's own tests bring the runs: a trainer of the engine and the adapter's on the same tiny policy, with the same
random numbers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
from torch import Tensor

Rows = Sequence[Sequence[float]]
"""One row per response, one number per token; rows may differ in length."""


def check_alpha_zero(adapter: Tensor, engine: Tensor, logs: Iterable[Mapping[str, object]]) -> None:
    """Checks that a run of the adapter with alpha = 0 is one of the engine without it, bit for bit.

    Args:
        adapter: the changes of the parameters in the adapter's run.
        engine: the changes of the parameters in the engine's run.
        logs: the metrics of the adapter's run.

    Raises:
        AssertionError: saying what does not hold.
    """
    if not bool(engine.any()):
        raise AssertionError("The engine's run has changed no parameter, so nothing is compared: train longer.")
    if not torch.equal(adapter, engine):
        difference = (adapter - engine).norm() / engine.norm()
        raise AssertionError(f"With alpha = 0 the parameters are not the engine's, bit for bit: {difference:.1e} off.")
    if shaped := sorted({name for log in logs for name in log if name.startswith("shaping/")}):
        raise AssertionError(f"With alpha = 0 nothing is shaped, yet {', '.join(shaped)} is logged.")


def check_skipped_step(step: Callable[[], object]) -> str:
    """Checks that a training step raises in which the adapter's work was bypassed; returns what it says.

    Raises:
        AssertionError: the step ends without an error, or with one that does not say that advantages were not shaped.
    """
    try:
        step()
    except RuntimeError as error:
        message = str(error)
        if "were not entropy-shaped" in message or "did not act" in message:
            return message
        raise AssertionError(f"A step that was not shaped raises something else: {message}") from error
    raise AssertionError("A step that was not shaped ends without an error: a silent no-op.")


def check_metrics(
    logged: Mapping[str, object], advantages: Rows, entropy: Rows, mask: Rows, *, alpha: float, kappa: float
) -> None:
    """Checks the logged `shaping/*` against the definitions, over all response tokens of all processes.

    Args:
        logged: the adapter's metrics of one logging window.
        advantages: the advantages of all responses of the window, before they are shaped.
        entropy: the entropies, in nats, of the policy whose entropy shapes.
        mask: 1 at the tokens that the policy chose.
        alpha: the run's alpha.
        kappa: the run's kappa.

    Raises:
        AssertionError: a number is missing or off by more than 1e-4 of itself.
    """
    for name, want in expected_metrics(advantages, entropy, mask, alpha=alpha, kappa=kappa).items():
        value = logged.get(name)
        if not isinstance(value, float) or not math.isclose(value, want, rel_tol=1e-4, abs_tol=1e-12):
            raise AssertionError(f"{name} is logged as {value}; its definition gives {want}.")


def expected_advantages(
    advantages: Rows, entropy: Rows, mask: Rows, *, alpha: float, kappa: float
) -> list[list[float]]:
    """Computes Eq. 5-7 of arXiv 2506.14758 where the mask is 1; elsewhere the advantages stay as they are."""
    return [
        [a + min(alpha * h, abs(a) / kappa) if m else a for a, h, m in zip(*row, strict=True)]
        for row in zip(advantages, entropy, mask, strict=True)
    ]


def expected_metrics(advantages: Rows, entropy: Rows, mask: Rows, *, alpha: float, kappa: float) -> dict[str, float]:
    """Computes `shaping/*` by the definitions in `docs/trl.md`; there must be tokens with A > 0 and with A < 0."""
    tokens = [
        (a, min(alpha * h, abs(a) / kappa), abs(a) / kappa < alpha * h)
        for row in zip(advantages, entropy, mask, strict=True)
        for a, h, m in zip(*row, strict=True)
        if m and a
    ]
    positive, negative = [psi for a, psi, _ in tokens if a > 0], [psi for a, psi, _ in tokens if a < 0]
    return {
        "shaping/psi_over_adv": sum(psi / abs(a) for a, psi, _ in tokens) / len(tokens),
        "shaping/capped_frac": sum(capped for *_, capped in tokens) / len(tokens),
        "shaping/psi_pos": sum(positive) / len(positive),
        "shaping/psi_neg": sum(negative) / len(negative),
    }
