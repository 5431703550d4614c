"""Draws the pictures of the docs from forkwise's own code and data.

    python docs/pictures.py                                # docs/img/concept-*.svg, evidence-followers-new.svg
    python docs/pictures.py --quickstart runs/quickstart   # the figures and the page of a quickstart; needs a Chromium

The numbers of the concepts are those of the embedded model and of the samples in examples/data; the same call draws the
same pictures. Those of a quickstart are its own figures, and parts of its report.html as a browser shows them.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from typing import Any, Literal

import numpy as np
from matplotlib import rcParams
from matplotlib.figure import Figure

DOCS = Path(__file__).parent
IMAGES = DOCS / "img"
DATA = DOCS.parent / "examples" / "data"
STUDIES = DOCS.parent / "studies"
BLUE, ORANGE, GREY = "#0072B2", "#D55E00", "#666666"  # Okabe-Ito: told apart with any colour vision
ALPHA, KAPPA = 0.4, 2.0  # the paper's, for GRPO


def fork() -> Figure:
    """Entropy at each token of one completion of the embedded model, drawn at temperature 1."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from forkwise.core import token_entropy
    from forkwise.lab import BASE_MODEL
    from forkwise.tasks.countdown import Countdown

    tokenizer = AutoTokenizer.from_pretrained(BASE_MODEL)
    model = AutoModelForCausalLM.from_pretrained(BASE_MODEL, dtype=torch.float32)
    prompt = tokenizer(Countdown().problems("test", 1)[0].prompt, return_tensors="pt").input_ids
    torch.manual_seed(3)
    with torch.no_grad():
        ids = model.generate(prompt, do_sample=True, top_k=0, max_new_tokens=48, pad_token_id=0)
        logits = model(ids).logits[0, prompt.shape[1] - 1 : -1]
    entropy = token_entropy(logits).numpy()
    words = [tokenizer.decode([token]).replace("\n", "↵") for token in ids[0, prompt.shape[1] :].tolist()]

    figure = Figure(figsize=(9, 2.9), layout="constrained")
    axis = figure.subplots()
    is_fork = entropy >= np.quantile(entropy, 0.8)
    axis.bar(range(len(words)), entropy, color=np.where(is_fork, ORANGE, BLUE))
    axis.set_xticks(range(len(words)), words, fontfamily="monospace", fontsize=8, rotation=90)
    axis.set_ylabel("entropy (nats)")
    axis.set_xlim(-0.7, len(words) - 0.3)
    axis.set_title(
        "One completion, token by token: the fifth of the tokens with the most entropy in orange", fontsize=10
    )
    return figure


def psi() -> Figure:
    """The term that is added to the advantage, against entropy, for three sizes of the advantage."""
    import torch

    from forkwise.core import shape_advantages

    entropy = torch.linspace(0, 3, 301)
    figure = Figure(figsize=(6, 3.4), layout="constrained")
    axis = figure.subplots()
    for size, dash, colour in ((2.0, "-", BLUE), (1.0, "--", ORANGE), (0.4, ":", GREY)):
        added = shape_advantages(torch.full_like(entropy, size), entropy, alpha=ALPHA, kappa=KAPPA) - size
        axis.plot(entropy, added, dash, color=colour, lw=2)
        axis.annotate(
            f"|A| = {size:g}, cap {size / KAPPA:g}",
            (3, float(added[-1])),
            (-4, -12),
            textcoords="offset points",
            ha="right",
            color=colour,
            fontsize=9,
        )
        bend = size / KAPPA / ALPHA
        if bend < 3:
            axis.plot(bend, size / KAPPA, "o", color=colour)
    axis.set(xlabel="entropy H of the token (nats)", ylabel="psi = min(alpha H, |A| / kappa)", ylim=(0, 1.15))
    axis.set_title(f"alpha = {ALPHA}, kappa = {KAPPA:g}: the dot is where the cap begins", fontsize=10)
    return figure


def pass_at_k() -> Figure:
    """Pass@K of each of 40 problems, and their mean."""
    arm = _arm("step400")
    ks = list(range(1, arm.largest_k() + 1))
    curves_QK = arm.curves(ks)[0]
    figure = Figure(figsize=(6, 3.4), layout="constrained")
    axis = figure.subplots()
    axis.plot(ks, curves_QK.T, color=GREY, lw=0.7, alpha=0.5)
    axis.plot(ks, curves_QK.mean(0), color=BLUE, lw=3)
    axis.set_xscale("log", base=2)
    axis.set_xticks([1, 2, 4, 8, 16, 32, 50], ["1", "2", "4", "8", "16", "32", "50"])
    axis.set(xlabel="K", ylabel="chance that one of K is right", ylim=(-0.02, 1.02))
    axis.set_title("Pass@K: the mean (blue) of a curve per problem (grey)", fontsize=10)
    return figure


def band() -> Figure:
    """The paired difference of two checkpoints: interval at each K, and band over all K."""
    from forkwise.passk import compare

    ks = list(range(1, 51))
    [difference] = compare(_arm("step400"), _arm("step800"), ks=ks).differences
    figure = Figure(figsize=(6, 3.4), layout="constrained")
    axis = figure.subplots()
    axis.axhline(0, color="black", lw=0.8)
    axis.fill_between(ks, difference.band.low, difference.band.high, color=BLUE, alpha=0.15, lw=0)
    axis.fill_between(ks, difference.interval.low, difference.interval.high, color=BLUE, alpha=0.3, lw=0)
    axis.plot(ks, difference.interval.mean, color=BLUE, lw=2)
    place = ks.index(5)
    axis.annotate(
        "band: all K at once",
        (5, difference.band.high[place]),
        (0, 14),
        textcoords="offset points",
        fontsize=9,
        ha="center",
        arrowprops={"arrowstyle": "-", "color": GREY},
    )
    axis.annotate(
        "interval: one K",
        (5, difference.interval.low[place]),
        (0, -34),
        textcoords="offset points",
        fontsize=9,
        ha="center",
        arrowprops={"arrowstyle": "-", "color": GREY},
    )
    axis.set_xscale("log", base=2)
    axis.set_xticks([1, 2, 4, 8, 16, 32, 50], ["1", "2", "4", "8", "16", "32", "50"])
    axis.set(xlabel="K", ylabel="Pass@K, step 800 minus step 400")
    axis.set_title("Both hold 0 everywhere: nothing is shown", fontsize=10)
    return figure


def power() -> Figure:
    """The power curves of a plan from the pilot in examples/data."""
    from forkwise.passk import load_arm, plan_study
    from forkwise.report.plan_figure import plan_figure

    pilot = [load_arm(DATA / "pilot" / name) for name in ("grpo", "shaped")]
    plan, _, _ = plan_study(pilot, ks=["1", "32", "curve"], problems=300, detect=[0.02, 0.03, 0.05])
    return plan_figure(plan)


def followers() -> Figure:
    """One run of each newer method, held against seven runs of GRPO; and what such a study finds."""
    from forkwise.study.analysis import read_study_folder

    single = read_study_folder(STUDIES / "receipts" / "followers-new")[2].result.single
    assert single is not None
    rows = sorted(single.rows, key=lambda row: row.difference)
    figure = Figure(figsize=(7, 1.2 + 0.2 * len(rows)), layout="constrained")
    axis = figure.subplots()
    axis.axvline(0, color="black", lw=0.8)
    axis.axvspan(-single.found, single.found, color=GREY, alpha=0.15, lw=0)
    for place, row in enumerate(rows):
        colour = ORANGE if row.p < 1 - single.level else BLUE
        axis.plot([row.low, row.high], [place, place], color=colour, lw=1.2)
        axis.plot(row.difference, place, "o", color=colour, ms=5)
    axis.set_yticks(range(len(rows)), [row.arm for row in rows], fontsize=8)
    axis.set_ylim(-0.7, len(rows) - 0.3)
    axis.set_xlabel(f"Pass@1 of one run minus the mean of {single.runs} runs of {single.reference}")
    axis.set_title("Grey: found with less than 80 % power. Orange: p < .05, over all arms", fontsize=9)
    return figure


def _arm(name: str) -> Any:
    """The samples of one checkpoint in examples/data."""
    from forkwise.passk import make_arm

    problems = [json.loads(line) for line in (DATA / f"{name}.jsonl").read_text().splitlines()]
    ids = [problem["problem_id"] for problem in problems for _ in problem["correct"]]
    return make_arm(name, problem_id=ids, correct=[verdict for problem in problems for verdict in problem["correct"]])


def quickstart(folder: Path, target: Path) -> None:
    """The figures of a quickstart, and what its page looks like: its top, the problems, one trace, two side by side."""
    from playwright.sync_api import Page, sync_playwright

    def opened(width: int, height: int, scheme: Literal["light", "dark"]) -> Page:
        context = browser.new_context(
            viewport={"width": width, "height": height}, device_scale_factor=2, color_scheme=scheme
        )
        page = context.new_page()
        page.goto((folder / "report.html").resolve().as_uri())
        page.wait_for_selector("#trace i")
        page.locator("#viewer").evaluate("viewer => { viewer.style.padding = '12px'; }")
        page.locator("#viewer details").last.evaluate("keys => keys.remove()")
        page.locator("#filter").select_option("correct")
        return page

    for name in ("passk", "training"):
        shutil.copyfile(folder / f"{name}.png", target / f"quickstart-{name}.png")
    with sync_playwright() as playwright:
        # A Chromium on the PATH, else Playwright's own.
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"))
        page = opened(1100, 1420, "light")
        page.screenshot(path=target / "report.png")
        page.locator("#problems").screenshot(path=target / "report-problems.png")
        page.locator("#arm").select_option(index=page.locator("#arm option").count() - 1)
        _choose_fork(page, "")
        page.locator("#viewer").screenshot(path=target / "trace-viewer.png")
        page = opened(1280, 1000, "dark")
        page.locator("#arm").select_option(index=1)
        page.get_by_label("side by side").check()
        page.locator("#colour").select_option("psi")
        _choose_fork(page, "-2")
        page.locator("#viewer").screenshot(path=target / "report-traces.png")
        browser.close()


def _choose_fork(page: Any, pane: str) -> None:
    """Chooses the seventh token of high entropy."""
    page.wait_for_selector(f"#trace{pane} i")
    page.locator(f"#trace{pane}").focus()
    for _ in range(7):
        page.keyboard.press(".")
    page.wait_for_selector(f"#trace{pane} .on")


def main() -> None:
    """Draws the concepts, or with --quickstart what a quickstart shows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quickstart", metavar="RUN", type=Path, help="folder of a quickstart: its pictures only")
    parser.add_argument("--out", type=Path, default=IMAGES, help="folder of the pictures")
    given = parser.parse_args()
    if given.quickstart is not None:
        quickstart(given.quickstart, given.out)
        return
    rcParams.update({"svg.hashsalt": "forkwise", "axes.spines.top": False, "axes.spines.right": False})
    concepts = {"fork": fork, "psi": psi, "passk": pass_at_k, "band": band, "power": power}
    pictures = {f"concept-{name}": draw for name, draw in concepts.items()} | {"evidence-followers-new": followers}
    for name, draw in pictures.items():
        draw().savefig(given.out / f"{name}.svg", metadata={"Date": None})


if __name__ == "__main__":
    main()
