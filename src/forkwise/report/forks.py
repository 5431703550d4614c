"""What tokens decide, in words: the cost before a run, its conclusion, tables and notes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from forkwise.explore.findings import Estimate
from forkwise.forks.cost import Cost
from forkwise.forks.estimators import Budget
from forkwise.forks.results import FirstToken, Forks, Part, Seen
from forkwise.progress import duration
from forkwise.report.formats import count, estimate, few_problems, number, p_value, percent, quantile, share
from forkwise.report.importing import imported_note
from forkwise.report.table import Block, filled
from forkwise.terminal import counted, one_line

_UNSCORED = 0.01  # share of continuations without a verdict, above which it is said
_SHOWN_WAYS, _SHOWN_TEXT, _SHOWN_ANSWERS = 4, 60, 3


def cost_line(cost: Cost, *, within: bool = False) -> str:
    """Says what the continuations cost and what they can find, before they start.

    Args:
        within: whether the later stage looks within sentences.
    """
    to_draw = cost.states - cost.stored
    parts = [f"{counted(cost.states, 'state')} with {cost.continuations} continuations each"]
    if cost.stored:
        parts.append(f"{count(cost.stored)} of them there already")
    if to_draw:
        time = "" if cost.seconds is None else f", about {duration(cost.seconds)} at the speed of the first"
        parts.append(f"about {count(cost.tokens)} tokens to draw{time}")
    if cost.again:
        later = "more states within sentences at most" if within else "of them again, where F is in doubt"
        parts.insert(1, f"then {count(cost.again)} {later}, with {cost.further}")
    return (
        f"{'; '.join(parts)}. The sum of what is decided will be known to about ±{cost.half_width:.3f}, and there is "
        f"{cost.available:.3f} to decide."
    )


def conclusion(forks: Forks) -> str:
    """Says whether high-entropy tokens are where the outcome is decided."""
    if not forks.budget.agrees:
        return does_not_add_up(forks.budget)
    top = min(forks.tops, key=lambda t: abs(t.of_tokens - 0.2))
    if top.share.value is None:
        return (
            f"No shares are given: the sum of what tokens decide is {estimate(forks.budget.decided)}, not above 0, so "
            "it is known too badly: give more --states or --continuations."
        )
    if top.share.low is None:
        return (
            f"No share can be told: the sum of what tokens decide is {estimate(forks.budget.decided)}, and of what may "
            "be nothing a part may be anything: give more --states or --continuations."
        )
    decided = "whether the answer is right" if forks.outcome == "correct" else "which answer it is"
    return (
        f"The {share(top.of_tokens, 0)} % of tokens with the most entropy (above {number(top.threshold, 2)} nats) "
        f"decide {percent(top.share)} % of {decided}; as many tokens at the same places decide "
        f"{percent(top.matched)} %, difference {percent_difference(top.minus_matched)}."
    )


def does_not_add_up(budget: Budget) -> str:
    """Says why there are no shares."""
    return (
        f"The budget does not add up, so no shares are given: the sum of what is decided in a sample is "
        f"{estimate(budget.decided)}, and there is {estimate(budget.available)} to decide (difference "
        f"{estimate(budget.difference, sign='+')})."
    )


def budget_sentence(budget: Budget, parts: str) -> str:
    """Says what tokens, or sentences, decide in their sum, beside what there is to decide."""
    return (
        f"Budget: the {parts} of a sample decide {estimate(budget.decided)} in their sum, and there is "
        f"{estimate(budget.available)} to decide, V0 (1 - V0): difference {estimate(budget.difference, sign='+')}, p "
        f"{p_value(budget.p)}."
    )


def percent_difference(value: Estimate) -> str:
    """Writes a difference of shares in per cent, with its interval."""
    return estimate(per_cent(value), 1, "+")


def per_cent(value: Estimate) -> Estimate:
    """Turns a share into per cent, with its interval."""
    return Estimate(*(None if x is None else 100 * x for x in (value.value, value.low, value.high)))


def known(share: Estimate) -> Estimate:
    """Returns a share that has an interval, and none where it has not, since the whole may be nothing."""
    return share if share.low is not None else Estimate(None)


def tables(forks: Forks) -> list[Block]:
    """Makes every table of what tokens decide."""
    rows = [
        [
            share(t.of_tokens, 0),
            number(t.threshold),
            *(percent(known(value)) for value in (t.share, t.matched)),
            *(percent_difference(known(value)) for value in (t.minus_matched, t.minus_random)),
        ]
        for t in forks.tops
    ]
    header = ["% of tokens, highest entropy", "above (nats)", "% of what is decided", "others at these places"]
    by_answer = forks.outcome == "answer"
    return [
        budget_sentence(forks.budget, "tokens"),
        *filled("Where the outcome is decided", [*header, "minus these", "minus random tokens"], rows),
        *_parts("By entropy, nats; intervals of 'decided' hold for all rows at once (a band)", forks.by_entropy),
        *_parts("By kind of token, and against others of equal entropy", forks.by_class),
        *_parts("By place in the sample", forks.by_place),
        *_parts("By verdict of the sample", forks.by_verdict),
        *_seen("Forks: high entropy, and the chance of the outcome depends on the token", forks.forks, by_answer),
        *_seen(
            "False forks: high entropy, and the outcome is open, but no token matters", forks.false_forks, by_answer
        ),
        *_seen(
            "Hidden forks: not of high entropy, but the outcome depends on the token", forks.hidden_forks, by_answer
        ),
    ]


def _parts(caption: str, parts: Sequence[Part]) -> list[Block]:
    rows = [
        [
            p.name,
            count(p.states),
            share(p.of_tokens),
            number(p.mean_entropy, 2),
            "too few" if p.decided.value is None else estimate(p.decided, 4),
            p_value(p.p),
            estimate(p.open),
            percent(known(p.share)),
            estimate(p.difference, 4, "+"),
            p_value(p.difference_p),
            "" if p.supported is None else share(p.supported, 0),
        ]
        for p in parts
    ]
    header = ["", "states", "% of tokens", "nats", "decided by a token, F", "p (F = 0)", "open before it"]
    header += ["% of what is decided", "minus others of equal entropy", "p", "% with others"]
    return [*filled(caption, header, rows)]


def _seen(caption: str, states: Sequence[Seen], by_answer: bool) -> list[Block]:
    """Lists states to read: with the chance of a right answer, or with the answers that came and how open they were."""
    rows = []
    for s in states:
        ways = "; ".join(
            f"{one_line(w.token, 12)} {w.probability:.2f}: {_came(w) if by_answer else _right(w)}"
            for w in s.ways[:_SHOWN_WAYS]
        )
        before = one_line(s.before, 1000)[-_SHOWN_TEXT:]
        rows.append(
            [
                f"…{before} [{one_line(s.state.token, 12)}]",
                number(s.state.entropy, 2),
                number(s.state.open if by_answer else s.state.value, 2),
                number(s.state.decided),
                p_value(s.state.p),
                ways,
            ]
        )
    header = ["before, and the token", "nats", "open" if by_answer else "V", "F", "p"]
    header.append(f"token, its chance: {'answers' if by_answer else 'right, of continuations'}")
    return [*filled(caption, header, rows, folded=True)]


def _right(way: FirstToken) -> str:
    return f"{number(way.right, 2)} of {way.continuations}"


def _came(way: FirstToken) -> str:
    shown = ["none" if answer is None else one_line(answer, 12) for answer in way.answers[:_SHOWN_ANSWERS]]
    return ", ".join([*shown, *["…"] * (len(way.answers) > _SHOWN_ANSWERS)])


def notes(forks: Forks) -> Iterator[str]:
    """Says what a reader must know of the numbers: what is left out, and what they cannot show."""
    if forks.imported is not None:
        yield imported_note(forks.imported)
    yield (
        f"{count(forks.problems)} of {count(forks.of_problems)} problems have more than one outcome in the half of "
        f"their samples that chooses them; states and V0 are from the other half ({counted(forks.traces, 'sample')}, "
        f"{counted(forks.tokens, 'token')}). The numbers are about such problems."
    )
    yield (
        f"High entropy: above {number(forks.threshold)} nats, the {quantile(forks.settings['quantile'])} % quantile of "
        "these tokens."
    )
    yield from few_problems(forks.problems)
    if forks.settings.get("server"):
        yield (
            "Continued through a server, which forces no token: F has about twice the error, and what single tokens "
            "are worth is not known."
        )
    if forks.entropies == "top-k":
        yield "Entropies are lower bounds, from the likeliest tokens that the table has of each place."
    if forks.log_prob_difference is None:
        yield "The samples have no log-probs to compare, so that nobody can tell whether this model drew them."
    again = sum(state.again is not None for state in forks.states)
    continuations = forks.cost.states * forks.cost.continuations + again * forks.cost.further
    if forks.cut:
        yield f"{count(forks.cut)} of {count(continuations)} continuations reached the limit of tokens, as samples do."
    if forks.unscored > _UNSCORED * continuations:
        yield f"{counted(forks.unscored, 'continuation')} got no verdict, and count as not right."
    if forks.unscored_samples:
        yield f"Left out: {counted(forks.unscored_samples, 'sample')} without a verdict."
    if forks.empty:
        yield f"{counted(forks.empty, 'sample')} without text decide nothing here."
    if float(forks.settings.get("top_p") or 1) < 1:
        yield "Entropies are of the whole distribution, and tokens were drawn from its nucleus."
    yield "Forks, false and hidden forks are extremes of many noisy numbers: they are to be read, not counted."
