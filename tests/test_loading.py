"""Damaged, cut off and mismatched model folders: each ends in one sentence that names the file or the tensor."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from tiny_decoders import save_decoder

from forkwise.errors import InputError
from forkwise.sampling.generate import load_model
from forkwise.training.models import resolve_model


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_decoder(tmp_path_factory.mktemp("whole"))


def cut(name: str, size: int) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:size]) and None


def write(name: str, text: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_text(text) and None


def remove(*patterns: str) -> Callable[[Path], None]:
    def act(folder: Path) -> None:
        for pattern in patterns:
            for path in folder.glob(pattern):
                path.unlink()

    return act


def configure(**changes: Any) -> Callable[[Path], None]:
    def act(folder: Path) -> None:
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return act


def indexed(index: str) -> Callable[[Path], None]:
    def act(folder: Path) -> None:
        remove("model.safetensors")(folder)
        write("model.safetensors.index.json", index)(folder)

    return act


def pickled(folder: Path) -> None:
    remove("model.safetensors")(folder)
    torch.save({"a": torch.zeros(999)}, folder / "pytorch_model.bin")
    cut("pytorch_model.bin", 2000)(folder)


SHARD = "model-00001-of-00002.safetensors"
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12\n"
DAMAGES: dict[str, tuple[Callable[[Path], None], str]] = {
    "weights cut off": (cut("model.safetensors", 9000), r"model\.safetensors' is damaged"),
    "weights cut off in the header": (cut("model.safetensors", 20), r"model\.safetensors' is damaged"),
    "no bytes": (cut("model.safetensors", 0), r"model\.safetensors' is damaged"),
    "a pointer of Git LFS": (write("model.safetensors", POINTER), r"model\.safetensors' is damaged"),
    "a pickle cut off": (pickled, r"pytorch_model\.bin' is damaged"),
    "an absent shard": (
        indexed(json.dumps({"weight_map": {"lm_head.weight": SHARD}})),
        rf"{SHARD}' is damaged or",
    ),
    "an index cut off": (indexed('{"metadata":'), r"index\.json' is damaged"),
    "an index without a map": (indexed("{}"), r"index\.json' is damaged or missing \(it has no weight_map"),
    "a tokenizer cut off": (cut("tokenizer.json", 300), r"tokenizer\.json' is damaged"),
    "a tokenizer of no kind": (write("tokenizer.json", '{"model": {"type": "?"}}'), r"tokenizer\.json' is damaged"),
    "a tokenizer of no text": (
        lambda f: (f / "tokenizer.json").write_bytes(b"\xff\xfe") and None,
        r"tokenizer\.json' is",
    ),
    "a tokenizer config": (write("tokenizer_config.json", "[1,"), r"tokenizer_config\.json' is damaged"),
    "no tokenizer": (remove("*token*"), "has no tokenizer"),
    "a config cut off": (cut("config.json", 30), r"config\.json' is damaged"),
    "a config that is a list": (
        write("config.json", "[]"),
        r"config\.json' is damaged or missing \(it holds no",
    ),
    "no config": (remove("config.json"), r"config\.json' is damaged or missing \(it is not there"),
    "a config of no model": (configure(model_type="nope"), "model type `nope`"),
    "nothing": (remove("*"), "has no tokenizer|config.json' is damaged or missing"),
}
ONLY_LOADING: dict[str, tuple[Callable[[Path], None], str]] = {
    "no weights": (remove("*.safetensors"), r"model\.safetensors' is damaged or missing \(it is not there"),
    "more layers than weights": (configure(num_hidden_layers=4), r"lack 18 of the tensors .*'model\.layers\.2\."),
    "other sizes": (
        configure(intermediate_size=64),
        r"do not fit its config\.json, (32x48 for 32x64 )?in 'model\.layers",
    ),
    "biases without weights": (configure(attention_bias=True), r"lack 8 of the tensors .*'model\.layers\.0\..*bias'"),
    "a size of no kind": (configure(hidden_size="abc"), r"config\.json' \("),
    "a generation config cut off": (write("generation_config.json", "{"), r"generation_config\.json' is damaged"),
    "an end of no kind": (write("generation_config.json", '{"eos_token_id": "x"}'), "eos_token_id 'x'"),
}


@pytest.mark.parametrize("damage", [*DAMAGES, *ONLY_LOADING])
def test_a_damaged_folder_is_refused_in_a_sentence_that_names_the_file(
    whole: Path, tmp_path: Path, damage: str
) -> None:
    act, sentence = (DAMAGES | ONLY_LOADING)[damage]
    folder = shutil.copytree(whole, tmp_path / "model")
    act(folder)
    with pytest.raises(InputError, match=sentence) as caught:
        load_model(str(folder), "cpu", "auto", False)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("damage", DAMAGES)
def test_so_it_is_before_training(whole: Path, tmp_path: Path, damage: str) -> None:
    act, sentence = DAMAGES[damage]
    folder = shutil.copytree(whole, tmp_path / "model")
    act(folder)
    with pytest.raises(InputError, match=sentence):
        resolve_model(str(folder))


def test_a_whole_folder_is_loaded_and_weights_without_a_place_are_said(
    whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    load_model(str(whole), "cpu", "auto", False)
    assert capsys.readouterr().err == ""
    folder = shutil.copytree(whole, tmp_path / "model")
    configure(num_hidden_layers=1)(folder)
    load_model(str(folder), "cpu", "auto", False)
    assert "is used without 9 tensors of its files" in capsys.readouterr().err


def test_loading_shows_no_progress_bar_of_transformers(whole: Path, capsys: pytest.CaptureFixture[str]) -> None:
    transformers = pytest.importorskip("transformers")
    transformers.logging.enable_progress_bar()
    transformers.AutoModelForCausalLM.from_pretrained(whole)
    there_is_one = "Loading weights" in capsys.readouterr().err  # not in transformers 4
    load_model(str(whole), "cpu", "float32", trust_remote_code=False)
    assert "Loading weights" not in capsys.readouterr().err
    assert there_is_one or transformers.__version__ < "5"
