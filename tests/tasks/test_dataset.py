"""Problems from files and datasets: columns, splits and ids, and a sentence for everything that can be wrong."""

import csv
import gzip
import importlib.util
import json
import re

import pytest

from forkwise.errors import InputError
from forkwise.tasks.dataset import DatasetTask
from forkwise.tasks.math import TEMPLATES, MathTask, question

needs_datasets = pytest.mark.skipif(importlib.util.find_spec("datasets") is None, reason="datasets is not installed")
needs_math_verify = pytest.mark.skipif(
    importlib.util.find_spec("math_verify") is None, reason="math-verify is not installed"
)
ROWS = [{"prompt": f"What is {i} + 1?", "answer": str(i + 1)} for i in range(200)]


def write_jsonl(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def exact(path, **options):
    return DatasetTask(path, verifier="exact", **options)


def everything(task):
    return {split: task.problems(split) for split in ("train", "validation", "test")}


def test_a_file_is_cut_into_disjoint_splits_that_stay_when_rows_are_added_or_moved(tmp_path):
    few = everything(exact(write_jsonl(tmp_path / "few.jsonl", ROWS[:100])))
    many = everything(exact(write_jsonl(tmp_path / "many.jsonl", ROWS[::-1])))
    for split, problems in few.items():
        assert {p.id for p in problems} <= {p.id for p in many[split]}
    prompts = [p.prompt for problems in many.values() for p in problems]
    assert sorted(prompts) == sorted(row["prompt"] for row in ROWS)
    assert 5 <= len(many["test"]) <= 40  # 10 % of 200
    assert 5 <= len(many["validation"]) <= 40


def test_the_same_arguments_give_the_same_problems_and_a_larger_n_appends(tmp_path):
    path = write_jsonl(tmp_path / "rows.jsonl", ROWS)
    ten, again = exact(path).problems("train", 10, seed=3), exact(path).problems("train", 20, seed=3)
    assert ten == again[:10]
    assert ten != exact(path).problems("train", 10, seed=4)


def test_a_whole_file_can_be_the_test(tmp_path):
    task = exact(write_jsonl(tmp_path / "rows.jsonl", ROWS), test_fraction=1.0)
    assert len(task.problems("test")) == 200
    with pytest.raises(InputError, match="no problems in its train split, but 200 in test"):
        task.problems("train")


def test_jsonl_csv_parquet_and_gzip_hold_the_same_problems(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [{"prompt": 'a, "b"\nc', "answer": "042"}, {"prompt": "é", "answer": "1/2"}]
    jsonl = write_jsonl(tmp_path / "rows.jsonl", rows)
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    with gzip.open(tmp_path / "rows.jsonl.gz", "wt", encoding="utf-8") as file:
        file.write(jsonl.read_text(encoding="utf-8"))
    with (tmp_path / "rows.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ["prompt", "answer"])
        writer.writeheader()
        writer.writerows(rows)
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "rows.parquet")
    read_as = [
        exact(tmp_path / f"rows.{end}", test_fraction=1).problems("test")
        for end in ("jsonl", "json", "jsonl.gz", "csv", "parquet")
    ]
    assert all(problems == read_as[0] for problems in read_as)
    assert {p.answer for p in read_as[0]} == {"042", "1/2"}  # CSV cells are not turned into numbers


def test_half_a_character_becomes_the_replacement_character(tmp_path):
    path = tmp_path / "half.jsonl"
    path.write_text('{"prompt": "what \\ud800 is", "answer": "5"}\n')
    (problem,) = DatasetTask(str(path), test_fraction=1.0).problems("test")
    assert problem.prompt == "what \ufffd is"  # a tokenizer refuses a lone surrogate


def test_columns_are_found_or_named(tmp_path):
    rows = [{"unique_id": 7, "text": {"q": "2+2"}, "problem": "3+3", "gold": 4, "ground_truth": ["6"]}]
    path = write_jsonl(tmp_path / "rows.jsonl", rows)
    (problem,) = exact(path, test_fraction=1).problems("test")
    assert (problem.id, problem.prompt, problem.answer) == ("7", "3+3", "6")
    (named,) = exact(path, test_fraction=1, prompt_column="text.q", answer_column="gold").problems("test")
    assert (named.prompt, named.answer) == ("2+2", "4")


def test_a_repeated_prompt_is_kept_once_and_a_repeated_id_made_different(tmp_path):
    rows = [{"id": 1, "prompt": p, "answer": "1"} for p in ("a", "a", "b")]
    problems = exact(write_jsonl(tmp_path / "rows.jsonl", rows), test_fraction=1).problems("test")
    assert sorted(p.prompt for p in problems) == ["a", "b"]
    assert len({p.id for p in problems}) == 2


def test_one_user_message_is_text_and_a_conversation_stays_one(tmp_path):
    user, system = {"role": "user", "content": "2+2?"}, {"role": "system", "content": "Be brief."}
    rows = [{"prompt": [user], "answer": "4"}, {"prompt": [system, user], "answer": "4"}]
    problems = exact(write_jsonl(tmp_path / "rows.jsonl", rows), test_fraction=1).problems("test")
    assert [system, user] in [p.prompt for p in problems]
    assert "2+2?" in [p.prompt for p in problems]


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("", "is empty"),
        (
            '{"promt": "a", "answer": "1"}\n',
            r"no column 'prompt', only promt, answer; .* prompt_column\. Did you mean 'promt'",
        ),
        ('{"prompt": "a", "anwser": "1"}\n', "Did you mean 'anwser'"),
        ('{"prompt": "a", "answer": "1"}\n{"prompt": "b", "answer": null}\n', "Row 2 of .* no usable answer"),
        ('{"prompt": "", "answer": "1"}\n', "Row 1 of .* no usable prompt"),
        ('{"prompt": "a", "answer": "1"}\n{broken\n', "line 2 is not JSON"),
        ("[1, 2]\n", "row 1 must be an object"),
        ("[" * 200_000 + "\n", "line 1 is not JSON"),
        ('{"prompt": "a", "answer": ' + "9" * 5000 + "}\n", "line 1 is not JSON"),
    ],
)
def test_what_is_wrong_with_a_file_is_one_sentence(tmp_path, content, sentence):
    path = tmp_path / "rows.jsonl"
    path.write_text(content)
    with pytest.raises(InputError, match=sentence) as caught:
        exact(path).problems("train")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("prompt,answer\n1+1?,2\nwhat is 3,5 + 1,4\n", "line 3 has more cells than the header.*double quotes"),
        ("prompt,answer\n1+1?\n", "line 2 has fewer cells"),
    ],
)
def test_a_csv_with_ragged_rows_is_refused(tmp_path, text, sentence):
    (tmp_path / "rows.csv").write_text(text)
    with pytest.raises(InputError, match=sentence):
        exact(tmp_path / "rows.csv").problems("train")


def test_the_summary_says_what_is_held_out_and_left_out(tmp_path):
    rows = [{"prompt": f"p{i % 50}", "answer": "1"} for i in range(52)]
    task = exact(write_jsonl(tmp_path / "rows.jsonl", rows), test_fraction=0, validation_fraction=0)
    assert "50 train problems; left out: 2 rows with a prompt that was there before" in task.summary()
    whole = exact(tmp_path / "rows.jsonl", test_fraction=1)
    assert "50 test problems" in whole.summary()


def test_bytes_that_are_no_table_are_refused(tmp_path):
    for name, sentence in [
        ("x.parquet", "as Parquet"),
        ("x.jsonl", "cannot be read"),
        ("x.jsonl.gz", "cannot be read"),
    ]:
        (tmp_path / name).write_bytes(b"\xff\xfe\x00\x01")
        with pytest.raises(InputError, match=sentence):
            exact(tmp_path / name).problems("train")
    (tmp_path / "x.txt").write_text("hello")
    with pytest.raises(InputError, match=r"no known format: use \.jsonl"):
        exact(tmp_path / "x.txt").problems("train")


def test_a_file_that_is_not_there_names_its_nearest(tmp_path):
    write_jsonl(tmp_path / "problems.jsonl", ROWS)
    with pytest.raises(InputError, match=r"There is no file .*problem\.jsonl\. Did you mean 'problems\.jsonl'"):
        exact(tmp_path / "problem.jsonl").problems("train")


def test_unusable_arguments_are_refused(tmp_path):
    path = write_jsonl(tmp_path / "rows.jsonl", ROWS[:3])
    with pytest.raises(InputError, match="no verifier 'maths'"):
        DatasetTask(path, verifier="maths")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="no split 'dev'"):
        exact(path).problems("dev")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="has 3 test problems; ask for at most"):
        exact(path, test_fraction=1).problems("test", 4)


def test_exact_verification_needs_no_statement_of_the_answer(tmp_path):
    task = exact(write_jsonl(tmp_path / "rows.jsonl", [{"prompt": "a", "answer": "#### 7"}]), test_fraction=1)
    (problem,) = task.problems("test")
    verdicts = task.verify([" 7\n", r"\boxed{07}", "answer: 8", "perhaps 7", ""], [problem] * 5)
    assert [v.correct for v in verdicts] == [True, True, False, False, False]


@needs_datasets
def test_a_dataset_keeps_its_splits_and_no_prompt_of_its_test_is_trained_on(tmp_path):
    write_jsonl(tmp_path / "train.jsonl", ROWS)
    write_jsonl(tmp_path / "test.jsonl", ROWS[:20])
    splits = everything(exact(tmp_path))
    assert sorted(p.prompt for p in splits["test"]) == sorted(row["prompt"] for row in ROWS[:20])
    assert len(splits["train"]) + len(splits["validation"]) == 180
    assert len(splits["validation"]) < 45  # cut from train


@needs_datasets
def test_a_dataset_with_a_test_split_alone_is_not_cut(tmp_path):
    write_jsonl(tmp_path / "test.jsonl", ROWS)
    assert len(exact(tmp_path).problems("test")) == 200


@needs_datasets
def test_a_dataset_that_cannot_be_loaded_is_one_sentence(monkeypatch):
    import datasets

    def fail(*_: object, **__: object) -> None:
        raise ConnectionError("Couldn't reach 'nobody/nothing' on the Hub.\nA second line.")

    monkeypatch.setattr(datasets, "load_dataset", fail)
    with pytest.raises(
        InputError, match=r"Cannot load the dataset 'nobody/nothing' \(Couldn't reach .* HF_HUB_OFFLINE"
    ) as e:
        exact("nobody/nothing").problems("train")
    assert "\n" not in str(e.value)


# --- MathTask: local files of the shape of DAPO-Math-17k and MATH-500


def math_files(tmp_path):
    before, after = TEMPLATES["dapo"].split("{problem}")
    train = [
        {
            "data_source": "math_dapo",
            "prompt": [{"role": "user", "content": f"{before}Problem {i}{after}"}],
            "ability": "MATH",
            "reward_model": {"ground_truth": str(i), "style": "rule-lighteval/MATH_v2"},
            "extra_info": {"index": str(i)},
        }
        for i in [*range(300), *range(300)]  # DAPO repeats its rows a hundred times
    ]
    test = [
        {"problem": f"Problem {i}", "solution": "...", "answer": str(i), "unique_id": f"test/{i}.json"}
        for i in (5, 1000)
    ]
    return write_jsonl(tmp_path / "train.jsonl", train), write_jsonl(tmp_path / "test.jsonl", test)


@needs_math_verify
def test_math_reads_dapo_and_math500_and_trains_on_no_test_problem(tmp_path):
    train, test = math_files(tmp_path)
    task = MathTask(train=train, test=test)
    splits = everything(task)
    assert {p.id for p in splits["test"]} == {"test/5.json", "test/1000.json"}
    assert len(splits["train"]) + len(splits["validation"]) == 299  # each once, without problem 5
    assert 1 <= len(splits["validation"]) <= 20  # 2 %
    prompts = [p.prompt for problems in splits.values() for p in problems]
    assert len(set(prompts)) == len(prompts)
    problem = splits["train"][0]
    number = re.match(
        r"Problem (\d+)\nPlease reason step by step, and put your final answer within \\boxed\{\}\.$", problem.prompt
    )
    assert number is not None
    assert problem.answer == number[1]
    assert task.verify([rf"\boxed{{{number[1]}.0}}", r"\boxed{x}"], [problem] * 2)[0].correct
    with pytest.raises(InputError, match="math has .* train problems"):
        task.problems("train", 300)


@needs_math_verify
def test_the_dapo_template_is_worn_once(tmp_path):
    train, test = math_files(tmp_path)
    problem = MathTask("dapo", train=train, test=test).problems("train", 1)[0]
    assert problem.prompt.count("Answer: $Answer") == 1
    assert question(problem.prompt).startswith("Problem ")
    with pytest.raises(InputError, match="no template 'box': use boxed or dapo"):
        MathTask("box")  # type: ignore[arg-type]


def test_without_math_verify_the_task_says_so_before_training(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"forkwise\[math\]"):
        MathTask()


def test_a_column_cluster_says_what_problems_share(tmp_path):
    rows = [row | {"cluster": i % 3} for i, row in enumerate(ROWS[:30])]
    task = exact(write_jsonl(tmp_path / "topics.jsonl", rows), test_fraction=1.0)
    by_prompt = {p.prompt: p.cluster for p in task.problems("test")}
    assert by_prompt == {row["prompt"]: str(row["cluster"]) for row in rows}
    bare = exact(write_jsonl(tmp_path / "bare.jsonl", ROWS[:30]), test_fraction=1.0)
    assert {p.cluster for p in bare.problems("test")} == {None}
