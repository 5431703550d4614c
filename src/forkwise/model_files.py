"""Finds the files of a model on this machine, says which is damaged, and refuses what must not be loaded."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from forkwise.errors import InputError, first_line

_OBJECTS = (
    *("config.json", "generation_config.json", "adapter_config.json", "tokenizer.json", "tokenizer_config.json"),
    *("special_tokens_map.json", "added_tokens.json"),
)
_READ = (".json", ".jinja", ".model", ".safetensors", ".bin")
_COUNT = re.compile(r"(layer|block|expert|label|head)s?$|(head|rotary)_dim$|^r$")
_MOST = 10_000  # layers, heads and so on, which transformers makes before it reads any weight


def model_folder(name: str) -> Path | None:
    """Returns the folder of a model's files on this machine, or None."""
    if Path(name).is_dir():
        return Path(name)
    from huggingface_hub import try_to_load_from_cache

    try:
        config = try_to_load_from_cache(name, "config.json")
    except ValueError:  # the name has not the form of an id
        return None
    return Path(config).parent if isinstance(config, str) else None


def damaged(model: str, path: Path, reason: str) -> InputError:
    """Makes the error about a file of a model that cannot be used."""
    return InputError(f"The model '{model}' cannot be loaded: '{path}' is damaged or missing ({reason}): get it again.")


def refuse_at_once(model: str, folder: Path | None) -> None:
    """Refuses what transformers would not come back from: pipes, endless layers, weights from outside the folder."""
    if folder is None:
        return
    for path in sorted(folder.iterdir()):
        if path.suffix in _READ and path.exists() and not path.is_file():
            raise damaged(model, path, "it is no file")
        if not path.name.endswith(("config.json", ".index.json")):
            continue
        try:
            content = read_object(path)
        except (ValueError, OSError, RecursionError):  # whoever needs the file refuses it
            continue
        for key, value in _settings(content):
            if _COUNT.search(key) and isinstance(value, int) and not 0 <= value <= _MOST:
                raise damaged(model, path, f"{key} is {value:,}")
        shards = content.get("weight_map")
        for shard in shards.values() if isinstance(shards, dict) else ():
            if isinstance(shard, str) and Path(shard).name != shard:
                raise damaged(model, path, f"it names '{shard}', outside its folder")


def _settings(content: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yields the settings of a config and of the configs in it."""
    for key, value in content.items():
        yield key, value
        if isinstance(value, dict):
            yield from value.items()


def damaged_file(folder: Path | None) -> tuple[Path, str] | None:
    """Finds the first file of a model folder that cannot be read, and why."""
    if folder is None:
        return None
    if not (folder / "config.json").exists() and not (folder / "adapter_config.json").exists():
        return folder / "config.json", "it is not there"
    for path in sorted(folder.glob("*.json")):
        try:
            content = read_object(path)
        except (ValueError, OSError, RecursionError) as error:
            return path, first_line(error)
        if path.name.endswith(".index.json"):
            shards = content.get("weight_map")
            if not isinstance(shards, dict) or not shards:
                return path, "it has no weight_map"
            for shard in sorted({str(shard) for shard in shards.values()}):
                if not (folder / shard).is_file():
                    return folder / shard, f"'{path.name}' names it"
            if not isinstance(content.get("metadata"), dict):
                return path, "it has no metadata"
        if path.name == "tokenizer.json":
            from tokenizers import Tokenizer

            try:
                Tokenizer.from_file(str(path))
            except Exception as error:  # tokenizers raises exceptions without a class of their own
                return path, first_line(error)
    for path in sorted(folder.glob("*.jinja")):
        try:
            path.read_text(encoding="utf-8")
        except (ValueError, OSError) as error:
            return path, first_line(error)
    return _damaged_weights(folder)


def _damaged_weights(folder: Path) -> tuple[Path, str] | None:
    tensors, pickles = sorted(folder.glob("*.safetensors")), sorted(folder.glob("*model*.bin"))
    if not tensors and not pickles:
        expected = "model.safetensors" if (folder / "config.json").exists() else "adapter_model.safetensors"
        return folder / expected, "it is not there"
    for path in tensors:
        try:
            whole_number(path)
        except Exception as error:  # a SafetensorError, or an OSError
            return path, first_line(error)
    for path in pickles:
        import torch

        try:
            content = torch.load(path, map_location="meta", weights_only=True)
        except Exception:  # pickle, zip and torch have kinds of their own, and advise to trust the file
            return path, "it is no file of tensors alone, as torch.save writes them"
        if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
            return path, "it holds no tensors with names"
    return None


def whole_number(path: Path) -> str | None:
    """Finds the first weight in a file that holds whole numbers, as quantized weights do."""
    from safetensors import safe_open

    with safe_open(str(path), framework="np") as file:
        for key in file.keys():  # noqa: SIM118  (no dict)
            if key.endswith(".weight") and file.get_slice(key).get_dtype().startswith(("I", "U")):
                return str(key)
    return None


def read_object(path: Path) -> dict[str, Any]:
    """Reads the JSON object in a file; {} without the file, or where it holds a list, as old tokenizers' files do."""
    if not path.exists():
        return {}
    content = json.loads(path.read_text(encoding="utf-8"))
    if isinstance(content, dict):
        return content
    if path.name in _OBJECTS:
        raise ValueError("it holds no JSON object")
    return {}
