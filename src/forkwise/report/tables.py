"""The Pass@K tables of a report, as text cells; the page and the text summary show the same ones."""

from __future__ import annotations

from forkwise.passk import Interval
from forkwise.passk.estimator import k_grid
from forkwise.passk.length import BUDGET, CAP, MATCHED
from forkwise.report.content import Content
from forkwise.report.table import Table


def summary_tables(content: Content) -> list[Table]:
    """Pass@K of every arm at a few k, and the paired differences."""
    if not content.evaluations:
        return []
    ks = content.evaluations[0].ks
    wanted = [k for k in (1, 4, 16, 64) if k < ks[-1]] + [ks[-1]]
    unit = content.evaluations[0].length_unit
    rows = []
    for e in content.evaluations:
        places = [e.ks.index(k) if k in e.ks else None for k in wanted]
        cells = ["" if i is None else _at(e.pass_at_k, i) for i in places]
        rows.append([e.arm, *cells, "" if e.mean_length is None else f"{e.mean_length:.1f}"])
    for d in content.comparison.differences if content.comparison else ():
        places = [d.ks.index(k) if k in d.ks else None for k in wanted]
        rows.append([f"{d.arm} − {d.reference}", *("" if i is None else _at(d.interval, i, "+") for i in places), ""])
        rows.append(["  adjusted p, problems", *("" if i is None else p_text(d.adjusted_p[i]) for i in places), ""])
        if d.run_p is not None:
            rows.append(["  adjusted p, runs", *("" if i is None else p_text(d.run_p[i]) for i in places), ""])
    level = f"{content.evaluations[0].pass_at_k.level:.0%}"
    caption = f"Pass@K, mean [{level} interval over problems]; differences are paired by problem"
    return [Table(caption, ["", *(f"Pass@{k}" for k in wanted), f"mean {unit}"], rows)]


def passk_tables(content: Content) -> list[Table]:
    """Every number of the curves and of the length controls; folded."""
    tables = []
    for e in content.evaluations:
        shown = [i for i, k in enumerate(e.ks) if len(e.ks) <= 12 or k in k_grid(e.ks[-1])]
        columns = {"Pass@K": "pass@k", "Pass^K (all K right)": "pass^k"}
        curves = {name: e.curves[key] for name, key in columns.items() if key in e.curves}
        rows = []
        for i in shown:
            cells = [_at(c.interval, c.ks.index(e.ks[i])) if e.ks[i] in c.ks else "" for c in curves.values()]
            rows.append([str(e.ks[i]), *cells])
        tables.append(Table(f"{e.arm}, {e.problems} problems", ["K", *curves], rows, folded=True))
    for d in content.comparison.differences if content.comparison else ():
        for control, title in (
            (CAP, "longer than the cap is wrong"),
            (BUDGET, "equal budget per problem"),
            (MATCHED, f"{d.arm} and {d.reference} at equal lengths: each at its own and at the other's, averaged"),
        ):
            rows = [
                [
                    "" if r.at is None else str(r.at),
                    "" if r.k is None else str(r.k),
                    f"{r.reference_value:.3f}",
                    f"{r.value:.3f}",
                    _cell(r.difference, r.low, r.high, "+"),
                    str(r.problems),
                ]
                for r in d.length
                if r.control == control
            ]
            if rows:
                header = [control if control != MATCHED else "", "K", d.reference, d.arm, "difference", "problems"]
                tables.append(Table(f"{d.arm} − {d.reference}: {title}", header, rows, folded=True))
    return tables


def p_text(p: float) -> str:
    """A p-value with as many digits as mean something."""
    return f"{p:.4f}" if p < 0.01 else f"{p:.3f}"


def _cell(value: float, low: float, high: float, sign: str = "") -> str:
    return f"{value:{sign}.3f} [{low:{sign}.3f}, {high:{sign}.3f}]"


def _at(interval: Interval, i: int, sign: str = "") -> str:
    return _cell(float(interval.mean[i]), float(interval.low[i]), float(interval.high[i]), sign)
