"""`--log_behaviours`: what is logged is what the completions hold, and the training is the same bit for bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

pytest.importorskip("trl")

import torch
from quiet import QUIET
from safetensors.torch import load_file

from forkwise.explore.lexicon import load_lexicon, load_reflective
from forkwise.explore.sentences import split_sentences
from forkwise.folders.metrics import read_metrics
from forkwise.training import trainer as training
from forkwise.training.grpo import main

SETTINGS = {
    "model": "embedded",
    "task": "countdown:3",
    "train_problems": 8,
    "num_generations": 4,
    "per_device_train_batch_size": 8,
    "max_completion_length": 48,
    "logging_steps": 1,
    "max_steps": 2,
    **QUIET,
    "save_strategy": "no",
    "seed": 3,
}


def run(folder: Path, *flags: str) -> list[dict[str, Any]]:
    config = folder.with_suffix(".yaml")
    config.write_text(yaml.safe_dump(SETTINGS))
    main(["--config", str(config), "--output_dir", str(folder), *flags])
    return read_metrics(folder)


def test_behaviours_are_logged_and_nothing_else_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts: list[str] = []
    cut_off: list[bool] = []
    compute = training.RunTrainer._compute_loss

    def seen(self: Any, model: Any, inputs: dict[str, Any]) -> Any:
        for ids, mask in zip(inputs["completion_ids"], inputs["completion_mask"], strict=True):
            kept = ids[mask.bool()]
            texts.append(self.processing_class.decode(kept, skip_special_tokens=True))
            cut_off.append(int(kept[-1]) != self.processing_class.eos_token_id)
        return compute(self, model, inputs)

    monkeypatch.setattr(training.RunTrainer, "_compute_loss", seen)
    logged = run(tmp_path / "with", "--log_behaviours", "--behaviour_breaks", "wait,hmm,so")
    first = texts[: len(texts) // 2]
    lexicon, reflective = load_lexicon(), load_reflective()
    pivotal = sum(len(lexicon.matches(text)) for text in first)
    sentences = []  # a completion that the limit ended has begun a sentence that does not count
    for text, cut in zip(first, cut_off[: len(first)], strict=True):
        marked = [text[s.start : s.end] for s in split_sentences(text, ["wait", "hmm", "so"])]
        sentences += marked[:-1] if cut else marked
    assert logged[0]["behaviours/pivotal_per_response"] == pytest.approx(pivotal / len(first))
    share = sum(bool(reflective.names(sentence)) for sentence in sentences) / len(sentences)
    assert logged[0]["behaviours/reflective_share"] == pytest.approx(share)
    assert 0 < logged[0]["behaviours/pivotal_entropy"] < 5
    assert logged[0]["behaviours/pivotal_entropy"] > logged[0]["behaviours/other_entropy"]
    plain = run(tmp_path / "without")
    assert not any(key.startswith("behaviours/") for row in plain for key in row)
    ours, theirs = (load_file(tmp_path / name / "model.safetensors") for name in ("with", "without"))
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
