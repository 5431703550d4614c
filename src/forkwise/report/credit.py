"""What methods see of a token's worth, in words: the conclusion of a bank, tables and notes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from forkwise.credit.agreement import CHANCE, ShownDifference
from forkwise.credit.results import (
    Agreement,
    BankCredit,
    Credit,
    GradientCredit,
    MethodCredit,
    MethodGradient,
    Moved,
    NotScored,
)
from forkwise.explore.findings import Estimate
from forkwise.report.formats import correlation, count, estimate, few_problems, interval, number, p_value, share
from forkwise.report.table import Block, filled
from forkwise.terminal import counted

_SHOWN = 3  # methods that a conclusion names


def conclusion(bank: BankCredit) -> str:
    """Says which methods agree with true advantages better than GRPO, and how many less well."""
    grpo, *others = bank.methods
    judged = sum(m.sized.band.low is not None for m in others)
    better = [f"{m.method} {number(m.sized.minus_grpo.value, sign='+')}" for m in others if (m.sized.band.low or 0) > 0]
    worse = sum((m.sized.band.high or 0) < 0 for m in others)
    best = f"{counted(len(better), 'method')} of {judged} better ({_first(better)})" if better else "no method better"
    return (
        f"{bank.name}: GRPO's advantages correlate {correlation(grpo.sized.r)} with true ones, tokens counted by the "
        f"size of their score; by a band over all methods {best}, {worse} less well."
    )


def _first(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


def conclusions(credit: Credit) -> list[str]:
    """Says what follows for each bank, and for each table in gradients."""
    return [*map(conclusion, credit.banks), *map(gradient_conclusion, credit.gradients)]


def gradient_conclusion(one: GradientCredit) -> str:
    """Says how many completions the best methods need for what GRPO has."""
    grpo, *others = one.methods
    better = [f"{m.method} {_needed(m, grpo)}" for m in others if (m.band.low or 0) > 0]
    worse = sum((m.band.high or 0) < 0 for m in others)
    near = f"nearer by a band over all methods are {len(better)} ({_first(better)})" if better else ""
    return (
        f"{_where(one)}: with {one.of} completions GRPO's update has the cosine {correlation(grpo.cosine)} "
        f"with the true gradient; {near or 'no method is nearer'}, less near {worse}."
    )


def _where(one: GradientCredit) -> str:
    after = "" if one.moved is None else f", after {counted(one.moved.updates, 'update')}"
    return f"{one.name}, in gradients{after}"


_PARAMETERS = {"head": "of the output layer alone", "all": "of all parameters"}


def _needed(method: MethodGradient, grpo: MethodGradient) -> str:
    value = method.needed
    if value.value is None or not _aims(grpo):
        return number(method.minus_grpo.value, sign="+")
    return f"needs {interval(value.value, value.low, value.high, 0)} completions for it"


def _aims(grpo: MethodGradient) -> bool:
    """Tells whether GRPO's update surely has a cosine above 0, which completions could be needed for."""
    return grpo.cosine.low is not None and grpo.cosine.low > 0


def tables(credit: Credit) -> list[Block]:
    """Makes every table, bank by bank."""
    of_banks = [block for bank in credit.banks for block in (*methods(bank), *worth(bank), *by_stratum(bank))]
    return [*of_banks, *(block for one in credit.gradients for block in (*gradients(one), *weights(one)))]


def gradients(one: GradientCredit) -> list[Block]:
    """Sets the methods' updates side by side, each with its placebo."""
    header = ["method", f"cosine with {one.of}", "minus GRPO", "adjusted p", "its placebo minus GRPO"]
    header += ["minus its placebo", "direction", "signal to noise of 1,000", f"completions for GRPO's with {one.of}"]
    rows = [
        [
            m.method,
            "no contrast" if m.cosine.value is None else correlation(m.cosine),
            estimate(m.minus_grpo, 3, "+"),
            p_value(m.adjusted_p),
            estimate(m.placebo_minus_grpo, 3, "+"),
            estimate(m.minus_placebo, 3, "+"),
            correlation(m.direction, 2),
            estimate(_times(m.signal, 1000), 2),
            _completions(m, one.methods[0]),
        ]
        for m in one.methods
    ]
    return [*filled(f"{_where(one)} {_PARAMETERS[one.parameters]}: updates beside the true gradient", header, rows)]


def _completions(method: MethodGradient, grpo: MethodGradient) -> str:
    if not _aims(grpo):
        return "none: GRPO's is not surely above 0"
    value = method.needed
    return "more than any" if value.value is None else interval(value.value, value.low, value.high, 0)


def _times(value: Estimate, factor: float) -> Estimate:
    return Estimate(*(None if x is None else factor * x for x in (value.value, value.low, value.high)))


def weights(one: GradientCredit) -> list[Block]:
    """Says which weight by entropy is best for credit."""
    rows = [
        [f"from {b.low:g}", share(b.share), estimate(b.rising, 2), number(b.free, 2)] for b in one.bins if b.share > 0
    ]
    header = ["H (nats)", "% of GRPO's squared update", "best rising g", "best g of any form"]
    return [*filled(f"{_where(one)}: the best weight g(H) of GRPO's advantage, {one.of} completions", header, rows)]


def methods(bank: BankCredit) -> list[Block]:
    """Sets the methods side by side, each with its placebo."""
    header = ["method", "r", "minus GRPO", "adjusted p", "its placebo minus GRPO", "minus its placebo"]
    header += ["r, tokens alike", "minus GRPO, tokens alike", "slope"]
    rows = [
        [
            m.method + (f" (mean of {m.draws} draws)" if m.draws > 1 else ""),
            *_agreement(m.sized),
            *_agreement(m.alike)[:2],
            estimate(m.slope, 4, "+"),
        ]
        for m in bank.methods
    ]
    return [*filled(f"{bank.name}: correlation with the true advantage, by the size of a token's score", header, rows)]


def _agreement(a: Agreement) -> list[str]:
    return [
        "no contrast" if a.r.value is None else correlation(a.r),
        estimate(a.minus_grpo, 3, "+"),
        p_value(a.adjusted_p),
        estimate(a.placebo_minus_grpo, 3, "+"),
        estimate(a.minus_placebo, 3, "+"),
    ]


def worth(bank: BankCredit) -> list[Block]:
    """Says what tokens were truly worth, by entropy and by the sign of GRPO's advantage."""
    rows = [
        [
            s.name,
            count(s.states),
            share(s.of_tokens),
            "too few" if s.mean.value is None else estimate(s.mean, 4, "+"),
            number(s.spread, 4),
            estimate(s.factor, 4, "+"),
        ]
        for s in bank.strata
    ]
    header = ["tokens", "states", "% of tokens", "mean true advantage", "spread", "g: nearest g A"]
    return [*filled(f"{bank.name}: what tokens were worth", header, rows)]


def by_stratum(bank: BankCredit) -> list[Block]:
    """Sets the methods side by side on parts of the tokens, where they differ from GRPO."""
    names = [s.name for s in bank.methods[0].strata]
    rows = [[m.method, *_cells(m, names, is_grpo=m is bank.methods[0])] for m in bank.methods]
    caption = f"{bank.name}: r minus GRPO's (of GRPO r itself) on parts of the tokens"
    return [*filled(caption, ["method", *names], rows, folded=True)]


def _cells(method: MethodCredit, names: Sequence[str], *, is_grpo: bool) -> list[str]:
    of = {s.name: s.r if is_grpo else s.minus_grpo for s in method.strata}
    return [correlation(of[name]) if is_grpo else estimate(of[name], 3, "+") for name in names]


def notes(credit: Credit) -> Iterator[str]:
    """Says what a reader must know of the numbers."""
    for bank in credit.banks:
        yield (
            f"{bank.name}: {counted(bank.states, 'state')} of {counted(bank.tokens, 'token')} in "
            f"{counted(bank.completions, 'completion')} of {counted(bank.problems, 'problem')} ({bank.with_contrast} "
            f"groups with right and wrong ones, {counted(bank.cut, 'completion')} cut off, judged as in training); "
            f"{share(bank.signal, 0)} % of the variance of the true advantages' estimates is no error "
            f"({share(bank.signal_sized, 0)} % by size of score), and correlations are corrected for the rest."
        )
        yield from _detectable(bank.name, bank.detectable, "correlation")
        yield from few_problems(bank.problems)
    for one in credit.gradients:
        yield (
            f"{_where(one)}: {counted(one.completions, 'completion')} of {counted(one.problems, 'problem')} "
            f"in {counted(one.groups, 'group')} of {one.group_size} ({one.with_contrast} with right and wrong ones). "
            "The true gradient is what RLOO's update is in the mean; inner products are of different problems, so that "
            f"noise has no part in them. Gradients are {_PARAMETERS[one.parameters]}."
        )
        if one.in_no_group:
            left_over = counted(one.in_no_group, "sample")
            yield f"{_where(one)}: {left_over} of the table made no whole group, and had no part."
        yield from _detectable(_where(one), one.detectable, "cosine")
        if one.moved is not None:
            yield _moved(one.moved)
        yield from _not_scored(one.not_scored, "in gradients")
    if not credit.banks:
        yield "A placebo gets entropies and log-probs of other tokens."
        return
    yield (
        "Advantages are those of a run's first update. 'By the size of a token's score' weighs a token by the squared "
        "length of the gradient of its log-probability in the logits: a token of no entropy cannot change."
    )
    yield (
        "A placebo is the same method, given the entropies and log-probs of other tokens of the update. Adjusted p and "
        "conclusions hold for all methods of a bank at once; intervals hold one by one."
    )
    yield from _not_scored(credit.not_scored, "on banks")


def _detectable(name: str, smallest: ShownDifference | None, measure: str) -> Iterator[str]:
    if smallest is not None:
        alone, together = number(smallest.alone, 3), number(smallest.together, 3)
        yield (
            f"{name}: of a method with a middling error, a difference of {alone} from GRPO's {measure} would be shown "
            f"by its own interval with a chance of {CHANCE:g}, and one of {together} by the band over all methods."
        )


def _moved(moved: Moved) -> str:
    learned = f"{counted(moved.of, 'completion')} each, from {counted(moved.problems, 'other problem')}"
    return (
        f"The policy was moved by {counted(moved.updates, 'update')} of GRPO at a learning rate of "
        f"{moved.learning_rate:g}, {learned}. Log-probs moved by {number(moved.log_ratio, 3)} nats in the mean, "
        f"{share(moved.outside)} % of the ratios lie outside 0.8 to 1.2, and {share(moved.right_before)} % of the "
        f"completions were right before and {share(moved.right_after)} % after. The true gradient is that of the moved "
        f"policy, from completions that it drew; GRPO's update on these has the cosine {estimate(moved.fresh)}, on "
        f"the old ones {estimate(_less(moved.fresh_minus_grpo), 3, '+')}. The old ones, weighed by their whole ratio, "
        f"would be worth {share(moved.effective)} % of their number. Intervals are for this one moved policy."
    )


def _less(value: Estimate) -> Estimate:
    """Turns a difference round."""
    return Estimate(*(None if x is None else -x for x in (value.value, value.high, value.low)))


def _not_scored(unscored: Sequence[NotScored], where: str) -> Iterator[str]:
    by_reason: dict[str, list[str]] = {}
    for one in unscored:
        by_reason.setdefault(one.reason, []).append(one.name)
    if by_reason:
        listed = "; ".join(f"{', '.join(names)} ({reason})" for reason, names in by_reason.items())
        yield f"Not scored {where}: {listed}."
