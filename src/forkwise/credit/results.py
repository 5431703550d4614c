"""What `forkwise credit` finds, as frozen dataclasses, and `credit.json`, the file that holds them.

A true advantage is the chance of a right answer after a token minus that before it. Intervals are over problems.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from forkwise.credit.agreement import ShownDifference
from forkwise.explore.findings import Estimate
from forkwise.folders.results import Input, read_result, write_result

SCHEMA = 1
"""Version of `credit.json`. It grows when a field changes its meaning or goes; new optional fields do not count."""

FILE = "credit.json"


@dataclass(frozen=True)
class NotScored:
    """A method without a score here, and why."""

    name: str
    reason: str


@dataclass(frozen=True)
class Agreement:
    """How a method's advantages correlate with true ones, over all tokens in one way of counting them."""

    r: Estimate
    minus_grpo: Estimate
    """Paired with GRPO, by itself."""
    band: Estimate
    """The difference from GRPO, with the band that holds those of all methods at once."""
    adjusted_p: float | None
    placebo_minus_grpo: Estimate
    """The placebo's: the same method with entropies and log-probs of other tokens; none where it looks at no token."""
    minus_placebo: Estimate


@dataclass(frozen=True)
class InStratum:
    """How a method does on some of the tokens, which count by the size of their score."""

    name: str
    r: Estimate
    minus_grpo: Estimate


@dataclass(frozen=True)
class MethodCredit:
    """A method's agreement with true advantages."""

    method: str
    draws: int
    """How many draws a random method is averaged over; 1 for others."""
    alike: Agreement
    """Every token counts alike."""
    sized: Agreement
    """Tokens count by the squared size of their score: by how much they can change the policy."""
    slope: Estimate
    """Rise of the true advantage per unit of the method's; every token counts alike."""
    strata: list[InStratum]


@dataclass(frozen=True)
class TokenStratum:
    """Some of the tokens by entropy and by verdict, and what they were truly worth."""

    name: str
    states: int
    of_tokens: float
    """The share of all tokens that these are."""
    mean: Estimate
    """Mean true advantage."""
    spread: float | None
    """The root mean square of the true advantage, without the error of estimates; None where that is below zero."""
    factor: Estimate
    """The g that brings `g A` nearest to the true advantage, with A GRPO's."""


@dataclass(frozen=True)
class BankCredit:
    """One bank, and every method on it."""

    name: str
    about: dict[str, Any]
    """What the bank was made from, and how."""
    problems: int
    with_contrast: int
    """Groups with right and wrong completions; in the others no group-relative advantage is anything but 0."""
    completions: int
    cut: int
    """Completions that reached the limit of tokens."""
    tokens: int
    states: int
    signal: float
    """Share of the variance of estimated true advantages that is not their error; every token counts alike."""
    signal_sized: float
    methods: list[MethodCredit]
    """GRPO first, then by `sized.minus_grpo`, falling."""
    strata: list[TokenStratum]
    detectable: ShownDifference | None = None
    """Of `sized.minus_grpo`."""


@dataclass(frozen=True)
class MethodGradient:
    """How near a method's update is to the true policy gradient."""

    method: str
    direction: Estimate
    """Cosine of the expected updates: with endlessly many completions."""
    signal: Estimate
    """Signal to noise of one completion: the squared length of the expected update over its variance."""
    cosine: Estimate
    """Cosine with the completions of `GradientCredit.of`."""
    minus_grpo: Estimate
    band: Estimate
    """The difference from GRPO, with the band that holds those of all methods at once."""
    adjusted_p: float | None
    placebo_minus_grpo: Estimate
    minus_placebo: Estimate
    needed: Estimate
    """Completions with which it has the cosine that GRPO has with `of`; none where no number suffices."""


@dataclass(frozen=True)
class WeightBin:
    """The best weight of GRPO's advantage at tokens of some entropy."""

    low: float
    """Nats; up to the next bin's."""
    rising: Estimate
    """The best of the weights that rise with entropy and are not negative."""
    free: float
    """The best of all weights."""
    share: float
    """Share of the squared length of GRPO's update, bins taken by themselves."""


@dataclass(frozen=True)
class Moved:
    """How the policy was moved before the methods were scored, and how far it went."""

    updates: int
    of: int
    """Completions of each of these updates."""
    problems: int
    """Problems whose groups it learned from, which are not among those that are scored."""
    learning_rate: float
    log_ratio: float
    """Mean `|log pi - log pi_old|` of the scored groups' tokens, nats."""
    outside: float
    """Share of these tokens with a ratio outside 0.8 to 1.2."""
    effective: float
    """What completions weighed by their whole ratio are worth in completions of the moved policy, as a share."""
    right_before: float
    right_after: float
    """Share of right completions to the scored problems, of the policy that drew the groups and of the moved one."""
    fresh: Estimate
    """Cosine of GRPO's update on groups that the moved policy drew."""
    fresh_minus_grpo: Estimate


@dataclass(frozen=True)
class GradientCredit:
    """The updates of every method, on the groups of one samples table."""

    name: str
    model: str
    weights: str
    """Fingerprint of the model."""
    half: str
    """Which of the problems."""
    problems: int
    groups: int
    with_contrast: int
    completions: int
    group_size: int
    of: int
    """Completions of the update that cosines are of."""
    methods: list[MethodGradient]
    """GRPO first, then by `cosine`, falling."""
    bins: list[WeightBin]
    parameters: str = "head"
    """Whose gradients: `head`, of the output layer, or `all`."""
    not_scored: list[NotScored] = field(default_factory=list)
    detectable: ShownDifference | None = None
    """Of `minus_grpo`."""
    moved: Moved | None = None
    """None where the policy is the one that drew the groups."""
    in_no_group: int = 0
    """Samples of the table that are left over when groups are cut."""


@dataclass(frozen=True)
class Credit:
    """Everything that `credit.json` holds."""

    banks: list[BankCredit]
    not_scored: list[NotScored]
    settings: dict[str, Any]
    """Options of the command by name."""
    inputs: list[Input]
    schema: int = SCHEMA
    forkwise: str = ""
    gradients: list[GradientCredit] = field(default_factory=list)


def write(folder: Path, credit: Credit) -> Path:
    """Writes `folder/credit.json`, whole or not at all."""
    return write_result(folder / FILE, credit)


def read(path: Path) -> Credit:
    """Reads the scores in a file, or in a folder's `credit.json`."""
    path = path / FILE if path.is_dir() else path
    return read_result(path, Credit, schema=SCHEMA, command="forkwise credit")
