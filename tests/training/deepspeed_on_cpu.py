"""`python deepspeed_on_cpu.py grpo ...` is `forkwise grpo ...` under DeepSpeed on gloo.

accelerate takes note of DeepSpeed only where it finds an accelerator: with CPUs alone it joins no process group. Here
it is told that gloo will do. The engines, the sharding, the gathering and the trainers are the real ones; DeepSpeed
itself knows CPUs (`DS_ACCELERATOR=cpu`).
"""

from __future__ import annotations

from typing import Any

from accelerate.state import PartialState
from accelerate.utils import DistributedType


def _gloo(*_: Any, **__: Any) -> tuple[str, DistributedType]:
    return "gloo", DistributedType.MULTI_CPU  # becomes DEEPSPEED when the process group is there


PartialState._prepare_backend = _gloo

if __name__ == "__main__":
    from forkwise.cli import main

    main()
