"""What a user may choose about `forkwise explore`; each field is an option of the command line."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from forkwise.parameters import Breaks, Device, Dtype, Level, LexiconFile, ReflectiveFile, TrustRemoteCode


@dataclass(frozen=True)
class ExploreOptions:
    """The options of `forkwise explore`, which `explore.json` records; None takes the default that the help states."""

    samples: Annotated[list[Path], "A TABLE by an option; repeatable."] = field(default_factory=list)
    base: Annotated[Path | None, "Table of the base model: which sentences are rare."] = None
    intersect: Annotated[bool, "With --base: look at the problems that both have."] = False
    out: Annotated[Path | None, "Folder for explore.json, and for what --model computes."] = None
    model: Annotated[str | None, "Hub id, folder or 'embedded': compute exact entropies."] = None
    temperature: Annotated[float | None, "Temperature of --model's entropies (default: each sample's own)."] = None
    cross_prompts: Annotated[int, "With --model: score responses under so many prompts."] = 0
    cross: Annotated[Path | None, "In place of --cross-prompts: .npz with logprobs (M, N) and own (M,)."] = None
    vocabulary: Annotated[int | None, "Tokens of the vocabulary, for upper bounds from top-k log-probs."] = None
    quantile: Annotated[float, "Quantile of a run's entropies above which tokens are high-entropy."] = 0.8
    lexicon: LexiconFile = None
    reflective: ReflectiveFile = None
    breaks: Breaks = ""
    only_exact: Annotated[bool, "Leave out samples without stored entropies."] = False
    encoder: Annotated[str | None, "sentence-transformers model (default: MiniLM-L6-v2)."] = None
    encoder_dtype: Annotated[str, "auto, float32 or bfloat16, of the default encoder."] = "auto"
    k: Annotated[int, "How many nearest base sentences a distance is the mean of."] = 5
    rare: Annotated[float, "Share of sentences that count as rare."] = 0.1
    max_sentences: Annotated[int, "Most distinct sentences per model; of more, some are drawn.", {"min": 100}] = 50_000
    level: Level = 0.95
    resamples: Annotated[int, "Placebo lexicons, permutations, draws of rarity.", {"min": 100, "max": 1_000_000}] = 2000
    seed: Annotated[int, "Seed of all draws.", {"min": 0}] = 0
    device: Device = "auto"
    dtype: Dtype = "auto"
    token_budget: Annotated[int, "Tokens of a batch of --model, padding included."] = 16_384
    trust_remote_code: TrustRemoteCode = False
