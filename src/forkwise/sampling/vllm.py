"""Sampling with vLLM in this process."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from forkwise.embedded import model_path
from forkwise.errors import InputError, first_line
from forkwise.progress import Meter
from forkwise.sampling.engine import Block, Completion, TopToken, request_seed
from forkwise.sampling.prompts import prompt_text
from forkwise.sampling.recipe import Sampling

_AT_ONCE = 1024  # requests handed over together: enough to keep a GPU busy, few enough to lose little when killed


class VllmEngine:
    """Draws completions with `vllm.LLM`. vLLM's kernels depend on the batch, so runs repeat up to float rounding only.

    Stored log-probabilities are `raw_logprobs`: of the logits before temperature and nucleus.

    Args:
        model: Hub id, folder, or `"embedded"`.
        seed: the run's seed.
        sampling: how completions are drawn.
        chat: send plain prompts through the tokenizer's chat template.
        top_logprobs: candidates per position; 0: no token data.
        dtype: the dtype, as vLLM names it; `"auto"` is the checkpoint's own.
        tensor_parallel: GPUs that share the model.

    Raises:
        InputError: vLLM is not installed or cannot load the model.
    """

    def __init__(
        self,
        model: str,
        seed: int,
        sampling: Sampling,
        *,
        chat: bool = False,
        top_logprobs: int = 20,
        dtype: str = "auto",
        tensor_parallel: int = 1,
    ) -> None:
        try:
            import vllm
        except ImportError as error:
            raise InputError(f'The vllm engine needs vLLM: pip install "forkwise[vllm]" ({error}).') from error
        name = model_path(model)
        self._params = vllm.SamplingParams
        self._seed, self._sampling, self._chat, self._top = seed, sampling, chat, top_logprobs
        try:
            self._llm = vllm.LLM(
                model=name,
                dtype=dtype,
                tensor_parallel_size=tensor_parallel,
                enable_prefix_caching=True,  # the prompt's keys and values serve all samples of a problem
                max_logprobs=max(top_logprobs, 1),
                logprobs_mode="raw_logprobs",
            )
        except (OSError, ValueError, RuntimeError) as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise InputError(f"vLLM cannot load the model '{model}' ({reason}).") from error
        self._tokenizer = self._llm.get_tokenizer()
        self._dtype, self._tensor_parallel = dtype, tensor_parallel

    def settings(self) -> Mapping[str, Any]:
        """Returns what changes a token or its rounding."""
        return {
            "chat": self._chat,
            "top_logprobs": self._top,
            "logprobs_mode": "raw_logprobs",
            "dtype": self._dtype,
            "tensor_parallel": self._tensor_parallel,
        }

    def draw(self, blocks: Sequence[Block], meter: Meter) -> Iterator[tuple[Block, list[Completion]]]:
        """Draws several blocks at a time, so that the batch stays full."""
        waiting: list[Block] = []
        for i, block in enumerate(blocks):
            waiting.append(block)
            if i + 1 == len(blocks) or sum(len(b.sample_ids) for b in waiting) >= _AT_ONCE:
                yield from self._together(waiting, meter)
                waiting = []

    def _together(self, blocks: Sequence[Block], meter: Meter) -> Iterator[tuple[Block, list[Completion]]]:
        prompts: list[dict[str, Any]] = []
        params: list[Any] = []
        texts: list[str] = []
        for block in blocks:
            text, templated = prompt_text(block.problem, self._tokenizer, self._chat)
            ids = self._tokenizer.encode(text, add_special_tokens=not templated)
            for sample_id in block.sample_ids:
                texts.append(text)
                prompts.append({"prompt_token_ids": ids})
                params.append(
                    self._params(
                        temperature=self._sampling.temperature,
                        top_p=self._sampling.top_p,
                        max_tokens=self._sampling.max_tokens,
                        seed=request_seed(self._seed, block.problem.id, sample_id),
                        logprobs=self._top or None,
                    )
                )
        try:
            outputs = self._llm.generate(prompts, params, use_tqdm=False)
        except ValueError as error:  # a prompt that is longer than the model can hold
            raise InputError(f"vLLM refuses the prompts ({first_line(error)}).") from error
        completions = [_completion(text, output.outputs[0]) for text, output in zip(texts, outputs, strict=True)]
        for block in blocks:
            mine, completions = completions[: len(block.sample_ids)], completions[len(block.sample_ids) :]
            meter.add(samples=len(mine), tokens=sum(completion.n_tokens or 0 for completion in mine))
            yield block, mine


def _completion(prompt: str, output: Any) -> Completion:
    """Reads a `vllm.CompletionOutput`; `logprobs` maps token ids to `Logprob`s, always with the drawn token."""
    ids = list(output.token_ids)
    completion = Completion(
        text=output.text, prompt=prompt, n_tokens=len(ids), finish_reason=output.finish_reason, token_ids=ids
    )
    if output.logprobs is None:
        return completion
    drawn = [candidates[token] for token, candidates in zip(ids, output.logprobs, strict=True)]
    if not all(math.isfinite(candidate.logprob) for candidate in drawn):
        raise InputError("vLLM gives log-probs that are not numbers: try --dtype float32, or another checkpoint.")
    return Completion(
        text=output.text,
        prompt=prompt,
        n_tokens=len(ids),
        finish_reason=output.finish_reason,
        token_ids=ids,
        tokens=[candidate.decoded_token or "" for candidate in drawn],
        logprobs=[float(candidate.logprob) for candidate in drawn],
        top_logprobs=[
            [
                TopToken(candidate.decoded_token or "", float(candidate.logprob))
                for candidate in _ranked(candidates)
                if math.isfinite(candidate.logprob)
            ]
            for candidates in output.logprobs
        ],
    )


def _ranked(candidates: Mapping[int, Any]) -> list[Any]:
    return sorted(candidates.values(), key=lambda candidate: -candidate.logprob)
