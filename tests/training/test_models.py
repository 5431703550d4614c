"""A policy must be a causal language model with a tokenizer; anything else is refused before training."""

from __future__ import annotations

import importlib
import importlib.util
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

transformers = pytest.importorskip("transformers")

from safetensors.torch import load_file, save_file
from tiny_models import policy

from forkwise.embedded import EMBEDDED_MODEL
from forkwise.errors import InputError
from forkwise.training.models import resolve_model


def test_the_embedded_model_is_found() -> None:
    name, tokenizer = resolve_model("embedded")
    assert name == str(EMBEDDED_MODEL)
    assert tokenizer.eos_token_id is not None


@pytest.mark.parametrize("kind", ["Qwen2Model", "Qwen2ForTokenClassification"])
def test_a_model_without_a_language_model_head_is_refused(tmp_path: Path, kind: str) -> None:
    getattr(transformers, kind)(policy().config).save_pretrained(tmp_path)
    with pytest.raises(InputError, match=f"{kind}.*no language-model head"):
        resolve_model(str(tmp_path))


def test_a_configuration_that_names_no_architecture_is_judged_by_its_type(tmp_path: Path) -> None:
    transformers.BertConfig().save_pretrained(tmp_path / "bert")
    transformers.CLIPConfig().save_pretrained(tmp_path / "clip")
    with pytest.raises(InputError, match="no language-model head"):
        resolve_model(str(tmp_path / "clip"))


def test_a_model_without_a_tokenizer_is_refused(tmp_path: Path) -> None:
    policy().save_pretrained(tmp_path)
    with pytest.raises(InputError, match="no tokenizer"):
        resolve_model(str(tmp_path))


def test_no_model_and_an_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--model"):
        resolve_model(None)
    with pytest.raises(InputError, match="cannot be loaded"):
        resolve_model(str(tmp_path))


RUN = {
    "task": "countdown:3",
    "train_problems": "4",
    "num_generations": "4",
    "per_device_train_batch_size": "4",
    "max_completion_length": "4",
    "max_steps": "1",
    "save_strategy": "no",
    "report_to": "none",
}


def train(algorithm: str, where: Path, **settings: str) -> None:
    pytest.importorskip("trl")
    main = importlib.import_module(f"forkwise.training.{algorithm}").main
    wanted = {**RUN, "output_dir": str(where / "o"), **settings}
    main([word for name, value in wanted.items() if value for word in (f"--{name}", value)])


def drop_a_layer(file: Path) -> None:
    tensors = load_file(file)
    save_file({k: v for k, v in tensors.items() if ".layers.1.mlp." not in k}, file, metadata={"format": "pt"})


def half(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def narrower(file: Path) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), "intermediate_size": 16}))


def an_index_of_another_shard(file: Path) -> None:
    file.rename(file.with_name("model-00001-of-00002.safetensors"))
    shards = {"model.norm.weight": "model-00002-of-00002.safetensors"}
    file.with_name("model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": shards}))


@pytest.mark.parametrize("algorithm", ["grpo", "ppo"])
@pytest.mark.parametrize(
    ("name", "spoil", "said"),
    [
        ("model.safetensors", half, "model.safetensors"),
        ("model.safetensors", lambda file: file.write_bytes(b""), "model.safetensors"),
        ("model.safetensors", drop_a_layer, r"lack 3 of the tensors .*model.layers.1.mlp"),
        ("model.safetensors", an_index_of_another_shard, "model-00002-of-00002.safetensors"),
        ("config.json", half, "config.json"),
        ("config.json", narrower, r"do not fit its config.json, .*mlp"),
        ("tokenizer.json", half, "tokenizer.json"),
        ("tokenizer.json", lambda file: file.write_text('{"model": {"type": "None"}}'), "tokenizer.json"),
        ("tokenizer_config.json", half, "tokenizer_config.json"),
    ],
)
def test_a_damaged_file_ends_in_one_sentence_that_names_it(
    tmp_path: Path, algorithm: str, name: str, spoil: Callable[[Path], Any], said: str
) -> None:
    shutil.copytree(EMBEDDED_MODEL, tmp_path / "model")
    spoil(tmp_path / "model" / name)
    with pytest.raises(InputError, match=said) as refused:
        train(algorithm, tmp_path, model=str(tmp_path / "model"))
    assert len(str(refused.value).splitlines()) == 1
    assert not (tmp_path / "o").exists()


def test_a_damaged_value_model_is_named_too(tmp_path: Path) -> None:
    shutil.copytree(EMBEDDED_MODEL, tmp_path / "model")
    half(tmp_path / "model" / "model.safetensors")
    with pytest.raises(InputError, match=r"model\.safetensors"):
        train("ppo", tmp_path, model="embedded", value_model=str(tmp_path / "model"))
    shutil.copytree(EMBEDDED_MODEL, tmp_path / "model", dirs_exist_ok=True)
    drop_a_layer(tmp_path / "model" / "model.safetensors")
    with pytest.raises(InputError, match="value model .* lack 3 of the tensors"):
        train("ppo", tmp_path, model="embedded", value_model=str(tmp_path / "model"))


CHAT = [{"role": "system", "content": "s"}, {"role": "user", "content": "Q"}]
# As many published templates do.
NO_SYSTEM = """{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system role') }}{% endif %}
{{ m.content }}{% endfor %}"""


@pytest.mark.parametrize("algorithm", ["grpo", "ppo"])
@pytest.mark.parametrize(
    ("template", "said"),
    [(None, "has no chat template"), (NO_SYSTEM, r"'[^']+', messages of system, user \(no system")],
)
def test_conversations_that_no_template_can_write_are_refused(
    tmp_path: Path, algorithm: str, template: str | None, said: str
) -> None:
    (tmp_path / "chat.jsonl").write_text(
        json.dumps({"prompt": CHAT[1:], "answer": "1"}) + "\n" + json.dumps({"prompt": CHAT, "answer": "2"}) + "\n"
    )
    shutil.copytree(EMBEDDED_MODEL, tmp_path / "model")
    if template is not None:
        tokenizer = transformers.AutoTokenizer.from_pretrained(EMBEDDED_MODEL)
        tokenizer.chat_template = template
        tokenizer.save_pretrained(tmp_path / "model")
    with pytest.raises(InputError, match=said):
        train(
            algorithm, tmp_path, model=str(tmp_path / "model"), dataset=str(tmp_path / "chat.jsonl"), task="",
            train_problems="",
        )  # fmt: skip
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize("algorithm", ["grpo", "ppo"])
def test_a_model_with_another_number_of_rows_than_the_tokenizer(tmp_path: Path, algorithm: str) -> None:
    model = transformers.AutoModelForCausalLM.from_pretrained(EMBEDDED_MODEL)
    tokenizer = transformers.AutoTokenizer.from_pretrained(EMBEDDED_MODEL)
    for rows, name in ((len(tokenizer) + 200, "more"), (8, "fewer")):
        model.resize_token_embeddings(rows, mean_resizing=True)
        model.save_pretrained(tmp_path / name)
        tokenizer.save_pretrained(tmp_path / name)
    train(algorithm, tmp_path, model=str(tmp_path / "more"))
    assert (tmp_path / "o" / "complete").read_text() == "step 1\n"
    with pytest.raises(InputError, match=r"has the token \d+ .*, and the model has 8 rows"):
        train(algorithm, tmp_path, model=str(tmp_path / "fewer"), output_dir=str(tmp_path / "p"))
    assert not any((tmp_path / "p").iterdir())


@pytest.mark.parametrize("algorithm", ["grpo", "ppo"])
def test_a_generation_config_changes_nothing_that_is_drawn(tmp_path: Path, algorithm: str) -> None:
    """With every token but the end suppressed, completions of 4 tokens would have one."""
    model = shutil.copytree(EMBEDDED_MODEL, tmp_path / "model")
    tokenizer = transformers.AutoTokenizer.from_pretrained(model)
    others = [i for i in range(len(tokenizer)) if i != tokenizer.eos_token_id]
    own = {"eos_token_id": tokenizer.eos_token_id, "suppress_tokens": others}
    (model / "generation_config.json").write_text(json.dumps(own))
    train(algorithm, tmp_path, model=str(model))
    lines = [json.loads(line) for line in (tmp_path / "o" / "metrics.jsonl").read_text().splitlines()]
    assert [line["completions/mean_length"] for line in lines if "reward" in line] == [4]
    assert json.loads((tmp_path / "o" / "generation_config.json").read_text())["suppress_tokens"] == others


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
