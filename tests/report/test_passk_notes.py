"""Every note of a Pass@K result has its sentence; a note that was damaged on disk is one sentence too."""

from __future__ import annotations

from typing import get_args

import pytest

from forkwise.errors import InputError
from forkwise.passk.notes import Note, Topic, note, shared_notes
from forkwise.report.passk_notes import SENTENCES, sentences


def test_every_topic_has_a_sentence() -> None:
    assert set(SENTENCES) == set(get_args(Topic))


def test_what_is_not_about_all_arms_has_their_names() -> None:
    few, one = note("few problems", problems=8, level=0.95), note("one sample")
    shared = shared_notes([("a", [few, one]), ("b", [few]), ("c", [one, few])])
    assert [n.arms for n in shared] == [[], ["a", "c"]]
    first, second = sentences(shared)
    assert first.startswith("With 8 problems a nominal 95% interval")
    assert second == "a, c: There is one sample per problem, so only Pass@1 can be estimated."


@pytest.mark.parametrize("facts", [{}, {"problems": 8}, {"problems": 8, "level": "x"}, {"level": 0.9, "q": 1}])
def test_a_damaged_note_is_a_sentence(facts: dict[str, str]) -> None:
    with pytest.raises(InputError, match="'few problems' of a result file is damaged: write the file again"):
        sentences([Note("few problems", dict(facts), [])])
