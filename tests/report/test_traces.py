"""Which traces are shown, and that what is packed is what was stored."""

from __future__ import annotations

import base64
import gzip
import json
import math
import random
import re
from pathlib import Path
from typing import Any

import made
import pytest
from hypothesis import given
from hypothesis import strategies as st

from forkwise import progress
from forkwise.explore.lexicon import load_lexicon, load_reflective
from forkwise.report import traces as traces_module
from forkwise.report.distributions import stored_entropies
from forkwise.report.selection import ListedSample, _advantage, choose, list_samples
from forkwise.report.sources import find_source
from forkwise.report.trace import Marker, _ranges, render_trace
from forkwise.report.traces import Traces, pack_traces
from forkwise.samples import write_shard
from forkwise.terminal import one_line, visible

MARKER = Marker(load_lexicon(), load_reflective())


def unpack(traces: Traces) -> list[dict[str, Any]]:
    """The traces with their words in place, in the order of the index."""
    chunks = [json.loads(gzip.decompress(base64.b64decode(chunk))) for chunk in traces.chunks]
    values = []
    rows = traces.index["rows"]
    for chunk, place in zip(rows["chunk"], rows["place"], strict=True):
        trace = chunks[chunk]["traces"][place]
        values.append(
            {**trace, "text": [chunks[chunk]["words"][w] for w in trace["t"]], "words": chunks[chunk]["words"]}
        )
    return values


def pack(folder: Path, rows: list[dict[str, Any]], *, limit: int = 1_000_000, marker: Marker = MARKER) -> Traces:
    write_shard(folder, "0000", rows)
    arms = find_source(folder).samples
    traced = {a: stored_entropies(arm)[1] for a, arm in enumerate(arms)}
    return pack_traces(arms, list_samples(arms, traced), marker, limit=limit)


def test_the_advantage_is_that_of_the_group() -> None:
    # Rewards 1, 0, 0, 0: mean 1/4, unbiased variance (9/16 + 3/16) / 3 = 1/4, std 1/2.
    assert _advantage(True, [True, False, False, False]) == pytest.approx(0.75 / 0.5001)
    assert _advantage(False, [True, False, False, False]) == pytest.approx(-0.25 / 0.5001)
    assert _advantage(True, [True, True]) == 0
    assert _advantage(True, [True]) == 0
    assert _advantage(None, [True, False]) is None


def test_the_advantage_agrees_with_the_one_that_trains() -> None:
    torch = pytest.importorskip("torch")
    from forkwise.core.advantages import group_advantages

    group = [True, False, False, True, True]
    expected = group_advantages(torch.tensor(group, dtype=torch.float64), 5).tolist()
    assert [_advantage(r, group) for r in group] == pytest.approx(expected, rel=1e-12)


def test_the_threshold_of_stored_entropies_is_right_in_every_digit_that_is_shown(tmp_path: Path) -> None:
    # Four of five values lie at .4033 or below, so that is the 80 % quantile.
    row = made.sample("r", "p", 0, tokens=list("abcde"), entropies=[0.1, 0.2, 0.3, 0.4033, 1.7], top=True)
    write_shard(tmp_path, "0000", [row])
    distribution, _ = stored_entropies(find_source(tmp_path).samples[0])
    assert distribution is not None
    assert f"{distribution.threshold:.3f}" == "0.403"


def test_samples_are_chosen_right_and_wrong_in_turn_and_with_entropies_first() -> None:
    def some(i: int, correct: bool, traced: bool) -> ListedSample:
        return ListedSample(0, ("r", "p", i), correct, 10, 0.0, traced)

    samples = [
        some(0, False, False),
        *(some(i, False, True) for i in range(1, 6)),
        some(6, True, True),
        some(7, True, True),
    ]
    # In turn: wrong 1, right 6, wrong 2, right 7; then wrong 3, ...; 0 has no entropies and comes last.
    assert [s.key[2] for s in choose(samples, 1, 2)] == [1, 6]
    assert [s.key[2] for s in choose(samples, 1, 4)] == [1, 2, 6, 7]
    assert [s.key[2] for s in choose(samples, 1, 7)] == [1, 2, 3, 4, 5, 6, 7]
    assert choose(samples, 0, 3) == []


def test_problems_are_spread_evenly() -> None:
    samples = [ListedSample(0, ("r", f"p{q}", 0), True, 1, 0.0, False) for q in range(9)]
    assert [s.key[1] for s in choose(samples, 3, 1)] == ["p0", "p4", "p8"]


def test_what_is_packed_is_what_was_stored(tmp_path: Path) -> None:
    tokens = ["So", " we", " wait", ":\n", "3", "é", "</s>"]
    entropies = [0.0, 0.5, 1.2344, 2.0, 0.25, 0.125, 3.0]
    row = made.sample("r", "p", 3, tokens=tokens, completion="So we wait:\n3é", entropies=entropies, top=True)
    (trace,) = unpack(
        pack(tmp_path, [row, made.sample("r", "p", 4, correct=False, completion="none here", prompt="P")])
    )[:1]
    assert trace["text"] == tokens
    assert trace["h"] == [0, 500, 1234, 2000, 250, 125, 3000]
    assert trace["l"][1] == -250
    # The alternative at log p = -20 is left out.
    first = trace["a"][0]
    assert [(trace["words"][first[j]], first[j + 1]) for j in (0, 2)] == [("So", -300), (" else", -1500)]
    assert len(first) == 4
    assert trace["p"][0] == [0, 1]  # "So"
    assert trace["words"][trace["prompt"]] == "use 3 5 to make 8 :"


def test_words_stand_in_where_there_are_no_tokens(tmp_path: Path) -> None:
    text = "  First this.\nWait, let me check that again.  So 7."
    (trace,) = unpack(pack(tmp_path, [made.sample("r", "p", 0, completion=text)]))
    assert "".join(trace["text"]) == text
    assert trace["h"] is None
    assert [trace["text"][i] for a, b in trace["p"] for i in range(a, b)] == ["First ", "So "]
    (sentence,) = trace["r"]
    assert "".join(trace["text"][slice(*sentence)]) == "Wait, let me check that again.  "


def test_a_null_among_the_tokens_leaves_the_words(tmp_path: Path) -> None:
    (trace,) = unpack(pack(tmp_path, [made.sample("r", "p", 0, tokens=["So ", None], completion="So 7.")]))
    assert trace["text"] == ["So ", "7."]
    assert trace["h"] is None
    assert "null" in trace["note"]


def test_tokens_that_do_not_join_to_the_text_are_shown_as_stored(tmp_path: Path) -> None:
    (trace,) = unpack(pack(tmp_path, [made.sample("r", "p", 0, tokens=["a", "b"], completion="something else")]))
    assert trace["text"] == ["a", "b"]
    assert "do not join" in trace["note"]
    assert trace["p"] == trace["r"] == []


def test_rare_sentences_are_marked_by_their_place(tmp_path: Path) -> None:
    marker = Marker(load_lexicon(), load_reflective(), rare={("r", "p", 0): [(4, 9)]})
    (trace,) = unpack(pack(tmp_path, [made.sample("r", "p", 0, tokens=["abc", " def", " ghi"])], marker=marker))
    # Characters 4 to 9 are "def g": of the second token and of the third.
    assert trace["q"] == [[1, 3]]


@given(st.lists(st.integers(0, 4), max_size=12), st.integers(0, 30), st.integers(1, 8))
def test_a_mark_covers_exactly_the_pieces_that_share_a_character_with_it(sizes: list[int], start: int, n: int) -> None:
    ends = [sum(sizes[: i + 1]) for i in range(len(sizes))]
    spans = [(end - size, end) for size, end in zip(sizes, ends, strict=True)]
    touched = [i for i, (a, b) in enumerate(spans) if max(a, start) < min(b, start + n)]
    (*marked,) = _ranges(spans, [(start, start + n)])
    covered = [i for a, b in marked for i in range(a, b) if spans[i][0] < spans[i][1]]
    assert covered == touched


def test_as_many_traces_as_fit_and_never_more(tmp_path: Path) -> None:
    rng = random.Random(1)
    rows = [
        made.sample(
            "r",
            f"p{q}",
            i,
            correct=i % 3 == 0,
            tokens=made.random_tokens(rng, 80),
            entropies=[rng.random() for _ in range(80)],
        )
        for q in range(6)
        for i in range(8)
    ]
    whole = pack(tmp_path / "a", rows)
    assert (whole.shown, whole.available) == (48, 48)
    size = sum(map(len, whole.chunks))
    some = pack(tmp_path / "b", rows, limit=size // 2)
    assert 0 < some.shown < 48
    assert sum(map(len, some.chunks)) <= size // 2
    assert some.problems == 6  # fewer samples before fewer problems
    few = pack(tmp_path / "c", rows, limit=size // 16)
    assert 0 < few.shown <= 12
    assert few.problems < 6
    assert pack(tmp_path / "d", rows, limit=10).shown == 0


def test_a_choice_that_does_not_fit_is_not_rendered_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = random.Random(2)
    # Each fills a chunk of its own, so that it is known early how many fit.
    rows = [made.sample("r", f"p{q:02d}", 0, tokens=made.random_tokens(rng, 3100)) for q in range(12)]
    rendered: list[str] = []

    def counted(row: Any, key: Any, marker: Marker) -> Any:
        rendered.append(key[1])
        return render_trace(row, key, marker)

    monkeypatch.setattr(traces_module, "render_trace", counted)
    monkeypatch.setattr(progress, "_SAY_EVERY", 0.0)
    whole = pack(tmp_path / "a", rows)
    assert (whole.shown, len(rendered)) == (12, 12)
    rendered.clear()
    some = pack(tmp_path / "b", rows, limit=sum(map(len, whole.chunks)) * 2 // 3)
    assert 5 <= some.shown <= 8
    assert len(rendered) == len(set(rendered))
    # Elsewhere than on a terminal the user reads how far it is.
    assert re.search(r"Packing traces: \d+ of 12 traces are done", capsys.readouterr().err)


def test_what_the_verdict_is_about_is_packed_on_one_line_and_cut(tmp_path: Path) -> None:
    row = made.sample("r", "p", 0, completion="so 8", correct=False)
    row |= {"answer": "8\x1b[31m\n", "gold": "y" * 1000, "verdict_by": "boxed/exact"}
    traces = pack(tmp_path, [row, made.sample("r", "p", 1, completion="none")])
    first, second = unpack(traces)
    texts = [first["words"][first[key]] for key in ("answer", "gold", "by")]
    assert texts == ["8⟨U+001B⟩[31m", "y" * 149 + "…" + "y" * 150, "boxed/exact"]
    assert [second[key] for key in ("answer", "gold", "by")] == [None, None, None]


def test_a_long_trace_has_a_chunk_of_its_own(tmp_path: Path) -> None:
    rows = [made.sample("r", "p", i, tokens=[" a"] * 7000) for i in range(2)]
    traces = pack(tmp_path, rows)
    assert traces.index["rows"]["chunk"] == [0, 1]


def test_entropies_are_summed_up_exactly_and_along_the_trace(tmp_path: Path) -> None:
    # 10 tokens of 0 nats and 10 of 2 nats: 20 places of one token each.
    row = made.sample("r", "p", 0, tokens=["x "] * 20, entropies=[0.0] * 10 + [2.0] * 10)
    write_shard(tmp_path, "0000", [row, made.sample("r", "p", 1, completion="no tokens")])
    entropies, keys = stored_entropies(find_source(tmp_path).samples[0])
    assert entropies is not None
    assert keys == {("r", "p", 0)}
    assert (entropies.tokens, entropies.mean) == (20, 1.0)
    assert entropies.position_mean == [0.0] * 10 + [2.0] * 10
    assert entropies.position[0] == 2.5
    at = dict(zip(entropies.above_x, entropies.above, strict=True))
    assert at[0.0] == 1.0
    assert all(math.isclose(y, 0.5) for x, y in at.items() if 0.005 < x < 1.99)
    assert entropies.threshold == pytest.approx(2.0, abs=0.006)


def test_hiding_characters_become_visible() -> None:
    assert visible("a\u202eb\x00\ud800\r\nc\td") == "a⟨U+202E⟩b⟨U+0000⟩⟨U+D800⟩\r\nc\td"
    assert visible("\rover") == "⟨U+000D⟩over"
    assert visible("naïve 日本語 👩\u200d👩 مرحبا") == "naïve 日本語 👩\u200d👩 مرحبا"
    visible("".join(map(chr, range(0x110000)))).encode("utf-8")
    assert one_line("a\n  b") == "a b"
    assert one_line("x" * 50, 11) == "xxxxx…xxxxx"
