"""`python fsdp2_on_cpu.py grpo ...` is `forkwise grpo ...` under FSDP2 on gloo.

accelerate takes note of FSDP only on accelerators: on CPUs it stays with DistributedDataParallel without a word. Here
it is told that CPUs will do. The sharding, the gathering, the state dictionaries and the trainers are the real ones.
"""

from __future__ import annotations

from typing import Any

from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import DistributedType

_init = AcceleratorState.__init__


def _sharded(self: AcceleratorState, *args: Any, fsdp_plugin: Any = None, **kwargs: Any) -> None:
    _init(self, *args, fsdp_plugin=fsdp_plugin, **kwargs)
    if fsdp_plugin is not None and self.distributed_type == DistributedType.MULTI_CPU:
        self.distributed_type = DistributedType.FSDP
        PartialState._shared_state["distributed_type"] = DistributedType.FSDP  # as accelerate does
        self.fsdp_plugin = fsdp_plugin


AcceleratorState.__init__ = _sharded

if __name__ == "__main__":
    from forkwise.cli import main

    main()
