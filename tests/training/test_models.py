"""A policy must be a causal language model with a tokenizer; anything else is refused before training."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path

import pytest

transformers = pytest.importorskip("transformers")

from forkwise.embedded import EMBEDDED_MODEL
from forkwise.errors import InputError
from forkwise.training.models import resolve_model

TINY = {
    "hidden_size": 8,
    "intermediate_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 1,
    "num_key_value_heads": 1,
    "vocab_size": 16,
}


def test_the_embedded_model_is_found() -> None:
    name, tokenizer = resolve_model("embedded")
    assert name == str(EMBEDDED_MODEL)
    assert tokenizer.eos_token_id is not None


@pytest.mark.parametrize("kind", ["Qwen2Model", "Qwen2ForTokenClassification"])
def test_a_model_without_a_language_model_head_is_refused(tmp_path: Path, kind: str) -> None:
    config = transformers.Qwen2Config(**TINY)
    getattr(transformers, kind)(config).save_pretrained(tmp_path)
    with pytest.raises(InputError, match=f"{kind}.*no language-model head"):
        resolve_model(str(tmp_path))


def test_a_configuration_that_names_no_architecture_is_judged_by_its_type(tmp_path: Path) -> None:
    transformers.BertConfig().save_pretrained(tmp_path / "bert")
    transformers.CLIPConfig().save_pretrained(tmp_path / "clip")
    with pytest.raises(InputError, match="no language-model head"):
        resolve_model(str(tmp_path / "clip"))


def test_a_model_without_a_tokenizer_is_refused(tmp_path: Path) -> None:
    transformers.Qwen2ForCausalLM(transformers.Qwen2Config(**TINY)).save_pretrained(tmp_path)
    with pytest.raises(InputError, match="no tokenizer"):
        resolve_model(str(tmp_path))


def test_no_model_and_an_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--model"):
        resolve_model(None)
    with pytest.raises(InputError, match="cannot be loaded"):
        resolve_model(str(tmp_path))


def test_damaged_weights_end_in_one_sentence(tmp_path: Path) -> None:
    pytest.importorskip("trl")
    from forkwise.training.grpo import main

    shutil.copytree(EMBEDDED_MODEL, tmp_path / "model")
    weights = tmp_path / "model" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    flags = [
        "--task",
        "countdown:3",
        "--train_problems",
        "4",
        "--report_to",
        "none",
        "--output_dir",
        str(tmp_path / "o"),
    ]
    with pytest.raises(InputError, match=r"model\.safetensors' is damaged"):
        main(["--model", str(tmp_path / "model"), "--output_dir", str(tmp_path / "o"), *flags])
    assert not (tmp_path / "o").exists()


@pytest.mark.skipif(importlib.util.find_spec("wandb") is not None, reason="wandb is installed")
def test_a_tracker_that_is_not_installed_ends_in_one_sentence(tmp_path: Path) -> None:
    pytest.importorskip("trl")
    from forkwise.training.grpo import main

    flags = [
        "--task",
        "countdown:3",
        "--train_problems",
        "4",
        "--report_to",
        "wandb",
        "--output_dir",
        str(tmp_path / "o"),
    ]
    with pytest.raises(InputError, match=r"cannot start: .*wandb"):
        main(["--model", "embedded", "--output_dir", str(tmp_path / "o"), *flags])
    assert not (tmp_path / "o").exists()
