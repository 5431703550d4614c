"""Catalogs: which parts fit, sets of ids judged whole or by F1, and splits that stay."""

from __future__ import annotations

import re

import pytest

from forkwise.errors import InputError
from forkwise.tasks import load_task
from forkwise.tasks.catalog import Catalog, CatalogPart, Catalogs, boxed_ids, f1, set_f1

EXAMPLE = Catalog(
    (
        CatalogPart("B07", "blue", "nut", 5),
        CatalogPart("K31", "red", "bolt", 12),
        CatalogPart("A02", "red", "pin", 11),
        CatalogPart("C40", "red", "pin", 10),
    ),
    "red",
    10,
)


def test_an_example_in_words() -> None:
    assert EXAMPLE.text().startswith("Parts: B07 is a blue nut of 5 mm. K31 is a red bolt of 12 mm. ")
    assert "Which parts are red and longer than 10 mm?" in EXAMPLE.text()
    assert EXAMPLE.answer() == ("A02", "K31")  # 10 is not longer than 10


@pytest.mark.parametrize("kind", ["one", "set"])
def test_answers_follow_from_the_words_alone(kind: str) -> None:
    for problem in load_task(f"catalog:{kind}").problems("train", 50):
        text = str(problem.prompt)
        colour, above = re.search(r"Which parts are (\w+) and longer than (\d+) mm", text).groups()  # type: ignore[union-attr]
        parts = re.findall(r"([A-Z]\d\d) is a (\w+) \w+ of (\d+) mm", text)
        assert len(parts) == 6
        fit = sorted(name for name, its, length in parts if its == colour and int(length) > int(above))
        assert problem.answer == ", ".join(fit)
        assert (len(fit) == 1) == (kind == "one")


@pytest.mark.parametrize(
    ("text", "correct", "value"),
    [
        ("so \\boxed{K31, A02}", True, 1.0),
        ("\\boxed{A02} no, \\boxed{A02 K31}", True, 1.0),
        ("\\boxed{A02,K31,B07}", False, 0.8),  # precision 2/3, recall 1
        ("\\boxed{K31}", False, 2 / 3),
        ("\\boxed{B07}", False, 0.0),
        ("\\boxed{K31 and A02}", False, 0.0),
        ("K31, A02", False, 0.0),
        ("\\boxed{}", False, 0.0),
    ],
)
def test_verdicts_and_f1(text: str, correct: bool, value: float) -> None:
    task = Catalogs()
    problem = task.problems("test", 1)[0]
    problem = type(problem)(problem.id, EXAMPLE.text(), "A02, K31")
    assert task.verify([text], [problem])[0].correct is correct
    rewards = f1([problem.prompt], [text], answer=["A02, K31"])
    assert rewards == [pytest.approx(value)]
    assert f1([problem.prompt], [[{"role": "assistant", "content": text}]], answer=["A02, K31"]) == rewards


def test_f1_of_the_papers_example() -> None:
    """Two of which one is right, of three: precision 1/2, recall 1/3."""
    assert set_f1(frozenset({"M1001", "M1002"}), frozenset({"M1002", "M1003", "M1004"})) == pytest.approx(0.4)
    assert boxed_ids("\\boxed{M10}") == {"M10"}


def test_splits_are_disjoint_and_larger_ones_append() -> None:
    task = load_task("catalog")
    ids = {split: {p.id for p in task.problems(split)} for split in ("train", "validation", "test")}  # type: ignore[arg-type]
    assert sum(map(len, ids.values())) == len(set.union(*ids.values())) == 10_000
    assert task.problems("train", 5) == task.problems("train", 9)[:5]


def test_refused() -> None:
    with pytest.raises(InputError, match="of the kinds one and set"):
        Catalogs(("two",))
    with pytest.raises(InputError, match="Write it as catalog, catalog:one or catalog:set"):
        load_task("catalog:two")
