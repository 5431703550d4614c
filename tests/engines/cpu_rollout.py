"""Generation for verl on a CPU: a replica behind `rollout.name=cpuhf`, with transformers' `generate`.

verl loads it in every process through `VERL_USE_EXTERNAL_MODULES=cpu_verl,cpu_rollout`. Everything else of a whole
`verl.trainer.main_ppo` is verl's: agent loop, reward loop, replay buffer, workers, checkpoints, dumps. The actor hands
its weights over in a file, `$CPU_ROLLOUT_WEIGHTS`.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import cpu_verl
import ray
import torch
from verl.workers.rollout import base
from verl.workers.rollout.replica import RolloutReplica, RolloutReplicaRegistry, TokenOutput

MOST = 128  # prompts of a batch


def resources(_: Any, n: int) -> dict[str, int]:
    return {"num_gpus": n}


# verl reserves what it runs on by this name; Ray is told that it has one.
cpu_verl.CPU.ray_resource_name = lambda self: "GPU"
cpu_verl.CPU.ray_resource_options = resources


def weights() -> Path:
    return Path(os.environ["CPU_ROLLOUT_WEIGHTS"])


class Handover(base.BaseRollout):
    """What the actor's worker sees of the generation: it writes its weights into a file."""

    async def resume(self, tags: Any) -> None:
        pass

    async def release(self) -> None:
        pass

    async def update_weights(self, named: Any, wire_format: str = "named_tensors", **_: Any) -> None:
        state = {}
        for name, tensor in named:
            whole = tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
            state[name] = whole.detach().cpu().clone()
        part = weights().with_suffix(".part")
        torch.save(state, part)
        os.replace(part, weights())


class Server:
    """Answers prompts that arrive within half a second of one another together."""

    def __init__(self, path: str, longest: int) -> None:
        from transformers import AutoModelForCausalLM

        torch.set_num_threads(1)
        self.model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
        self.longest, self.loaded, self.loads = longest, 0.0, 0
        self.waiting: list[tuple[list[int], dict[str, Any], asyncio.Future]] = []
        self.task: asyncio.Task | None = None

    async def generate(
        self, request_id: Any = None, prompt_ids: Any = None, sampling_params: Any = None, **_: Any
    ) -> Any:
        future = asyncio.get_running_loop().create_future()
        self.waiting.append((list(prompt_ids), sampling_params, future))
        if self.task is None:
            self.task = asyncio.get_running_loop().create_task(self._answer())
        return await future

    async def _answer(self) -> None:
        await asyncio.sleep(0.5)
        while self.waiting:
            batch, self.waiting = self.waiting[:MOST], self.waiting[MOST:]
            self._load()
            self._generate(batch)
            await asyncio.sleep(0)
        self.task = None

    def _load(self) -> None:
        if weights().exists() and weights().stat().st_mtime != self.loaded:
            self.loaded = weights().stat().st_mtime
            self.model.load_state_dict(torch.load(weights()), strict=False)
            self.loads += 1

    def _generate(self, batch: list[tuple[list[int], dict[str, Any], asyncio.Future]]) -> None:
        temperature = float(batch[0][1].get("temperature", 1.0))
        width = max(len(prompt) for prompt, _, _ in batch)
        ids = torch.zeros(len(batch), width, dtype=torch.long)
        mask = torch.zeros_like(ids)
        for row, (prompt, _, _) in enumerate(batch):
            ids[row, width - len(prompt) :] = torch.tensor(prompt)
            mask[row, width - len(prompt) :] = 1
        eos = self.model.config.eos_token_id
        with torch.no_grad():
            generated = self.model.generate(
                input_ids=ids,
                attention_mask=mask,
                do_sample=True,
                temperature=temperature,
                top_k=0,
                top_p=1.0,
                max_new_tokens=self.longest,
                pad_token_id=0,
                eos_token_id=eos,
                return_dict_in_generate=True,
                output_logits=True,
            )
        tokens = generated.sequences[:, width:]
        logp = torch.stack(generated.logits, 1).div(temperature).log_softmax(-1).gather(-1, tokens[..., None])[..., 0]
        for row, (_, _, future) in enumerate(batch):
            text = tokens[row].tolist()
            length = text.index(eos) + 1 if eos in text else len(text)
            future.set_result(
                TokenOutput(
                    token_ids=text[:length],
                    log_probs=logp[row, :length].tolist(),
                    stop_reason="completed",
                    extra_fields={"global_steps": self.loads},
                )
            )

    async def nothing(self, *_: Any, **__: Any) -> None:
        pass

    wake_up = sleep = clear_kv_cache = release_kv_cache = resume_kv_cache = nothing
    abort_all_requests = resume_generation = start_profile = stop_profile = nothing


class Replica(RolloutReplica):
    async def launch_servers(self) -> None:
        path = self.model_config.path if hasattr(self.model_config, "path") else self.model_config["path"]
        server = ray.remote(Server).options(num_cpus=0, max_concurrency=1000).remote(path, self.config.response_length)
        self.servers = [server]
        self._server_handle, self._server_address = server, "cpu:0"


base._ROLLOUT_REGISTRY[("cpuhf", "async")] = "cpu_rollout.Handover"
RolloutReplicaRegistry.register("cpuhf", lambda: Replica)
