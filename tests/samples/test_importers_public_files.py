"""Importers on whole public files, where they are at hand; docs/samples.md says where each comes from.

The expected numbers are what the files state about themselves (`average_score`), or were counted with `json` alone.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pytest

from forkwise.errors import InputError
from forkwise.samples import read_samples
from forkwise.samples.importers import Options, import_files

DATA = Path(os.environ.get("FORKWISE_SHARED_DATA", Path(__file__).parents[3] / "shared" / "data"))

pytestmark = pytest.mark.skipif(
    not (DATA / "samples").is_dir(), reason="no public files at FORKWISE_SHARED_DATA or ../shared/data"
)


def imported(tmp_path: Path, *names: str, **options: Any) -> Any:
    for _ in import_files([DATA / name for name in names], tmp_path, options=Options(**options)):
        pass
    return read_samples(tmp_path)


@pytest.mark.parametrize(
    ("name", "problems", "n", "correct"),
    [
        # Stated in the files: 0.144 and 0.1415 of 2,000; 0.024 and 0.026667 of 1,500.
        ("rg_llama3b_rl_step400_amc23_40x50.json.gz", 40, 50, 288),
        ("rg_llama3b_rl_step800_amc23_40x50.json.gz", 40, 50, 283),
        ("rg_llama3b_rl_step400_aime24_30x50.json.gz", 30, 50, 36),
        ("rg_llama3b_rl_step800_aime24_30x50.json.gz", 30, 50, 40),
        ("rg_zs_meta-llama_llama-3.3-70b-instruct_basic_arithmetic_50x3.json", 50, 3, 110),
        ("qwen25math_math100x8_scored.jsonl.gz", 100, 8, 728),
        ("rg_qwen2.5-3b-instruct_minerva_math_greedy.jsonl.gz", 272, 1, 70),
        ("sky_qwen25_14b_instruct_math500.jsonl.gz", 500, 1, 402),
        ("sky_skyt1_correct5k_14b_amc23.jsonl.gz", 40, 1, 22),
    ],
)
def test_counts(tmp_path: Path, name: str, problems: int, n: int, correct: int) -> None:
    table = imported(tmp_path, f"samples/{name}")
    assert table.num_rows == problems * n
    by_problem = table.group_by("problem_id").aggregate([("sample_id", "count_distinct")])
    assert by_problem["sample_id_count_distinct"].to_pylist() == [n] * problems
    assert pc.sum(table["correct"]).as_py() == correct
    assert table["completion"].null_count == 0


@pytest.mark.parametrize("benchmark", ["amc23_40x50", "aime24_30x50"])
def test_two_checkpoints_pair_completely(tmp_path: Path, benchmark: str) -> None:
    names = [f"samples/rg_llama3b_rl_step{step}_{benchmark}.json.gz" for step in (400, 800)]
    table = imported(tmp_path, *names)
    problems = [
        set(table.filter(pc.field("run").isin([run]))["problem_id"].to_pylist())
        for run in set(table["run"].to_pylist())
    ]
    assert len(problems) == 2
    assert problems[0] == problems[1]
    assert len(problems[0]) == {"amc23_40x50": 40, "aime24_30x50": 30}[benchmark]


def test_the_same_benchmark_pairs_across_tools(tmp_path: Path) -> None:
    """AMC23 in reasoning-gym-eval's JSON and in two JSONL files of Qwen2.5-Math's evaluation."""
    table = imported(
        tmp_path,
        "samples/rg_llama3b_rl_step400_amc23_40x50.json.gz",
        "samples/rg_qwen2.5-3b-instruct_amc23_greedy.jsonl",
        "samples/sky_qwen25_14b_instruct_amc23.jsonl",
    )
    pairs = table.group_by(["run", "problem_id"]).aggregate([])
    assert pairs.num_rows == 120
    assert len(set(pairs["problem_id"].to_pylist())) == 40


def test_gsm8k_solutions(tmp_path: Path) -> None:
    table = imported(tmp_path, "samples/gsm8k_gpt3_4models_solutions.jsonl.gz")
    counts = table.group_by("run").aggregate([("correct", "sum"), ("problem_id", "count_distinct")]).to_pylist()
    assert {r["run"]: r["correct_sum"] for r in counts} == {
        "6b_finetuning": 286,
        "6b_verification": 515,
        "175b_finetuning": 458,
        "175b_verification": 742,
    }
    assert {r["problem_id_count_distinct"] for r in counts} == {1319}


def test_fractional_scores(tmp_path: Path) -> None:
    names = [
        "samples/rg_zs_qwen_qwq-32b_countdown_50x3.json",
        "samples/rg_zs_qwen_qwq-32b_polynomial_equations_50x3.json",
    ]
    for name in names:
        with pytest.raises(InputError, match="scores other than 0 and 1"):
            imported(tmp_path / "refused", name)
    assert not (tmp_path / "refused").exists()
    table = imported(tmp_path, *names, threshold=1.0)
    # 0.9990004998333751 is no pass.
    assert pc.sum(table["correct"]).as_py() == 95 + 130


@pytest.mark.parametrize(
    ("name", "tokens", "candidates"),
    [
        ("topk_5.json", 100, 5),
        ("topk_20.json.gz", 100, 20),
        ("temp_0.0.json.gz", 100, 20),
        ("domain_reasoning.json.gz", 150, 20),
        ("gpt4o_mini_creative.json.gz", 150, 20),
    ],
)
def test_logprobs(tmp_path: Path, name: str, tokens: int, candidates: int) -> None:
    [row] = imported(tmp_path, f"logprobs/{name}").to_pylist()
    assert len(row["tokens"]) == len(row["logprobs"]) == row["n_tokens"] == tokens
    assert {len(position) for position in row["top_logprobs"]} == {candidates}
    assert (row["finish_reason"], row["model"]) == ("length", "gpt-4o-mini-2024-07-18")
    assert "".join(row["tokens"]) == row["completion"]
