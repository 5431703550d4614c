"""The command `forkwise sample`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from forkwise.cli.common import CONTINUES, Split, long_command
from forkwise.progress import Meter
from forkwise.terminal import echo


def sample(
    model: Annotated[str, typer.Option(help="Hub id, folder or 'embedded'; with --server, the name it has there.")],
    out: Annotated[Path, typer.Option(help="Folder of the samples table; the same command continues in it.")],
    task: Annotated[str | None, typer.Option(help="countdown, aime24, math500, reasoning-gym:NAME, ...")] = None,
    dataset: Annotated[str | None, typer.Option(help="Instead of a task: file or Hub id, prompt and answer.")] = None,
    preset: Annotated[str | None, typer.Option(help="'paper': n, temperature, top-p, length of 2506.14758.")] = None,
    n: Annotated[int | None, typer.Option("-n", help="Completions per problem (default 16).")] = None,
    temperature: Annotated[float | None, typer.Option(help="0 is greedy (default 1).")] = None,
    top_p: Annotated[float | None, typer.Option(help="Nucleus (default 1: everything).")] = None,
    max_tokens: Annotated[int | None, typer.Option(help="Longest completion (default 1024).")] = None,
    split: Annotated[Split, typer.Option(help="Of the task.")] = Split.test,
    problems: Annotated[int | None, typer.Option(min=1, help="Only so many problems.")] = None,
    seed: Annotated[int, typer.Option(help="Same seed, same samples.")] = 0,
    run: Annotated[str | None, typer.Option(help="Name of the run (default: the model's).")] = None,
    batch_size: Annotated[int, typer.Option(help="Completions of a problem side by side, and per shard.")] = 64,
    engine: Annotated[str, typer.Option(help="transformers or vllm.")] = "transformers",
    server: Annotated[str | None, typer.Option(help="Address of an OpenAI-compatible server.")] = None,
    concurrency: Annotated[int, typer.Option(help="Requests at a time.")] = 32,
    timeout: Annotated[float, typer.Option(help="Seconds for one request to the server, all in all.")] = 1800.0,
    retries: Annotated[int, typer.Option(help="Further tries when the server fails.")] = 6,
    extra: Annotated[
        list[str] | None, typer.Option(help="key=value for the server's requests, as --extra top_k=20; repeatable.")
    ] = None,
    chat: Annotated[bool, typer.Option("--chat", help="Send prompts through the chat template.")] = False,
    token_data: Annotated[bool, typer.Option(help="Store tokens with log-probs and entropies.")] = True,
    top_logprobs: Annotated[int, typer.Option(help="Candidates per token; vllm and servers.")] = 20,
    verify: Annotated[bool, typer.Option(help="Verify completions as they arrive.")] = True,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1, ...")] = "auto",
    dtype: Annotated[str, typer.Option(help="float32, bfloat16 or float16.")] = "auto",
    tensor_parallel: Annotated[int, typer.Option(help="GPUs that share the model (vllm).")] = 1,
    trust_remote_code: Annotated[bool, typer.Option("--trust-remote-code", help="Run the checkpoint's code.")] = False,
) -> None:
    """Draw completions of a task's problems into a samples table; killed anywhere, the same command continues."""
    with long_command(CONTINUES):
        from forkwise.samples import sampling
        from forkwise.samples.server import parse_extra

        further = parse_extra(extra or [])
        job = sampling.plan(
            model=model,
            task=task,
            dataset=dataset,
            preset=preset,
            n=n,
            temperature=temperature,
            top_p=top_p,
            max_tokens=max_tokens,
            batch_size=batch_size,
            seed=seed,
            split=split.value,
            run=run,
            engine="server" if server is not None else engine,
            verify=verify,
        )
        source = sampling.open_task(task, dataset)

        def load() -> sampling.Engine:
            with Meter(what="loading the model"):
                return sampling.make_engine(
                    job,
                    server=server,
                    chat=chat,
                    token_data=token_data,
                    top_logprobs=top_logprobs,
                    device=device,
                    dtype=dtype,
                    tensor_parallel=tensor_parallel,
                    concurrency=concurrency,
                    timeout=timeout,
                    retries=retries,
                    extra=further,
                    trust_remote_code=trust_remote_code,
                )

        summary = sampling.sample(job, source, source.problems(split.value, problems), load, out)
        echo(f"{out}: {summary}")
