"""Loads models of other people, and turns whatever transformers raises into a sentence that names the damaged file."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from forkwise.errors import InputError, first_line
from forkwise.model_files import damaged, damaged_file, model_folder, read_object, refuse_at_once, whole_number
from forkwise.terminal import echo

_TOKENIZER = re.compile(r"token|vocab|spiece|merges|\.model$|\.py$|tekken")
_BUFFERS = {"inv_freq", "position_ids", "masked_bias", "bias"}  # buffers that older checkpoints lack
_DROPOUT = re.compile(r"drop(out)?(_\w+)?$")
_OF_PYTHON = re.compile(
    r"'\w+' object|NoneType|argument|operand|not supported between|unhashable|out of range|no attribute|not a mapping"
)


@contextmanager
def one_sentence(
    model: str, name: str | None = None, file: str = "config.json", *, trust_remote_code: bool = False
) -> Iterator[None]:
    """Turns what a `from_pretrained` inside raises into an InputError; a missing package stays an ImportError.

    Args:
        model: Hub id or folder, as the user gave it.
        name: Hub id or folder that is loaded, where it is not `model`.
        file: the file that is blamed where every file can be read.
        trust_remote_code: the checkpoint's own code may run, so Python's errors are worth showing.
    """
    refuse_at_once(model, model_folder(name or model))
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # tokenizers and safetensors raise kinds of their own, transformers whatever it meets
        if type(error).__name__ == "OutOfMemoryError":
            raise
        folder = model_folder(name or model)
        fault = damaged_file(folder)
        if fault is not None:
            raise damaged(model, *fault) from error
        if isinstance(error, ImportError):
            raise
        reason = f"{type(error).__name__}: {first_line(error)}" if trust_remote_code else _reason(error)
        if folder is None:
            raise InputError(f"The model '{model}' cannot be loaded as a Hub id or a folder ({reason}).") from error
        raise InputError(
            f"The model '{model}' cannot be loaded from '{folder / file}' ({reason}): correct it, or get it again."
        ) from error


def named(model: Any) -> str:
    """Names a model of transformers by its class, and by its origin if that is known."""
    origin = getattr(model, "name_or_path", "")
    return f"{type(model).__name__} '{origin}'" if origin else type(model).__name__


def load_config(model: str, name: str | None = None, **options: Any) -> Any:
    """Loads the config of a model.

    Raises:
        InputError: the config cannot be loaded, or has settings that forkwise cannot work with.
    """
    from transformers import AutoConfig
    from transformers.quantizers.auto import AutoHfQuantizer, AutoQuantizationConfig

    folder, adapter = _place(name or model)
    if folder is not None and not (folder / "config.json").exists():
        if not adapter:  # transformers 4 guesses by the folder's name
            raise damaged(model, folder / "config.json", "it is not there")
        raise InputError(
            f"The model '{model}' is an adapter, by its adapter_config.json: merge it into its base model, and give "
            "the folder of that."
        )
    with one_sentence(model, name, trust_remote_code=options.get("trust_remote_code", False)):
        config = AutoConfig.from_pretrained(name or model, **options)
        names = config.architectures
        if names is not None and not (isinstance(names, list) and all(isinstance(n, str) for n in names)):
            raise ValueError(f"architectures is {names!r}, not a list of names")
        if not getattr(config, "return_dict", True):
            raise ValueError("return_dict is false, and outputs must have names")
        for key, rate in config.to_dict().items():
            if _DROPOUT.search(key) and isinstance(rate, int | float) and not 0 <= rate <= 1:
                raise ValueError(f"{key} is {rate}, which is no share")
        quantized = getattr(config, "quantization_config", None)
        if quantized is not None and AutoHfQuantizer.supports_quant_method(quantized):
            AutoQuantizationConfig.from_dict(dict(quantized))
    return config


def load_tokenizer(model: str, name: str | None = None, **options: Any) -> Any:
    """Loads the tokenizer of a model.

    Raises:
        InputError: it cannot be loaded, or is missing: transformers makes up an empty one where files are missing.
    """
    from transformers import AutoTokenizer

    folder, adapter = _place(name or model)
    if folder is not None and not any(_TOKENIZER.search(path.name) for path in folder.iterdir()):
        raise InputError(f"The model '{model}' has no tokenizer: save one beside it.")
    if not adapter:  # the tokenizer reads the config too, and would be blamed for its faults
        load_config(model, name, **_for_config(options))
    trust = options.get("trust_remote_code", False)
    with one_sentence(model, name, "tokenizer_config.json", trust_remote_code=trust):
        tokenizer = AutoTokenizer.from_pretrained(name or model, **options)
        tokenizer.decode(tokenizer("1 + 1 = 2")["input_ids"])  # some settings are read only when it is used
        try:
            json.dumps(tokenizer.init_kwargs, default=str, ensure_ascii=False).encode()  # as checkpoints hold them
        except UnicodeEncodeError as error:
            raise ValueError("it has half of a character, a lone surrogate") from error
    if len(tokenizer) <= len(tokenizer.all_special_tokens):
        raise InputError(f"The model '{model}' has no tokenizer that can be loaded: save one beside it.")
    return tokenizer


def load_weights(model: str, name: str | None = None, **options: Any) -> Any:
    """Loads a causal language model with all its weights, and prints which weights its config has no place for.

    Raises:
        InputError: the model cannot be loaded, or lacks tensors, which transformers would fill with random numbers.
    """
    return read_weights(model, name, **options)[0]


def read_weights(
    model: str,
    name: str | None = None,
    *,
    auto: str = "AutoModelForCausalLM",
    new: tuple[str, ...] = (),
    noun: str = "model",
    **options: Any,
) -> tuple[Any, set[str]]:
    """Loads a model with its weights, and returns it with the names of the weights that no file has.

    Args:
        model, name: as for `one_sentence`.
        auto: class of transformers that loads the model.
        new: beginnings of the names of weights that files may lack.
        noun: how messages call the model.
        options: options of `from_pretrained`.

    Raises:
        InputError: as for `load_weights`.
    """
    plain = False
    if not _place(name or model)[1]:
        config = load_config(model, name, **_for_config(options))
        plain = can_be_checked(config, bool(options.get("trust_remote_code")))
    if plain:
        check_weights(model, name, auto=auto, new=new, noun=noun, **options)
    return _from_pretrained(model, name, auto, new, noun, options, say=not plain)


def can_be_checked(config: Any, trust_remote_code: bool) -> bool:
    """Whether the tensors of a model can be compared with its config without loading them."""
    return getattr(config, "quantization_config", None) is None and not trust_remote_code and not sharded()


def sharded() -> bool:
    """Whether models are loaded onto several devices, as DeepSpeed and FSDP do."""
    from transformers.integrations import is_deepspeed_zero3_enabled

    return is_deepspeed_zero3_enabled() or os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true"


def check_weights(
    model: str,
    name: str | None = None,
    *,
    auto: str = "AutoModelForCausalLM",
    new: tuple[str, ...] = (),
    noun: str = "model",
    **options: Any,
) -> Any:
    """Compares the files of a model with its config, in next to no memory, and returns the model without weights.

    A damaged config may ask for more memory than there is, so this comes before the weights are loaded.

    Args:
        model, name, auto, new, noun, options: as for `read_weights`.

    Raises:
        InputError: as for `load_weights`.
    """
    loaded, _ = _from_pretrained(model, name, auto, new, noun, {**options, "device_map": "meta"})
    folder, _ = _place(name or model)
    for path in sorted(folder.glob("*.safetensors")) if folder is not None else ():
        weight = whole_number(path)
        if weight is not None:
            raise damaged(model, path, f"'{weight}' holds whole numbers, and config.json has no quantization_config")
    return loaded


def _from_pretrained(
    model: str,
    name: str | None,
    auto: str,
    new: tuple[str, ...],
    noun: str,
    options: dict[str, Any],
    *,
    say: bool = True,
) -> tuple[Any, set[str]]:
    import transformers

    transformers.logging.disable_progress_bar()
    path, trust = name or model, options.get("trust_remote_code", False)
    with one_sentence(model, name, "generation_config.json", trust_remote_code=trust):
        folder, adapter = _place(path)
        if folder is not None and read_object(folder / "generation_config.json"):
            transformers.GenerationConfig.from_pretrained(folder)  # a model would load with a damaged one
    file = "adapter_config.json" if adapter else "config.json"
    with one_sentence(model, name, file, trust_remote_code=trust):
        loaded, report = getattr(transformers, auto).from_pretrained(
            path, output_loading_info=True, ignore_mismatched_sizes=True, **options
        )
    ends = loaded.generation_config.eos_token_id if loaded.can_generate() else None
    numbers = ends if isinstance(ends, list) else [ends or 0]
    if not all(isinstance(end, int) and abs(end) < 2**31 for end in numbers):
        raise InputError(f"The model '{model}' has the eos_token_id {ends!r}: it must be a number, or several.")
    for wrong in sorted(report["mismatched_keys"]):
        key, *shapes = (wrong,) if isinstance(wrong, str) else wrong  # transformers 4 gives names alone
        sizes = "".join(
            f"{'x'.join(map(str, shape))} {word} " for shape, word in zip(shapes, ("for", "in"), strict=False)
        )
        raise InputError(
            f"The weights of the {noun} '{model}' do not fit its {file}, {sizes or 'in '}'{key}': get the config "
            "that belongs to them."
        )
    weights = {key for key, _ in loaded.named_parameters(remove_duplicate=False)}
    lacking = {key for key in report["missing_keys"] if key in weights or key.rsplit(".", 1)[-1] not in _BUFFERS}
    missing = sorted(key for key in lacking if not key.startswith(new)) if new else sorted(lacking)
    if missing:
        raise InputError(
            f"The files of the {noun} '{model}' lack {len(missing):,} of the tensors that its {file} asks for "
            f"('{missing[0]}'), and they would be random numbers: get the weights again, or the config that fits."
        )
    unused = sorted(report["unexpected_keys"])
    if unused and say and not new:
        echo(
            f"forkwise: the model '{model}' is used without {len(unused):,} tensors of its files that its config.json "
            f"has no place for, such as '{unused[0]}'.",
            error=True,
        )
    return loaded, lacking


def _place(name: str) -> tuple[Path | None, bool]:
    """Returns the folder of a model on this machine, and whether it is an adapter of another model."""
    folder = model_folder(name)
    return folder, folder is not None and (folder / "adapter_config.json").exists()


def _for_config(options: dict[str, Any]) -> dict[str, Any]:
    return {key: options[key] for key in ("revision", "trust_remote_code") if key in options}


def _reason(error: BaseException) -> str:
    """Rewords an exception for somebody who does not read Python."""
    if isinstance(error, KeyError):
        return f"{error} is missing, or unknown"
    if isinstance(error, AttributeError | TypeError | IndexError) and _OF_PYTHON.search(str(error)):
        return "something in it is missing, or of the wrong kind"
    return first_line(error).replace("NoneType", "null")
