"""Loading models of other people: whatever transformers raises becomes one sentence that names the damaged file."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from forkwise.errors import InputError

_NO_TRAINING = {"inv_freq", "position_ids", "masked_bias", "bias"}  # names of buffers that older checkpoints lack


@contextmanager
def one_sentence(model: str, name: str | None = None) -> Iterator[None]:
    """Turns what a `from_pretrained` inside raises into an InputError; a missing package stays an ImportError.

    Args:
        model: Hub id or folder, as the user gave it.
        name: what is loaded, where it is not that.
    """
    try:
        yield
    except (InputError, ImportError):
        raise
    except Exception as error:  # tokenizers and safetensors raise kinds of their own, transformers whatever it meets
        if type(error).__name__ == "OutOfMemoryError":
            raise
        damaged = damaged_file(_folder(name or model))
        if damaged is not None:
            path, reason = damaged
            raise InputError(
                f"The model '{model}' cannot be loaded: '{path}' is damaged or missing ({reason}): get it again."
            ) from error
        reason = first_line(error)
        raise InputError(f"The model '{model}' cannot be loaded as a Hub id or a folder ({reason}).") from error


def first_line(error: BaseException) -> str:
    """What an exception says, without its last full stop and whatever follows the first line."""
    lines = [line.strip() for line in str(error).strip().splitlines() if line.strip(" -=|")]
    return (lines[0].rstrip(".:") if lines else "")[:300] or type(error).__name__


def load_tokenizer(model: str, name: str | None = None, **options: Any) -> Any:
    """The tokenizer of a model.

    Raises:
        InputError: it cannot be loaded, or there is none: transformers makes up an empty one where files are missing.
    """
    from transformers import AutoTokenizer

    with one_sentence(model, name):
        tokenizer = AutoTokenizer.from_pretrained(name or model, **options)
    if len(tokenizer) <= len(tokenizer.all_special_tokens):
        raise InputError(f"The model '{model}' has no tokenizer that can be loaded: save one beside it.")
    return tokenizer


def load_weights(model: str, name: str | None = None, **options: Any) -> Any:
    """A causal language model with all its weights.

    Raises:
        InputError: it cannot be loaded, or files lack tensors, which transformers would fill with random numbers.
    """
    from transformers import AutoModelForCausalLM

    with one_sentence(model, name):
        loaded, report = AutoModelForCausalLM.from_pretrained(name or model, output_loading_info=True, **options)
    missing = sorted(key for key in report["missing_keys"] if key.rsplit(".", 1)[-1] not in _NO_TRAINING)
    if missing:
        raise InputError(
            f"The files of the model '{model}' lack {len(missing):,} of the tensors that its config.json asks for "
            f"('{missing[0]}'), and they would be random numbers: get the weights again, or the config that fits."
        )
    return loaded


def _folder(name: str) -> Path | None:
    """Where the files of a model lie on this machine, or None."""
    if Path(name).is_dir():
        return Path(name)
    from huggingface_hub import try_to_load_from_cache

    try:
        config = try_to_load_from_cache(name, "config.json")
    except ValueError:  # not the form of an id
        return None
    return Path(config).parent if isinstance(config, str) else None


def damaged_file(folder: Path | None) -> tuple[str, str] | None:
    """The first file of a model folder that cannot be read, and why."""
    if folder is None:
        return None
    for path in sorted(folder.glob("*.json")):
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except (ValueError, OSError, RecursionError) as error:
            return str(path), first_line(error)
        if not isinstance(content, dict):
            if path.name in ("config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json"):
                return str(path), "it holds no JSON object"
            continue
        if path.name.endswith(".index.json"):
            shards = content.get("weight_map")
            if not isinstance(shards, dict):
                return str(path), "it has no weight_map"
            for shard in sorted({str(shard) for shard in shards.values()}):
                if not (folder / shard).is_file():
                    return str(folder / shard), f"'{path.name}' names it"
        if path.name == "tokenizer.json":
            from tokenizers import Tokenizer

            try:
                Tokenizer.from_file(str(path))
            except Exception as error:  # of a kind that tokenizers does not name
                return str(path), first_line(error)
    for path in sorted(folder.glob("*.safetensors")):
        from safetensors import safe_open

        try:
            with safe_open(str(path), framework="np"):
                pass
        except Exception as error:  # a SafetensorError, or an OSError
            return str(path), first_line(error)
    for path in sorted(folder.glob("*.bin")):
        import torch

        try:
            torch.load(path, map_location="meta", weights_only=True)
        except Exception as error:  # pickle, zip and torch have kinds of their own
            return str(path), first_line(error)
    return None
