"""One result, several sinks: no number is cut, no column is empty, nothing hidden gets through."""

from __future__ import annotations

import io
import math
import re
from dataclasses import replace

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from test_page import exploration

from forkwise.explore.findings import Estimate
from forkwise.explore.results import TrainingRow
from forkwise.progress import Console
from forkwise.report import explore, formats
from forkwise.report.markdown import markdown_table, paragraph
from forkwise.report.table import Table, filled
from forkwise.report.terminal import print_blocks
from forkwise.report.text import text
from forkwise.report.training import training_table


def printed(*blocks: Table | str, width: int = 20) -> list[str]:
    file = io.StringIO()
    print_blocks(blocks, Console(file=file, width=width))
    return file.getvalue().splitlines()


def test_a_terminal_that_is_too_narrow_cuts_no_number() -> None:
    name = "x" * 40
    lines = printed("Before.", Table("A caption that is longer than the line", ["", "value"], [[name, "0.123456"]]))
    assert lines[0] == "Before."
    assert "A caption that is longer than the line" in lines
    assert [line.split() for line in lines if name in line] == [["│", name, "│", "0.123456", "│"]]


def test_cells_are_as_wide_as_what_is_printed_and_very_long_ones_are_shortened() -> None:
    lines = printed(Table("c", ["\x1b[2J", "value"], [["\u202eab", "1"], ["y" * 5000, "2"]]))
    assert "⟨U+202E⟩ab" in "".join(lines)
    assert "\x1b" not in "".join(lines)
    assert len({len(line) for line in lines[2:]}) == 1
    assert max(map(len, lines)) < 250


def test_text_leaves_out_what_is_folded_and_tables_have_no_empty_column() -> None:
    (table,) = filled("c", ["", "a", "b"], [["x", "", "1"], ["y", "", ""]])
    assert (table.header, table.rows) == (["", "b"], [["x", "1"], ["y", ""]])
    assert filled("c", ["", "a"], []) == []
    said = text(["One sentence.", table, replace(table, caption="long", folded=True)])
    assert said.splitlines() == ["One sentence.", "", "c", "   b", "x  1", "y"]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (formats.percent(Estimate(0.5, 0.25, 0.75)), "50.0 [25.0, 75.0]"),
        (formats.percent(Estimate(0.5)), "50.0"),
        (formats.percent(Estimate(None)), ""),
        (formats.correlation(Estimate(0.32, -1.01, 1.65)), "0.320 [not known]"),
        (formats.correlation(Estimate(0.9, 0.7, 1.1)), "0.900 [0.700, 1.000]"),
        (formats.correlation(Estimate(-0.9, -1.1, 0.25), 2), "-0.90 [-1.00, 0.25]"),
        (formats.correlation(Estimate(0.5)), "0.500"),
        (formats.correlation(Estimate(None)), ""),
        (formats.share(0.075), "7.5"),
        (formats.share(None), ""),
        (formats.quantile(0.995), "99.5"),
        (formats.quantile(1 - 0.9), "10"),
        (formats.count(1234567), "1,234,567"),
    ],
)
def test_formats(value: str, expected: str) -> None:
    assert value == expected


def test_an_exploration_without_entropies_concludes_how_often_and_says_what_is_missing() -> None:
    run = exploration("s").runs[0]
    without = replace(
        run, entropy=None, behaviours=[replace(b, contrasts=[], mean_entropy=None) for b in run.behaviours]
    )
    assert explore.conclusion(without) == (
        "r: 2.20 pivotal tokens per response; no token entropies are there to compare their entropy with that of "
        "others."
    )
    assert explore.conclusion(run) == (
        "r: mean entropy of pivotal tokens minus others +0.250 nats, "
        "minus matched others +0.250 [+0.125, +0.500] (p 0.0040, 8% of them have a match; lexicons of other words "
        "+0.001 [-0.050, +0.060], p 0.0020)."
    )
    tables = {block.caption: block for block in explore.exploration(replace(exploration("s"), runs=[without]))
              if isinstance(block, Table)}  # fmt: skip
    assert tables["Behaviours"].header[-1] == "per 1,000 words"
    assert not any("ntropy" in caption for caption in tables)


def test_training_ends_where_its_last_five_rows_are() -> None:
    # Rewards 1 to 7: the last five have the mean 5; of the second run, 3 rows with the mean 2.
    logs = [
        [{"step": i, "reward": float(i)} for i in range(1, 8)],
        [{"step": i, "reward": float(i)} for i in (1, 2, 3)],
    ]
    (table,) = training_table(
        {"a": logs, "b": [[{"step": 2, "reward": math.nan, "shaping/capped_frac": 0.25}]], "c": []}
    )
    assert table.header == ["", "runs", "step", "reward", "at the cap"]
    assert table.rows == [["a", "2", "7", "3.500", ""], ["b", "1", "2", "nan", "0.250"], ["c", "0", "0", "", ""]]
    assert training_table({}) == []


@given(st.lists(st.sampled_from([*"ab1 _*~`#>+-=.)(&;<|[]!\\:/", "lt;"])).map("".join))
@example("[a]: b")
@example("# _a_ ~~b~~ &lt; 1")
def test_a_reader_of_markdown_shows_the_text_as_it_is(text: str) -> None:
    """markdown-it reads what was written: GitHub's tables and strikethrough, as a paragraph and as a cell."""
    reader = MarkdownIt("commonmark").enable(["table", "strikethrough"])
    words = " ".join(text.split())
    shown = reader.parse(paragraph(text))
    assert [token.type for token in shown] == (["paragraph_open", "inline", "paragraph_close"] if words else [])
    cells = reader.parse(markdown_table(Table("c", ["head"], [[text]])))
    for tokens in (shown[1:2], [token for token in cells if token.type == "inline"][-1:]):
        for token in tokens:
            assert {child.type for child in token.children or []} <= {"text", "text_special"}
            assert "".join(child.content for child in token.children or []) == words


WIDE = Table(
    "c",
    ["run", "words", *(f"column {i}" for i in range(12))],
    [[f"run {r}", "pivotal", *(f"+{r}.{i:02d}3 [-0.010, +0.250]" for i in range(12))] for r in range(3)],
    labels=2,
)


def on_a_terminal(*blocks: Table | str, width: int = 80) -> list[str]:
    file = io.StringIO()
    print_blocks(blocks, Console(file=file, width=width, force_terminal=True, color_system=None))
    return file.getvalue().splitlines()


def cells(lines: list[str]) -> list[list[str]]:
    return [[cell.strip() for cell in re.split("[│┃]", line)[1:-1]] for line in lines if line[:1] in set("│┃")]


def test_a_table_wider_than_the_terminal_goes_on_below_itself_with_the_labels_of_its_rows() -> None:
    lines = on_a_terminal(WIDE)
    assert max(map(len, lines)) <= 80
    assert [line for line in lines if line in ("c", "")] == ["", "c"]
    # 1 + (5 + 3) + (7 + 3) + 2 x (23 + 3) = 71 columns, and a third number would make it 97: so two in each of six.
    parts = [cells(lines)[4 * i : 4 * i + 4] for i in range(len(cells(lines)) // 4)]
    assert [part[0] for part in parts] == [
        ["run", "words", f"column {i}", f"column {i + 1}"] for i in range(0, 12, 2)
    ]  # fmt: skip
    for row in range(3):
        assert [part[row + 1][:2] for part in parts] == [[f"run {row}", "pivotal"]] * 6
        assert [cell for part in parts for cell in part[row + 1][2:]] == list(WIDE.rows[row][2:])


def test_in_a_pipe_a_table_is_as_wide_as_it_is() -> None:
    lines = printed(WIDE, width=80)
    assert len(cells(lines)) == 4
    assert {len(line) for line in lines[2:]} == {1 + 8 + 10 + 12 * 26}


def test_on_a_terminal_a_cell_wider_than_it_is_broken_over_lines_and_loses_nothing() -> None:
    lines = on_a_terminal(Table("c", ["", "value"], [["x" * 100, "0.123456"]]))
    assert max(map(len, lines)) <= 80
    assert "".join(row[0] for row in cells(lines)) == "x" * 100
    assert [row[1] for row in cells(lines) if row[1]] == ["value", "0.123456"]


def test_labels_that_take_more_than_half_of_the_terminal_are_broken_over_lines() -> None:
    row = ["run of a longer name", "matched, first token left out", "1" * 22, "2" * 22]
    lines = on_a_terminal(Table("c", ["", "version", "a", "b"], [row], labels=2))
    # Labels of 23 + 32 columns and a border are 56, 16 more than half of 80: the version has 13 of its 29 characters.
    assert max(map(len, lines)) <= 80
    assert sum(line.startswith("┏") for line in lines) == 2
    assert [row[1] for row in cells(lines) if row[1]][:3] == ["version", "matched,", "first token"]


def test_an_exploration_fits_a_terminal_of_80_columns() -> None:
    blocks = explore.exploration(exploration("s"))
    assert max(len(line) for line in printed(*blocks)) > 150
    assert max(len(line) for line in on_a_terminal(*blocks)) <= 80


def test_a_label_that_rows_share_stands_once_on_a_terminal() -> None:
    rows = [["a", "x", "raw", "1"], ["a", "x", "raw", "2"], ["a", "y", "raw", "3"], ["b", "y", "raw", "3"]]
    table = Table("c", ["", "of", "version", "value"], rows, labels=3)
    assert cells(on_a_terminal(table))[1:] == [
        ["a", "x", "raw", "1"],
        ["", "", "raw", "2"],
        ["", "y", "raw", "3"],
        ["b", "y", "raw", "3"],
    ]
    assert cells(printed(table, width=80))[1:] == rows
    assert cells(on_a_terminal(replace(table, labels=1)))[1:] == rows


def test_on_a_terminal_captions_and_sentences_are_broken_between_words() -> None:
    lines = on_a_terminal(
        Table("marked against others", ["", "n"], [["a", "1"]]), "One sentence of five words.", width=16
    )
    assert [line.rstrip() for line in lines[1:3]] == ["marked against", "others"]
    assert [line.rstrip() for line in lines[-2:]] == ["One sentence of", "five words."]
    path = "Written: /a/path/of/" + "x" * 30
    assert on_a_terminal(path, width=16) == [path]
    assert printed("One sentence of five words.", width=16) == ["One sentence of five words."]


def test_no_two_columns_of_a_table_of_an_exploration_share_a_name() -> None:
    one = exploration("s")
    point = TrainingRow("r", 1, 9, 0.5, 50.0, "words", 0.5, 4, 2.0, 40.0, 0.7, 3, 1.5, 0.1, 0.6, 0.2)
    blocks = explore.exploration(replace(one, series=[point, point]))
    headers = {block.caption: list(block.header) for block in blocks if isinstance(block, Table)}
    assert {"Over runs or training", "Does the response depend on its prompt?"} <= headers.keys()
    assert [caption for caption, header in headers.items() if len(header) != len(set(header))] == []
