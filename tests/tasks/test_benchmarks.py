"""The benchmarks by their Hub ids: which rows they read, and that real files of the same shape become sound problems.

The Hub is not reached: where it would be, `datasets.load_dataset` is replaced; local copies of the files stand in for
their content.
"""

import gzip
import importlib.util
import json
import os
from pathlib import Path

import pytest

from forkwise.errors import InputError
from forkwise.tasks import load_task
from forkwise.tasks.base import question_id
from forkwise.tasks.benchmarks import BENCHMARKS, PRESETS, BenchmarkTask, sampling_preset

pytestmark = pytest.mark.skipif(importlib.util.find_spec("math_verify") is None, reason="math-verify is not installed")
SHARED = Path(os.environ.get("FORKWISE_SHARED_DATA", Path(__file__).resolve().parents[3] / "shared" / "data"))
BOXED = "\nPlease reason step by step, and put your final answer within \\boxed{}."


def local(name: str) -> Path:
    path = SHARED / "bench" / name
    if not path.exists():
        pytest.skip(f"{name} is not here; set FORKWISE_SHARED_DATA to the folder that holds bench/{name}")
    return path


def unpacked(path: Path, folder: Path) -> Path:
    target = folder / path.name.removesuffix(".gz")
    target.write_bytes(gzip.decompress(path.read_bytes()))
    return target


# benchmark, file of that shape, answer column where it is another, problems, beginnings of problems and their answers
FILES = [
    ("aime24", "aime24_test.jsonl", None, 30, {"Every morning Aya": "204"}),
    ("amc23", "amc23_test.jsonl", None, 40, {"Cities $A$ and $B$": "27"}),  # 27.0 in the file
    (
        "amc23",
        "ttrl_amc_83.json",
        None,
        83,
        {"$\\frac{m}{n}$ is the Irred": "142", "How many ways are there to split the": "144"},
    ),
    (
        "math500",
        "math500_test.jsonl",
        None,
        500,
        {"Convert the point $(0,3)$": "\\left( 3, \\frac{\\pi}{2} \\right)"},
    ),
    ("gsm8k", "gsm8k_test.jsonl.gz", None, 1319, {}),
    ("minerva", "minerva_math_test.jsonl", "solution", 272, {}),
]


@pytest.mark.parametrize(("name", "file", "column", "size", "known"), FILES, ids=[case[1] for case in FILES])
def test_real_files_of_the_same_shape_become_problems(name, file, column, size, known):
    task = BenchmarkTask(name, source=local(file), answer_column=column)
    problems = task.problems("test")
    assert len(problems) == size
    assert len({problem.id for problem in problems}) == size
    for beginning, gold in known.items():
        assert [problem.answer for problem in problems if problem.prompt.startswith(beginning)] == [gold]
    assert all(problem.prompt.endswith(BOXED) for problem in problems)
    # Each gold answer, boxed, is right; another one is not.
    right = task.verify([f"\\boxed{{{problem.answer}}}" for problem in problems[:60]], problems[:60])
    assert all(verdict.correct for verdict in right)
    wrong = task.verify(["\\boxed{-987654321}"] * 20, problems[:20])
    assert not any(verdict.correct for verdict in wrong)
    if name in ("aime24", "amc23", "gsm8k"):
        assert {verdict.by for verdict in right} == {"box/integer"}


def test_answers_of_gsm8k_are_what_stands_behind_the_four_hashes(tmp_path):
    task = BenchmarkTask("gsm8k", source=unpacked(local("gsm8k_test.jsonl.gz"), tmp_path))
    first = next(p for p in task.problems("test") if p.prompt.startswith("Janet’s ducks lay"))
    assert first.answer == "18"
    assert all(len(problem.answer) < 12 for problem in task.problems("test"))


# As `datasets.load_dataset` returns them, by the columns and splits that the Hub shows for these ids.
HUB = {
    "HuggingFaceH4/aime_2024": {
        "train": [{"id": 60, "problem": "a", "solution": "s", "answer": "204", "year": "2024"}]
    },
    "math-ai/aime25": {"test": [{"problem": "b", "answer": "70", "id": "0"}]},
    "AI-MO/aimo-validation-amc": {"train": [{"id": 0, "problem": "c", "answer": 142.0, "url": "u"}]},
    "HuggingFaceH4/MATH-500": {
        "test": [{"problem": "d", "solution": "s", "answer": "\\pi", "unique_id": "test/x/1.json"}]
    },
    "openai/gsm8k": {
        "train": [{"question": "t", "answer": "#### 1"}],
        "test": [{"question": "e", "answer": "5 - 1 = 4\n#### 1,234"}],
    },
    "math-ai/minervamath": {"test": [{"question": "f", "answer": "4.5e33"}]},
}
FIRST = {
    "aime24": ("a", "204"),
    "aime25": ("b", "70"),
    "amc23": ("c", "142"),
    "math500": ("d", "\\pi"),
    "gsm8k": ("e", "1,234"),
    "minerva": ("f", "4.5e33"),
}


@pytest.mark.parametrize("name", BENCHMARKS)
def test_each_is_read_from_its_hub_id(name, monkeypatch):
    datasets = pytest.importorskip("datasets")
    asked = []

    def load_dataset(source, name=None):
        asked.append((source, name))
        return {split: datasets.Dataset.from_list(rows) for split, rows in HUB[source].items()}

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    (problem,) = load_task(name).problems("test")
    text, gold = FIRST[name]
    assert asked == [(BENCHMARKS[name].hub_id, "main" if name == "gsm8k" else None)]
    assert (problem.prompt, problem.answer) == (text + BOXED, gold)
    assert problem.id == question_id(text)
    (dapo,) = load_task(f"{name}:dapo").problems("test")
    assert dapo.prompt.startswith("Solve the following math problem step by step.")
    assert dapo.id == problem.id
    with pytest.raises(InputError, match=f"{name} is for evaluation and has no train split"):
        load_task(name).problems("train")


def test_the_presets_are_those_of_the_paper():
    assert {name: p.n for name, p in PRESETS["paper"].items()} == {
        "aime24": 256, "aime25": 256, "amc23": 128, "math500": 16
    }  # fmt: skip
    one = sampling_preset("paper", "math500:dapo")
    assert (one.temperature, one.top_p, one.max_tokens) == (0.6, 0.95, 8192)
    with pytest.raises(InputError, match="no preset 'peper'"):
        sampling_preset("peper", "aime24")
    with pytest.raises(InputError, match="says nothing of the task 'gsm8k', only of aime24, aime25, amc23, math500"):
        sampling_preset("paper", "gsm8k")


def test_a_wrong_name_is_answered_with_all_of_them():
    with pytest.raises(InputError, match=r"Did you mean 'aime24'.* amc23 or amc23:dapo; math500 or math500:dapo"):
        load_task("aime244")
    with pytest.raises(InputError, match="Write it as aime24 or aime24:dapo"):
        load_task("aime24:hard")
    with pytest.raises(InputError, match="no benchmark 'aime23'"):
        BenchmarkTask("aime23")


def test_answers_alone_serve_to_verify():
    golds = {row["id"]: row["answer"] for row in map(json.loads, local("aime25_answers.jsonl").open())}
    assert len(golds) == 30
    assert golds["aime25-I-1"] == "70"


def test_problems_pair_with_the_imported_samples_of_other_tools(tmp_path):
    pytest.importorskip("pyarrow")
    from forkwise.samples import read_samples
    from forkwise.samples.importers import import_files

    assert question_id("Find  $x$\nif $x = 1$. ") == question_id("Find $x$ if $x = 1$.")
    path = SHARED / "samples" / "sky_qwen25_14b_instruct_math500.jsonl.gz"
    if not path.exists():
        pytest.skip(f"{path.name} is not here; set FORKWISE_SHARED_DATA to the folder that holds samples/{path.name}")
    ours = {problem.id for problem in BenchmarkTask("math500", source=local("math500_test.jsonl")).problems("test")}
    list(import_files([path], tmp_path))
    assert ours == set(read_samples(tmp_path, ["problem_id"])["problem_id"].to_pylist())


def test_gsm8k_takes_the_last_number_where_no_answer_is_stated(tmp_path: Path) -> None:
    row = {"question": "How many apples are 5 and 6?", "answer": "5 + 6 = 11.\n#### 11"}
    (tmp_path / "rows.jsonl").write_text(json.dumps(row))
    for name, verdict in (("gsm8k", (True, "number/integer")), ("math500", (False, "no-answer"))):
        task = BenchmarkTask(name, source=tmp_path / "rows.jsonl")
        (judged,) = task.verify(["5 + 6 makes 11 apples."], task.problems("test"))
        assert (judged.correct, judged.by) == verdict
