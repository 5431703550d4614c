"""Sampling with transformers: exact draws, log-probabilities and entropies from the logits that are there anyway."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch

from forkwise.embedded import EMBEDDED_MODEL
from forkwise.errors import InputError
from forkwise.samples.sampling import Block, Completion, Job, Meter, Sampling, prompt_text, sample_seed, table_row
from forkwise.tasks import Problem, Task

__all__ = ["Sampling", "TransformersEngine", "sample_problem", "sample_seed"]


def _uniforms(seeds: Sequence[int], tokens: int) -> torch.Tensor:
    """(samples, tokens) numbers in [0, 1), float64; row i depends on seeds[i] alone."""
    return torch.stack(
        [torch.rand(tokens, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) for seed in seeds]
    )


def _draw(logits: torch.Tensor, u: torch.Tensor, sampling: Sampling) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """For each row of `logits` (n, V): the token that `u` (n,) picks, its log-probability, and the entropy; float64.

    The token is drawn from softmax(logits / temperature) cut to the nucleus, by inverting its distribution function, so
    that a row's draw does not depend on the rows beside it. Log-probability and entropy, in nats, are those of the full
    softmax(logits / temperature), before the cut. Greedy decoding (temperature 0) has them at temperature 1.
    """
    logprobs = torch.log_softmax(logits.double() / (sampling.temperature or 1.0), dim=-1)
    probs = logprobs.exp()
    entropy = torch.special.entr(probs).sum(dim=-1)
    if sampling.temperature == 0:
        token = logits.argmax(dim=-1, keepdim=True)
    else:
        if sampling.top_p < 1:
            ordered, index = probs.sort(dim=-1, descending=True, stable=True)
            outside = ordered.cumsum(dim=-1) - ordered >= sampling.top_p  # the first token always stays
            probs = torch.zeros_like(probs).scatter(1, index, ordered.masked_fill(outside, 0.0))
        cdf = probs.cumsum(dim=-1)
        # The first token whose cdf exceeds u, so never one with p = 0.
        token = torch.searchsorted(cdf, u[:, None] * cdf[:, -1:], right=True).clamp_(max=logits.shape[-1] - 1)
    return token, logprobs.gather(1, token).squeeze(1), entropy


class _Drawn:
    """Generated tokens of n samples with log-probabilities and entropies, `(n, max_tokens)`, and their `lengths`."""

    def __init__(self, n: int, tokens: int, device: torch.device) -> None:
        self.ids = torch.zeros(n, tokens, dtype=torch.int64, device=device)
        self.logprobs = torch.zeros(n, tokens, dtype=torch.float32, device=device)
        self.entropies = torch.zeros(n, tokens, dtype=torch.float32, device=device)
        self.lengths = torch.full((n,), tokens, device=device)
        self.stopped = torch.zeros(n, dtype=torch.bool, device=device)


@torch.inference_mode()
def _generate(
    model: Any,
    prompt: torch.Tensor,
    seeds: Sequence[int],
    sampling: Sampling,
    eos: Sequence[int],
    progress: Callable[[int], None] = lambda tokens: None,
) -> _Drawn:
    """Completions of one prompt `(1, length)`, one per seed; its keys and values are computed once for all of them.

    All rows are equally long, so there is no padding and no mask. Rows that have ended leave the batch whenever half of
    it has; which do depends on the seeds alone. This is a loop of our own because `model.generate` lets the
    checkpoint's generation_config change the logits (repetition penalty, minimum length).
    """
    n = len(seeds)
    cache = None
    if prompt.shape[1] > 1:
        cache = model(prompt[:, :-1], use_cache=True).past_key_values
        cache.batch_repeat_interleave(n)
    uniforms = _uniforms(seeds, sampling.max_tokens).to(prompt.device)
    ends = torch.tensor(list(eos), dtype=torch.int64, device=prompt.device)
    drawn = _Drawn(n, sampling.max_tokens, prompt.device)
    rows = torch.arange(n, device=prompt.device)  # the samples in the batch
    step = prompt[:, -1:].repeat(n, 1)
    for t in range(sampling.max_tokens):
        output = model(step, past_key_values=cache, use_cache=True)
        cache = output.past_key_values
        step, logprob, entropy = _draw(output.logits[:, -1], uniforms[rows, t], sampling)
        drawn.ids[rows, t] = step.squeeze(1)
        drawn.logprobs[rows, t] = logprob.float()
        drawn.entropies[rows, t] = entropy.float()
        ended = torch.isin(step.squeeze(1), ends) & ~drawn.stopped[rows]
        drawn.lengths[rows[ended]] = t + 1
        drawn.stopped[rows] |= ended
        going = (~drawn.stopped[rows]).nonzero().squeeze(1)
        progress(len(going) + int(ended.sum()))
        if not bool(torch.isfinite(logprob).all()):
            raise InputError("The model's logits are not numbers: try --dtype float32, or another checkpoint.")
        if len(going) == 0:
            break
        if len(going) <= len(rows) // 2:
            cache.batch_select_indices(going)
            rows, step = rows[going], step[going]
    return drawn


def _end_tokens(model: Any, tokenizer: Any) -> list[int]:
    ids = model.generation_config.eos_token_id
    if ids is None:
        ids = tokenizer.eos_token_id
    return [] if ids is None else torch.atleast_1d(torch.as_tensor(ids)).tolist()


def _complete(
    model: Any,
    tokenizer: Any,
    problem: Problem,
    seeds: Sequence[int],
    sampling: Sampling,
    *,
    chat: bool = False,
    token_data: bool = False,
    progress: Callable[[int], None] = lambda tokens: None,
) -> list[Completion]:
    text, templated = prompt_text(problem, tokenizer, chat)
    prompt = tokenizer(text, return_tensors="pt", add_special_tokens=not templated)["input_ids"].to(model.device)
    if prompt.shape[1] == 0:
        raise InputError(f"The prompt of problem '{problem.id}' is empty: there is nothing to continue.")
    try:
        drawn = _generate(model, prompt, seeds, sampling, _end_tokens(model, tokenizer), progress)
    except torch.OutOfMemoryError as error:
        raise InputError(
            f"The device has too little memory for {len(seeds)} completions side by side: use a smaller --batch-size, "
            "in another --out."
        ) from error
    completions = []
    lengths, stopped = drawn.lengths.tolist(), drawn.stopped.tolist()
    for i, (length, stop) in enumerate(zip(lengths, stopped, strict=True)):
        ids = drawn.ids[i, :length].tolist()
        completion = Completion(
            text=tokenizer.decode(ids[: length - stop], skip_special_tokens=True),
            prompt=text,
            n_tokens=length,
            finish_reason="stop" if stop else "length",
            token_ids=ids if token_data else None,
            tokens=[tokenizer.decode([token]) for token in ids] if token_data else None,
            logprobs=drawn.logprobs[i, :length].tolist() if token_data else None,
            entropies=drawn.entropies[i, :length].tolist() if token_data else None,
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
    """`n` verified completions of one problem, as rows of the samples table; the same for the same arguments.

    The first `traces` of them have the token-level columns too.
    """
    name = str(getattr(model.config, "_name_or_path", ""))
    job = Job(run=run, model=name, task=task.name, n=n, seed=seed, sampling=sampling)
    completions: list[Completion] = []
    for first, end in ((0, min(traces, n)), (traces, n)):
        for start in range(first, end, sampling.batch_size):
            ids = range(start, min(start + sampling.batch_size, end))
            seeds = [sample_seed(seed, problem.id, i) for i in ids]
            completions += _complete(model, tokenizer, problem, seeds, sampling, token_data=start < traces)
    verdicts = task.verify([completion.text for completion in completions], [problem] * n)
    for i, (completion, verdict) in enumerate(zip(completions, verdicts, strict=True)):
        yield table_row(job, problem.id, i, completion, verdict)


class TransformersEngine:
    """Any causal language model of transformers, on one device.

    Args:
        model: Hub id, folder, or `"embedded"`.
        seed: of the run.
        sampling: how completions are drawn.
        chat: send plain prompts through the tokenizer's chat template.
        token_data: keep token ids, log-probabilities and entropies.
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
        token_data: bool = True,
        device: str = "auto",
        dtype: str = "auto",
        trust_remote_code: bool = False,
    ) -> None:
        self._seed, self._sampling, self._chat, self._token_data = seed, sampling, chat, token_data
        self._model, self._tokenizer = load_model(model, device, dtype, trust_remote_code)

    def settings(self) -> Mapping[str, Any]:
        """Everything that changes a token or its rounding: device kind, dtype, the weights themselves."""
        return {
            "device": self._model.device.type,
            "dtype": str(self._model.dtype).removeprefix("torch."),
            "weights": fingerprint(self._model),
            "chat": self._chat,
            "token_data": self._token_data,
        }

    def draw(self, blocks: Sequence[Block], meter: Meter) -> Iterator[tuple[Block, list[Completion]]]:
        """Block by block; the completions of a block are generated side by side."""
        for block in blocks:
            seeds = [sample_seed(self._seed, block.problem.id, i) for i in block.sample_ids]
            completions = _complete(
                self._model,
                self._tokenizer,
                block.problem,
                seeds,
                self._sampling,
                chat=self._chat,
                token_data=self._token_data,
                progress=lambda tokens: meter.add(tokens=tokens),
            )
            yield block, completions
            meter.add(samples=len(completions))


def load_model(model: str, device: str, dtype: str, trust_remote_code: bool) -> tuple[Any, Any]:
    """A causal language model and its tokenizer; `model` is a Hub id, a folder, or `"embedded"`.

    Raises:
        InputError: it cannot be loaded, or there is no such device or dtype.
    """
    import transformers

    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if dtype == "auto" and device == "cpu":
        dtype = "float32"
    if dtype not in ("auto", "float32", "bfloat16", "float16"):
        raise InputError(f"There is no dtype '{dtype}': use auto, float32, bfloat16 or float16.")

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    name = str(EMBEDDED_MODEL) if model == "embedded" else model
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(name, trust_remote_code=trust_remote_code)
        loaded = transformers.AutoModelForCausalLM.from_pretrained(
            name, dtype=dtype, trust_remote_code=trust_remote_code
        )
    except (OSError, ValueError, TypeError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
        raise InputError(f"The model '{model}' cannot be loaded as a Hub id or a folder ({reason}).") from error
    try:
        return loaded.eval().to(device), tokenizer
    except torch.OutOfMemoryError as error:
        raise InputError(f"The device '{device}' has too little memory for the model '{model}'.") from error
    except (RuntimeError, AssertionError) as error:  # torch has no kind of its own for a device that is not there
        reason = str(error).strip().splitlines()[0].rstrip(".")
        raise InputError(f"The model cannot be moved to the device '{device}' ({reason}).") from error


def fingerprint(model: Any) -> str:
    """16 hex digits that change when any tensor of the model does: its name, shape, and some of its values."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        flat = tensor.detach().reshape(-1)
        some = flat[:: max(1, flat.numel() // 64)][:64].double().cpu()
        digest.update(f"{name}{tuple(tensor.shape)}".encode() + some.numpy().tobytes())
    return digest.hexdigest()[:16]
