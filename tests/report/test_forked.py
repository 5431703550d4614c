"""What `forkwise forks` measured, in the traces of the page: values along a sample, and where the ways lead."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import made
import pytest
from test_traces import unpack

from forkwise.forks import results
from forkwise.forks.sentence_results import SentenceRow
from forkwise.forks.stored import read_continued
from forkwise.forks.ways import ways_of
from forkwise.report.content import gather
from forkwise.report.forked import ChanceAt, measured
from forkwise.report.selection import ListedSample, choose
from forkwise.report.sources import find_source

ROW = made.sample("r", "p", 3, tokens=["So", " we", " go"], correct=False)


def of_sample(folder: Path, by_sentence: Any = ()) -> Any:
    notes: list[str] = []
    return measured([(folder / "forks.json", results.read(folder))], by_sentence, notes)["r", "p", 3], notes


def test_each_way_has_a_continuation_of_every_verdict(tmp_path: Path) -> None:
    (state,) = read_continued(made.forked(tmp_path, ROW), 1)
    ways = ways_of(state, 5)
    assert [(w.token, w.probability, w.continuations, w.right, w.forced) for w in ways] == [
        (" we", 0.5, 2, 0.5, True),
        (" go", 0.3, 2, 0.0, True),
        (" no", 0.1, 2, 1.0, False),
    ]
    state = replace(state, answers=["8", "9", "9", None, "8", "8"])
    # Of two continuations each; the first of equally frequent answers comes first.
    assert [w.answers for w in ways_of(state, 5)] == [["8", "9"], ["9", None], ["8"]]
    # The first of each verdict, five characters of it.
    assert [[(end.text, end.correct) for end in w.ends] for w in ways] == [
        [(" we w", True), (" we l", False)],
        [(" go o", False)],
        [(" no 8", True)],
    ]


def test_values_and_states_are_packed_with_their_trace(tmp_path: Path) -> None:
    content = gather([find_source(made.forked(tmp_path, ROW))])
    assert content.traces is not None  # the samples that lie beside the results
    (trace,) = unpack(content.traces)
    assert trace["v"] == [[1, 450, 100]]
    (state,) = trace["f"]
    assert (state["at"], state["v"], state["e"], state["F"], state["p"]) == (1, 0.45, 0.1, 0.0321, 0.25)
    words = trace["words"]
    assert [(words[w["t"]], w["p"], w["n"], w["right"]) for w in state["ways"]] == [
        (" we", 0.5, 2, 0.5),
        (" go", 0.3, 2, 0.0),
        (" no", 0.1, 2, 1.0),
    ]
    assert [(words[text], words[answer], right) for text, answer, right in state["ways"][0]["ends"]] == [
        (" we win", "n", True),
        (" we lose", "e", False),
    ]
    assert content.traces.index["rows"]["known"] == [1]


def test_without_the_continuations_the_page_says_so(tmp_path: Path) -> None:
    folder = made.forked(tmp_path, ROW)
    shutil.rmtree(folder / "continuations")
    sample, notes = of_sample(folder)
    assert (sample.states, sample.values) == ([], [ChanceAt(1, 0.45, 0.1)])
    assert "not beside it any more" in notes[0]


def test_where_sentences_know_a_value_better_theirs_counts(tmp_path: Path) -> None:
    rows = [
        SentenceRow("p", 3, i, "", False, before, 0.0, 0.0, position, error)
        for i, (position, before, error) in enumerate([(0, 0.5, 0.2), (1, 0.4, 0.05), (2, 0.3, 0.1)])
    ]
    sample, _ = of_sample(made.forked(tmp_path, ROW), [SimpleNamespace(run="r", sentences=rows, points=[])])
    assert sample.values == [ChanceAt(0, 0.5, 0.2), ChanceAt(1, 0.4, 0.05), ChanceAt(2, 0.3, 0.1)]


def test_samples_that_were_continued_are_shown_first() -> None:
    def some(problem: str, i: int, known: bool) -> ListedSample:
        return ListedSample(
            0, ("r", problem, i), correct=i % 2 == 0, n_tokens=5, advantage=0.0, traced=True, measured=known
        )

    samples = [some(p, i, known=(p, i) in {("c", 3), ("c", 2), ("d", 5)}) for p in "abcde" for i in range(6)]
    assert [s.key[1:] for s in choose(samples, 2, 2)] == [("c", 2), ("c", 3), ("d", 0), ("d", 5)]
    assert {s.key[1] for s in choose(samples, 3, 1)} == {"a", "c", "d"}


@pytest.mark.parametrize("name", ["forks.json", "sentences.json", "credit.json"])
def test_a_result_file_can_be_given_alone(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("{}")
    source = find_source(tmp_path / name)
    assert [*source.forks, *source.sentences, *source.credit] == [tmp_path / name]
