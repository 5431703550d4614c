"""A CPU platform for verl, which ships none: with it verl's own workers and engines run on a machine without a GPU.

verl loads it in every process through `VERL_USE_EXTERNAL_MODULES=cpu_verl`; `VERL_ENGINE_DEVICE=cuda` makes it choose
the engines that it registers for GPUs.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.distributed.fsdp import _init_utils
from transformers import AutoModelForTokenClassification
from verl.plugin.platform import PlatformBase, PlatformRegistry, set_platform

GIB = 2**30


class _Device:
    """What verl asks of `torch.cuda`."""

    def __getattr__(self, name: str) -> Any:
        return getattr(torch.cpu, name)

    def is_available(self) -> bool:
        return False

    def memory_allocated(self) -> int:
        return 0

    memory_reserved = max_memory_allocated = max_memory_reserved = memory_allocated

    def mem_get_info(self) -> tuple[int, int]:
        return GIB, GIB

    def get_device_name(self) -> str:
        return "CPU"

    def empty_cache(self) -> None:
        pass


@PlatformRegistry.register(platform="cpu")
class CPU(PlatformBase):
    device_name = "cpu"
    vendor_name = "none"
    device_module = _Device()

    def is_available(self) -> bool:
        return True

    def current_device(self) -> Any:
        return torch.device("cpu")

    def device_count(self) -> int:
        return 1

    def set_device(self, device_index: int) -> None:
        pass

    def synchronize(self, device_index: int | None = None) -> None:
        pass

    def manual_seed(self, seed: int) -> None:
        torch.manual_seed(seed)

    def manual_seed_all(self, seed: int) -> None:
        torch.manual_seed(seed)

    def set_allocator_settings(self, settings: str) -> None:
        pass

    def empty_cache(self) -> None:
        pass

    def get_device_capability(self, device_index: int = 0) -> tuple[None, None]:
        return None, None

    def communication_backend_name(self) -> str:
        return "gloo"

    def visible_devices_envvar(self) -> str:
        return "CUDA_VISIBLE_DEVICES"

    @contextmanager
    def nvtx_range(self, msg: str) -> Iterator[None]:
        yield

    def profiler_start(self) -> None:
        pass

    def profiler_stop(self) -> None:
        pass

    def ray_resource_name(self) -> str:
        return "CPU"

    def ray_noset_envvars(self) -> list[str]:
        return []

    def is_ipc_supported(self) -> bool:
        return False

    def cudart(self) -> None:
        return None


def _init_process_group(backend: str | None = None, **options: Any) -> None:
    """verl asks for a backend per device, "cpu:gloo,cpu:gloo" here, and torch takes each device once."""
    _init(backend=None if backend is None else ",".join(dict.fromkeys(backend.split(","))), **options)


def _without_flash_attention(*args: Any, **options: Any) -> Any:
    """verl loads critics with flash attention whatever the configuration says, and that needs a GPU."""
    return _load_critic(*args, **options | {"attn_implementation": "eager"})


_init, torch.distributed.init_process_group = torch.distributed.init_process_group, _init_process_group
_load_critic = AutoModelForTokenClassification.from_pretrained
AutoModelForTokenClassification.from_pretrained = _without_flash_attention
# The first FSDP refuses to send weights from the CPU, which gloo can.
_init_utils._check_module_states_for_sync_module_states = lambda _: None
set_platform(CPU())
