"""Sampling with transformers: exact draws, log-probabilities and entropies from the logits that are there anyway."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch

from forkwise.embedded import model_path
from forkwise.errors import InputError, first_line
from forkwise.loading import load_tokenizer, load_weights, named
from forkwise.progress import Meter
from forkwise.sampling.decoding import Decoder
from forkwise.sampling.engine import Block, Completion, sample_seed
from forkwise.sampling.forward import check_length, check_rows, embedding_rows
from forkwise.sampling.prompts import prompt_text
from forkwise.sampling.recipe import Job, Sampling
from forkwise.sampling.rows import table_row
from forkwise.tasks import Problem, Task

__all__ = ["Sampling", "TransformersEngine", "sample_problem", "sample_seed"]


def end_tokens(model: Any, tokenizer: Any) -> list[int]:
    """Lists the ids that end a completion of the model."""
    ids = model.generation_config.eos_token_id
    if ids is None:
        ids = tokenizer.eos_token_id
    return [] if ids is None else torch.atleast_1d(torch.as_tensor(ids)).tolist()


class Vocabulary:
    """A tokenizer beside the rows of a model, which often has more than the tokenizer has tokens."""

    def __init__(self, tokenizer: Any, model: Any) -> None:
        self.tokenizer, self.model = tokenizer, model
        self.rows = embedding_rows(model)
        self._known = frozenset(tokenizer.get_vocab().values())

    def encode(self, problem: Problem, chat: bool) -> tuple[str, torch.Tensor]:
        """Returns the text that is continued and its ids, `(1, length)`."""
        text, templated = prompt_text(problem, self.tokenizer, chat)
        ids = self.tokenizer(text, return_tensors="pt", add_special_tokens=not templated)["input_ids"]
        if ids.shape[1] == 0:
            raise InputError(
                f"The prompt of problem '{problem.id}' is empty by the tokenizer of {named(self.model)}: there is "
                "nothing to continue."
            )
        subject = f"The prompt of problem '{problem.id}'"
        check_rows(self.model, self.tokenizer, ids[0].tolist(), subject)
        check_length(self.model, ids.shape[1], subject)
        return text, ids

    def decode(self, ids: Sequence[int], **options: bool) -> str:
        """Returns the text of ids; those that the tokenizer lacks stand for none."""
        return str(self.tokenizer.decode([i for i in ids if i in self._known], **options))

    def unknown(self, ids: Sequence[int]) -> int:
        """Tells how many of the ids the tokenizer lacks."""
        return sum(i not in self._known for i in ids)


def _complete(
    decoder: Decoder,
    vocabulary: Vocabulary,
    problem: Problem,
    seeds: Sequence[int],
    sampling: Sampling,
    *,
    chat: bool = False,
    traces: int = 0,
    progress: Callable[[int], None] = lambda tokens: None,
) -> list[Completion]:
    text, prompt = vocabulary.encode(problem, chat)
    try:
        drawn = decoder.draw(prompt.to(decoder.model.device), seeds, sampling, progress)
    except torch.OutOfMemoryError as error:
        raise InputError(
            f"The device has too little memory for {len(seeds)} completions side by side: use a smaller --batch-size, "
            "in another --out."
        ) from error
    completions = []
    lengths, stopped = drawn.lengths.tolist(), drawn.stopped.tolist()
    for i, (length, stop) in enumerate(zip(lengths, stopped, strict=True)):
        ids = drawn.ids[i, :length].tolist()
        if vocabulary.unknown(ids):
            decoder.say(
                f"The model has {vocabulary.rows:,} rows, more than its tokenizer has tokens, and some of the others "
                "were drawn: they stand for no text, and log-probs and entropies are over all rows."
            )
        traced = i < traces
        completion = Completion(
            text=vocabulary.decode(ids[: length - stop], skip_special_tokens=True),
            prompt=text,
            n_tokens=length,
            finish_reason="stop" if stop else "length",
            token_ids=ids if traced else None,
            tokens=[vocabulary.decode([token]) for token in ids] if traced else None,
            logprobs=drawn.logprobs[i, :length].tolist() if traced else None,
            entropies=drawn.entropies[i, :length].tolist() if traced else None,
            varentropies=drawn.varentropies[i, :length].tolist() if traced else None,
        )
        completions.append(completion)
    return completions


def sample_problem(
    model: Any,
    tokenizer: Any,
    problem: Problem,
    task: Task,
    n: int,
    *,
    run: str,
    seed: int,
    sampling: Sampling,
    traces: int = 0,
) -> Iterator[dict[str, Any]]:
    """Draws and verifies `n` completions of one problem, as rows of the samples table; equal arguments, equal rows.

    The first `traces` of them have the token-level columns too.
    """
    name = str(getattr(model.config, "_name_or_path", ""))
    job = Job(run=run, model=name, task=task.name, n=n, seed=seed, sampling=sampling)
    decoder, vocabulary = Decoder(model, end_tokens(model, tokenizer)), Vocabulary(tokenizer, model)
    completions: list[Completion] = []
    for start in range(0, n, sampling.batch_size):
        ids = range(start, min(start + sampling.batch_size, n))
        seeds = [sample_seed(seed, problem.id, i) for i in ids]
        completions += _complete(decoder, vocabulary, problem, seeds, sampling, traces=traces - start)
    verdicts = task.verify([completion.text for completion in completions], [problem] * n)
    for i, (completion, verdict) in enumerate(zip(completions, verdicts, strict=True)):
        yield table_row(job, problem, i, completion, verdict)


class TransformersEngine:
    """Any causal language model of transformers, on one device.

    Args:
        model: Hub id, folder, or `"embedded"`.
        seed: the run's seed.
        sampling: how completions are drawn.
        chat: send plain prompts through the tokenizer's chat template.
        traces: of how many samples of a problem token ids, log-probabilities and entropies are kept; None is all.
        device: `"cpu"`, `"cuda"`, `"cuda:1"`, ...; `"auto"` is the first GPU, or the CPU.
        dtype: `"float32"`, `"bfloat16"`, `"float16"`; `"auto"` is the checkpoint's own on a GPU, float32 on the CPU.
        trust_remote_code: run code that comes with the checkpoint.

    Raises:
        InputError: the model cannot be loaded, or there is no such device or dtype.
    """

    def __init__(
        self,
        model: str,
        seed: int,
        sampling: Sampling,
        *,
        chat: bool = False,
        traces: int | None = None,
        device: str = "auto",
        dtype: str = "auto",
        trust_remote_code: bool = False,
    ) -> None:
        self._seed, self._sampling, self._chat, self._traces = seed, sampling, chat, traces
        self._model, self._tokenizer = load_model(model, device, dtype, trust_remote_code)

    def settings(self) -> Mapping[str, Any]:
        """Returns all that changes a token or its rounding: kind of device, dtype, the weights themselves."""
        return {
            "device": self._model.device.type,
            "dtype": str(self._model.dtype).removeprefix("torch."),
            "weights": fingerprint(self._model),
            "chat": self._chat,
            "token_data": True if self._traces is None else self._traces or False,
        }

    def draw(self, blocks: Sequence[Block], meter: Meter) -> Iterator[tuple[Block, list[Completion]]]:
        """Draws block by block; the completions of a block are generated side by side."""
        decoder = Decoder(self._model, end_tokens(self._model, self._tokenizer), meter.say)
        decoder.probe(self._tokenizer)
        vocabulary = Vocabulary(self._tokenizer, self._model)
        for block in blocks:
            seeds = [sample_seed(self._seed, block.problem.id, i) for i in block.sample_ids]
            completions = _complete(
                decoder,
                vocabulary,
                block.problem,
                seeds,
                self._sampling,
                chat=self._chat,
                traces=len(seeds) if self._traces is None else self._traces - block.sample_ids.start,
                progress=lambda tokens: meter.add(tokens=tokens),
            )
            yield block, completions
            meter.add(samples=len(completions))


def load_model(model: str, device: str, dtype: str, trust_remote_code: bool) -> tuple[Any, Any]:
    """Loads a causal language model and its tokenizer; `model` is a Hub id, a folder, or `"embedded"`.

    Raises:
        InputError: the model cannot be loaded, or there is no such device or dtype.
    """
    import transformers

    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if dtype == "auto" and device == "cpu":
        dtype = "float32"
    if dtype not in ("auto", "float32", "bfloat16", "float16"):
        raise InputError(f"There is no dtype '{dtype}': use auto, float32, bfloat16 or float16.")

    transformers.logging.set_verbosity_error()
    name = model_path(model)
    tokenizer = load_tokenizer(model, name, trust_remote_code=trust_remote_code)
    loaded = load_weights(model, name, dtype=dtype, trust_remote_code=trust_remote_code)
    try:
        return loaded.eval().to(device), tokenizer
    except torch.OutOfMemoryError as error:
        raise InputError(f"The device '{device}' has too little memory for the model '{model}'.") from error
    except (RuntimeError, AssertionError) as error:  # torch has no kind of its own for a device that is not there
        raise InputError(f"The model cannot be moved to the device '{device}' ({first_line(error)}).") from error


def fingerprint(model: Any) -> str:
    """Returns 16 hex digits that change when any tensor of the model does: its name, shape, and some of its values."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        flat = tensor.detach().reshape(-1)
        some = flat[:: max(1, flat.numel() // 64)][:64].double().cpu()
        digest.update(f"{name}{tuple(tensor.shape)}".encode() + some.numpy().tobytes())
    return digest.hexdigest()[:16]
