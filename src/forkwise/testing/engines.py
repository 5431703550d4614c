"""Checks that the adapter of every engine must pass; the expected numbers come from plain Python, token by token.

An adapter's own tests bring the runs: a trainer of the engine and the adapter's on the same tiny policy, with the same
random numbers. Where advantages and entropies can be handed to both, `check_adapter` runs all of the contract:

    check_adapter(
        engine=lambda batch: ...,                   # the engine's loss on the advantages of the batch: an Outcome
        adapter=lambda batch, alpha, kappa: ...,    # the same through the adapter
        bypassed=lambda: ...,                       # a step in which the adapter's work is skipped; it must raise
        logged=lambda batch, alpha, kappa: ...,     # what is logged of an update; called in two processes
    )
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from forkwise.testing.processes import in_processes

Rows = Sequence[Sequence[float]]
"""One row per response, one number per token; rows may differ in length."""


class Batch(NamedTuple):
    """Responses of different lengths; `mask` is 0 at what a tool said, and in all of a row that is padding.

    `prompts` stand before them: a number for each token of a prompt, its entropy, and its advantage where the engine
    has advantages for prompts.
    """

    advantages: Rows
    entropy: Rows
    mask: Rows
    prompts: Rows = ()

    @property
    def columns(self) -> tuple[Rows, Rows, Rows]:
        """Advantages, entropies and mask: what is there of the tokens of responses."""
        return self.advantages, self.entropy, self.mask

    def rows(self, which: slice) -> Batch:
        """Returns some of the responses with their prompts."""
        return Batch(*(values[which] for values in self))


class Outcome(NamedTuple):
    """What a loss came to: its value, its gradient, and what an adapter adds up for its log (an engine has none).

    The totals are the six of `forkwise.core.ShapingStats`, in that order, see `expected_totals`.
    """

    loss: Tensor
    gradient: Tensor
    totals: Tensor | None = None


class Adapter(Protocol):
    """The loss of a batch through an adapter."""

    def __call__(self, batch: Batch, alpha: float, kappa: float) -> Outcome:
        """Returns the loss with these constants."""


class Logged(Protocol):
    """What the log shows of an update of which this process has a part of the rows; None where it logs nothing."""

    def __call__(self, batch: Batch, alpha: float, kappa: float) -> Mapping[str, object] | None:
        """Returns `shaping/...` over all processes: called in each of two of one gloo group."""


def made_batches() -> tuple[Batch, ...]:
    """Returns the batches of the kit: both signs of A, A = 0, entropies on both sides of the cap, a tool, padding.

    The second has the advantages of a critic, another one at each token.
    """
    mask = [[1, 1, 1, 1], [1, 1], [1, 0, 0, 1, 1], [0, 0, 0]]
    entropy = [[0.0, 0.5, 1.0, 2.0], [1.0, 3.0], [0.2, 0.7, 0.3, 0.5, 0.1], [1.1, 0.4, 0.9]]
    per_response = [[1.0] * 4, [-1.5] * 2, [0.3] * 5, [0.0] * 3]
    per_token = [[0.9, -0.6, 0.0, 1.7], [-1.5, 0.2], [0.3, 0.6, -0.2, -0.8, 1.1], [0.5, -0.5, 0.7]]
    prompts = [[0.6, 2.5], [1.7], [0.4, 0.9, 3.1], [1.3]]
    return Batch(per_response, entropy, mask, prompts), Batch(per_token, entropy, mask, prompts)


def check_adapter(
    engine: Callable[[Batch], Outcome],
    adapter: Adapter,
    *,
    bypassed: Callable[[], object] | str,
    logged: Logged | str,
    without_prompts: str = "",
    tolerance: float = 1e-6,
) -> list[str]:
    """Runs the contract of `forkwise.engines.base` on an adapter that can be handed advantages and entropies.

    Where a part does not apply, a sentence in its place says why.

    Args:
        engine: the engine's own loss of a batch, whose entropies it does not need.
        adapter: the adapter's loss of a batch, with an alpha and a kappa; the policy is the engine's.
        bypassed: a step without the adapter's work, see `check_skipped_step`; or why there is none, as of a function
            that the engine either calls or does not know, which only the engine can notice.
        logged: the metrics of an update as the engine logs them, see `Logged`; or why nothing is added up.
        without_prompts: why no prompt can stand before the responses; else the loss must lay out `batch.prompts`.
        tolerance: of loss and gradient, relative to the engine's; of totals ten times that.

    Returns:
        The parts of the contract that hold, and those that do not apply with the reason.

    Raises:
        AssertionError: saying which part of the contract does not hold.
    """
    batches = [batch._replace(prompts=()) if without_prompts else batch for batch in made_batches()]
    for batch in batches:
        alone = engine(batch)
        zero = adapter(batch, 0.0, 2.0)
        if not (torch.equal(zero.loss, alone.loss) and torch.equal(zero.gradient, alone.gradient)):
            raise AssertionError("With alpha = 0 loss and gradient are not the engine's, bit for bit.")
        if zero.totals is not None and bool(zero.totals.any()):
            raise AssertionError(f"With alpha = 0 nothing is shaped, yet there are totals: {zero.totals}.")
        for alpha, kappa in ((0.4, 2.0), (1.5, 1.25)):
            shaped = adapter(batch, alpha, kappa)
            by_hand = expected_advantages(*batch.columns, alpha=alpha, kappa=kappa)
            check_outcome(shaped, engine(batch._replace(advantages=by_hand)), unshaped=alone, tolerance=tolerance)
            at = partial(adapter, alpha=alpha, kappa=kappa)
            _check_outside_the_mask(at, batch)
            if not without_prompts:
                _check_prompts(at, batch)
            want = torch.tensor(expected_totals(*batch.columns, alpha=alpha, kappa=kappa))
            _check_totals(at, batch, shaped, want, tolerance=10 * tolerance)
    parts = ["alpha 0", "loss and gradient", "tools and padding", "micro-batches"]
    parts.append(f"not prompts: {without_prompts}" if without_prompts else "prompts")
    if isinstance(logged, str):
        parts.append(f"not two processes: {logged}")
    else:
        _check_processes(logged, batches[0], alpha=0.4, kappa=2.0)
        parts.append("two processes")
    if isinstance(bypassed, str):
        parts.append(f"not a skipped step: {bypassed}")
    else:
        check_skipped_step(bypassed)
        parts.append("a skipped step")
    return parts


def check_outcome(shaped: Outcome, fed: Outcome, *, unshaped: Outcome, tolerance: float = 1e-6) -> None:
    """Checks that an adapter's loss and gradient are the engine's on advantages computed elsewhere.

    Args:
        shaped: the adapter's.
        fed: the engine's, fed with `(B, T)` advantages that do not come from the adapter.
        unshaped: the engine's on the advantages before shaping; were it the same, nothing would be shown.
        tolerance: relative to the engine's.

    Raises:
        AssertionError: saying what does not hold.
    """
    for name in ("loss", "gradient"):
        got, want, before = (getattr(outcome, name).detach().double() for outcome in (shaped, fed, unshaped))
        size = want.norm().clamp(min=1e-12)
        if float((got - want).norm() / size) > tolerance:
            raise AssertionError(f"The {name} is not the engine's on shaped advantages: {got} instead of {want}.")
        if name == "gradient" and float((before - want).norm() / size) < 100 * tolerance:
            raise AssertionError("Shaping hardly changes this batch's gradient, so nothing is compared: take another.")


def _check_outside_the_mask(adapter: Callable[[Batch], Outcome], batch: Batch) -> None:
    """Gives the tokens outside the mask another entropy, then another advantage, which must not matter."""
    before = adapter(batch)
    for name, values in (("entropies", batch.entropy), ("advantages", batch.advantages)):
        rows = zip(values, batch.mask, strict=True)
        other = [[x if m else 7.0 - x for x, m in zip(*row, strict=True)] for row in rows]
        after = adapter(batch._replace(**{"entropy" if name == "entropies" else name: other}))
        if not (torch.equal(before.loss, after.loss) and torch.equal(before.gradient, after.gradient)):
            raise AssertionError(f"Tokens of tools or padding count: their {name} change the loss.")
        if before.totals is not None and not torch.equal(before.totals, _totals(after)):
            raise AssertionError(f"Tokens of tools or padding count: their {name} change the totals.")


class _Watched(Sequence[float]):
    """Numbers of a prompt that know whether somebody has read them."""

    def __init__(self, numbers: Iterable[float]) -> None:
        self._numbers = list(numbers)
        self.read = False

    def __getitem__(self, at: Any) -> Any:
        self.read = True
        return self._numbers[at]

    def __len__(self) -> int:
        return len(self._numbers)


def _check_prompts(adapter: Callable[[Batch], Outcome], batch: Batch) -> None:
    """Gives the tokens of prompts other numbers, which must not matter to the loss, its gradient and the totals."""
    before = adapter(batch)
    other = [_Watched(7.0 - number for number in prompt) for prompt in batch.prompts]
    after = adapter(batch._replace(prompts=other))
    if not all(prompt.read for prompt in other):
        raise AssertionError(
            "The loss does not lay out batch.prompts before the responses: do so, or say in without_prompts why not."
        )
    if not (torch.equal(before.loss, after.loss) and torch.equal(before.gradient, after.gradient)):
        raise AssertionError("Tokens of prompts count: their entropies or advantages change the loss.")
    if before.totals is not None and not torch.equal(before.totals, _totals(after)):
        raise AssertionError("Tokens of prompts count: their entropies or advantages change the totals.")


def _check_processes(logged: Logged, batch: Batch, *, alpha: float, kappa: float) -> None:
    """Cuts the rows into two unequal parts, then into one with all that counts and one of padding."""
    for first in (2, 3):
        parts = [batch.rows(slice(0, first)), batch.rows(slice(first, None))]
        shown = in_processes(lambda rank, parts=parts: logged(parts[rank], alpha, kappa))  # type: ignore[misc]
        if all(metrics is None for metrics in shown):
            raise AssertionError("Neither of two processes logs what shaping did.")
        for rank, metrics in enumerate(shown):
            try:
                if metrics is not None:
                    check_metrics(metrics, *batch.columns, alpha=alpha, kappa=kappa)
            except AssertionError as error:
                raise AssertionError(
                    f"What process {rank} of two logs, with {first} of {len(batch.mask)} rows on the first, is not of "
                    f"all tokens of both: {error}"
                ) from error


def _check_totals(
    adapter: Callable[[Batch], Outcome], batch: Batch, whole: Outcome, want: Tensor, *, tolerance: float
) -> None:
    """Compares the totals with the definitions, and adds up those of two halves, which must be those of the whole."""
    if whole.totals is None:
        raise AssertionError("The adapter gives no totals, so nothing shows that what it logs adds up.")
    logged = whole.totals.detach().cpu()
    if logged.shape != want.shape or not torch.allclose(logged.to(want), want, rtol=tolerance, atol=tolerance):
        raise AssertionError(f"The totals are {logged.tolist()}; their definitions give {want.tolist()}.")
    halves = [batch.rows(part) for part in (slice(0, 2), slice(2, None))]
    total = sum((_totals(adapter(half)) for half in halves), torch.zeros_like(whole.totals))
    if not torch.allclose(total, whole.totals, rtol=1e-6, atol=1e-9):
        raise AssertionError(f"The totals do not add up over micro-batches: {total} instead of {whole.totals}.")


def _totals(outcome: Outcome) -> Tensor:
    if outcome.totals is None:
        raise AssertionError("The adapter has totals for one batch and none for another.")
    return outcome.totals


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


def expected_totals(advantages: Rows, entropy: Rows, mask: Rows, *, alpha: float, kappa: float) -> list[float]:
    """Computes the six sums over tokens in the mask: numbers with A > 0 and < 0, psi of both, psi / |A|, the capped.

    A token is capped if |A| / kappa < alpha H. Where A is 0 no token counts.
    """
    tokens = _shaped_tokens(advantages, entropy, mask, alpha, kappa)
    positive, negative = [psi for a, psi, _ in tokens if a > 0], [psi for a, psi, _ in tokens if a < 0]
    ratios = [psi / abs(a) for a, psi, _ in tokens]
    numbers = (len(positive), len(negative), sum(positive), sum(negative), sum(ratios), sum(x for *_, x in tokens))
    return [float(number) for number in numbers]


def expected_metrics(advantages: Rows, entropy: Rows, mask: Rows, *, alpha: float, kappa: float) -> dict[str, float]:
    """Computes `shaping/*` by the definitions in `docs/trl.md`; 0 where there is no token to average over."""
    n_pos, n_neg, psi_pos, psi_neg, ratio, capped = expected_totals(advantages, entropy, mask, alpha=alpha, kappa=kappa)
    return {
        "shaping/psi_over_adv": ratio / max(n_pos + n_neg, 1),
        "shaping/capped_frac": capped / max(n_pos + n_neg, 1),
        "shaping/psi_pos": psi_pos / max(n_pos, 1),
        "shaping/psi_neg": psi_neg / max(n_neg, 1),
    }


def _shaped_tokens(
    advantages: Rows, entropy: Rows, mask: Rows, alpha: float, kappa: float
) -> list[tuple[float, float, bool]]:
    """Returns A, psi and whether it is capped, of the tokens that count."""
    return [
        (a, min(alpha * h, abs(a) / kappa), abs(a) / kappa < alpha * h)
        for row in zip(advantages, entropy, mask, strict=True)
        for a, h, m in zip(*row, strict=True)
        if m and a
    ]
