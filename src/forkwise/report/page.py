"""The page: one HTML file that asks for nothing, with data, charts and traces in it.

Nothing in it comes from a model or a file without being escaped. Text in tables is escaped by Jinja2; everything else
lies in JSON whose angle brackets and non-ASCII characters are escaped, and gets into the document as text nodes only.
A content security policy allows the scripts and styles of this page by their hashes, and no connection.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
from collections.abc import Sequence
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import DictLoader, Environment, StrictUndefined
from markupsafe import Markup

from forkwise.folders import write_bytes
from forkwise.report.content import Content
from forkwise.report.credit import tables as credit
from forkwise.report.explore import behaviours, dependence, entropy, forks, rarity, series, sizes
from forkwise.report.figures import WINDOW
from forkwise.report.forks import tables as decided
from forkwise.report.forks_sentences import tables as decided_by_sentences
from forkwise.report.passk import details, overview
from forkwise.report.problems import problem_table
from forkwise.report.sources import PAPER, Shaping
from forkwise.report.table import Block
from forkwise.report.training import training_table
from forkwise.report.views import charts
from forkwise.terminal import one_line, visible
from forkwise.version import __version__

UPLOT = "1.6.32"
STYLES = ("uPlot.min.css", "style.css")
SCRIPTS = ("uPlot.iife.min.js", "charts.js", "pane.js", "forked.js", "viewer.js", "main.js")

SECTIONS = {
    "summary": "Summary",
    "passk": "Pass@K",
    "problems": "Problems",
    "traces": "Traces",
    "training": "Training",
    "entropy": "Entropy",
    "behaviours": "Behaviours",
    "forks": "Forks",
    "credit": "Credit",
}
MISSING = {
    "passk": "No Pass@K: there are no samples with verdicts of at least two problems here (the notes above say more). "
    "forkwise sample draws samples, forkwise verify scores them.",
    "problems": "No problems: there are no samples with verdicts here.",
    "training": "No training curves: none of what was given holds a metrics.jsonl.",
    "entropy": "No token entropies are stored with the samples. forkwise sample stores them; forkwise explore bounds "
    "them where top log-probabilities are stored, and computes them exactly with --model.",
    "behaviours": "No exploration was given. forkwise explore finds pivotal tokens, reflective and rare sentences, and "
    "tests their entropy against nulls; give the folder that it writes to forkwise report too.",
    "forks": "No exploration with entropies was given, so there is no table of fork tokens (see forkwise explore), "
    "and no forks.json, which says what tokens decide (see forkwise forks).",
    "credit": "No scores of methods were given. forkwise credit --out sets each method's advantages beside what tokens "
    "were worth.",
    "traces": "No samples were given, so there are no traces to look at.",
}

_NONE_FITS = "No trace fits into the page: --trace-mb says how many megabytes of them it may hold."


@lru_cache
def _asset(name: str) -> str:
    return files("forkwise.report").joinpath("assets").joinpath(name).read_text(encoding="utf-8")


def _environment() -> Environment:
    def finalize(value: Any) -> Any:
        return visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value

    templates = {name: _asset(name) for name in ("page.html", "table.html")}
    return Environment(
        loader=DictLoader(templates), autoescape=True, finalize=finalize, undefined=StrictUndefined, trim_blocks=False
    )


def policy(styles: Sequence[str], scripts: Sequence[str]) -> str:
    """Writes a content security policy that allows these styles and scripts, and nothing else."""

    def sources(texts: Sequence[str]) -> str:
        digests = (base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in texts)
        return " ".join(f"'sha256-{digest}'" for digest in digests)

    return (
        f"default-src 'none'; script-src {sources(scripts)}; style-src {sources(styles)}; img-src data:; "
        "base-uri 'none'; form-action 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
    )


def embed(value: Any) -> Markup:
    """Writes JSON that can stand in a script element: no character can end the element or be taken for markup."""
    text = json.dumps(_shown(value), ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return Markup(text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))


def _shown(value: Any) -> Any:
    if isinstance(value, str):
        return visible(value)
    if isinstance(value, dict):
        return {visible(str(key)): _shown(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_shown(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _trace_data(content: Content) -> dict[str, Any] | None:
    traces = content.traces
    if traces is None:
        return None
    starts = {problem.id: problem.start for problem in content.solved}
    names = list(traces.names)
    thresholds = [content.distributions[name].threshold if name in content.distributions else None for name in names]
    names_shown = content.arms()
    return {
        **traces.index,
        "starts": [starts[problem] for problem in traces.problem_ids],
        "measured": traces.measured,
        "top": max(0.5, round(traces.highest, 1)),
        "thresholds": thresholds,
        "colours": [names_shown.index(name) if name in names_shown else 0 for name in names],
        "shaping": [_shaping(content.shaping.get(name)) for name in names],
    }


def _shaping(shaping: Shaping | None) -> dict[str, Any]:
    """Returns the alpha and kappa with which the viewer computes psi, and its sentence about them."""
    if shaping is None:
        sentence = "Nobody knows how this model was trained: α and κ are the paper's, and ψ is what they would give."
    elif shaping.alpha > 0:
        sentence = "α and κ are those that this arm was trained with."
    else:
        methods = f" Its methods: {one_line(', '.join(shaping.methods))}." if shaping.methods else ""
        sentence = f"This arm was trained without the entropy advantage: α is 0.{methods}"
    used = shaping or PAPER
    return {"alpha": used.alpha, "kappa": used.kappa, "said": sentence}


def _decided(content: Content) -> list[Block]:
    """Makes the tables of what tokens and sentences decide."""
    return [
        *(block for one in content.forks for block in decided(one)),
        *(block for one in content.sentences for block in decided_by_sentences(one)),
    ]


def _traces_note(content: Content) -> str:
    t = content.traces
    if t is None:
        return ""
    which = "all" if t.problems == t.all_problems else f"{t.problems} of {t.all_problems}"
    return (
        f"{t.shown:,} of {t.available:,} samples on {which} problems (--trace-mb sets how many): of each arm right and "
        "wrong ones in turn, those that were continued and those with token data first, so their mix is not the arm's. "
        "ψ = min(α·H, |A|/κ), with the arm's own α and κ, is the bonus of a token with the advantage A of its sample "
        "in the group of all samples of its run and problem."
    )


def render(content: Content) -> str:
    """Renders the page as text that is valid UTF-8."""
    environment = _environment()
    template = environment.get_template("table.html")

    def show(block: Block) -> Markup:
        return Markup(template.render(block=block))

    page_data = charts(content)
    traces = _trace_data(content)
    styles = [_asset(name) for name in STYLES]
    scripts = [_asset(name) for name in SCRIPTS]
    chunks = content.traces.chunks if content.traces is not None else []
    runs = content.explored()
    traced = content.traces.problem_ids if content.traces is not None else ()
    problems = problem_table(content.solved, content.comparison, list(content.shaping), traced)
    tables: dict[str, Sequence[Block]] = {
        "summary": overview(content.evaluations, content.comparison),
        "passk": details(content.evaluations, content.comparison),
        "training": training_table(content.training),
        "entropy": entropy(content.distributions, runs),
        "behaviours": [
            *(sizes(runs) + behaviours(runs) + rarity(runs) + dependence(runs)),
            *series(content.explorations),
        ],
        "forks": forks(runs),
        "decided": _decided(content),
        "credit": [block for one in content.credit for block in credit(one)],
    }
    has = {name: bool(tables.get(name)) for name in SECTIONS} | {
        "forks": bool(tables["forks"] or tables["decided"]),
        "problems": problems is not None,
        "traces": traces is not None,
        "contrasts": page_data["behaviours"] is not None,
        "series": page_data["series"] is not None,
    }
    return environment.get_template("page.html").render(
        title=content.title,
        policy=policy(styles, scripts),
        version=__version__,
        uplot=UPLOT,
        styles=[Markup(style) for style in styles],
        scripts=[Markup(script) for script in scripts],
        sections=SECTIONS.items(),
        conclusion=content.conclusion,
        notes=content.notes,
        arms=page_data["arms"],
        tables=tables,
        problems=problems,
        show=show,
        has=has,
        missing={**MISSING, **({"traces": _NONE_FITS} if content.shaping else {})},
        window=WINDOW,
        traces_note=_traces_note(content),
        footer=f"Made from {', '.join(content.sources)}.",
        data=[
            ("data", embed({**page_data, "traces": traces})),
            *((f"chunk-{i}", embed(chunk)) for i, chunk in enumerate(chunks)),
        ],
    )


def write_page(path: Path, content: Content) -> None:
    """Writes the page, whole or not at all.

    Raises:
        InputError: the file system says no.
    """
    write_bytes(path, render(content).encode("utf-8"))
