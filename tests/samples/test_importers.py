"""Importers on pieces of real files: what each row must hold was read off the files by hand."""

from __future__ import annotations

import gzip
import hashlib
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from importing import jsonl, refused, run_import

from forkwise.errors import InputError
from forkwise.report.importing import imported_file
from forkwise.samples import read_samples, write_shard
from forkwise.samples.importers import Options, import_files, parse_columns

FIXTURES = Path(__file__).parent / "fixtures"
LM_EVAL = FIXTURES / "samples_arithmetic_2026-11-20T16-15-43.201295.jsonl"
REPEATS = FIXTURES / "samples_repeats_2026-11-20T16-15-43.201295.jsonl"


# ---- one format after the other


def test_qwen_math(tmp_path: Path) -> None:
    rows, report = run_import(tmp_path, FIXTURES / "qwen_math_cot.jsonl")
    assert report.format == "qwen-math"
    first = [r for r in rows if r["prompt"] == "Round $6287215$ to the nearest ten thousand."]
    assert [r["sample_id"] for r in first] == list(range(8))
    assert [r["correct"] for r in first] == [True, True, False, False, True, True, False, False]
    assert [r["answer"] for r in first[:3]] == ["6290000", "6290000", "6287000"]
    assert [len(r["completion"]) for r in first[:3]] == [1004, 885, 1128]
    assert {(r["run"], r["model"], r["verdict_by"], r["n_tokens"]) for r in rows} == {
        ("qwen_math_cot", "unknown", "qwen-math", None)
    }
    assert "run qwen_math_cot: 16 samples of 2 problems (8 each), 8 of 16 correct\n" in imported_file(report)
    assert "pred_score" in report.fields_left_out


def test_qwen_math_takes_seed_and_temperature_from_the_name_that_its_script_gives(tmp_path: Path) -> None:
    record = {"idx": 0, "question": "1+1", "code": ["2", "3"], "pred": ["2", ""], "report": [None, None]}
    file = jsonl(tmp_path / "test_qwen25-math-cot_-1_seed7_t0.6_s0_e-1.jsonl", record)
    rows, report = run_import(tmp_path, file)
    assert {(r["seed"], r["sampling"]["temperature"], r["sampling"]["top_p"]) for r in rows} == {(7, 0.6, None)}
    assert [r["answer"] for r in rows] == ["2", None]
    # Not graded yet: no `score`.
    assert [(r["correct"], r["verdict_by"]) for r in rows] == [(None, None)] * 2
    assert "no verdicts" in imported_file(report)


def test_qwen_math_never_pads_a_short_row(tmp_path: Path) -> None:
    record = {"idx": 0, "question": "1+1", "code": ["2", "3"], "pred": ["2", "3"], "score": [True]}
    refused(tmp_path, jsonl(tmp_path / "a.jsonl", record), "line 1: there are 2 completions, 2 answers and 1 scores")


def test_reasoning_gym_needs_a_threshold_and_passes_at_full_marks(tmp_path: Path) -> None:
    file = FIXTURES / "reasoning_gym_countdown.json"
    # Of 12 completions, 7 score 1.0, 4 score 0.01 and 1 scores 0.05.
    said = refused(tmp_path, file, "scores other than 0 and 1")
    assert "1 (7 times), 0.01 (4 times), 0.05 (1 time)" in said
    assert "--threshold 1.0" in said
    rows, report = run_import(tmp_path, file, threshold=1.0, model="QwQ-32B")
    assert sum(r["correct"] for r in rows) == 7
    assert {r["model"] for r in rows} == {"QwQ-32B"}
    [partial] = [r for r in rows if r["answer"] == "94+90+80-(81+81+72)/2"]
    assert partial["correct"] is False
    assert report.notes["with an empty completion, kept with the file's verdict"] == 4
    assert sum(r["completion"] == "" for r in rows) == 4


def test_reasoning_gym_by_category_with_its_sampling_settings(tmp_path: Path) -> None:
    results = [
        {"question": "q1", "completions": [{"model_answer": None, "full_model_response": "r", "score": 1}] * 2},
        {"question": "q2", "completions": [{"model_answer": "7", "full_model_response": "r", "score": None}]},
        {"question": "q3", "completions": []},
    ]
    settings = {"model": "m", "temperature": 0.6, "top_p": 0.9, "max_tokens": 2048, "eval_repeats": 2}
    document = {"metadata": settings, "categories": [{"name": "x", "datasets": [{"name": "d", "results": results}]}]}
    (tmp_path / "results.json").write_text(json.dumps(document, indent=1))
    rows, report = run_import(tmp_path, tmp_path / "results.json", run="step400")
    assert [r["correct"] for r in sorted(rows, key=lambda r: r["prompt"])] == [True, True, None]
    assert rows[0]["sampling"] == {"temperature": 0.6, "top_p": 0.9, "max_tokens": 2048}
    assert rows[0]["model"] == "m"
    assert report.dropped == {"problems without completions": 1}
    assert "n differs: 1 for 1 problem, 2 for 1 problem" in imported_file(report)
    assert "2 of 2 correct, 1 unscored" in imported_file(report)


def test_gsm8k_solutions_are_four_runs(tmp_path: Path) -> None:
    rows, report = run_import(tmp_path, FIXTURES / "gsm8k_model_solutions.jsonl")
    assert set(report.runs) == {"6b_finetuning", "6b_verification", "175b_finetuning", "175b_verification"}
    ducks = {r["run"]: r for r in rows if r["prompt"].startswith("Janet")}
    assert {run: (r["answer"], r["correct"]) for run, r in ducks.items()} == {
        "6b_finetuning": ("26", False),
        "6b_verification": ("224", False),
        "175b_finetuning": ("4", False),
        "175b_verification": ("18", True),
    }
    assert len({r["problem_id"] for r in ducks.values()}) == 1
    assert report.fields_left_out == []
    assert {r["gold"].rpartition("A: ")[2] for r in ducks.values()} == {"18"}
    rows, _ = run_import(tmp_path, FIXTURES / "gsm8k_model_solutions.jsonl", run="again")
    assert "again/6b_finetuning" in {r["run"] for r in rows}


def test_lm_eval_asks_which_filter_counts(tmp_path: Path) -> None:
    refused(tmp_path, LM_EVAL, "choose with --score exact_match,strict-match or --score exact_match,flexible-extract")
    rows, report = run_import(tmp_path, LM_EVAL, score="exact_match,flexible-extract")
    assert [
        (r["prompt"], r["completion"], r["answer"], r["correct"]) for r in sorted(rows, key=lambda r: r["prompt"])
    ] == [
        ("Question: What is 2 + 2?\nAnswer:", "I think 7", "7", False),
        ("Question: What is 3 * 3?\nAnswer:", "3 * 3 is 9\n#### 9", "9", True),
    ]
    assert {r["verdict_by"] for r in rows} == {"lm-eval:exact_match"}
    assert rows[0]["sampling"] == {"temperature": 0.7, "top_p": 0.95, "max_tokens": 64}
    assert report.dropped == {"lines of other filters, which hold the same samples": 2}
    refused(tmp_path, LM_EVAL, "no metric 'acc': choose --score from exact_match", score="acc,strict-match")
    refused(tmp_path, LM_EVAL, r"no samples to import \(4 lines of other filters", score="exact_match,x")


def test_lm_eval_strict_match_finds_no_answer(tmp_path: Path) -> None:
    rows, _ = run_import(tmp_path, LM_EVAL, score="exact_match,strict-match")
    assert {r["completion"]: r["answer"] for r in rows} == {"I think 7": None, "3 * 3 is 9\n#### 9": "9"}


def test_lm_eval_repeats_share_one_score_and_so_stay_unscored(tmp_path: Path) -> None:
    """The harness scores the first of the repeats only; that says nothing about the other three."""
    rows, report = run_import(tmp_path, REPEATS)
    two = [r for r in rows if "2 + 2" in r["prompt"]]
    assert [r["completion"] for r in two] == ["no idea", "2 + 2 is 4\n#### 4", "I think 7", "3 * 3 is 9\n#### 9"]
    assert [r["answer"] for r in two] == [None, "4", None, "9"]
    assert {r["correct"] for r in rows} == {None}
    assert report.notes == {"left unscored, since the file has one score for several samples": 8}


def test_lm_eval_multiple_choice_is_dropped_and_said(tmp_path: Path) -> None:
    # As the harness writes log-likelihood requests: one per choice, each [log-prob, is it greedy].
    line = {"doc_id": 0, "doc": {}, "target": "0", "arguments": {"gen_args_0": {"arg_0": "q", "arg_1": " a"}}} | {
        "resps": [[["-13.4", "False"]], [["-1.1", "True"]]],
        "filtered_resps": [["-13.4", "False"], ["-1.1", "True"]],
        "filter": "none",
        "metrics": ["acc"],
        "acc": 0.0,
    }
    refused(tmp_path, jsonl(tmp_path / "a.jsonl", line), r"no samples to import \(1 lines of multiple-choice")


@pytest.mark.parametrize("ending", ["eval", "json"])
def test_inspect(tmp_path: Path, ending: str) -> None:
    """Both endings of one log. Its scores: C C P / NaN C I, so P needs the threshold, and NaN is no score."""
    file = FIXTURES / f"inspect_arithmetic.{ending}"
    assert "0.5 (1 time)" in refused(tmp_path, file, "scores other than 0 and 1")
    rows, report = run_import(tmp_path, file, threshold=1.0)
    assert report.format == "inspect"
    verdicts = {(r["problem_id"], r["sample_id"]): (r["completion"], r["answer"], r["correct"]) for r in rows}
    assert verdicts == {
        ("arithmetic/two-plus-two", 0): ("It is 4", "4", True),
        ("arithmetic/two-plus-two", 1): ("about 5", "5", False),
        ("arithmetic/two-plus-two", 2): ("It is 4 and then", "then", True),
        ("arithmetic/three-times-three", 0): ("It is 9", "9", True),
        ("arithmetic/three-times-three", 1): ("I am unsure", None, None),
        ("arithmetic/three-times-three", 2): ("It is 8", "8", False),
    }
    cut = next(r for r in rows if r["completion"] == "It is 4 and then")
    assert (cut["n_tokens"], cut["finish_reason"], cut["model"]) == (5, "length", "mockllm/model")
    assert (cut["prompt"], cut["seed"], cut["sampling"]["temperature"]) == ("What is 2 + 2?", 3, 0.7)
    assert cut["tokens"] == ["It ", "is ", "4 ", "and ", "then "]
    assert cut["logprobs"] == [-0.25] * 5
    assert cut["top_logprobs"][0] == [{"token": "It ", "logprob": -0.25}, {"token": "x ", "logprob": -2.0}]
    assert {r["verdict_by"] for r in rows} == {"inspect:partly", None}
    assert report.notes["with NaN for a score, taken as unscored"] == 1


def inspect_sample(**other: Any) -> dict[str, Any]:
    choice = {"message": {"role": "assistant", "content": "4"}, "stop_reason": "stop"}
    return {"id": 1, "epoch": 1, "input": "2+2", "output": {"choices": [choice]}, **other}


def inspect_json(path: Path, *samples: dict[str, Any], **other: Any) -> Path:
    log = {"version": 2, "status": "success", "eval": {"task": "t", "model": "m"}, "samples": list(samples), **other}
    path.write_text(json.dumps(log))
    return path


def test_inspect_asks_which_scorer_counts(tmp_path: Path) -> None:
    scores = {"match": {"value": "C"}, "judge": {"value": {"style": 1, "truth": 0}}}
    file = inspect_json(tmp_path / "a.json", inspect_sample(scores=scores))
    refused(tmp_path, file, "several scorers: choose --score from match, judge")
    refused(tmp_path, file, "no scorer 'x': choose --score from match, judge", score="x")
    refused(tmp_path, file, "choose --score from judge/style, judge/truth", score="judge")
    rows, _ = run_import(tmp_path, file, score="judge/truth", run="b")
    assert [(r["correct"], r["verdict_by"]) for r in rows] == [(False, "inspect:judge/truth")]


def test_inspect_errors_are_unscored_and_invalidated_samples_dropped(tmp_path: Path) -> None:
    samples = [
        inspect_sample(error={"message": "boom"}, scores=None, output={"choices": []}),
        inspect_sample(epoch=2, scores={"match": {"value": "N"}}),
        inspect_sample(epoch=3, invalidation={"author": "x"}),
        inspect_sample(epoch=4, input=[{"role": "user", "content": "attachment://abc"}], attachments={"abc": "long"}),
    ]
    rows, report = run_import(tmp_path, inspect_json(tmp_path / "a.json", *samples, status="cancelled"))
    assert [(r["sample_id"], r["completion"], r["correct"]) for r in rows] == [
        (0, None, None),
        (1, "4", False),
        (3, "4", None),
    ]
    assert rows[2]["prompt"] == "long"
    assert report.dropped == {"samples that were invalidated": 1}
    assert report.notes["of a log whose status is 'cancelled'"] == 4
    twice = inspect_json(tmp_path / "twice.json", inspect_sample(), inspect_sample())
    refused(tmp_path, twice, "sample 0 of problem t/1 is there twice")
    refused(tmp_path, inspect_json(tmp_path / "none.json"), "has no samples to import")


VERL = {"input": "user\n1+1\nassistant\n", "output": "It is \\boxed{2}", "gts": "2", "step": 5}


def test_verl_steps_are_runs_and_samples_are_numbered_by_prompt(tmp_path: Path) -> None:
    lines = [{**VERL, "score": 1.0}, {**VERL, "score": 0.0, "step": 10}, {**VERL, "score": 0.0}]
    rows, report = run_import(tmp_path, jsonl(tmp_path / "5.jsonl", *lines), run="exp1")
    assert [(r["run"], r["sample_id"], r["correct"]) for r in rows] == [
        ("exp1/step10", 0, False),
        ("exp1/step5", 0, True),
        ("exp1/step5", 1, False),
    ]
    assert {r["answer"] for r in rows} == {"2"}
    assert len({r["problem_id"] for r in rows}) == 1
    assert report.format == "verl"


def test_verl_prefers_acc_to_a_reward_of_plus_and_minus_one(tmp_path: Path) -> None:
    """DAPO's reward is -1 or 1, its `acc` a verdict."""
    good, bad = ({**VERL, "score": s, "acc": a, "pred": p} for s, a, p in [(1.0, True, "2"), (-1.0, False, "3")])
    file = jsonl(tmp_path / "a.jsonl", good, bad)
    rows, _ = run_import(tmp_path, file)
    assert [(r["answer"], r["correct"], r["verdict_by"]) for r in rows] == [
        ("2", True, "verl:acc"),
        ("3", False, "verl:acc"),
    ]
    refused(tmp_path, file, r"1 \(1 time\), -1 \(1 time\)", score="score", run="b")
    rows, _ = run_import(tmp_path, file, score="score", threshold=1.0, run="c")
    assert [r["correct"] for r in rows if r["run"] == "c/step5"] == [True, False]
    refused(
        tmp_path, file, "no field 'accuracy': choose --score from the fields input, output", score="accuracy", run="d"
    )


def test_openai_chat_with_logprobs(tmp_path: Path) -> None:
    [row], report = run_import(tmp_path, FIXTURES / "gpt2_openai.json")
    assert (row["run"], row["model"], row["problem_id"]) == ("gpt2_openai", "gpt2", "gpt2_openai")
    assert row["completion"] == " quick brown fox jumps over the lazy dog."
    assert (row["n_tokens"], row["finish_reason"], row["correct"]) == (9, None, None)
    assert row["tokens"][0] == " quick"
    assert row["logprobs"][0] == pytest.approx(-6.4821)
    assert row["top_logprobs"][0][0] == {"token": " first", "logprob": pytest.approx(-3.218)}
    assert row["entropies"] is None  # five candidates do not make an entropy
    assert any("without a prompt" in note for note in report.notes)


def test_raw_logits_are_refused(tmp_path: Path) -> None:
    refused(tmp_path, FIXTURES / "gpt2_logits_openai.json", "' quick' is 7.547, above 0: these are raw logits")


def test_a_mass_above_one_is_refused_and_rounding_is_not(tmp_path: Path) -> None:
    def response(*logprobs: float) -> Path:
        top = [{"token": str(i), "logprob": value} for i, value in enumerate(logprobs)]
        content = [{"token": "0", "logprob": logprobs[0], "top_logprobs": top}]
        choice = {"message": {"content": "0"}, "logprobs": {"content": content}, "finish_reason": "stop"}
        return jsonl(tmp_path / "a.jsonl", {"object": "chat.completion", "model": "m", "choices": [choice]})

    # Logits below zero betray themselves by their mass: e^-0.1 + e^-0.2 = 1.72.
    refused(tmp_path, response(-0.1, -0.2), "have a probability of 1.72: these are raw logits")
    rows, _ = run_import(tmp_path, response(1e-6, -14.0, -9999.0))  # as OpenAI rounds, and marks what is out of reach
    assert rows[0]["logprobs"][0] == pytest.approx(1e-6)


def test_vllm_text_completions_with_logprobs(tmp_path: Path) -> None:
    [row], _ = run_import(tmp_path, FIXTURES / "gpt2_vllm.json")
    assert row["completion"] == " quick brown fox jumps over the lazy dog."
    assert row["tokens"][:2] == [" quick", " brown"]
    assert row["logprobs"][:2] == pytest.approx([-6.4821, -1.8472])
    assert row["top_logprobs"][0][1] == {"token": " United", "logprob": pytest.approx(-3.7953)}


def test_ollama(tmp_path: Path) -> None:
    [row], _ = run_import(tmp_path, FIXTURES / "ollama_sample.json")
    assert (row["model"], row["completion"]) == ("llama3.2:3b", "The capital of France is Paris.")
    assert (row["n_tokens"], row["finish_reason"]) == (7, "stop")
    assert row["logprobs"][0] == pytest.approx(-0.4821)
    piece = {"model": "m", "response": "The", "done": False}
    refused(tmp_path, jsonl(tmp_path / "streamed.jsonl", piece), '"stream": false')


def test_gemini(tmp_path: Path) -> None:
    [row], _ = run_import(tmp_path, FIXTURES / "gemini_sample.json")
    assert (row["model"], row["n_tokens"], row["finish_reason"]) == ("gemini-2.0-flash", 12, "stop")
    assert row["token_ids"][0] == 651
    assert row["logprobs"][0] == pytest.approx(-0.0214)
    assert row["top_logprobs"][0][1] == {"token": "A", "logprob": pytest.approx(-4.7068)}


def test_a_batch_output_file_has_problems_samples_and_failures(tmp_path: Path) -> None:
    def choice(index: int, text: str) -> dict[str, Any]:
        message = {"role": "assistant", "content": text, "reasoning_content": "hm" if index else None}
        return {"index": index, "message": message, "finish_reason": "length"}

    body = {"model": "m", "choices": [choice(0, "a"), choice(1, "b")], "usage": {"completion_tokens": 9}}
    lines = [
        {"custom_id": "p1", "response": {"status_code": 200, "body": body}, "error": None},
        {"custom_id": "p2", "response": None, "error": {"message": "overloaded"}},
    ]
    rows, report = run_import(tmp_path, jsonl(tmp_path / "batch.jsonl", *lines))
    assert [(r["problem_id"], r["sample_id"], r["completion"]) for r in rows] == [
        ("p1", 0, "a"),
        ("p1", 1, "<think>\nhm\n</think>\n\nb"),
    ]
    # The usage is that of both choices together; nobody knows each one's.
    assert {r["n_tokens"] for r in rows} == {None}
    assert report.dropped == {"requests that failed": 1}


def test_plain_jsonl_with_a_mapping(tmp_path: Path) -> None:
    lines = [
        {"meta": {"id": 7}, "gen": "x", "ok": 1, "t": 0.6, "why": "EOS"},
        {"meta": {"id": 7}, "gen": "y", "ok": None, "t": 1.0, "why": "max_tokens"},
    ]
    columns = parse_columns(
        ["problem_id=meta.id", "completion=gen", "correct=ok", "temperature=t", "finish_reason=why"]
    )
    rows, report = run_import(tmp_path, jsonl(tmp_path / "mine.jsonl", *lines), columns=columns)
    assert [(r["problem_id"], r["sample_id"], r["correct"], r["finish_reason"]) for r in rows] == [
        ("7", 0, True, "stop"),
        ("7", 1, None, "length"),
    ]
    # Two temperatures in one run are kept as they are; passk says so.
    assert [r["sampling"]["temperature"] for r in rows] == [0.6, 1.0]
    assert report.fields_left_out == []


def test_plain_lists_hold_the_samples_of_a_problem(tmp_path: Path) -> None:
    line = {"problem": "1+1", "texts": ["a", "b", "c"], "scores": [1, 0, None]}
    columns = {"prompt": "problem", "completion": "texts", "score": "scores"}
    rows, _ = run_import(tmp_path, jsonl(tmp_path / "a.jsonl", line), columns=columns)
    assert [(r["sample_id"], r["completion"], r["correct"]) for r in rows] == [
        (0, "a", True),
        (1, "b", False),
        (2, "c", None),
    ]
    uneven = jsonl(tmp_path / "b.jsonl", {**line, "scores": [1]})
    refused(tmp_path, uneven, "lists differ in length", columns=columns)


def test_csv_with_our_names_needs_no_mapping(tmp_path: Path) -> None:
    text = 'problem_id,sample_id,completion,correct,n_tokens\np,0,"two\nlines",true,12\np,1,,False,\np,2,x,,3\n'
    for name, data in (("a.csv", text.encode("utf-8-sig")), ("b.csv.gz", gzip.compress(text.encode()))):
        (tmp_path / name).write_bytes(data)
        rows, _ = run_import(tmp_path, tmp_path / name, run=name)
        mine = [r for r in rows if r["run"] == name]
        assert [(r["completion"], r["correct"], r["n_tokens"]) for r in mine] == [
            ("two\nlines", True, 12),
            (None, False, None),
            ("x", None, 3),
        ]


def test_parquet_of_another_tool_and_of_ours(tmp_path: Path) -> None:
    table = pa.table({"q": ["1+1", "1+1"], "a": ["2", "3"], "ok": [True, None], "ids": [[5], [6]]})
    pq.write_table(table, tmp_path / "theirs.parquet")
    columns = {"prompt": "q", "completion": "a", "correct": "ok", "token_ids": "ids"}
    rows, _ = run_import(tmp_path, tmp_path / "theirs.parquet", columns=columns)
    assert [(r["completion"], r["correct"], r["token_ids"]) for r in rows] == [("2", True, [5]), ("3", None, [6])]
    shard = tmp_path / "out" / "theirs.parquet"
    again = list(import_files([shard], tmp_path / "again"))
    assert "run theirs: 2 samples of 1 problem (2 each), 1 of 1 correct, 1 unscored" in imported_file(again[0])
    assert read_samples(tmp_path / "again").to_pylist() == rows


def test_many_runs_in_one_file(tmp_path: Path) -> None:
    lines = [{"run": f"r{i:03}", "problem_id": "p", "sample_id": 0, "correct": i % 2} for i in range(300)]
    rows, report = run_import(tmp_path, jsonl(tmp_path / "a.jsonl", *lines))
    assert len({r["run"] for r in rows}) == len(report.runs) == 300
    assert "and 280 more runs" in imported_file(report)


# ---- problems, samples and runs


def test_problem_ids_are_the_text_so_files_pair_whatever_their_tool(tmp_path: Path) -> None:
    qwen = {"idx": 3, "question": "What is  $1+1$?\n", "code": ["2"], "pred": ["2"], "score": [True]}
    gym = {"results": [{"question": "What is $1+1$?", "completions": [{"full_model_response": "2", "score": 1}]}]}
    (tmp_path / "gym.json").write_text(json.dumps(gym))
    rows, _ = run_import(tmp_path, jsonl(tmp_path / "qwen.jsonl", qwen), tmp_path / "gym.json")
    expected = hashlib.sha256(b"What is $1+1$?").hexdigest()[:16]
    assert {(r["run"], r["problem_id"]) for r in rows} == {("qwen", expected), ("gym", expected)}


def test_files_of_one_run_are_numbered_on(tmp_path: Path) -> None:
    """Two seeds of one model, one sample each: --run makes them samples 0 and 1."""
    record = {"idx": 0, "question": "1+1", "code": ["2"], "pred": ["2"], "score": [True]}
    files = [jsonl(tmp_path / f"test_cot_-1_seed{i}_t0.6_s0_e-1.jsonl", record) for i in range(2)]
    rows, _ = run_import(tmp_path, *files, run="base")
    assert [(r["run"], r["sample_id"], r["seed"]) for r in rows] == [("base", 0, 0), ("base", 1, 1)]


def test_samples_are_never_taken_twice(tmp_path: Path) -> None:
    record = {"idx": 0, "question": "1+1", "code": ["2"], "pred": ["2"], "score": [True]}
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    a, b = jsonl(tmp_path / "a" / "x.jsonl", record), jsonl(tmp_path / "b" / "x.jsonl", record)
    with pytest.raises(InputError, match="is given twice"):
        run_import(tmp_path, a, a)
    # The first of the two stays; the second would silently have joined its run.
    with pytest.raises(InputError, match="would both become run 'x': name the run with --run"):
        run_import(tmp_path, a, b)
    assert read_samples(tmp_path / "out").num_rows == 1
    refused(tmp_path, b, "holds samples of run 'x' for problem .* already: choose another --run or --out")
    run_import(tmp_path, b, run="y")
    assert {p.name for p in (tmp_path / "out").iterdir()} == {"x.parquet", "x-2.parquet"}
    refused(tmp_path, jsonl(tmp_path / "c.jsonl", record, record), "idx 0 was on line 1 already")


def test_numbers_given_by_the_file_are_kept_and_must_differ(tmp_path: Path) -> None:
    def line(sample: Any) -> dict[str, Any]:
        return {"problem_id": "p", "sample_id": sample, "correct": True}

    rows, _ = run_import(tmp_path, jsonl(tmp_path / "a.jsonl", line(5), line(3)))
    assert [r["sample_id"] for r in rows] == [3, 5]
    refused(tmp_path, jsonl(tmp_path / "b.jsonl", line(1), line(1)), "line 2: sample 1 of problem p is there twice")
    refused(tmp_path, jsonl(tmp_path / "b.jsonl", line(1.5)), "sample_id is 1.5: give a whole number")


# ---- what cannot be used, one sentence each


def test_scores_that_are_not_numbers(tmp_path: Path) -> None:
    def file(score: Any) -> Path:
        return jsonl(tmp_path / "a.jsonl", {"problem_id": "p", "completion": "x", "score": score})

    rows, report = run_import(tmp_path, file(float("nan")))
    assert rows[0]["correct"] is None
    assert report.notes == {"with NaN for a score, taken as unscored": 1}
    refused(tmp_path, file("maybe"), "line 1: the score is 'maybe'", run="b")
    refused(tmp_path, file({"a": 1}), "the score is {'a': 1}", run="b")
    with pytest.raises(InputError, match="threshold is nan"):
        Options(threshold=float("nan"))


GOOD = json.dumps({"problem_id": "p", "completion": "x", "correct": True}).encode() + b"\n"
DEEP = b"[" * 100_000


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.jsonl", b"", "is empty: nothing was written"),
        ("a.jsonl", b"\n \n", "is empty: it holds only white space"),
        ("a.json", b"[]", "is empty: it holds an empty JSON list"),
        ("a.csv", b"problem_id,correct\n", "is empty: it holds no records"),
        ("a.jsonl", GOOD + GOOD[:20], r"its last line \(2\) is cut off: remove that line"),
        ("a.jsonl", GOOD + b"oops\n" + GOOD, "line 2 is not JSON"),
        ("a.jsonl", GOOD + b"[1]\n", "line 2 holds .* where a JSON object is needed"),
        ("a.json", b'{"a": [1,\n 2', "is a JSON document that is cut off: copy it again"),
        ("a.json", b'{"a":\n oops}', "is not JSON"),
        ("a.txt", b"Dear all,\n", "is neither JSON, JSONL, CSV, Parquet nor an inspect_ai log"),
        ("a.jsonl", GOOD + b'{"problem_id": "caf\xe9"}\n', r"line 2 is not UTF-8 text \(byte 0xe9 at position 19\)"),
        ("a.jsonl", '{"problem_id": "p"}'.encode("utf-16"), r"not UTF-8 text \(byte 0xff at position 0\)"),
        ("a.jsonl", b'{"problem_id": "caf\xe9"}\n', r"^'\S+', line 1 is not UTF-8 text"),
        ("a.json", b'{\n"problem_id": "caf\xe9"}', r"^'\S+' is not UTF-8 text"),
        ("a.png", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "is neither JSON, JSONL, CSV, Parquet nor"),
        ("a.csv", b"problem_id,correct\ncaf\xe9,1\n", "is not UTF-8 text"),
        ("a.csv", b"problem_id,correct\np,1,2\n", "row 2 has another number of cells than the header"),
        ("a.csv", b'problem_id,correct\n"p,1\n', "is not CSV"),
        ("a.jsonl.gz", gzip.compress(GOOD * 5000, mtime=0)[:-30], "gzip file that is damaged or cut off after line"),
        ("a.json.gz", gzip.compress(b'{"a":\n' + b"1" * 5000, mtime=0)[:-12], "gzip file that is damaged or cut off"),
        (
            "a.csv.gz",
            gzip.compress(b"problem_id,correct\n" + b"p,1\n" * 9, mtime=0)[:-9],
            "damaged or cut off after row",
        ),
        ("a.eval", b"PK\x03\x04" + bytes(100), "is a zip file that is damaged or cut off"),
        ("a.parquet", b"PAR1" + bytes(100), "is a Parquet file that is damaged or cut off"),
        ("a.jsonl", DEEP + b"\n", "nested too deeply"),
        ("a.jsonl", b'{"x": ' + b"9" * 5000 + b"}\n", "is not JSON"),
        ("a.jsonl", b'{"foo": 1, "bar": 2}\n', "of no known format; its fields are foo, bar: name them"),
        ("a.jsonl", GOOD + b'{"completion": "x"}\n', "line 2: there is no problem id and no prompt"),
        ("a.jsonl", GOOD + b'{"problem_id": "p"}\n', "line 2: there is neither a completion nor a verdict"),
        (
            "a.jsonl",
            GOOD + b'{"problem_id": "p", "completion": 5, "seed": 1e30}\n',
            "line 2: seed is 1e.30: give a whole",
        ),
        ("a.jsonl", GOOD + b'{"problem_id": "p", "completion": "x", "logprobs": "x"}\n', "logprobs is 'x': it must be"),
        ("a.jsonl", GOOD + b'{"problem_id": "p", "completion": "x", "token_ids": ["x"]}\n', "wrong type"),
    ],
)
def test_bad_files_are_refused_in_one_sentence(tmp_path: Path, name: str, data: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(data)
    refused(tmp_path, tmp_path / name, message)


def test_absent_files_and_folders(tmp_path: Path) -> None:
    refused(tmp_path, tmp_path / "absent.jsonl", "cannot be read: No such file")
    refused(tmp_path, tmp_path, "is a folder without JSON, JSONL, CSV, Parquet or .eval files")
    (tmp_path / "out").write_text("")
    refused(tmp_path, FIXTURES / "qwen_math_cot.jsonl", "is a file: give a folder with --out")


def test_a_damaged_zip_member(tmp_path: Path) -> None:
    data = bytearray((FIXTURES / "inspect_arithmetic.eval").read_bytes())
    at = data.index(b"samples/two-plus-two_epoch_1.json") + 200
    data[at : at + 50] = bytes(50)
    (tmp_path / "a.eval").write_bytes(data)
    refused(tmp_path, tmp_path / "a.eval", "zip file that is damaged or cut off", threshold=1.0)


def test_the_wrong_format_and_the_ambiguous_one(tmp_path: Path) -> None:
    refused(tmp_path, FIXTURES / "qwen_math_cot.jsonl", "not the format verl", format_="verl")
    refused(tmp_path, FIXTURES / "qwen_math_cot.jsonl", "no format 'qwen'. Did you mean 'qwen-math'", format_="qwen")
    both = jsonl(tmp_path / "a.jsonl", {**VERL, "score": 1, "problem_id": "p", "completion": "x", "correct": True})
    refused(tmp_path, both, "may be verl or plain: choose with --format verl")
    rows, _ = run_import(tmp_path, both, format_="plain")
    assert rows[0]["problem_id"] == "p"
    columns = {"completoin": "x"}
    refused(
        tmp_path,
        both,
        "'completoin', which is no column of the samples table. Did you mean 'completion'",
        columns=columns,
    )
    refused(
        tmp_path, both, "no field 'gen' for completion: its fields are input, output", columns={"completion": "gen"}
    )
    with pytest.raises(InputError, match="write COLUMN=FIELD"):
        parse_columns(["completion"])


def test_a_record_of_another_shape_in_the_middle(tmp_path: Path) -> None:
    good = {"idx": 0, "question": "1+1", "code": ["2"], "pred": ["2"], "score": [True]}
    refused(
        tmp_path, jsonl(tmp_path / "a.jsonl", good, {"idx": 1}), "line 2: this record is not of the format qwen-math"
    )


def test_half_characters_are_replaced_not_fatal(tmp_path: Path) -> None:
    """A tokenizer that stops inside a character leaves a lone surrogate, which JSON can hold and UTF-8 cannot."""
    (tmp_path / "a.jsonl").write_bytes(b'{"problem_id": "p", "completion": "x\\ud83d", "correct": true}\n')
    rows, _ = run_import(tmp_path, tmp_path / "a.jsonl")
    assert rows[0]["completion"] == "x\N{REPLACEMENT CHARACTER}"


def test_what_was_already_written_stays(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    write_shard(folder, "old", [{"run": "r", "model": "m", "problem_id": "p", "sample_id": 0}])
    bad = tmp_path / "bad.jsonl"
    bad.write_bytes(GOOD * 3000 + b"oops\n")
    with pytest.raises(InputError, match="line 3,001 is not JSON"):
        run_import(tmp_path, FIXTURES / "qwen_math_cot.jsonl", bad)
    assert sorted(p.name for p in folder.iterdir()) == ["old.parquet", "qwen_math_cot.parquet"]
    assert read_samples(folder).num_rows == 17


def test_a_full_disk_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("forkwise.samples.store.pq.ParquetWriter.write_table", full)
    refused(tmp_path, FIXTURES / "qwen_math_cot.jsonl", "cannot be written: No space left on device")
