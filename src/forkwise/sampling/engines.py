"""The engine that a recipe names: transformers, vLLM, or a server."""

from __future__ import annotations

from forkwise.errors import InputError
from forkwise.sampling.engine import SamplingEngine
from forkwise.sampling.options import SamplingOptions
from forkwise.sampling.recipe import Job


def make_engine(job: Job, options: SamplingOptions) -> SamplingEngine:
    """Returns the engine that `job.engine` names (`"transformers"`, `"vllm"`, or `"server"` at the address `server`).

    Raises:
        InputError: no such engine, its package is missing, or it cannot load the model.
    """
    drawing = (job.model, job.seed, job.sampling)
    top_logprobs = options.top_logprobs if options.token_data else 0
    if options.traces is not None and job.engine != "transformers":
        raise InputError(f"--traces goes with the transformers engine, not with {job.engine}: leave it out.")
    if job.engine == "server":
        from forkwise.sampling.extra import parse_extra
        from forkwise.sampling.server import Patience, ServerEngine

        return ServerEngine(
            options.server or "",
            *drawing,
            chat=options.chat,
            top_logprobs=top_logprobs,
            concurrency=options.concurrency,
            patience=Patience(timeout=options.timeout, retries=options.retries),
            extra=parse_extra(options.extra),
        )
    if options.extra:
        raise InputError("--extra goes into the requests to a server: give --server too, or leave it out.")
    if job.engine == "vllm":
        from forkwise.sampling.vllm import VllmEngine

        return VllmEngine(
            *drawing,
            chat=options.chat,
            top_logprobs=top_logprobs,
            dtype=options.dtype,
            tensor_parallel=options.tensor_parallel,
        )
    if job.engine != "transformers":
        raise InputError(f"There is no engine '{job.engine}': use transformers or vllm, or --server URL.")
    from forkwise.sampling.generate import TransformersEngine

    return TransformersEngine(
        *drawing,
        chat=options.chat,
        traces=options.traces if options.token_data else 0,
        device=options.device,
        dtype=options.dtype,
        trust_remote_code=options.trust_remote_code,
    )
