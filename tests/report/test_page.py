"""The page asks for nothing, says what the numbers say, and text from anywhere stays text."""

from __future__ import annotations

import base64
import hashlib
import itertools
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import made
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from typer.testing import CliRunner

from forkwise.cli import app
from forkwise.errors import InputError
from forkwise.explore import findings
from forkwise.explore import results as explored
from forkwise.passk import compare, load_arm, make_arm
from forkwise.report.command import run_report, write_report
from forkwise.report.content import gather
from forkwise.report.figures import figures, training_figure
from forkwise.report.page import SECTIONS, render
from forkwise.report.passk import overview
from forkwise.report.passk_figures import comparison_figure
from forkwise.report.problems import short_name
from forkwise.report.sources import Shaping, find_sources
from forkwise.report.text import summary
from forkwise.samples import write_shard


class Document(HTMLParser):
    """Elements, attributes, and the text of scripts and styles."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, list[str]] = {}
        self.words: list[str] = []
        self._inside: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag in ("script", "style"):
            self._inside.append(tag)
            self.texts.setdefault(tag, []).append("")

    def handle_endtag(self, tag: str) -> None:
        if self._inside and tag == self._inside[-1]:
            self._inside.pop()

    def handle_data(self, data: str) -> None:
        if self._inside:
            self.texts[self._inside[-1]][-1] += data
        else:
            self.words.append(data)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made.experiment(tmp_path_factory.mktemp("report") / "run")


def hostile_folder(folder: Path) -> Path:
    """Everything that a file or a model can bring, hostile."""
    h = made.HOSTILE
    rows = [
        made.sample(
            h,
            f"{h}{q}",
            i,
            correct=i % 2 == 0,
            tokens=[h, " so", f" wait {h}.\n", h],
            prompt=h,
            entropies=[2.0, 0.1, 1.0, 3.0],
        )
        for q in range(2)
        for i in range(2)
    ]
    for row in rows:
        row["top_logprobs"] = [[{"token": h, "logprob": -0.1}, {"token": f"{h}2", "logprob": -1.0}]] * 4
        row["finish_reason"] = h
    write_shard(folder / "samples" / "base", "0000", rows)
    write_shard(
        folder / "samples" / "other", "0000", [{**row, "run": "other", "completion": h, "tokens": None} for row in rows]
    )
    made.metrics(folder / "arms" / "x-seed0")
    with (folder / "arms" / "x-seed0" / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"step": 13, "reward": h, h: 1.0}) + "\n")
    record = {
        "conclusion": f"{h}\ud800",
        "settings": {"title": h, "alpha": h, "arms": [{h: h}]},
        "runs": {f"{h}\udfff": ["x-seed0"], "base": [h], "other": ["other"]},
    }
    (folder / "results.json").write_text(json.dumps(record), encoding="utf-8")
    return folder


def test_the_page_is_one_file_that_names_no_other(folder: Path) -> None:
    text = render(gather(find_sources([folder])))
    document = Document(text)
    for tag, attributes in document.tags:
        assert tag not in ("iframe", "object", "embed", "base", "form", "img", "video", "audio")
        assert not any(name.startswith("on") or name in ("src", "srcset", "style", "action") for name in attributes)
        if "href" in attributes:
            assert re.match(r"#|data:,$", attributes["href"] or "")
    ids = [attributes["id"] for _, attributes in document.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert set(SECTIONS) <= set(ids)
    assert not re.search(r"@import|url\((?!data:)", "".join(document.texts["style"]))
    assert len(text.encode()) < 1_000_000


def test_the_policy_holds_the_hash_of_every_script_and_style_and_allows_nothing_else(folder: Path) -> None:
    document = Document(render(gather(find_sources([folder]))))
    (policy,) = (a["content"] or "" for _, a in document.tags if a.get("http-equiv") == "Content-Security-Policy")
    directives = {part.split()[0]: part.split()[1:] for part in policy.split("; ")}
    assert directives["default-src"] == ["'none'"]
    assert "connect-src" not in directives
    kinds = [a.get("type") for tag, a in document.tags if tag == "script"]
    code = [text for kind, text in zip(kinds, document.texts["script"], strict=True) if kind is None]
    for name, texts in (("script-src", code), ("style-src", document.texts["style"])):
        hashes = {f"'sha256-{base64.b64encode(hashlib.sha256(t.encode()).digest()).decode()}'" for t in texts}
        assert set(directives[name]) == hashes


def test_hostile_text_adds_no_element_to_the_page(tmp_path: Path, folder: Path) -> None:
    ours = {tag for tag, _ in Document(render(gather(find_sources([folder])))).tags}
    text = render(gather(find_sources([hostile_folder(tmp_path / "run")])))
    text.encode("utf-8")
    document = Document(text)
    assert {tag for tag, _ in document.tags} <= ours | {"details", "summary", "ul", "li"}
    assert not any(name.startswith("on") for _, attributes in document.tags for name in attributes)
    shown = "".join(document.words)
    assert "<script>window.pwned=1</script>" in shown  # as text
    assert "⟨U+202E⟩" in shown
    assert "⟨U+D800⟩" in shown
    assert "⟨U+0000⟩" in shown
    assert "{{ 7*7 }}" in shown  # no second round through the template
    for character in "\u202e\u2028\x00\x1b\ud800":
        assert character not in text
    kinds = [a.get("type") for tag, a in document.tags if tag == "script"]
    data = [
        json.loads(t) for kind, t in zip(kinds, document.texts["script"], strict=True) if kind == "application/json"
    ]
    assert data[0]["traces"]["arms"]
    for kind, script in zip(kinds, document.texts["script"], strict=True):
        if kind == "application/json":
            assert not set("<>&") & set(script)


def test_the_numbers_are_those_of_compare(folder: Path) -> None:
    content = gather(find_sources([folder]))
    samples = folder / "samples"
    plain, shaped = (load_arm(samples / run, name=run) for run in ("grpo-seed0", "grpo-entropy-advantage-seed0"))
    expected = compare(plain, shaped, ks=[1, 2, 4, 8]).differences[0]
    assert content.comparison is not None
    (difference,) = content.comparison.differences
    assert (difference.reference, difference.arm) == ("GRPO", "GRPO + entropy advantage")  # base is not compared
    np.testing.assert_allclose(difference.interval.mean, expected.interval.mean)
    np.testing.assert_allclose(difference.adjusted_p, expected.adjusted_p)
    assert [e.arm for e in content.evaluations] == ["base", "GRPO", "GRPO + entropy advantage"]
    (table,) = overview(content.evaluations, content.comparison)
    names = [row[0] for row in table.rows]
    i = names.index("GRPO + entropy advantage − GRPO")
    # Beside an adjusted p stands the band, not the pointwise interval.
    low, high = expected.band.low[0], expected.band.high[0]
    assert table.rows[i][1] == f"{expected.interval.mean[0]:+.3f} [{low:+.3f}, {high:+.3f}]"
    assert names[i + 1] == "  adjusted p"
    assert content.conclusion == ["No evidence of a difference."]  # what the run itself concluded
    assert content.shaping == {
        **{"base": None, "GRPO": Shaping(0.0, 2.5), "GRPO + entropy advantage": Shaping(0.3, 2.5)}
    }


def test_the_charts_hold_every_arm_control_and_seed(tmp_path: Path) -> None:
    text = render(gather(find_sources([made.experiment(tmp_path / "run", seeds=2, samples=32)])))
    data = json.loads(Document(text).texts["script"][0])
    views = {view["name"].split(":")[0].split(" ")[0]: view for view in data["passk"]["views"]}
    assert set(views) == {"none", "cap", "budget", "matched"}
    assert [line["arm"] for line in views["none"]["values"]] == ["base", "GRPO", "GRPO + entropy advantage"]
    assert views["none"]["values"][0]["x"] == [1, 2, 4, 8, 16, 32]
    assert views["none"]["points"]
    unknown, plain, shaped = data["traces"]["shaping"]
    assert (unknown["alpha"], unknown["kappa"]) == (0.4, 2.0)  # the paper's
    assert unknown["said"].startswith("Nobody knows how this model was trained")
    assert (plain["alpha"], plain["said"]) == (0.0, "This arm was trained without the entropy advantage: α is 0.")
    assert (shaped["alpha"], shaped["kappa"]) == (0.3, 2.5)
    assert views["cap"]["ks"] == [1, 8, 32]
    assert len(views["cap"]["values"]) == 9
    reward = next(panel for panel in data["training"] if panel["label"].startswith("reward"))
    assert [line.get("thin", False) for line in reward["lines"]] == [True, True, False] * 2
    assert data["traces"]["runs"]
    assert data["entropy"]["above"][0]["mean"][0] == 1.0


def test_problems_are_listed_with_counts_differences_and_links(tmp_path: Path) -> None:
    prompt = "A long preamble that all prompts have in common. What is"
    right = {"plain": [2, 1, 0], "shaped": [0, 1, 3]}  # of 4, of problems a=b&c, p1, p2
    ids = ["a=b&c", "p1", "p2"]
    for run, numbers in right.items():
        rows = [
            made.sample(run, ids[q], i, correct=i < n, completion="x", prompt=f"{prompt} {q} + {q}?")
            for q, n in enumerate(numbers)
            for i in range(4)
        ]
        rows[0]["correct"] = None if run == "shaped" else True  # a sample without a verdict is not counted
        write_shard(tmp_path / run, "0000", rows)
    content = gather(find_sources([tmp_path / "plain", tmp_path / "shaped"]))
    page = render(content)
    section = page[page.index('<section id="problems">') : page.index('<section id="traces">')]
    rows_of_text = [re.findall(r">([^<>]+)</(?:a|t[dh])>", row) for row in re.findall("<tr>.*?</tr>", section)[1:]]
    assert rows_of_text == [
        ["… 2 + 2?", "0/4", "3/4", "+0.750"],
        ["… 1 + 1?", "1/4", "1/4", "+0.000"],
        ["… 0 + 0?", "2/4", "0/3", "-0.500"],
    ]
    assert re.findall('data-value="([^"]*)"', section)[-3:] == ["0.5", "0.0", "-0.5"]
    assert re.findall('href="([^"]*)"', section) == ["#problem=p2", "#problem=p1", "#problem=a%3Db%26c"]
    assert 'scope="col" aria-sort="descending"><button type="button">shaped − plain<' in section
    # Of a problem of which no trace is shown there is no link.
    page = render(gather(find_sources([tmp_path / "plain", tmp_path / "shaped"]), trace_bytes=0))
    assert "0 + 0?" in page
    assert "#problem=" not in page[: page.index("<script")]


def test_names_that_are_cut_stay_distinct() -> None:
    assert short_name("p 1") == "p 1"
    long = ["x" * 100 + f"{i}" + "y" * 100 for i in range(50)]
    assert len({short_name(name) for name in long}) == 50
    assert all(len(short_name(name)) <= 60 for name in long)
    assert short_name("a\x1b") != short_name("a⟨U+001B⟩")  # which the first one is shown as


def test_parts_that_there_is_nothing_for_say_so(tmp_path: Path) -> None:
    training = render(gather(find_sources([made.metrics(tmp_path / "train")])))
    said = " ".join(Document(training).words)
    assert "No Pass@K" in said
    assert "No token entropies" in said
    assert "No samples were given" in said
    assert "went from reward 0.160 to 0.300" in said  # means of 0.12..0.20 and of 0.26..0.34
    assert "no evidence about a method" in said
    unscored = [made.sample("r", f"p{q}", 0, correct=None, completion="text") for q in range(3)]
    write_shard(tmp_path / "samples", "0000", unscored)
    content = gather(find_sources([tmp_path / "samples"]))
    assert content.evaluations == []
    assert any("forkwise verify" in note for note in content.notes)
    assert content.traces is not None
    assert content.traces.shown == 3
    render(content)
    one = [made.sample("r", "p", i, completion="text") for i in range(3)]
    write_shard(tmp_path / "one", "0000", one)
    assert any("at least two problems" in note for note in gather(find_sources([tmp_path / "one"])).notes)


def test_arms_over_different_problems_are_shown_and_the_refusal_is_too(tmp_path: Path) -> None:
    for run in ("a", "b"):
        rows = [made.sample(run, f"{run}{q}", i, correct=i == 0, completion="x y") for q in range(3) for i in range(2)]
        write_shard(tmp_path / run, "0000", rows)
    content = gather(find_sources([tmp_path / "a", tmp_path / "b"]))
    assert content.comparison is None
    assert any(note.startswith("The arms are not compared") for note in content.notes)
    assert "Nothing is compared here" in content.conclusion[0]
    render(content)


def test_the_text_summary_holds_conclusion_and_numbers_and_no_control_characters(tmp_path: Path, folder: Path) -> None:
    said = summary(gather(find_sources([folder])))
    assert "No evidence of a difference." in said
    assert re.search(r"^GRPO \+ entropy advantage − GRPO .*\[", said, re.MULTILINE)
    hostile = summary(gather(find_sources([hostile_folder(tmp_path / "run")])))
    assert not re.search(r"[\x00-\x09\x0b-\x1f\u202e]", hostile)


def test_the_command_writes_page_figures_and_summary(folder: Path, tmp_path: Path) -> None:
    page, figures = tmp_path / "page.html", tmp_path / "figures"
    result = CliRunner().invoke(app, ["report", str(folder), "--out", str(page), "--figures", str(figures), "--text"])
    assert result.exit_code == 0, result.output
    assert "No evidence of a difference." in result.output
    assert str(page) in result.output
    for name in ("passk", "training", "entropy"):
        assert (figures / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert "<svg" in (figures / f"{name}.svg").read_text()
    assert page.read_text(encoding="utf-8").startswith("<!doctype html>")


def test_the_command_opens_what_it_wrote(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    monkeypatch.setattr("webbrowser.open", lambda address: bool(opened.append(address)) or True)
    run_report([folder], out=tmp_path, figure_folder=None, text=False, open_page=True)
    assert opened == [(tmp_path / "report.html").resolve().as_uri()]


def test_a_foreign_file_is_not_overwritten_unasked(tmp_path: Path) -> None:
    run = made.metrics(tmp_path / "run")
    (run / "report.html").write_text("<html>mine</html>")
    with pytest.raises(InputError, match="was not written by forkwise"):
        run_report([run], out=None, figure_folder=None, text=False, open_page=False)
    write_report([run], run / "report.html")
    run_report([run], out=None, figure_folder=None, text=False, open_page=False)  # its own is
    with pytest.raises(InputError, match=r"ends with \.html"):
        run_report([run], out=tmp_path / "x.pdf", figure_folder=None, text=False, open_page=False)


def test_a_flag_limits_the_traces(folder: Path, tmp_path: Path) -> None:
    sizes = {}
    for limit in ("0", "0.005", "2", "inf"):
        page = tmp_path / f"{limit}.html"
        result = CliRunner().invoke(app, ["report", str(folder), "--out", str(page), "--trace-mb", limit])
        assert result.exit_code == 0, result.output
        sizes[limit] = sum(map(len, re.findall(r'id="chunk-\d+">([^<]*)<', page.read_text())))
    assert sizes["0"] == 0
    assert "No trace fits into the page" in (tmp_path / "0.html").read_text()
    assert 0 < sizes["0.005"] <= 5_000 + 10 * 2  # quotation marks
    assert sizes["2"] > 8_000
    assert sizes["inf"] == sizes["2"]  # all of them


def exploration(samples: str, run: str = "r", **more: Any) -> explored.Exploration:
    """A small exploration made by hand."""
    estimate = findings.Estimate(0.25, 0.125, 0.5)
    null = findings.PlaceboNull(0.001, -0.05, 0.06, 0.002, 500)
    contrasts = [
        findings.Contrast(version, strata, 40, 400, supported, 9, 0.75, 0.5, estimate, 0.004, estimate, null)
        for version, strata, supported in (("raw", "", 1.0), ("matched", "same tenth of the trace", 0.076))
    ]
    histogram = findings.Histogram([0.0, 1.0, 2.0], [30, 10])
    entropy = findings.EntropySummary(
        *("stored", 40, estimate, None, None, None, None, 0.8, 1.5, histogram, histogram),
        relative_profile=[
            findings.ProfilePoint(0, 0.5, 20, 0.4, 0.3, 0.5),
            findings.ProfilePoint(0.5, 1, 20, 0.2, 0.1, 0.3),
        ],
        absolute_profile=[],
        sentence_profile=[],
        types=[findings.TokenType("word", 30, 0.5, 0.25)],
        forks=[
            findings.ForkToken("wait", 12, 9, 6.6, 1.75, True),
            findings.ForkToken(made.HOSTILE, 4, 2, 1.2, 1.5, False),
        ],
    )
    group = findings.RareGroup("top 10 %", 5, *(findings.Estimate(0.1),), 9.1, 14.4, *[estimate] * 4)
    rarity = findings.Rarity(
        *("encoder", 5, 0.9, 50, 40, 60, 55, 9, 30, "sample", 0.5, 0.4, estimate, 0.6, histogram, histogram),
        groups=[group],
        rare=[findings.SentenceSpan(run, "p0", 0, 0, 4, 0.9, True)],
        farthest=["a rare sentence"],
    )
    dependence = findings.Dependence(
        *("text", 9, 90, estimate, 2.197, True, [findings.Retrieval(1, estimate, 0.111)], 0.001, 0.001, 999, 0.001)
    )
    explored_run = explored.RunExploration(
        *(run, "model", 18, 0, 9, 900, 50, entropy),
        behaviours=[findings.Behaviour("pivotal", "token", 40, 440, 2.2, 44.4, contrasts, {}, ["wait"], 0.75)],
        entries=[findings.Entry("wait", "contrastive", 9, 5, 1.7, *[estimate] * 3, 0.9, 0.01, null, 0.02)],
        rarity=rarity,
        dependence=[dependence],
        without_tokens=2,
    )
    content = explored.Exploration(
        *([samples], [samples], [], {}, "other.yaml 00000000", "other", [], [explored_run], []), forkwise="0.1"
    )
    return replace(content, **more)


def test_bounds_beside_exact_entropies_of_another_temperature_are_refused(tmp_path: Path) -> None:
    for name, source, at in (("server", "top-k", 1.0), ("cool", "stored", 0.6)):
        runs = exploration("s", run=name)
        (run,) = runs.runs
        entropy = replace(run.entropy, source=source, temperatures=[at])
        explored.write(tmp_path / name, replace(runs, runs=[replace(run, entropy=entropy)]))
    with pytest.raises(InputError, match=r"bounds .* at temperature 1, and those of 'cool' exact at temperature 0\.6"):
        gather(find_sources([tmp_path / "server", tmp_path / "cool"]))


def test_an_exploration_fills_its_sections_and_marks_rare_sentences(tmp_path: Path) -> None:
    rows = [
        made.sample("r", f"p{q}", i, correct=i == 0, tokens=["So", " we", " wait"]) for q in range(9) for i in range(2)
    ]
    write_shard(tmp_path / "samples", "0000", rows)
    explored.write(tmp_path / "explored", exploration(str(tmp_path / "samples")))
    content = gather(find_sources([tmp_path / "explored"]))  # the samples are found through it
    assert [e.arm for e in content.evaluations] == ["r"]
    said = " ".join(" ".join(Document(render(content)).words).split())
    for expected in (
        "+0.250 [+0.125, +0.500]",
        "+0.001 [-0.050, +0.060]",
        "fork tokens, more often above 1.500 nats than tokens on the whole",
        "a rare sentence",
        "saturated",
        "minus matched others +0.250 [+0.125, +0.500] (p 0.0040, 8% of them have a match; lexicons of other words "
        "+0.001 [-0.050, +0.060], p 0.0020)",
        "r: 2 of 18 samples have no token data",
        "Traces are marked with forkwise's own lexicon.yaml",
    ):
        assert expected in said, expected
    assert content.distributions["r"].threshold == 1.5
    # Of 40 tokens 10 are in [1, 2).
    assert dict(zip(content.distributions["r"].above_x, content.distributions["r"].above, strict=True))[1.0] == 0.25
    text = summary(content)
    assert "matched" in text
    assert "wait" in text
    data = json.loads(Document(render(content)).texts["script"][0])
    assert {line["name"] for line in data["behaviours"]["lines"]} == {"r, raw", "r, matched", "r, null"}
    assert data["traces"]["thresholds"] == [1.5]


def test_an_exploration_whose_samples_are_gone_is_shown_without_traces(tmp_path: Path) -> None:
    explored.write(tmp_path, exploration(str(tmp_path / "gone")))
    content = gather(find_sources([tmp_path]))
    assert content.traces is None
    assert any("not there any more" in note for note in content.notes)
    render(content)


def test_training_figure_draws_the_mean_over_seeds_at_common_steps() -> None:
    runs = [
        [{"step": 1, "reward": 0.0}, {"step": 2, "reward": 1.0}, {"step": 3, "reward": 1.0}],
        [{"step": 1, "reward": 1.0}, {"step": 2, "reward": 0.0}],  # this seed has not got to step 3
    ]
    figure = training_figure({"arm": runs}, window=1)
    lines = figure.axes[0].get_lines()
    assert [list(line.get_ydata()) for line in lines] == [[0.0, 1.0], [1.0, 0.0], [0.5, 0.5]]
    assert list(lines[-1].get_xdata()) == [1, 2]


def test_lines_of_many_arms_can_be_told_apart() -> None:
    runs = [[{"step": s, "reward": 0.5} for s in range(3)]] * 2
    figure = training_figure({f"arm {i}": runs for i in range(20)})
    styles = {(line.get_color(), line._unscaled_dash_pattern) for line in figure.axes[0].get_lines()}  # type: ignore[attr-defined]
    assert len(styles) == len(figure.axes[0].get_lines()) == 20
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [f"arm {i}" for i in range(20)]


def test_what_was_explored_by_hand_takes_the_place_of_what_the_experiment_explored(tmp_path: Path) -> None:
    folder = made.experiment(tmp_path / "run")
    own = exploration("samples", run="grpo-seed0")
    explored_run = own.runs[0]
    other = replace(explored_run, run="base")
    explored.write(folder / "explore", replace(own, runs=[replace(explored_run, words=1), other]))
    explored.write(tmp_path / "by-hand", replace(own, runs=[replace(explored_run, words=2)]))
    content = gather(find_sources([folder, tmp_path / "by-hand"]))
    assert {(run.run, run.words) for run in content.explored()} == {("base", explored_run.words), ("GRPO", 2)}
    assert {run.words for run in gather(find_sources([folder])).explored()} == {1, explored_run.words}


def test_an_arm_has_the_same_colour_and_dashes_in_the_page_and_in_every_picture(tmp_path: Path) -> None:
    folder = made.experiment(tmp_path / "run", samples=16)
    explored.write(tmp_path / "x", exploration(str(folder / "samples" / "grpo-seed0"), run="grpo-seed0"))
    content = gather(find_sources([folder, tmp_path / "x"]))
    page = Document(render(content))
    data = json.loads(page.texts["script"][0])
    light = page.texts["style"][-1].split(":root.dark")[0]
    css = [re.search(rf"--arm{i}: (#\w+)", light)[1] for i in range(3)]  # type: ignore[index]
    assert data["arms"] == ["base", "GRPO", "GRPO + entropy advantage"]
    looks_of = {arm: (css[i], tuple(data["dashes"][i])) for i, arm in enumerate(data["arms"])}
    assert len(set(looks_of.values())) == len({dash for _, dash in looks_of.values()}) == 3
    seen = set()
    for name, figure in figures(content).items():
        for axis in figure.axes:
            for line in axis.get_lines():
                if line.get_label() in looks_of:
                    # Matplotlib's dashes are in widths of the line, which is 2 pixels wide.
                    dash = tuple(round(2 * x) for x in line._unscaled_dash_pattern[1] or ())  # type: ignore[attr-defined]
                    assert (line.get_color(), dash) == looks_of[str(line.get_label())], name
                    seen.add((name, line.get_label()))
    assert {name for name, _ in seen} == {"passk", "training", "entropy"}
    assert ("training", "GRPO") in seen


def test_no_label_of_a_picture_is_cut_or_runs_into_another(tmp_path: Path) -> None:
    folder = made.experiment(tmp_path / "run", samples=16)
    content = gather(find_sources([folder]))
    rng = np.random.default_rng(0)
    problem = np.repeat(["p", "q", "r"], 8)
    arms = [make_arm(arm, problem, rng.random(24) < 0.5, length=rng.integers(9, 110, 24)) for arm in ("a", "b")]
    close = comparison_figure(
        compare(*arms, caps=[10, 72, 79, 85, 87, 89, 104], resamples=50), caption="Three problems"
    )
    assert len(close.axes[2].get_xticks()) == 7
    for name, figure in [*figures(content).items(), ("close caps", close)]:
        FigureCanvasAgg(figure).draw()
        whole = figure.bbox
        for axis in figure.axes:
            for ticks in (axis.get_xticklabels(), axis.get_yticklabels()):
                boxes = [tick.get_window_extent() for tick in ticks if tick.get_text() and tick.get_visible()]
                assert not any(a.overlaps(b) for a, b in itertools.pairwise(boxes)), name
            titles = [axis.title, axis.xaxis.label, axis.yaxis.label]
            for text in (text for text in titles if text.get_text()):
                box = text.get_window_extent()
                assert whole.x0 <= box.x0 < box.x1 <= whole.x1, (name, text.get_text())
                assert whole.y0 <= box.y0 < box.y1 <= whole.y1, (name, text.get_text())
        heads = [text.get_window_extent() for text in [*(axis.title for axis in figure.axes), *figure.texts]]
        heads = [box for box in heads if box.width > 1]
        assert not any(a.overlaps(b) for a, b in itertools.combinations(heads, 2)), name


def test_an_exploration_beside_a_run_changes_nothing_about_the_comparison(folder: Path, tmp_path: Path) -> None:
    explored.write(tmp_path, exploration(str(folder / "samples" / "grpo-seed0"), run="grpo-seed0"))
    content = gather(find_sources([folder, tmp_path]))
    assert content.title == "forkwise: quickstart"
    assert content.conclusion[0] == "No evidence of a difference."
    assert content.comparison is not None
    assert [d.reference for d in content.comparison.differences] == ["GRPO"]
    # What was found about a run goes by the name of the arm that it is.
    assert [run.run for run in content.explored()] == ["GRPO"]
    assert content.distributions["GRPO"].tokens == 40
    assert content.arms() == ["base", "GRPO", "GRPO + entropy advantage"]
