"""Result files: what is written is what is read, to the last digit, and what does not fit is refused."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from forkwise.errors import InputError
from forkwise.folders.results import result_text, write_result
from forkwise.passk import Arm, compare, evaluate, make_arm
from forkwise.passk.files import read_results, result_file, write_csv
from forkwise.samples import write_shard


def arm(name: str, c: list[int], n: int = 4) -> Arm:
    problem = [f"p{q}" for q in range(len(c)) for _ in range(n)]
    return make_arm(
        name,
        problem,
        [i < solved for solved in c for i in range(n)],
        length=[5 + i % 2 for i in range(len(problem))],
        answer=["7" if i < solved else str(i) for solved in c for i in range(n)],
        completion=[f"{i} {p} so it is so" for i, p in enumerate(problem)],
    )


@pytest.fixture(scope="module")
def comparison() -> Any:
    # Few problems whose curves cross, or do not: the interval of the place runs off to "beyond the largest K".
    return compare(arm("a", [4, 0, 0, 0, 1, 1]), arm("b", [1, 1, 1, 0, 1, 1]), resamples=200, texts=True)


def test_a_comparison_read_is_the_one_that_was_written(tmp_path: Path, comparison: Any) -> None:
    assert comparison.differences[0].crossing.high is None  # infinity has no place in a file
    table = write_shard(tmp_path / "s", "0", []).parent
    base = evaluate(arm("base", [0, 1, 1, 0, 1, 1]), resamples=200, beyond=[8])
    file = result_file({"k": None, "level": 0.95}, [table], "On 6 problems, ...", [base], comparison)
    path = write_result(tmp_path / "compare.json", file)
    again = read_results(path)
    assert again.comparison is not None
    assert result_text(again) == result_text(file)
    assert again.comparison.rows() == comparison.rows()
    assert [e.arm for e in again.evaluations] == ["base", "a", "b"]
    np.testing.assert_array_equal(again.comparison.differences[0].band.low, comparison.differences[0].band.low)
    assert isinstance(again.comparison.differences[0].runs, tuple)
    assert json.loads(path.read_text())["schema"] == 5


def test_rows_are_the_same_in_the_csv(tmp_path: Path, comparison: Any) -> None:
    write_csv(tmp_path / "x.csv", comparison.rows())
    with (tmp_path / "x.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [float(row["value"]) for row in rows] == [row["value"] for row in comparison.rows()]
    (crossing,) = [row for row in rows if row["metric"] == "crossing k"]
    assert crossing["high"] == "inf"


def test_a_file_is_about_its_samples_and_its_names(tmp_path: Path) -> None:
    record = {"run": "a", "model": "m", "problem_id": "p", "sample_id": 0, "correct": True}
    table = write_shard(tmp_path / "s", "0", [record]).parent
    write_shard(tmp_path / "copy", "renamed", [record])
    file = result_file({}, [table], "", [evaluate(arm("a", [1, 2]), resamples=100)])
    assert file.is_about([table], ["a"])
    assert file.is_about([tmp_path / "copy"], ["a"])  # the bytes count, not where they lie
    assert not file.is_about([table], ["b"])
    write_shard(tmp_path / "s", "1", [{**record, "sample_id": 1}])
    assert not file.is_about([table], ["a"])


def test_damaged_files_end_in_one_sentence(tmp_path: Path, comparison: Any) -> None:
    path = tmp_path / "compare.json"
    write_result(path, result_file({}, [], "", [], comparison))
    whole = json.loads(path.read_text())

    def refused(change: Any) -> str:
        content = json.loads(json.dumps(whole))
        change(content)
        path.write_text(json.dumps(content))
        with pytest.raises(InputError) as error:
            read_results(path)
        assert "\n" not in str(error.value)
        return str(error.value)

    difference = whole["comparison"]["differences"][0]
    assert "has schema 1, not 5" in refused(lambda c: c.update(schema=1))
    assert "damaged" in refused(lambda c: c["comparison"]["differences"][0].update(p=[0.5]))
    assert "damaged" in refused(lambda c: c["comparison"]["differences"][0].update(adjusted_p=[0.5, 0.5]))
    assert "damaged" in refused(lambda c: c["comparison"]["differences"][0]["band"].update(low=difference["ks"][:-1]))
    assert "damaged" in refused(lambda c: c["comparison"]["differences"][0].update(arm="nobody"))
    assert "damaged" in refused(lambda c: c["comparison"]["arms"][0]["curves"].pop("pass@k"))
    assert "damaged" in refused(lambda c: c["comparison"]["arms"][0]["curves"]["pass@k"].update(ks=[]))
    assert "damaged" in refused(lambda c: c["comparison"].update(level="much"))
    assert "damaged" in refused(lambda c: c["comparison"].update(differences=[]))
    path.write_text("{")
    with pytest.raises(InputError, match=r"not a compare\.json"):
        read_results(path)
    with pytest.raises(InputError, match="cannot be read"):
        read_results(tmp_path / "nowhere.json")
    with pytest.raises(InputError, match="damaged"):
        read_results(write_result(tmp_path / "p.json", result_file({}, [], "", [])))
