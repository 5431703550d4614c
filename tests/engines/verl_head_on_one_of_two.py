"""Run by `test_verl_head.py` on two processes, of which one has another head than the other."""

from __future__ import annotations

import os

import pytest
import tiny_verl as tiny
import torch
from torch import Tensor, nn
from verl.models.transformers import monkey_patch

from forkwise.engines.verl.settings import HEAD
from forkwise.errors import InputError

IDS = torch.tensor([[5, 6, 10, 11, 12, 13]])


class Doubled(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


def main() -> None:
    torch.distributed.init_process_group("gloo")
    model = tiny.policy().eval()
    monkey_patch.patch_forward_with_backends(model, use_fused_kernels=True, fused_kernels_backend=HEAD)
    mine = os.environ["RANK"] == "1"
    if mine:
        model.lm_head.__class__ = Doubled
    why = "its head is a Doubled" if mine else "another process finds that our operator cannot stand in for its head"
    with pytest.raises(InputError, match=f"cannot be used with Qwen2ForCausalLM: {why};"):
        model(input_ids=IDS, temperature=1.0)
    torch.distributed.barrier()


if __name__ == "__main__":
    main()
