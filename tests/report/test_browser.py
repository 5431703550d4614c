"""The page in a real browser: it works, asks the network for nothing, and hostile text does nothing.

Needs Playwright and a Chromium: the one that Playwright installs, or one on the PATH.
"""

from __future__ import annotations

import io
import os
import random
import re
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import made
import pytest

pytest.importorskip("playwright")

from matplotlib.image import imread
from playwright.sync_api import Browser, Error, Page, sync_playwright
from test_page import exploration, hostile_folder

from forkwise.explore import findings
from forkwise.explore import results as explored
from forkwise.report.command import write_report
from forkwise.samples import write_shard


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        paths = [path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))]
        for path in (None, *paths):
            try:
                browser = playwright.chromium.launch(executable_path=path)
                break
            except Error:
                continue
        else:
            pytest.skip("there is no Chromium: playwright install chromium")
        yield browser
        browser.close()


@dataclass
class Opened:
    """A page, and everything that it should not do."""

    page: Page
    said: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)

    def check(self) -> None:
        """Nothing was said on the console, nothing was asked for, no foreign script ran."""
        assert self.said == []
        assert self.asked == []
        assert self.page.evaluate("window.pwned") is None


def open_page(browser: Browser, path: Path, *, width: int = 1280, dark: bool = False) -> Opened:
    scheme: Any = "dark" if dark else "light"
    page = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme).new_page()
    page.set_default_timeout(20_000)
    opened = Opened(page)
    address = path.resolve().as_uri()

    def asked(url: str) -> None:
        if url != address and not url.startswith("data:"):
            opened.asked.append(url)

    page.on("console", lambda message: opened.said.append(message.text))
    page.on("pageerror", lambda error: opened.said.append(str(error)))
    page.on("dialog", lambda dialog: (opened.said.append(dialog.message), dialog.dismiss()))
    page.on("request", lambda request: asked(request.url))
    page.on("popup", lambda popup: opened.said.append(popup.url))
    page.goto(address)
    page.wait_for_selector("html[data-ready=yes]", state="attached")
    if page.locator("#trace").count():
        page.wait_for_selector("#trace i, #trace p")
    return opened


def until(page: Page, script: str, argument: Any = None) -> None:
    """Waits for a script to be true. Playwright's own way of waiting is forbidden by the page's policy."""
    deadline = time.monotonic() + 20
    while not page.evaluate(script, argument):
        assert time.monotonic() < deadline, script
        page.wait_for_timeout(20)


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = made.experiment(tmp_path_factory.mktemp("browser") / "run")
    write_report([folder], folder / "report.html")
    return folder / "report.html"


def test_charts_are_drawn_say_values_and_switch_arms(browser: Browser, report: Path) -> None:
    opened = open_page(browser, report)
    page = opened.page
    assert page.locator("#passk .uplot").count() == 2
    assert page.locator("#charts-training .uplot").count() == 2  # reward and entropy were logged
    chart = page.locator("#chart-passk .u-over")
    box = chart.bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + 4, box["y"] + 40)
    legend = page.locator("#chart-passk .u-legend").inner_text()
    assert "GRPO + entropy advantage" in legend
    assert "[0." in legend  # the interval at K = 1

    def ink() -> int:
        pixels = imread(io.BytesIO(page.locator("#chart-passk canvas").screenshot()))
        return int((pixels[..., :3].min(axis=-1) < 0.97).sum())

    page.mouse.move(0, 0)  # the cross-hair goes
    before = ink()
    page.get_by_label("base", exact=True).uncheck()
    page.wait_for_timeout(100)
    assert ink() < before  # its line and band are gone
    page.get_by_label("base", exact=True).check()
    page.locator("#control").select_option(label=page.locator("#control option").nth(1).inner_text())
    assert page.locator("#k option").all_inner_texts() == ["1", "4", "8"]
    assert "cap" in page.locator("#chart-passk .u-legend").inner_text()
    opened.check()


def test_the_viewer_follows_clicks(browser: Browser, report: Path) -> None:
    opened = open_page(browser, report)
    page = opened.page
    assert page.locator("#trace i").count() >= 20
    page.locator("#arm").select_option(label="GRPO + entropy advantage")
    until(page, "document.querySelector('#trace-facts').textContent.includes('GRPO + entropy advantage, sample')")
    page.locator("#trace i").nth(7).click()
    card = page.locator("#token").inner_text()
    # Sample 0: entropy 0.1 * 7 = 0.7 nats, log p = -0.35.
    assert "8 of" in card
    assert "0.700 nats" in card
    assert "-0.350 (p = 0.705)" in card
    said = re.search(r"advantage A\s+(-?[\d.]+)\s+ψ\s+min\(0.3 × 0.700, ([\d.]+) / 2.5\) = ([\d.]+)(, capped)?", card)
    assert said, card
    advantage, psi = float(said[1]), float(said[3])
    assert psi == pytest.approx(min(0.3 * 0.7, abs(advantage) / 2.5), abs=1e-3)  # the settings of the run
    assert bool(said[4]) == (abs(advantage) / 2.5 < 0.3 * 0.7)
    assert "Most likely here" in card
    assert " else" in card
    page.locator("#shaping-kappa").fill("4")
    page.locator("#shaping-kappa").press("Enter")
    assert "/ 4) =" in page.locator("#token").inner_text()
    page.locator("#filter").select_option("wrong")
    until(page, "document.querySelector('#trace-facts').textContent.startsWith('wrong')")
    assert all("wrong" in text for text in page.locator("#sample option").all_inner_texts())
    page.locator("#filter").select_option("all")
    page.locator("#arm").select_option(label="GRPO")
    until(page, "document.querySelector('#trace-facts').textContent.includes('GRPO, sample')")
    page.locator("#trace i").nth(7).click()
    card = page.locator("#token").inner_text()
    assert "min(0 × 0.700" in card
    assert "trained without the entropy advantage" in card
    first = page.locator("#trace").text_content()
    before = page.locator("#sample").input_value()
    page.get_by_label("Next sample", exact=True).click()
    until(page, "b => document.querySelector('#sample').value !== b", before)
    assert page.locator("#trace").text_content() != first
    page.locator("#problem").select_option("2")
    until(page, "document.querySelector('#problem').value === '2'")
    opened.check()


def test_the_viewer_follows_the_keyboard(browser: Browser, report: Path) -> None:
    opened = open_page(browser, report)
    page = opened.page
    page.locator("#trace").focus()
    for key, place in (("ArrowRight", "1 of"), ("ArrowRight", "2 of"), ("ArrowLeft", "1 of")):
        page.keyboard.press(key)
        assert place in page.locator("#token").inner_text()
    page.keyboard.press(".")  # the first token above the 80 % quantile, about 1.6 nats: 1.7 is the 18th
    high = int(page.locator("#token dd").first.inner_text().split(" ")[0])
    assert high in (16, 17, 18)
    assert "above" in page.locator("#token").inner_text()
    page.keyboard.press("End")
    count = page.locator("#trace i").count()
    assert f"{count} of {count}" in page.locator("#token").inner_text()
    page.keyboard.press("Escape")
    assert "Click a token" in page.locator("#token").inner_text()
    for key, selector, value in (
        ("p", "#problem", "1"),
        ("P", "#problem", "0"),
        ("a", "#arm", "1"),
        ("f", "#filter", "correct"),
    ):
        page.keyboard.press(key)
        until(page, "([s, v]) => document.querySelector(s).value === v", [selector, value])
    page.keyboard.press("f")
    page.keyboard.press("f")
    before = page.locator("#sample").input_value()
    page.keyboard.press("j")
    until(page, "b => document.querySelector('#sample').value !== b", before)
    page.keyboard.press("k")
    until(page, "b => document.querySelector('#sample').value === b", before)
    opened.check()


def test_headings_sort_the_problems_and_a_row_opens_its_traces(browser: Browser, tmp_path: Path) -> None:
    right = {"plain": [3, 1, 0], "shaped": [0, 1, 2]}  # of 3 samples of problems p0, p1, p2
    for run, numbers in right.items():
        rows = [
            made.sample(run, f"p{q}", i, correct=i < n, completion=f"so {i}", prompt=f"Question {q}?")
            for q, n in enumerate(numbers)
            for i in range(3)
        ]
        write_shard(tmp_path / run, "0000", rows)
    write_report([tmp_path / "plain", tmp_path / "shaped"], tmp_path / "report.html")
    opened = open_page(browser, tmp_path / "report.html")
    page = opened.page

    def column(i: int) -> list[str]:
        return page.locator(f"#problems tbody tr > :nth-child({i})").all_inner_texts()

    # Differences 0 - 1, 1/3 - 1/3, 2/3 - 0: the largest first.
    assert column(1) == ["Question 2?", "Question 1?", "Question 0?"]
    assert column(4) == ["+0.667", "+0.000", "-1.000"]
    heading = page.get_by_role("button", name="plain", exact=True)
    heading.focus()
    page.keyboard.press("Enter")
    assert column(2) == ["3/3", "1/3", "0/3"]
    assert page.locator("#problems th[aria-sort]").get_attribute("aria-sort") == "descending"
    page.keyboard.press("Enter")
    assert column(2) == ["0/3", "1/3", "3/3"]
    page.get_by_role("button", name="problem", exact=True).click()
    assert column(1) == ["Question 0?", "Question 1?", "Question 2?"]
    page.locator("#problems tbody tr").nth(1).locator("td").first.click()  # anywhere in the row
    until(page, "document.querySelector('#prompt').textContent === 'Question 1?'")
    page.locator("#problems tbody tr").nth(2).locator("a").focus()
    page.keyboard.press("Enter")
    until(page, "document.querySelector('#prompt').textContent === 'Question 2?'")
    assert page.evaluate("document.querySelector('#traces').getBoundingClientRect().top") < 100  # it is in view
    opened.check()


def test_two_models_stand_side_by_side(browser: Browser, report: Path) -> None:
    opened = open_page(browser, report)
    page = opened.page
    assert not page.locator("#trace-2").is_visible()
    page.get_by_label("side by side").check()
    until(page, "document.querySelectorAll('#trace-2 i').length > 0")
    assert "base, sample" in page.locator("#trace-facts").inner_text()
    assert "GRPO, sample" in page.locator("#trace-facts-2").inner_text()
    page.locator("#trace-2").focus()
    page.keyboard.press("a")  # the pane that is in use
    until(page, "document.querySelector('#trace-facts-2').textContent.includes('GRPO + entropy advantage, sample')")
    assert "base, sample" in page.locator("#trace-facts").inner_text()
    page.locator("#trace-2 i").nth(7).click()
    assert "min(0.3 × 0.700" in page.locator("#token").inner_text()  # alpha of that arm
    page.keyboard.press("p")
    until(page, "document.querySelector('#problem').value === '1'")
    assert " of p1," in page.locator("#trace-facts").inner_text()
    assert " of p1," in page.locator("#trace-facts-2").inner_text()
    opened.check()


def test_colour_follows_the_choice(browser: Browser, report: Path) -> None:
    opened = open_page(browser, report)
    page = opened.page
    page.locator("#arm").select_option(label="GRPO + entropy advantage")
    until(page, "document.querySelector('#trace-facts').textContent.includes('GRPO + entropy advantage, sample')")
    said = re.search(r"advantage ([+−][\d.]+)", page.locator("#trace-facts").inner_text())
    assert said
    advantage = float(said[1].replace("−", "-"))

    def first_levels() -> list[int]:
        names = page.locator("#trace i").evaluate_all("tokens => tokens.slice(0, 20).map(t => t.className)")
        return [int((re.findall(r"\be(\d)", name) or ["0"])[0]) for name in names]

    def ends() -> tuple[float, float]:
        steps = page.locator("#legend .step").all_inner_texts()
        return float(steps[0]), float(steps[7].removeprefix("≥ "))

    # Entropies of the first 20 tokens are 0, 0.1, ... 1.9, and log-probs minus the half of them; the scale ends at 1.9.
    by_entropy = first_levels()
    assert by_entropy == [min(7, int(8 * i / 19 + 1e-9)) for i in range(20)]
    page.locator("#colour").select_option("l")
    assert first_levels() == [min(7, int(8 * i / 38 + 1e-9)) for i in range(20)]
    page.locator("#colour").select_option("psi")
    top = min(0.3 * 1.9, abs(advantage) / 2.5)  # alpha and kappa of the run
    assert ends() == pytest.approx((0, top * 7 / 8), abs=0.006)
    levels = first_levels()
    assert levels == sorted(levels)
    assert (levels[0], levels[-1]) == (0, 7)
    page.locator("#colour").select_option("sum")
    assert ends() == pytest.approx((advantage, advantage + top * 7 / 8), abs=0.011)
    assert first_levels() == levels
    opened.check()


def test_a_colour_that_the_samples_do_not_hold_says_why_it_cannot_be_chosen(browser: Browser, tmp_path: Path) -> None:
    row = made.sample("r", "p", 0, tokens=["So", " we", " go"])
    write_shard(tmp_path / "samples", "0000", [{**row, "entropies": None}])
    write_report([tmp_path], tmp_path / "report.html")
    opened = open_page(browser, tmp_path / "report.html")
    options = opened.page.locator("#colour option")
    disabled = options.evaluate_all("options => options.filter(o => o.disabled).map(o => o.textContent)")
    assert disabled == [f"{name}: no entropies are stored" for name in ("entropy H", "ψ", "A + ψ")]
    assert opened.page.locator("#colour").input_value() == "l"
    opened.check()


def test_text_is_found_in_all_traces(browser: Browser, tmp_path: Path) -> None:
    texts = ["We add.", "A needle is here.", "Nothing.", "Two NEEDLEs: NEEDLE."]
    rows = [made.sample("r", f"p{q}", 0, tokens=re.findall(r"\w|\W", text)) for q, text in enumerate(texts)]
    write_shard(tmp_path / "samples", "0000", rows)
    write_report([tmp_path], tmp_path / "report.html")
    opened = open_page(browser, tmp_path / "report.html")
    page = opened.page
    page.locator("#trace").focus()
    page.keyboard.press("/")
    page.keyboard.type("needle")
    until(page, "document.querySelector('#found').textContent === '2 of 4 traces hold it'")
    page.keyboard.press("Enter")
    until(page, "document.querySelector('#trace-facts').textContent.includes(' of p1,')")
    assert "".join(page.locator("#trace i.hit").all_text_contents()) == "needle"
    until(page, "document.querySelector('#token dd')?.textContent === '3 of 17'")  # its first letter is chosen
    page.get_by_role("button", name="Next", exact=True).click()
    until(page, "document.querySelector('#trace-facts').textContent.includes(' of p3,')")
    assert "".join(page.locator("#trace i.hit").all_text_contents()) == "NEEDLENEEDLE"
    page.locator("#search").fill("absent")
    until(page, "document.querySelector('#found').textContent === '0 of 4 traces hold it'")
    assert page.locator("#trace i.hit").count() == 0
    opened.check()


def test_a_link_opens_its_trace(browser: Browser, tmp_path: Path) -> None:
    folder = made.experiment(tmp_path / "run", seeds=2)
    write_report([folder], folder / "report.html")
    opened = open_page(browser, folder / "report.html")
    page = opened.page
    assert "#" not in page.url  # nothing was done yet
    page.locator("#trace").focus()
    for key in ("p", "a", "j"):
        before = page.locator("#trace-facts").inner_text()
        page.keyboard.press(key)
        until(page, "b => document.querySelector('#trace-facts').innerText !== b", before)
    facts, address = page.locator("#trace-facts").inner_text(), page.evaluate("location.href")
    assert page.locator("#link").evaluate("link => link.href") == address
    other = page.context.new_page()
    other.goto(address)
    until(other, "f => document.querySelector('#trace-facts')?.innerText === f", facts)
    assert "run grpo-seed" in facts
    other.evaluate("location.hash = '#problem=p3&arm=base&sample=5'")  # a link within the page
    until(other, "document.querySelector('#trace-facts').innerText.includes('base, sample 5 of p3,')")
    other.evaluate("location.hash = '#problem=p3&arm=base&sample=500'")
    until(other, "document.querySelector('#found').textContent.includes('not in this page')")
    opened.check()


def test_axe_finds_nothing(browser: Browser, report: Path, tmp_path: Path) -> None:
    """Needs the script of axe-core: npm pack axe-core, unpack, and FORKWISE_AXE=package/axe.min.js."""
    script = os.environ.get("FORKWISE_AXE")
    if script is None:
        pytest.skip("there is no axe-core: FORKWISE_AXE does not name its script")
    write_shard(tmp_path / "samples", "0000", [made.sample("r", f"p{q}", 0, completion="So 7.") for q in range(3)])
    explored.write(tmp_path, exploration(str(tmp_path / "samples")))
    write_report([tmp_path], tmp_path / "report.html")
    for path in (report, tmp_path / "report.html"):
        for width in (400, 1280):
            page = browser.new_context(viewport={"width": width, "height": 900}, bypass_csp=True).new_page()
            page.goto(path.resolve().as_uri())
            page.get_by_label("side by side").check()
            until(page, "document.querySelectorAll('#trace-2 i').length > 0")
            page.locator("#trace-2 i").first.click()
            page.locator("details").evaluate_all("folded => folded.forEach(part => { part.open = true; })")
            page.wait_for_timeout(200)
            page.evaluate(Path(script).read_text(encoding="utf-8"))
            violations = page.evaluate("axe.run(document, { resultTypes: ['violations'] })")
            assert [(rule["id"], rule["nodes"][0]["html"]) for rule in violations["violations"]] == []


def test_marks_have_a_shape_besides_a_colour_and_can_be_switched_off(browser: Browser, tmp_path: Path) -> None:
    tokens = ["So", " we", " go", ".\n", "Wait", ",", " let", " me", " check", ".\n", "odd", " one", "."]
    rows = [made.sample("r", f"p{q}", i, correct=i == 0, tokens=tokens) for q in range(2) for i in range(2)]
    write_shard(tmp_path / "samples", "0000", rows)
    exploring = exploration(str(tmp_path / "samples"))
    rarity = exploring.runs[0].rarity
    assert rarity is not None
    rarity.rare[:] = [findings.SentenceSpan("r", "p0", 0, 30, 38, 0.9, True)]
    explored.write(tmp_path, exploring)
    write_report([tmp_path], tmp_path / "report.html")
    opened = open_page(browser, tmp_path / "report.html")

    def line(text: str) -> str:
        script = "e => { const s = getComputedStyle(e); return `${s.textDecorationLine} ${s.textDecorationStyle}`; }"
        return str(opened.page.locator("#trace i", has_text=text).first.evaluate(script))

    assert line("So") == "underline solid"
    assert line("check") == "underline dotted"
    assert line("odd") == "underline wavy"
    assert line("go").startswith("none")
    opened.page.get_by_role("checkbox", name="pivotal").uncheck()
    assert line("So").startswith("none")
    opened.check()


def test_a_hostile_page_runs_no_script(browser: Browser, tmp_path: Path) -> None:
    folder = hostile_folder(tmp_path / "run")
    write_report([folder], folder / "report.html")
    opened = open_page(browser, folder / "report.html")
    page = opened.page
    for arm in range(page.locator("#arm option").count()):
        page.locator("#arm").select_option(str(arm))
        for i in range(page.locator("#sample option").count()):
            page.locator("#sample").select_option(index=i)
            until(page, "i => document.querySelector('#sample').selectedIndex === i", i)
            page.wait_for_timeout(50)
            for token in page.locator("#trace i").all()[:4]:
                token.dispatch_event("click")
    assert page.locator("#trace script, #trace img, #trace svg, #token script, #token img, #token svg").count() == 0
    assert "<script>window.pwned=1</script>" in (page.locator("#trace").text_content() or "")
    assert "⟨U+202E⟩" in (page.locator("#trace").text_content() or "")
    opened.check()


def test_a_script_that_got_in_would_not_run(browser: Browser, report: Path, tmp_path: Path) -> None:
    """What the content security policy is worth: the escaping is switched off by hand."""
    page = report.read_text(encoding="utf-8")
    broken = tmp_path / "broken.html"
    broken.write_text(
        page.replace("<main>", "<main><script>window.pwned=1</script><img src=x onerror='window.pwned=2'>", 1)
    )
    opened = open_page(browser, broken)
    assert opened.page.evaluate("window.pwned") is None
    assert any("Content Security Policy" in text for text in opened.said)
    # Nor can any script of the page turn text into elements.
    with pytest.raises(Error, match="TrustedHTML"):
        opened.page.evaluate("document.body.innerHTML = '<b>text</b>'")


def test_a_trace_of_ten_thousand_tokens_opens_and_scrolls(browser: Browser, tmp_path: Path) -> None:
    rng = random.Random(0)
    tokens = made.random_tokens(rng, 10_000)
    entropies = [rng.random() ** 4 * 4 for _ in tokens]
    rows = [
        made.sample("long", f"p{q}", 0, tokens=tokens[:n], entropies=entropies[:n], top=True)
        for q, n in enumerate((50, 10_000))
    ]
    write_shard(tmp_path / "samples", "0000", rows)
    write_report([tmp_path / "samples"], tmp_path / "report.html")
    opened = open_page(browser, tmp_path / "report.html")
    page = opened.page
    session = page.context.new_cdp_session(page)
    session.send("Performance.enable", {"timeDomain": "threadTicks"})

    def worked() -> float:
        """CPU seconds of the page's main thread, which a busy machine does not change."""
        metrics = session.send("Performance.getMetrics")["metrics"]
        return float(next(metric["value"] for metric in metrics if metric["name"] == "TaskDuration"))

    before = worked()
    page.locator("#problem").select_option("1")
    until(page, "document.querySelectorAll('#trace i').length === 10000")
    page.wait_for_timeout(200)  # for layout and paint
    assert 0.005 < worked() - before < 2
    page.locator("#trace").focus()
    page.keyboard.press("End")
    assert "10000 of 10000" in page.locator("#token").inner_text()
    page.keyboard.press("Home")
    before = worked()
    page.evaluate(
        """async () => {
          const pane = document.querySelector('#trace');
          for (let i = 0; i < 60; i++) {
            pane.scrollTop += pane.scrollHeight / 60;
            await new Promise((done) => requestAnimationFrame(done));
          }
        }"""
    )
    assert page.evaluate("document.querySelector('#trace').scrollTop") > 1000
    per_frame = (worked() - before) / 60
    assert 0 < per_frame < 0.016  # 60 frames a second
    opened.check()


@pytest.mark.parametrize("width", [400, 1280])
@pytest.mark.parametrize("dark", [False, True])
def test_the_page_fits_and_its_text_can_be_read(browser: Browser, report: Path, width: int, dark: bool) -> None:
    opened = open_page(browser, report, width=width, dark=dark)
    page = opened.page
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    # Every colour of the scale under its text, by the contrast ratio of WCAG 2: at least 4.5.
    contrast = page.evaluate(
        """() => {
          const light = (c) => { const f = c.match(/[\\d.]+/g).slice(0, 3).map((v) => v / 255)
            .map((v) => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
            return 0.2126 * f[0] + 0.7152 * f[1] + 0.0722 * f[2]; };
          return [...document.querySelectorAll('#legend .step')].slice(1).map((e) => { const s = getComputedStyle(e);
            const [a, b] = [light(s.color), light(s.backgroundColor)].sort((x, y) => y - x);
            return (a + 0.05) / (b + 0.05); });
        }"""
    )
    assert len(contrast) == 7
    assert min(contrast) >= 4.5, contrast
    first = page.evaluate("getComputedStyle(document.body).backgroundColor")
    page.locator("#theme").click()  # system, then dark, then light
    if dark:
        page.locator("#theme").click()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") != first
    opened.check()


def test_a_fork_shows_its_chance_its_ways_and_two_continuations(browser: Browser, tmp_path: Path) -> None:
    row = made.sample("r", "p", 3, tokens=["So", " we", " go"], correct=False)
    write_report([made.forked(tmp_path / "forked", row)], tmp_path / "report.html")
    opened = open_page(browser, tmp_path / "report.html")
    page = opened.page
    assert page.locator("#chart-chance .uplot").is_visible()
    assert page.locator("#trace i.f").all_inner_texts() == [" we"]
    assert not page.locator("#ways").is_visible()
    page.locator("#trace").focus()
    page.keyboard.press("s")
    card = page.locator("#token").inner_text()
    assert "0.45 ± 0.10" in card
    assert "0.032 (p = 0.250 of F = 0)" in card
    assert [re.sub(r"\s+", " ", line).strip() for line in card.splitlines() if " of 2" in line] == [
        "we 0.50 1 of 2",
        "go 0.30 0 of 2",
        "no 0.10 2 of 2",
    ]
    # The likeliest way that went right, beside another that went wrong.
    assert page.locator("#ways pre").all_inner_texts() == [" we win", " go on"]
    page.get_by_label("Second continuation", exact=True).select_option(label=" no · p 0.10 · correct")
    assert page.locator("#ways pre").all_inner_texts() == [" we win", " no 8"]
    assert page.locator("#ways .facts").all_inner_texts() == ["correct. Answer: n", "correct. Answer: 8"]
    page.get_by_label("continued from here (forks)").uncheck()
    assert page.locator("#trace i.f").first.evaluate("e => getComputedStyle(e).boxShadow") == "none"
    page.keyboard.press("Escape")
    page.locator("#trace").focus()
    page.keyboard.press("Escape")
    assert not page.locator("#ways").is_visible()
    opened.check()
