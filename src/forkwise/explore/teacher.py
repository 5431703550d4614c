"""Teacher forcing: exact log-probability and entropy of stored completions under any causal language model.

The logits exist only as tiles (`forkwise.core.score_tokens`: our operator in place of the last layer). That this gives
the model's own logits is proved on a few tokens of the first sample; models of which it cannot be proved go through
their own logits.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from forkwise.core import (
    Head,
    HeadError,
    HiddenStatesError,
    Places,
    few_tokens,
    prove_head,
    score_by_logits,
    score_tokens,
)
from forkwise.errors import InputError
from forkwise.explore.spans import MisfitError, token_spans
from forkwise.explore.tokenisation import another_tokenizer, completion_ids, prompt_ids
from forkwise.folders import only_process
from forkwise.folders.settings import same_settings
from forkwise.progress import Console, Meter
from forkwise.samples.store import find_shards, iter_batches, open_parquet, read_samples, write_shard
from forkwise.sampling.forward import cannot, check_causal, check_length, check_rows, embedding_rows, not_numbers
from forkwise.sampling.generate import fingerprint, load_model

MANIFEST = "entropies.json"
BUDGET = 16_384
"""Default number of tokens in a batch, padding included."""
_ROWS = 64  # samples in a shard that is written, which is what a kill can lose
_CROSS_BLOCK = 256  # pairs scored at a time


@dataclass(frozen=True)
class Item:
    """A completion to score: its token ids, those of its prompt, and the temperature at which it was sampled."""

    prompt: list[int]
    completion: list[int]
    temperature: float = 1.0


@dataclass(frozen=True)
class CompletionScores:
    """Log-probs and entropies of a completion's tokens, `(T,)` each, float32, nats, at the temperature of sampling."""

    logprobs: npt.NDArray[np.float32]
    entropies: npt.NDArray[np.float32]


class Scorer:
    """A model that scores completions in batches of like length.

    Args:
        model, tokenizer: as transformers loads them.
        budget: tokens of a batch, padding included; larger is faster where there is memory for it. A longer sequence is
            a batch of its own.

    Attributes:
        full_logits: why the model is scored by its full logits; None where it is not, and before the first sample.
    """

    def __init__(self, model: Any, tokenizer: Any, *, budget: int = BUDGET) -> None:
        if budget < 1:
            raise InputError(f"The token budget is {budget}: it must be at least 1.")
        self.model, self.tokenizer, self.budget = model, tokenizer, budget
        self.full_logits: str | None = None
        self._head: Head | None = None  # where our operator can stand in for it
        self._head_is_known = False

    def score(self, items: Sequence[Item]) -> list[CompletionScores]:
        """Scores `items` in their order. An item's batch, and so its rounding, depends on these items alone."""
        check_rows(self.model, self.tokenizer, [i for item in items for i in item.prompt + item.completion], "A sample")
        lengths = [len(item.prompt) + len(item.completion) for item in items]
        if items:
            check_length(self.model, max(lengths) - 1, "A sample, before its last token,")
            self.choose_path(items[0])
        order = sorted(range(len(items)), key=lambda i: (lengths[i], i))
        scores: dict[int, CompletionScores] = {}
        batch: list[int] = []
        for i in order:
            if batch and lengths[i] * (len(batch) + 1) > self.budget:
                scores |= zip(batch, self._batch([items[j] for j in batch]), strict=True)
                batch = []
            batch.append(i)
        if batch:
            scores |= zip(batch, self._batch([items[j] for j in batch]), strict=True)
        return [scores[i] for i in range(len(items))]

    @torch.inference_mode()
    def _batch(self, items: Sequence[Item]) -> list[CompletionScores]:
        device = self.model.device
        rows = [item.prompt + item.completion for item in items]
        width = max(map(len, rows))
        ids = torch.zeros(len(rows), width, dtype=torch.int64)
        mask = torch.zeros_like(ids)
        for i, row in enumerate(rows):
            ids[i, : len(row)] = torch.tensor(row)
            mask[i, : len(row)] = 1
        # Padding stands on the right, where no token of a causal model sees it.
        index = [
            (i, len(item.prompt) - 1 + t - width, token)
            for i, item in enumerate(items)
            for t, token in enumerate(item.completion)
        ]
        places = Places(*torch.tensor(index, device=device).T)
        inputs = {"input_ids": ids.to(device), "attention_mask": mask.to(device), "use_cache": False}
        temperature = torch.tensor(
            [item.temperature for item in items for _ in item.completion], device=device, dtype=torch.float32
        )
        try:
            if self._head is None:
                scored = score_by_logits(self.model, inputs, places, temperature=temperature)
            else:
                scored = score_tokens(self.model, inputs, places, self._head, temperature=temperature)
        except HiddenStatesError as error:
            raise not_numbers(self.model) from error
        except torch.OutOfMemoryError as error:
            raise InputError(
                f"The device has too little memory for {len(rows)} sequences of {width:,} tokens: use a smaller "
                "--token-budget."
            ) from error
        except Exception as error:  # models fail in kinds of their own
            subject = f"samples of {width:,} tokens, prompt included"
            raise cannot(self.model, subject, width, error) from error
        if not bool(torch.isfinite(scored.entropy).all()):
            raise not_numbers(self.model)
        ends = np.cumsum([len(item.completion) for item in items])[:-1]
        return [
            CompletionScores(*pair)
            for pair in zip(
                np.split(scored.logprob.float().cpu().numpy(), ends),
                np.split(scored.entropy.float().cpu().numpy(), ends),
                strict=True,
            )
        ]

    @torch.inference_mode()
    def choose_path(self, item: Item) -> None:
        """Decides once, by a few tokens of `item`, whether scores come from our operator or from the logits.

        All later scores take that path; whoever continues an interrupted table chooses by the same item.
        """
        if self._head_is_known:
            return
        self._head_is_known = True
        prompt, completion = (torch.tensor(part, device=self.model.device) for part in (item.prompt, item.completion))
        few = few_tokens(prompt, completion)
        check_rows(self.model, self.tokenizer, few[0].tolist(), "A sample")
        check_causal(self.model, few)
        try:
            self._head = prove_head(self.model, few if few.shape[1] > 1 else few.repeat(1, 2))
        except HeadError as error:
            self.full_logits = f"our operator cannot stand in for the head of {type(self.model).__name__}: {error}"


# ------------------------------------------------------------------------------------------------- a table of samples


@dataclass(frozen=True)
class WrittenEntropies:
    """What `write_entropies` did: `samples` have entropies in the folder now, `computed` of them by this call."""

    samples: int
    computed: int


def write_entropies(
    samples: Path,
    out: Path,
    scorer: Scorer,
    *,
    name: str,
    temperature: float | None = None,
    console: Console | None = None,
) -> WrittenEntropies:
    """Writes the samples with token ids, tokens, log-probs and exact entropies to shards in `out`.

    Every shard is written whole or not at all and depends on its own samples alone: after a kill, the same call
    continues and its result is that of a call that was never interrupted. Samples without text are left out.

    Args:
        samples: a shard or a folder of shards; `out` must be another folder.
        name: of the model, for the record.
        temperature: of the distributions; None is each sample's own (1 where it was greedy or nobody said).

    Raises:
        InputError: another tokenizer, or `out` holds the entropies of something else.
    """
    if out.resolve() == (samples if samples.is_dir() else samples.parent).resolve():
        raise InputError(f"'{out}' holds the samples themselves: give another folder for the entropies.")
    if temperature is not None and not temperature > 0:
        raise InputError(f"The temperature is {temperature}: give a positive number.")
    table = read_samples(samples, ["run", "problem_id", "sample_id", "completion"])
    manifest = {
        "samples": _digest(table),
        "model": name,
        "weights": fingerprint(scorer.model),
        "device": scorer.model.device.type,
        "dtype": str(scorer.model.dtype).removeprefix("torch."),
        "token_budget": scorer.budget,
        "temperature": temperature,
    }
    computed = done = 0
    with only_process(out):
        same_settings(out / MANIFEST, manifest, content="entropies", remedy="give another --out, or delete that folder")
        with Meter(table.num_rows, 0, console, "computing entropies") as meter:
            for shard, rows in _chunks(samples):
                path = out / f"{shard}.parquet"
                n_written = _rows_in(path)
                with_text = [row for row in rows if (row["completion"] or "").strip()]
                if with_text:
                    scorer.choose_path(_item(with_text[0], scorer, temperature, samples))  # even if the shard is done
                if n_written is None:
                    if with_text:
                        write_shard(out, shard, _scored(with_text, scorer, temperature, samples))
                    computed += len(with_text)
                    n_written = len(with_text)
                done += n_written
                meter.add(samples=len(rows))
    return WrittenEntropies(done, computed)


def _chunks(samples: Path) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Yields the rows of the table as they lie in its shards, `_ROWS` at a time, with a name for each piece."""
    for shard in find_shards(samples):
        rows: list[dict[str, Any]] = []
        piece = 0
        for batch in iter_batches(open_parquet(shard), shard, _ROWS):
            rows += batch.to_pylist()
            while len(rows) >= _ROWS:
                yield f"{shard.stem}.{piece:05d}", rows[:_ROWS]
                rows, piece = rows[_ROWS:], piece + 1
        if rows:
            yield f"{shard.stem}.{piece:05d}", rows


def _rows_in(path: Path) -> int | None:
    if not path.exists():
        return None
    try:
        return int(pq.read_metadata(path).num_rows)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise InputError(f"'{path}' is damaged: delete it, and the same command computes it again.") from error


def _item(row: Mapping[str, Any], scorer: Scorer, temperature: float | None, samples: Path) -> Item:
    where = f"'{samples}', sample {row['sample_id']} of problem '{row['problem_id']}'"
    sample_temperature = (row.get("sampling") or {}).get("temperature") or 1.0
    completion = completion_ids(scorer.tokenizer, row, where, embedding_rows(scorer.model))
    return Item(prompt_ids(scorer.tokenizer, row["prompt"]), completion, temperature or sample_temperature)


def _scored(
    rows: Sequence[Mapping[str, Any]], scorer: Scorer, temperature: float | None, samples: Path
) -> Iterator[dict[str, Any]]:
    items = [_item(row, scorer, temperature, samples) for row in rows]
    for row, item, scores in zip(rows, items, scorer.score(items), strict=True):
        tokens = [scorer.tokenizer.decode([i]) if i < len(scorer.tokenizer) else "" for i in item.completion]
        try:
            token_spans(tokens, row["completion"])
        except MisfitError as error:
            where = f"'{samples}', sample {row['sample_id']} of problem '{row['problem_id']}'"
            raise another_tokenizer(where, str(error)) from error
        yield {
            **row,
            "token_ids": item.completion,
            "tokens": [token.encode("utf-8", "replace").decode() for token in tokens],
            "logprobs": scores.logprobs.tolist(),
            "entropies": scores.entropies.tolist(),
            "varentropies": None,  # those of the row may be of another temperature
            "n_tokens": len(item.completion),
        }


def _digest(table: pa.Table) -> str:
    digest = hashlib.sha256()
    for row in table.to_pylist():
        digest.update(json.dumps(list(row.values())).encode())
    return digest.hexdigest()[:16]


# ---------------------------------------------------------------------------------------- every response, every prompt


def cross_logprobs(
    scorer: Scorer, prompts: Sequence[list[int]], responses: Sequence[list[int]], *, console: Console | None = None
) -> npt.NDArray[np.float64]:
    """Scores every response under every prompt: log-probabilities (nats, temperature 1), `(responses, prompts)`."""
    matrix = np.empty((len(responses), len(prompts)))
    pairs = [(i, j) for j in range(len(prompts)) for i in range(len(responses))]
    with Meter(len(pairs), 0, console, "computing cross log-probs", "pairs") as meter:
        for first in range(0, len(pairs), _CROSS_BLOCK):
            block = pairs[first : first + _CROSS_BLOCK]
            scores = scorer.score([Item(prompts[j], responses[i]) for i, j in block])
            for (i, j), score in zip(block, scores, strict=True):
                matrix[i, j] = score.logprobs.astype(np.float64).sum()
            meter.add(samples=len(block))
    return matrix


def load_scorer(
    model: str, *, device: str = "auto", dtype: str = "auto", budget: int = BUDGET, trust_remote_code: bool = False
) -> Scorer:
    """Loads a model, named by Hub id, folder or `"embedded"`, and returns its scorer."""
    return Scorer(*load_model(model, device, dtype, trust_remote_code), budget=budget)


class ScoringOptions(Protocol):
    """What the options of a command that scores samples say about how the model is loaded."""

    @property
    def device(self) -> str: ...

    @property
    def dtype(self) -> str: ...

    @property
    def token_budget(self) -> int: ...

    @property
    def trust_remote_code(self) -> bool: ...


def scorer_of(model: str, options: ScoringOptions) -> Scorer:
    """Loads the model that a command names and returns its scorer, with progress."""
    with Meter(phase="loading the model"):
        return load_scorer(
            model,
            device=options.device,
            dtype=options.dtype,
            budget=options.token_budget,
            trust_remote_code=options.trust_remote_code,
        )
