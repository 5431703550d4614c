"""Continuations of states by a model that transformers loads, drawn from tokens and verified."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from forkwise.errors import InputError
from forkwise.forks.branches import first_tokens, no_token_forced
from forkwise.forks.stored import Continued, State, refuse_random, storable
from forkwise.sampling.decoding import Decoder
from forkwise.sampling.engine import sample_seed
from forkwise.sampling.generate import Vocabulary, end_tokens
from forkwise.sampling.recipe import Sampling
from forkwise.sampling.verify import Judge


class Continuer:
    """A model that continues states, and the judge of what it writes.

    Args:
        model, tokenizer: as transformers loads them.
        sampling: how the samples were drawn; `max_tokens` counts from the end of the prompt.
        continuations: continuations of each state.
        say: prints a line for the user.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        sampling: Sampling,
        continuations: int,
        seed: int,
        judge: Judge,
        say: Callable[[str], None],
    ) -> None:
        self._ends = end_tokens(model, tokenizer)
        self._decoder = Decoder(model, self._ends, say)
        self._decoder.probe(tokenizer)
        self._vocabulary = Vocabulary(tokenizer, model)
        self._sampling, self._number, self._seed, self._judge = sampling, continuations, seed, judge

    def draw(self, state: State, progress: Callable[[int], None] = lambda tokens: None) -> Continued:
        """Draws and verifies the continuations of a state.

        Raises:
            InputError: the model fails, the device has too little memory, or the verifier is random.
        """
        prompt = torch.tensor([state.prompt + state.prefix], device=self._decoder.model.device)
        probs = self._decoder.next_token(prompt, self._sampling).cpu().numpy()
        rng = np.random.default_rng(sample_seed(self._seed, f"{state.name}/first", 0))
        if state.token is None:
            first = no_token_forced(probs, self._number, rng)
        else:
            first = first_tokens(probs, state.token, self._number, rng)
        rows = first.rows
        room = self._sampling.max_tokens - len(state.prefix) - 1
        going = [r for r, token in enumerate(rows) if token not in self._ends and room > 0]
        written = [[token] for token in rows]
        stopped = [token in self._ends for token in rows]
        if going:
            for r, ids, stop in self._continued(prompt, state, rows, going, room, progress):
                written[r] += ids
                stopped[r] = stop
        texts = [
            self._vocabulary.decode((state.prefix + ids)[: -1 if stop else None], skip_special_tokens=True)
            for ids, stop in zip(written, stopped, strict=True)
        ]
        verdicts = self._judge.verify(texts, [state.problem] * len(texts))
        refuse_random(texts, verdicts, f"a continuation of {state.name}")
        return Continued(
            state=state.index,
            first=first,
            texts=[self._vocabulary.decode([token]) for token in first.tokens],
            continuations=[storable(self._vocabulary.decode(ids, skip_special_tokens=True)) for ids in written],
            answers=[None if v.answer is None else storable(v.answer) for v in verdicts],
            correct=[v.correct for v in verdicts],
            generated=sum(len(ids) - 1 for ids in written),
            cut=len(rows) - sum(stopped),
        )

    def _continued(
        self,
        prompt: torch.Tensor,
        state: State,
        rows: Sequence[int],
        going: Sequence[int],
        room: int,
        progress: Callable[[int], None],
    ) -> Iterator[tuple[int, list[int], bool]]:
        seeds = [sample_seed(self._seed, state.name, r) for r in going]
        sampling = replace(self._sampling, max_tokens=room)
        try:
            drawn = self._decoder.draw(prompt, seeds, sampling, progress, [rows[r] for r in going])
        except torch.OutOfMemoryError as error:
            raise InputError(
                f"The device has too little memory for {len(going)} continuations side by side: use fewer "
                "--continuations, in another --out."
            ) from error
        for i, (r, length, stop) in enumerate(zip(going, drawn.lengths.tolist(), drawn.stopped.tolist(), strict=True)):
            yield r, drawn.ids[i, :length].tolist(), bool(stop)
