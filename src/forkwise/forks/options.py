"""What a user may choose about `forkwise forks`; each field is an option of the command line."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from forkwise.parameters import Breaks, Device, Dtype, Level, LexiconFile, ReflectiveFile, TrustRemoteCode

FEWEST = 8
"""Continuations of a prefix: two after the token of the trace, two after the likeliest, four for the tail."""

Unit = Literal["token", "sentence"]
Outcome = Literal["correct", "answer"]


@dataclass(frozen=True)
class ForksOptions:
    """The options of `forkwise forks`, which `forks.json` records; None takes what the table says."""

    model: Annotated[str, "The model that drew the table: Hub id, folder or 'embedded'."]
    out: Annotated[Path, "Folder for forks.json and the continuations; the same command continues in it."]
    unit: Annotated[Unit, "What decides: tokens, or sentences."] = "token"
    states: Annotated[int, "Places in the table to continue from.", {"min": 1}] = 400
    continuations: Annotated[int, "Continuations of each state, at least 8.", {"min": FEWEST, "max": 100_000}] = 16
    further: Annotated[
        int,
        "Continue a fourth of the states, those in doubt, so often again (tokens).",
        {"min": 0},
    ] = 0
    bisect: Annotated[int, "For sentences: states that look for the token that changed the chance.", {"min": 0}] = 0
    outcome: Annotated[Outcome, "What is decided: whether it is right, or which answer."] = "correct"
    seed: Annotated[int, "Same seed, same states and continuations.", {"min": 0}] = 0
    temperature: Annotated[float | None, "Temperature at which the table was drawn, if it does not say."] = None
    top_p: Annotated[float | None, "Top-p with which the table was drawn, if it does not say."] = None
    max_tokens: Annotated[int | None, "Longest completion when the table was drawn, if it does not say."] = None
    breaks: Breaks = ""
    lexicon: LexiconFile = None
    reflective: ReflectiveFile = None
    quantile: Annotated[float, "Quantile of the table's entropies above which a token is high-entropy."] = 0.8
    level: Level = 0.95
    permutations: Annotated[int, "Deals of outcomes to first tokens, for p.", {"min": 100, "max": 1_000_000}] = 2000
    server: Annotated[str | None, "URL of a server that continues from token ids, as vLLM's does."] = None
    tokenizer: Annotated[str | None, "Tokenizer of the server's model: Hub id or folder (default: --model)."] = None
    device: Device = "auto"
    dtype: Dtype = "auto"
    token_budget: Annotated[int, "Tokens of a batch that computes entropies."] = 16_384
    trust_remote_code: TrustRemoteCode = False
