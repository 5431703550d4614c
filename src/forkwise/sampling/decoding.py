"""Ways to draw completions of one prompt from any decoder of transformers, and the proof that the numbers are right.

Caches differ from model to model, and not all of them can be shared, repeated or reordered. So no list of architectures
is kept: the fastest way is tried, what it recorded is compared with one forward pass over the whole text, and the next
way takes over where that fails.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import IntEnum
from typing import Any

import torch

from forkwise.core import token_entropy
from forkwise.errors import InputError, first_line
from forkwise.loading import named
from forkwise.sampling.forward import (
    cannot,
    check_causal,
    check_rows,
    forward,
    last_logits,
    no_generation_settings,
    not_numbers,
    rounding,
    token_limit,
)
from forkwise.sampling.recipe import Sampling


class CacheUse(IntEnum):
    """How completions are drawn, the fastest first; all ways draw the same tokens, up to float rounding."""

    SHARED = 0
    """The prompt's cache is computed once and repeated for all samples; ended ones leave it."""
    PLAIN = 1
    """A plain batch, every row with the whole prompt: `model.generate` keeps whatever the model calls its state."""
    WHOLE = 2
    """No cache at all: every token costs a forward pass over the whole text."""


_SAID = {
    CacheUse.PLAIN: "samples of a prompt cannot share its cache, so they are drawn in plain batches",
    CacheUse.WHOLE: "no cache gives right numbers, so every token costs a pass over the whole text, which is slow",
}

_PROBE = "What is 17 + 25? Let us think step by step. First, 7 + 5 = 12, so we write 2 and carry 1. Then 1 + 2 + 1 = 4."
_PROBE_TOKENS, _PROBE_STEPS = 48, 12
_IMPOSSIBLE = -1e4  # nats, far below what float64 has as a probability above 0
_CHECKED, _AT_ONCE = 256, 64
"""Most tokens per completion that are compared, and at a time: large vocabularies fill the memory."""


class DrawnTokens:
    """Generated tokens of n samples with their numbers, `(n, max_tokens)` each, and their `lengths`.

    Attributes:
        logprobs, entropies, varentropies: as `draw_tokens` returns them.

    Each way hands over logits and gets tokens back, so that all of them draw alike.
    """

    def __init__(
        self,
        seeds: Sequence[int],
        sampling: Sampling,
        eos: Sequence[int],
        model: Any,
        progress: Callable[[int], None],
        first: Sequence[int] | None = None,
    ) -> None:
        n, tokens, device = len(seeds), sampling.max_tokens, model.device
        self._first = None if first is None else torch.tensor(list(first), dtype=torch.int64, device=device)
        self.ids = torch.zeros(n, tokens, dtype=torch.int64, device=device)
        self.logprobs = torch.zeros(n, tokens, dtype=torch.float32, device=device)
        self.entropies = torch.zeros(n, tokens, dtype=torch.float32, device=device)
        self.varentropies = torch.zeros(n, tokens, dtype=torch.float32, device=device)
        self.lengths = torch.full((n,), tokens, device=device)
        self.stopped = torch.zeros(n, dtype=torch.bool, device=device)
        self.sampling, self._model = sampling, model
        self._uniforms = uniforms(seeds, tokens).to(device)
        self._ends = torch.tensor(list(eos), dtype=torch.int64, device=device)
        self._progress = progress

    def begin(self, prompt: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns what all samples begin with, `(1, length)`, and the token of each that stands behind it, `(n, 1)`."""
        if self._first is None:
            return prompt[:, :-1], prompt[:, -1:].expand(self.ids.shape[0], 1)
        return prompt, self._first[:, None]

    def take(self, t: int, rows: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        """Draws and records token `t` of the samples `rows` from their `logits`; returns the tokens, `(rows,)`."""
        token, logprob, entropy, varentropy = draw_tokens(logits, self._uniforms[rows, t], self.sampling)
        token = token.squeeze(1)
        self.ids[rows, t] = token
        self.logprobs[rows, t] = logprob.float()
        self.entropies[rows, t] = entropy.float()
        self.varentropies[rows, t] = varentropy.float()
        going = ~self.stopped[rows]
        if not bool(torch.isfinite(logprob[going]).all()):
            raise not_numbers(self._model)
        ended = torch.isin(token, self._ends) & going
        self.lengths[rows[ended]] = t + 1
        self.stopped[rows] |= ended
        self._progress(int(going.sum()))
        return token


def uniforms(seeds: Sequence[int], tokens: int) -> torch.Tensor:
    """Draws (samples, tokens) numbers in [0, 1), float64; row i depends on seeds[i] alone."""
    return torch.stack(
        [torch.rand(tokens, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) for seed in seeds]
    )


def draw_tokens(
    logits: torch.Tensor, u: torch.Tensor, sampling: Sampling
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Draws per row of `logits` (n, V) the token that `u` (n,) picks; returns it with three numbers.

    These are its log-probability and, of the distribution, the entropy (nats) and the varentropy, which is the variance
    of the surprisal `-log p` (nats squared).

    The token is drawn from softmax(logits / temperature) cut to the nucleus, by inverting its distribution function, so
    that a row's draw does not depend on the rows beside it. All numbers are those of the full softmax(logits /
    temperature), before the cut. Greedy decoding (temperature 0) has them at temperature 1. The entropy comes from the
    operator of training, float32; the rest is float64.
    """
    temperature = sampling.temperature or 1.0
    entropy = token_entropy(logits, temperature=temperature)
    scaled = logits.double()
    logprobs = torch.log_softmax(scaled if temperature == 1 else scaled / temperature, dim=-1)
    probs = logprobs.exp()
    varentropy = _varentropy(logprobs, probs)
    if sampling.temperature == 0:
        token = logits.argmax(dim=-1, keepdim=True)
    else:
        cdf = nucleus(probs, sampling.top_p).cumsum(dim=-1)
        # The first token whose cdf exceeds u, so never one with p = 0.
        token = torch.searchsorted(cdf, u[:, None] * cdf[:, -1:], right=True).clamp_(max=logits.shape[-1] - 1)
    return token, logprobs.gather(1, token).squeeze(1), entropy, varentropy


def _varentropy(logprobs: torch.Tensor, probs: torch.Tensor) -> torch.Tensor:
    """Computes the variance of `-log p`, `(n,)`, in few passes: the vocabulary may be large."""
    weighted = probs * logprobs
    mean = weighted.sum(dim=-1)
    if bool(mean.isnan().any()):  # a token that cannot come (log p is -inf) counts nothing
        return _varentropy(logprobs.clamp(min=_IMPOSSIBLE), probs) if logprobs.isneginf().any() else mean
    return (weighted.mul_(logprobs).sum(dim=-1) - mean.square()).clamp_(min=0.0)


def nucleus(probs: torch.Tensor, top_p: float) -> torch.Tensor:
    """Sets to 0 what is outside of the smallest set of likeliest tokens that holds `top_p`, per row of `(n, V)`."""
    if top_p >= 1:
        return probs
    ordered, index = probs.sort(dim=-1, descending=True, stable=True)
    outside = ordered.cumsum(dim=-1) - ordered >= top_p  # the first token always stays
    return torch.zeros_like(probs).scatter(1, index, ordered.masked_fill(outside, 0.0))


class Decoder:
    """A model with the ways that work for it.

    Args:
        model: a causal language model of transformers.
        eos: ids that end a completion.
        say: prints a line for the user.
    """

    def __init__(self, model: Any, eos: Sequence[int], say: Callable[[str], None] = lambda line: None) -> None:
        self.model, self.eos, self.say = model, eos, say
        self.way = CacheUse.SHARED
        self._said: set[CacheUse] = set()

    def probe(self, tokenizer: Any) -> None:
        """Finds the fastest way that is right for this model, on a short text that is the same in every run.

        Raises:
            InputError: the model's prediction of a token changes with what follows it, or no way works.
        """
        length = min(_PROBE_TOKENS, 3 * (token_limit(self.model) or _PROBE_TOKENS) // 4)
        ids = tokenizer(_PROBE, return_tensors="pt")["input_ids"][:, :length].to(self.model.device)
        if ids.shape[1] == 0:
            return
        check_rows(self.model, tokenizer, ids[0].tolist(), "A text of digits and letters")
        check_causal(self.model, ids)
        sampling = Sampling(max_tokens=min(_PROBE_STEPS, max(1, length // 4)))
        _, self.way = self._first_right(ids, (0, 1, 2), sampling, (), CacheUse.SHARED, lambda tokens: None)

    def draw(
        self,
        prompt: torch.Tensor,
        seeds: Sequence[int],
        sampling: Sampling,
        progress: Callable[[int], None] = lambda tokens: None,
        first: Sequence[int] | None = None,
    ) -> DrawnTokens:
        """Draws completions of one prompt `(1, length)`, one per seed; or continuations of it and a token for each.

        The longest of them is compared with one forward pass over its whole text. What is drawn depends on the
        arguments and the model alone, not on what was drawn before.

        Args:
            first: a token for each seed that follows the prompt and is not drawn; what is drawn follows it.

        Raises:
            InputError: the model fails on this prompt in every way, or its logits are not numbers.
        """
        drawn, _ = self._first_right(prompt, seeds, sampling, self.eos, self.way, progress, first)
        return drawn

    @torch.inference_mode()
    def next_token(self, prompt: torch.Tensor, sampling: Sampling) -> torch.Tensor:
        """Returns the probabilities with which the token behind a prompt `(1, length)` is drawn, `(V,)` in float64.

        Raises:
            InputError: the model's logits are not numbers.
        """
        logits = last_logits(self.model, prompt, 1)[:, -1].double()
        if not bool(torch.isfinite(logits).any()) or bool(torch.isnan(logits).any()):
            raise not_numbers(self.model)
        probs = nucleus(torch.softmax(logits / sampling.temperature, dim=-1), sampling.top_p)[0]
        return probs / probs.sum()

    @torch.inference_mode()
    def _first_right(
        self,
        prompt: torch.Tensor,
        seeds: Sequence[int],
        sampling: Sampling,
        eos: Sequence[int],
        fastest: CacheUse,
        progress: Callable[[int], None],
        first: Sequence[int] | None = None,
    ) -> tuple[DrawnTokens, CacheUse]:
        failed = ""
        for way in CacheUse:
            if way < fastest:
                continue
            drawn = DrawnTokens(seeds, sampling, eos, self.model, progress, first)
            try:
                _WAYS[way](self.model, prompt, drawn)
                difference = self._difference(prompt, drawn) if way is not CacheUse.WHOLE else ""
            except torch.OutOfMemoryError:
                raise
            except Exception as error:  # models fail in kinds of their own
                difference = f"{type(error).__name__}: {first_line(error)}"
                if way is CacheUse.WHOLE:
                    tokens = prompt.shape[1]
                    raise (
                        error
                        if isinstance(error, InputError)
                        else cannot(
                            *(self.model, f"a prompt of {tokens:,} tokens", tokens + sampling.max_tokens, error),
                            "lower --max-tokens",
                        )
                    ) from error
            if not difference:
                if way is not fastest and way not in self._said:
                    self._said.add(way)
                    self.say(f"{named(self.model)}: {_SAID[way]} ({failed}).")
                return drawn, way
            failed = difference
        raise AssertionError("the last way returns or raises")

    def _difference(self, prompt: torch.Tensor, drawn: DrawnTokens) -> str:
        """Says how the recorded numbers differ from one forward pass over the longest completion; "" if they do not."""
        row = int(drawn.lengths.argmax())
        length = int(drawn.lengths[row])
        compared = min(length, _CHECKED)
        prefix, step = drawn.begin(prompt)
        text = torch.cat([prefix, step[row : row + 1], drawn.ids[row : row + 1, : length - 1]], dim=1)
        logits = last_logits(self.model, text, compared)[0]
        scale = drawn.sampling.temperature or 1.0
        at = slice(length - compared, length)
        recorded = zip(
            (logits / scale).split(_AT_ONCE),
            drawn.ids[row, at].split(_AT_ONCE),
            drawn.logprobs[row, at].split(_AT_ONCE),
            drawn.entropies[row, at].split(_AT_ONCE),
            strict=True,
        )
        apart = torch.cat([_apart(*piece) for piece in recorded])
        tolerance, share = rounding(self.model, logits / scale)
        wrong = int((~(apart <= tolerance)).sum())
        if wrong <= share * compared:
            return ""
        return f"{wrong} of {compared} log-probs differ from one forward pass, by up to {float(apart.max()):.2g} nats"


def _apart(logits: torch.Tensor, ids: torch.Tensor, logprobs: torch.Tensor, entropies: torch.Tensor) -> torch.Tensor:
    """Returns the largest difference, in nats, of recorded log-probs or entropies from those of the logits."""
    expected = torch.log_softmax(logits.double(), dim=-1)
    entropy = torch.special.entr(expected.exp()).sum(-1)
    return torch.maximum(
        (expected.gather(1, ids[:, None]).squeeze(1) - logprobs.double()).abs(), (entropy - entropies.double()).abs()
    )


def _shared(model: Any, prompt: torch.Tensor, drawn: DrawnTokens) -> None:
    """Draws from a shared cache, without padding: rows are equally long. Ended rows leave the batch whenever half
    of it has; which do depends on the seeds alone."""
    n, tokens = drawn.ids.shape
    state: dict[str, Any] = {}
    prefix, step = drawn.begin(prompt)
    if prefix.shape[1] > 0:
        state = _cache(forward(model, prefix, 1, use_cache=True))
        _reorder(state, torch.zeros(n, dtype=torch.int64, device=prompt.device))
    rows = torch.arange(n, device=prompt.device)  # the samples in the batch
    for t in range(tokens):
        output = model(step, use_cache=True, **state)
        state = _cache(output)
        step = drawn.take(t, rows, output.logits[:, -1])[:, None]
        going = (~drawn.stopped[rows]).nonzero().squeeze(1)
        if len(going) == 0:
            break
        if len(going) <= len(rows) // 2:
            _reorder(state, going)
            rows, step = rows[going], step[going]


def _cache(output: Any) -> dict[str, Any]:
    for name in ("past_key_values", "cache_params"):  # the second is what state-space models call it
        cache = output.get(name)
        if cache is not None:
            return {name: cache}
    raise TypeError("the model returns no cache")


def _reorder(state: dict[str, Any], index: torch.Tensor) -> None:
    for cache in state.values():
        cache.reorder_cache(index)


def _whole_prompts(prompt: torch.Tensor, drawn: DrawnTokens) -> torch.Tensor:
    prefix, step = drawn.begin(prompt)
    return torch.cat([prefix.expand(step.shape[0], -1), step], dim=1)


def _plain(model: Any, prompt: torch.Tensor, drawn: DrawnTokens) -> None:
    """Draws in transformers' own loop, which knows how every model carries its state; the tokens are drawn here."""
    from transformers import (
        GenerationConfig,
        LogitsProcessor,
        LogitsProcessorList,
        StoppingCriteria,
        StoppingCriteriaList,
    )

    n, tokens = drawn.ids.shape
    rows = torch.arange(n, device=prompt.device)
    ids = _whole_prompts(prompt, drawn)

    class Draw(LogitsProcessor):  # type: ignore[misc]
        def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
            t = input_ids.shape[1] - ids.shape[1]
            if t == tokens:  # on some devices `generate` hears of the end one step late
                return scores
            return torch.full_like(scores, -torch.inf).scatter_(1, drawn.take(t, rows, scores)[:, None], 0.0)

    class Ended(StoppingCriteria):  # type: ignore[misc]
        def __call__(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
            return drawn.stopped

    config = GenerationConfig(max_new_tokens=tokens, do_sample=False, use_cache=True, pad_token_id=0)
    with no_generation_settings(model):
        model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            generation_config=config,
            logits_processor=LogitsProcessorList([Draw()]),
            stopping_criteria=StoppingCriteriaList([Ended()]),
        )


def _whole(model: Any, prompt: torch.Tensor, drawn: DrawnTokens) -> None:
    n, tokens = drawn.ids.shape
    rows = torch.arange(n, device=prompt.device)
    ids = _whole_prompts(prompt, drawn)
    for t in range(tokens):
        step = drawn.take(t, rows, last_logits(model, ids, 1)[:, -1])
        going = (~drawn.stopped[rows]).nonzero().squeeze(1)
        if len(going) == 0:
            break
        rows = rows[going]
        ids = torch.cat([ids[going], step[going, None]], dim=1)


_WAYS: dict[CacheUse, Callable[[Any, torch.Tensor, DrawnTokens], None]] = {
    CacheUse.SHARED: _shared,
    CacheUse.PLAIN: _plain,
    CacheUse.WHOLE: _whole,
}
