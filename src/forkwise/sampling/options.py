"""What a user may choose about drawing and verifying samples; each field is an option of the command line."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from forkwise.parameters import Device, Dtype, TrustRemoteCode
from forkwise.tasks import Split

_AT_LEAST_ONE = {"min": 1}


@dataclass(frozen=True)
class SamplingOptions:
    """The options of `forkwise sample`; None takes the preset's value, or the default that the help states."""

    model: Annotated[str, "Hub id, folder or 'embedded'; with --server, the server's name for it."]
    task: Annotated[str | None, "countdown, aime24, math500, reasoning-gym:NAME, ..."] = None
    dataset: Annotated[str | None, "In place of a task: file or Hub id, prompt and answer."] = None
    preset: Annotated[str | None, "'paper': n, temperature, top-p, length of 2506.14758."] = None
    n: Annotated[int | None, "Completions per problem (default 16)."] = None
    temperature: Annotated[float | None, "Temperature of drawing; 0 is greedy (default 1)."] = None
    top_p: Annotated[float | None, "Share of the probability from which tokens are drawn (default 1: all)."] = None
    max_tokens: Annotated[int | None, "Longest completion (default 1024)."] = None
    split: Annotated[Split, "Split of the task from which problems come."] = "test"
    problems: Annotated[int | None, "How many problems (default: all).", _AT_LEAST_ONE] = None
    first_problem: Annotated[int, "Leave out so many problems before those that are used.", {"min": 0}] = 0
    seed: Annotated[int, "Same seed, same samples."] = 0
    run: Annotated[str | None, "Name of the run (default: the model's)."] = None
    batch_size: Annotated[int, "Completions of a problem side by side, and per shard."] = 64
    engine: Annotated[str, "transformers or vllm."] = "transformers"
    server: Annotated[str | None, "Address of an OpenAI-compatible server."] = None
    concurrency: Annotated[int, "Requests at a time."] = 32
    timeout: Annotated[float, "Seconds for one request to the server, all in all."] = 1800.0
    retries: Annotated[int, "Further tries when the server fails."] = 6
    extra: Annotated[list[str], "key=value for the server's requests, as --extra top_k=20; repeatable."] = field(
        default_factory=list
    )
    chat: Annotated[bool, "Send prompts through the chat template."] = False
    token_data: Annotated[bool, "Store tokens with log-probs and entropies."] = True
    traces: Annotated[int | None, "Token data of the first so many samples per problem alone.", _AT_LEAST_ONE] = None
    top_logprobs: Annotated[int, "Likeliest tokens stored per token; vllm and servers."] = 20
    verify: Annotated[bool, "Verify completions as they arrive."] = True
    device: Device = "auto"
    dtype: Dtype = "auto"
    tensor_parallel: Annotated[int, "GPUs that share the model (vllm)."] = 1
    trust_remote_code: TrustRemoteCode = False


@dataclass(frozen=True)
class JudgeOptions:
    """The options of `forkwise verify`: where the gold answers are, and who compares; else `sampling.json` says it."""

    task: Annotated[str | None, "Task with the gold answers, paired by problem_id."] = None
    dataset: Annotated[str | None, "In place of a task: file or Hub id."] = None
    answers: Annotated[Path | None, "File with problem_id (or id) and answer."] = None
    gold_column: Annotated[str | None, "Column of the table with gold answers."] = None
    verifier: Annotated[str | None, "math, exact, or a task's name (default: the task's, else math)."] = None
    last_number: Annotated[bool, "Where no answer is stated, the last number is the answer."] = False
    split: Annotated[Split | None, "Split of the task with the gold answers (default test)."] = None
    problems: Annotated[int | None, "How many problems, for generated tasks.", _AT_LEAST_ONE] = None
    workers: Annotated[int, "Processes for LaTeX answers.", _AT_LEAST_ONE] = 1
    timeout: Annotated[float, "Seconds per answer."] = 5.0
    memory_mb: Annotated[int, "MiB of address space per process."] = 1024
