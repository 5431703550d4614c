"""Loading models of other people: whatever transformers raises becomes one sentence that names the damaged file."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from forkwise.errors import InputError
from forkwise.terminal import echo

_TOKENIZER = re.compile(r"token|vocab|spiece|merges|\.model$|\.py$|tekken")
_OBJECTS = ("config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json")
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
        refuse_damaged(model, name)
        reason = first_line(error)
        raise InputError(f"The model '{model}' cannot be loaded as a Hub id or a folder ({reason}).") from error


def refuse_damaged(model: str, name: str | None = None) -> None:
    """Looks through the files of a model that lie on this machine, without loading it.

    Raises:
        InputError: one of them cannot be read, or is named by an index and not there.
    """
    damaged = _damaged_file(_folder(name or model))
    if damaged is not None:
        path, reason = damaged
        raise InputError(
            f"The model '{model}' cannot be loaded: '{path}' is damaged or missing ({reason}): get it again."
        )


def first_line(error: BaseException) -> str:
    """What an exception says, without its last full stop and whatever follows the first line."""
    lines = [line.strip() for line in str(error).strip().splitlines() if line.strip(" -=|")]
    return (lines[0].rstrip(".:") if lines else "")[:200] or type(error).__name__


def load_tokenizer(model: str, name: str | None = None, **options: Any) -> Any:
    """The tokenizer of a model.

    Raises:
        InputError: it cannot be loaded, or there is none: transformers makes up an empty one where files are missing.
    """
    from transformers import AutoTokenizer

    folder = _folder(name or model)
    if folder is not None and not any(_TOKENIZER.search(path.name) for path in folder.iterdir()):
        raise InputError(f"The model '{model}' has no tokenizer: save one beside it.")
    with one_sentence(model, name):
        tokenizer = AutoTokenizer.from_pretrained(name or model, **options)
    if len(tokenizer) <= len(tokenizer.all_special_tokens):
        raise InputError(f"The model '{model}' has no tokenizer that can be loaded: save one beside it.")
    return tokenizer


def load_weights(model: str, name: str | None = None, **options: Any) -> Any:
    """A causal language model with all its weights; weights that its config has no place for are said.

    Raises:
        InputError: it cannot be loaded, or files lack tensors, which transformers would fill with random numbers.
    """
    from transformers import AutoModelForCausalLM

    with one_sentence(model, name):
        loaded, report = AutoModelForCausalLM.from_pretrained(
            name or model, output_loading_info=True, ignore_mismatched_sizes=True, **options
        )
        folder = _folder(name or model)
        if folder is not None:
            _read_object(folder / "generation_config.json")  # transformers passes over a damaged one
    ends = loaded.generation_config.eos_token_id
    if not all(isinstance(end, int) for end in (ends if isinstance(ends, list) else [ends or 0])):
        raise InputError(f"The model '{model}' has the eos_token_id {ends!r}: it must be a number, or several.")
    wrong = sorted(report["mismatched_keys"])
    if wrong:
        key, there, wanted = wrong[0][:3]
        raise InputError(
            f"The weights of the model '{model}' do not fit its config.json, {_shape(there)} for {_shape(wanted)} in "
            f"'{key}': get the config that belongs to them."
        )
    missing = sorted(key for key in report["missing_keys"] if key.rsplit(".", 1)[-1] not in _NO_TRAINING)
    if missing:
        raise InputError(
            f"The files of the model '{model}' lack {len(missing):,} of the tensors that its config.json asks for "
            f"('{missing[0]}'), and they would be random numbers: get the weights again, or the config that fits."
        )
    unused = sorted(report["unexpected_keys"])
    if unused:
        echo(
            f"forkwise: the model '{model}' is used without {len(unused):,} tensors of its files that its config.json "
            f"has no place for, such as '{unused[0]}'.",
            error=True,
        )
    return loaded


def _shape(size: Sequence[int]) -> str:
    return "x".join(str(n) for n in size)


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


def _damaged_file(folder: Path | None) -> tuple[str, str] | None:
    """The first file of a model folder that cannot be read, and why."""
    if folder is None:
        return None
    if not (folder / "config.json").exists():
        return str(folder / "config.json"), "it is not there"
    for path in sorted(folder.glob("*.json")):
        try:
            content = _read_object(path)
        except (ValueError, OSError, RecursionError) as error:
            return str(path), first_line(error)
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


def _read_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file; {} without the file, or where it is one of the lists that old tokenizers have."""
    if not path.exists():
        return {}
    content = json.loads(path.read_text(encoding="utf-8"))
    if isinstance(content, dict):
        return content
    if path.name in _OBJECTS:
        raise ValueError("it holds no JSON object")
    return {}
