from __future__ import annotations

import re
from pathlib import Path

import pytest
from lexicon_precision import Label, Share, main, precision, read_labels

from forkwise.explore.lexicon import load_reflective


def test_labels_are_enough_and_of_both_kinds() -> None:
    labels = read_labels()
    assert len(labels) >= 200
    assert {label.source for label in labels} == {
        "sky_skyt1_correct5k_14b_amc23",
        "sky_skyt1_reflection1.0_32b_amc23",
        "rg_llama3b_rl_step800_amc23_40x50",
        "qwen25math_math100x8_scored",
    }
    drawn = [label.drawn for label in labels if label.kind == "reflective"]
    assert (drawn.count("matched"), drawn.count("unmatched")) == (120, 60)


def test_the_lists_still_match_what_was_labelled_and_are_as_precise_as_the_docs_say() -> None:
    shares = {share.what: share for share in precision(read_labels())}
    pivotal, reflective = shares["pivotal matches that are right"], shares["reflective matches that are right"]
    missed = shares["sentences without a match that are reflective"]
    assert (pivotal.hits, pivotal.total) == (119, 120)
    assert (reflective.hits, reflective.total) == (81, 120)
    assert (missed.hits, missed.total) == (3, 60)
    page = (Path(__file__).parents[2] / "docs" / "explore.md").read_text(encoding="utf-8")
    for share in (pivotal, reflective, missed):
        low, high = share.interval
        assert f"{share.hits} of {share.total} [{low:.2f}, {high:.2f}]" in page


def test_wilson_by_hand() -> None:
    # p = .5, n = 4, z = 1.96: centre .5, half width z sqrt(.25/4 + z^2/64) / (1 + z^2/4) = 0.34995.
    assert Share("", 2, 4).interval == pytest.approx((0.15004, 0.84996), abs=2e-4)


def test_an_edited_list_is_measured_on_what_it_matches() -> None:
    patterns = load_reflective()
    patterns.patterns.clear()
    patterns.patterns["wait"] = re.compile("wait", re.IGNORECASE)
    labels = [
        Label("reflective", "matched", True, "Wait, no.", "a"),
        Label("reflective", "matched", False, "Waiters eat.", "a"),
        Label("reflective", "matched", True, "Let me check.", "a"),
    ]
    shares = {share.what: (share.hits, share.total) for share in precision(labels, None, patterns)}
    assert shares["reflective matches that are right"] == (1, 2)
    assert shares["sentences without a match that are reflective"] == (1, 1)


def test_the_command_prints_every_share_with_its_interval(capsys: pytest.CaptureFixture[str]) -> None:
    main([])
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "pivotal matches that are right" in line]
    assert "│   119 │ 120 │ 0.992 [0.954, 0.999] │" in line  # Wilson: 0.9543, 0.9985
