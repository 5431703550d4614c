"""Sets results of `forkwise forks` and of `forkwise credit` side by side, as Markdown.

    python benchmarks/compared.py forks   Countdown=banks/forked/countdown-base stories=banks/forked/story-base
    python benchmarks/compared.py updates stories=scored,scored-shear "stories, trained"=scored-trained
    python benchmarks/compared.py moved   stories=scored-after "same, seed 2"=scored-after-seed2
    python benchmarks/compared.py banks   shipped      # one folder with the scores of several banks
    python benchmarks/compared.py worth                # of the package's own banks; or of files

A column is a heading and the folders of its scores; of a method that several folders hold, the first counts. `forks`
has what the tokens of most entropy decide, and kinds of token against others of equal entropy. `updates` has each
method's cosine minus GRPO's, bold where the band over all methods of its run leaves 0 out, with its placebo's in
parentheses; methods that change nothing beyond 0.0005 anywhere are named below. `moved` has the cosines themselves.
`worth` has the true advantages of tokens by the probability that they were drawn with, without their error.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np

from forkwise.credit.bank import SHIPPED, Bank, read_bank
from forkwise.credit.results import Agreement, BankCredit, GradientCredit, MethodCredit, MethodGradient, read
from forkwise.explore.findings import Estimate
from forkwise.forks import results as forks
from forkwise.forks.analysis import TOPS
from forkwise.forks.frame import CLASSES
from forkwise.forks.results import Forks, Part
from forkwise.report.formats import correlation, count, estimate, number, p_value, percent, share

SMALLEST = 0.0005
PROBABILITIES = (0.0, 0.1, 0.5, 1.01)
MOVED = ("clip_higher", "cispo", "nsr", "credit_weight", "opefo", "entropy_advantage", "placebo_scaling", "psr")


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Writes a Markdown table."""
    lines = [" | ".join(cells) for cells in (header, *rows)]
    lines.insert(1, " | ".join(["---"] * len(header)))
    return "\n".join(f"| {line} |" for line in lines)


def difference(minus_grpo: Estimate, band: Estimate, placebo: Estimate) -> str:
    """Writes a difference from GRPO, bold where the band leaves 0 out, and the placebo's."""
    text = estimate(minus_grpo, 3, "+") or "no contrast"
    shown = band.low is not None and band.high is not None and (band.low > 0 or band.high < 0)
    text = f"**{text}**" if shown else text
    return text if placebo.value is None else f"{text} ({number(placebo.value, 3, '+')})"


def of_updates(columns: dict[str, list[GradientCredit]]) -> str:
    """Makes the table of updates: a row for each method, a column for each policy."""
    by_method: list[dict[str, MethodGradient]] = [
        {m.method: m for one in reversed(ones) for m in one.methods} for ones in columns.values()
    ]
    names = list(dict.fromkeys(m.method for ones in columns.values() for one in ones for m in one.methods))

    def cell(methods: dict[str, MethodGradient], name: str) -> str:
        if name not in methods:
            return ""
        m = methods[name]
        if name == "grpo":
            return f"{correlation(m.cosine)} (itself)"
        return difference(m.minus_grpo, m.band, m.placebo_minus_grpo)

    still = [name for name in names if name != "grpo" and _changes_nothing([m[name] for m in by_method if name in m])]
    rows = [[f"`{name}`", *(cell(m, name) for m in by_method)] for name in names if name not in still]
    below = f"\n\nBelow {SMALLEST} everywhere: {', '.join(f'`{name}`' for name in sorted(still))}." if still else ""
    return table(["method", *columns], rows) + below


def _changes_nothing(methods: Sequence[MethodGradient]) -> bool:
    return all(abs(m.minus_grpo.value or 0.0) < SMALLEST for m in methods)


def of_moved(columns: dict[str, list[GradientCredit]]) -> str:
    """Makes the table of moved policies: how far they went, and cosines of a few methods."""
    policies = [ones[0] for ones in columns.values()]
    moved = [one.moved for one in policies if one.moved is not None]
    if len(moved) < len(policies):
        raise SystemExit("One of the folders has scores of no moved policy: score it with --updates.")
    by_method = [{m.method: m for one in ones for m in one.methods} for ones in columns.values()]
    rows = [
        ["log-probs moved, nats in the mean", *(number(m.log_ratio) for m in moved)],
        ["ratios outside 0.8 to 1.2, %", *(share(m.outside) for m in moved)],
        ["right before and after, %", *(f"{share(m.right_before, 0)}, {share(m.right_after, 0)}" for m in moved)],
        ["GRPO on what the moved policy drew", *(correlation(m.fresh, 2) for m in moved)],
        *(
            [name, *(correlation(methods[key].cosine, 2) if key in methods else "" for methods in by_method)]
            for name, key in [("GRPO", "grpo"), *((f"`{key}`", key) for key in MOVED)]
        ),
    ]
    return table(["", *columns], rows)


def of_forks(columns: dict[str, Forks]) -> str:
    """Makes the table of what tokens decide: a row for each number, a column for each policy."""
    policies = list(columns.values())
    rows = [
        ["states x continuations", *(f"{count(f.cost.states)} x {f.cost.continuations}" for f in policies)],
        ["tokens of a sample decide, in their sum", *(estimate(f.budget.decided) for f in policies)],
        ["there is to decide", *(estimate(f.budget.available) for f in policies)],
        ["mean entropy, nats", *(number(f.all.mean_entropy, 2) for f in policies)],
    ]
    for i, share_ in enumerate(TOPS):
        tops = [f.tops[i] if f.budget.agrees else None for f in policies]
        rows += [
            [
                f"**{100 * share_:g} % of most entropy**: above, nats",
                *("" if t is None else number(t.threshold, 2) for t in tops),
            ],
            ["% that they decide", *("no shares" if t is None else percent(t.share) for t in tops)],
            ["% that others at the same places decide", *("" if t is None else percent(t.matched) for t in tops)],
        ]
    for kind in CLASSES:
        parts = [next((part for part in f.by_class if part.name == kind), None) for f in policies]
        cells = ["" if part is None else _kind(part) for part in parts]
        rows.append([f"{kind}, minus others of equal entropy", *cells])
    return table(["", *columns], rows)


def _kind(part: Part) -> str:
    if part.difference.value is None:
        return "too few"
    return f"{estimate(part.difference, 4, '+')}, p {p_value(part.difference_p)}"


def of_banks(banks: Sequence[BankCredit]) -> str:
    """Makes the tables of banks: their sizes, and each method's correlation minus GRPO's."""
    sizes = [
        [
            f"`{bank.name}`",
            f"{count(bank.about['of_problems'])}, {count(bank.problems)}",
            f"{count(bank.states)} x {count(bank.about['continuations'])}",
            f"{share(bank.signal, 0)}, {share(bank.signal_sized, 0)}",
            correlation(bank.methods[0].sized.r, 2),
            "" if bank.detectable is None else f"{bank.detectable.alone:.2f}, {bank.detectable.together:.2f}",
        ]
        for bank in banks
    ]
    header = ["bank", "problems, of these neither always nor never solved", "states x continuations"]
    header += ["% of the variance that is no error: tokens alike, by size of score", "GRPO's r, by size of score"]
    header += ["difference that can be shown: alone, in the band"]
    ways: list[tuple[str, Callable[[MethodCredit], Agreement]]] = [
        ("by size of score", lambda m: m.sized),
        ("tokens alike", lambda m: m.alike),
    ]
    by_method = [{m.method: m for m in bank.methods} for bank in banks]
    texts = [table(header, sizes)]
    for way, agreement in ways:
        names = list(dict.fromkeys(name for methods in by_method for name in methods))
        cells = [
            [f"`{name}`", *(_agreement(agreement(m[name]), name) if name in m else "" for m in by_method)]
            for name in names
            if name == "grpo"
            or any(abs(agreement(m[name]).minus_grpo.value or 0.0) >= SMALLEST for m in by_method if name in m)
        ]
        texts.append(table([f"method, {way}", *(f"`{bank.name}`" for bank in banks)], cells))
    return "\n\n".join(texts)


def _agreement(agreement: Agreement, name: str) -> str:
    if name == "grpo":
        return f"{correlation(agreement.r)} (itself)"
    return difference(agreement.minus_grpo, agreement.band, agreement.placebo_minus_grpo)


def of_worth(banks: Sequence[Bank]) -> str:
    """Makes the table of what tokens are worth by their probability."""
    rows = []
    for low, high in pairwise(PROBABILITIES):
        cells = []
        for bank in banks:
            p_K = np.exp(bank.groups.logprob_N[bank.at_K])
            inside = (p_K >= low) & (p_K < high)
            weight_K = 1 / bank.chance_K[inside]
            mean = float(np.average(bank.advantage_K[inside], weights=weight_K))
            square = float(np.average(bank.half_K2[inside].prod(axis=1), weights=weight_K))
            of_tokens = weight_K.sum() / (1 / bank.chance_K).sum()
            cells.append(f"{100 * of_tokens:.1f} % of tokens: {mean:+.3f}, {np.sqrt(max(square, 0.0)):.3f}")
        rows.append([f"{low:g} to {min(high, 1):g}", *cells])
    return table(["probability", *(f"`{bank.name}`" for bank in banks)], rows)


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("kind", choices=["forks", "updates", "moved", "banks", "worth"])
    parser.add_argument("columns", nargs="*", metavar="HEADING=FOLDER[,FOLDER]", help="banks, worth: paths alone")
    given = parser.parse_args()
    if given.kind == "banks":
        print(of_banks([bank for folder in given.columns for bank in read(Path(folder)).banks]))
        return
    if given.kind == "worth":
        print(of_worth([read_bank(path) for path in map(Path, given.columns or sorted(SHIPPED.glob("*.parquet")))]))
        return
    pairs = [column.partition("=")[::2] for column in given.columns]
    if given.kind == "forks":
        print(of_forks({heading: forks.read(Path(folder)) for heading, folder in pairs}))
        return
    columns = {}
    for heading, folders in pairs:
        columns[heading] = [one for folder in folders.split(",") for one in read(Path(folder)).gradients]
        if not columns[heading]:
            raise SystemExit(f"'{heading}={folders}' is no heading with folders of scores in gradients.")
    print(of_moved(columns) if given.kind == "moved" else of_updates(columns))


if __name__ == "__main__":
    main()
