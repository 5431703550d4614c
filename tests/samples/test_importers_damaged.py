"""Damaged and hostile files of every format: a table that can be read, or one sentence; never anything else."""

from __future__ import annotations

import json
import random
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from importing import jsonl, refused

from forkwise.errors import InputError
from forkwise.explore.traces import load_traces
from forkwise.samples import read_samples
from forkwise.samples.importers import Options, import_files
from forkwise.testing.importers import check_damaged

FIXTURES = Path(__file__).parent / "fixtures"

RECORDS: dict[str, list[dict[str, Any]]] = {
    "trl": [
        {"step": 1, "prompt": "P", "completion": "x", "r": 1.0, "advantage": 0.5},
        {
            "step": 1,
            "prompt": [{"role": "user", "content": "P"}],
            "completion": [{"role": "assistant", "content": "x", "reasoning_content": "hm"}],
            "r": 0.0,
            "advantage": -0.5,
        },
    ],
    "plain": [
        {"prompt": "Q", "completion": "\\boxed{1}", "answer": "1", "correct": True, "options": ["a"], "seed": 1},
        {"prompt": "Q", "completion": ["a", "b"], "answer": "1", "score": [1, 0], "gold": "1", "temperature": 0.5},
        {
            "problem_id": "p",
            "completion": "ab",
            "tokens": ["a", "b"],
            "logprobs": [-0.5, -1.0],
            "top_logprobs": [[{"token": "a", "logprob": -0.5}], []],
            "sampling": {"temperature": 1.0},
        },
    ],
    "openai": [
        {
            "model": "m",
            "choices": [
                {
                    "text": "2+2=4",
                    "logprobs": {
                        "tokens": list("2+2=4"),
                        "token_logprobs": [None, -2.0, -1.0, -0.5, -0.1],
                        "top_logprobs": [None, {"+": -2.0}, {"2": -1.0}, {"=": -0.5}, {"4": -0.1, "5": -3.0}],
                    },
                    "finish_reason": "length",
                }
            ],
            "usage": {"prompt_tokens": 4, "completion_tokens": 1},
        },
        {
            "model": "m",
            "messages": [{"role": "user", "content": "Q"}],
            "choices": [
                {
                    "message": {"content": "4", "reasoning_content": "hm"},
                    "logprobs": {
                        "content": [
                            {"token": t, "logprob": -0.5, "top_logprobs": [{"token": t, "logprob": -0.5}]}
                            for t in ("hm", "\n", "</think>", "\n\n", "4")
                        ]
                    },
                }
            ],
        },
    ],
    "verl": [{"input": "Q", "output": "x", "gts": "1", "score": 1.0, "step": 1, "acc": True, "pred": "1"}],
}
for name, file in {
    "qwen-math": "qwen_math_cot.jsonl",
    "lm-eval": "samples_repeats_2026-11-20T16-15-43.201295.jsonl",
    "grade-school-math": "gsm8k_model_solutions.jsonl",
    "ollama": "ollama_sample.json",
    "gemini": "gemini_sample.json",
    "inspect": "inspect_arithmetic.json",
    "reasoning-gym": "reasoning_gym_countdown.json",
}.items():
    text = (FIXTURES / file).read_text()
    RECORDS[name] = [json.loads(line) for line in text.splitlines()] if file.endswith("l") else [json.loads(text)]


def said(action: Callable[[], Any]) -> str | None:
    """The sentence with which `action` refuses; None if it goes well."""
    try:
        action()
    except InputError as error:
        return str(error)
    return None


@pytest.mark.parametrize("name", sorted(RECORDS))
@pytest.mark.parametrize("seed", range(3))
def test_damaged_records(tmp_path: Path, name: str, seed: int) -> None:
    rng = random.Random(f"{name}{seed}")
    taken = 0
    for i in range(30):
        options = Options(threshold=rng.choice([None, 1.0]))
        table = check_damaged(name, RECORDS[name], tmp_path / str(i), rng, options)
        if table is not None:
            taken += 1
            assert "\n" not in (said(lambda table=table: load_traces(table, vocabulary=1000)) or "")
    assert taken


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_damaged_member_of_any_compression(tmp_path: Path, method: int) -> None:
    header = json.dumps({"status": "success", "eval": {"task": "t", "model": "m"}})
    sample = {"id": "a/b", "epoch": 1, "input": "Q" * 400, "output": {"choices": [{"message": {"content": "3"}}]}}
    file = tmp_path / "log.eval"
    rng = random.Random(method)
    with zipfile.ZipFile(file, "w", method) as archive:
        archive.writestr("samples/a/b_epoch_1.json", json.dumps(sample))
        archive.writestr("header.json", header)
    whole = file.read_bytes()
    for i in range(40):
        data = bytearray(whole)
        for _ in range(3):
            data[rng.randrange(30, len(data))] ^= 1 << rng.randrange(8)
        (tmp_path / f"{i}.eval").write_bytes(data)
        work = import_files([tmp_path / f"{i}.eval"], tmp_path / "out", options=Options(run=str(i)))
        assert "\n" not in (said(lambda work=work: list(work)) or "")


def test_damaged_zstandard_members(tmp_path: Path) -> None:
    """inspect_ai's own compression, every byte of the first sample's data in turn."""
    whole = (FIXTURES / "inspect_arithmetic.eval").read_bytes()
    start = whole.index(b"\x28\xb5\x2f\xfd", whole.index(b"samples/"))
    kinds = set()
    for at in range(start, start + 120, 3):
        data = bytearray(whole)
        data[at] ^= 0xFF
        (tmp_path / "a.eval").write_bytes(data)
        work = import_files([tmp_path / "a.eval"], tmp_path / str(at), options=Options(threshold=1.0))
        kinds.add((said(lambda work=work: list(work)) or "").partition("' ")[2])
    assert "is a zip file that is damaged or cut off: copy it again." in kinds


def test_a_locked_zip(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.eval", "w") as archive:
        archive.writestr("samples/1_epoch_1.json", "{}")
        archive.writestr("header.json", "{}")
    data = bytearray((tmp_path / "a.eval").read_bytes())
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):  # bit 0 of the flags: encrypted
        at = data.find(signature)
        while at >= 0:
            data[at + offset] |= 1
            at = data.find(signature, at + 4)
    (tmp_path / "a.eval").write_bytes(data)
    refused(tmp_path, tmp_path / "a.eval", "is a zip file that cannot be unpacked")


def test_the_store_keeps_every_new_column(tmp_path: Path) -> None:
    line = {"problem_id": "p", "completion": "a", "gold": "1", "step": 3, "advantage": -0.5}
    list(import_files([jsonl(tmp_path / "a.jsonl", line)], tmp_path / "out"))
    [row] = read_samples(tmp_path / "out", ["gold", "step", "advantage", "rewards"]).to_pylist()
    assert row == {"gold": "1", "step": 3, "advantage": -0.5, "rewards": None}
    assert pa.types.is_list(read_samples(tmp_path / "out").schema.field("rewards").type)
