"""Conversations with tools and environments, drawn by TRL itself: what a tool said gets no psi and counts nowhere."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("trl")

import tiny_chat
import tiny_trl as tiny
import torch
import transformers
from datasets import Dataset
from packaging.version import Version
from trl import GRPOTrainer

from forkwise.engines.trl import EntropyShapedGRPOConfig, EntropyShapedGRPOTrainer
from forkwise.testing.engines import check_metrics

if Version(transformers.__version__) < Version("5.13"):
    pytest.skip("the tokenizer's own parser of answers came with transformers 5.13", allow_module_level=True)
PARAMETERS = inspect.signature(GRPOTrainer.__init__).parameters


class Room:
    """An environment: one thing in it can be asked, and what was asked is its reward."""

    def reset(self, **_: Any) -> str | None:
        self.asked = 0
        return None

    def b(self) -> str:
        """Says something.

        Returns:
            Two words.
        """
        self.asked += 1
        return "h i"


def reward_of_rooms(environments: list[Room], completion_ids: list[list[int]], **_: Any) -> list[float]:
    return [e.asked + value for e, value in zip(environments, tiny.reward(completion_ids), strict=True)]


@pytest.mark.parametrize("given", ["tools", "environment_factory"])
def test_what_a_tool_said_is_not_shaped(tmp_path: Path, given: str) -> None:
    if given not in PARAMETERS:
        pytest.skip(f"this TRL has no {given}")
    seen: list[dict[str, Any]] = []

    class Watched(EntropyShapedGRPOTrainer):
        def _shape(self, batch: Any, logprobs: torch.Tensor, entropy: torch.Tensor) -> None:
            super()._shape(batch, logprobs, entropy)
            seen.append({**batch, "before": batch.unshaped, "entropy": entropy.clone()})

    options = {**tiny.QUIET, "max_completion_length": 16, "per_device_train_batch_size": 8, "max_steps": 1}
    tools = {"tools": [tiny_chat.b]} if given == "tools" else {"environment_factory": Room}
    trainer = Watched(
        tiny.policy(),
        tiny.reward if given == "tools" else reward_of_rooms,
        EntropyShapedGRPOConfig(str(tmp_path), max_tool_calling_iterations=1, **options),
        train_dataset=Dataset.from_dict({"prompt": [[{"role": "user", "content": f"{i} + 1"}] for i in range(8)]}),
        processing_class=tiny_chat.tokenizer(),
        **tools,
    )
    torch.manual_seed(1)
    trainer.train()
    (batch,) = seen
    chosen = batch["completion_mask"] * batch["tool_mask"] != 0
    said = (batch["completion_mask"] != 0) & ~chosen
    assert 0 < int(said.sum()) < int(chosen.sum())
    word = tiny_chat.tokenizer().convert_tokens_to_ids("h")
    assert bool((batch["completion_ids"][said] == word).any())
    before = batch["before"][:, None].expand_as(batch["advantages"])
    assert torch.equal(batch["advantages"][said], before[said])
    learned = chosen & (before != 0)
    assert bool((batch["advantages"] > before)[learned].all())
    rows = [x.tolist() for x in (before, batch["entropy"], chosen)]
    check_metrics(trainer.state.log_history[0], *rows, alpha=0.4, kappa=2.0)
