"""One rollout in float64 that the tests give to both engines' adapters, and what TRL's makes of it.

python one_batch.py FILE        # with TRL; writes the advantages (B, T) of every method
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from forkwise.engines.verl.refusals import GIVEN_ON_VERL
from forkwise.methods import Method, RewardMethod, Scope, SettingsMethod, all_methods, parse_method

# Options with which a method acts on few tokens.
OPTIONS = {"clip_cov": "share=0.2,low=-9,high=9", "kl_cov": "share=0.3", "forking_tokens": "share=0.3"}
OPTIONS |= {"erc": "low=0.9,high=1.1", "passk_training": "k=2", "gtpo_trajectory": "threshold=1.2"}
GROUP, ROWS = 4, 12
SEED = 3 * 2**12  # of the update; the first of verl's step 3


def methods() -> list[Method]:
    """Every method that acts on verl, with options under which it does."""
    names = [name for name, kind in all_methods().items() if not issubclass(kind, SettingsMethod)]
    every = [parse_method(f"{name}:{OPTIONS.get(name, '')}") for name in names]
    return [method for method in every if not method.first_state() and method.needs() <= GIVEN_ON_VERL]


def early(method: Method) -> bool:
    """Whether the method acts when a rollout has been scored."""
    return isinstance(method, RewardMethod) or method.scope is Scope.ROLLOUT


def rollout() -> dict[str, Tensor]:
    """Three prompts with four answers each, of different lengths, one all right; a tool speaks in one of them."""
    draw = torch.Generator().manual_seed(0)
    lengths = torch.tensor([6, 4, 2, 5, 3, 6, 1, 4, 5, 2, 6, 3])
    mask = torch.arange(6) < lengths[:, None]
    mask[5, 2:4] = False

    def uniform(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(ROWS, 6, generator=draw, dtype=torch.float64)

    rewards = torch.tensor([1.0, 0, 1, 0, 1, 1, 0, 0.5, 1, 1, 1, 1], dtype=torch.float64)
    centred = rewards.view(-1, GROUP) - rewards.view(-1, GROUP).mean(dim=1, keepdim=True)
    logprobs = uniform(-4, -0.01)
    values = {"entropy": uniform(0, 2), "old_entropy": uniform(0, 2), "logprobs": logprobs}
    values["old_logprobs"] = logprobs + uniform(-1, 1)
    values["ids"] = torch.randint(0, 2, (ROWS, 6), generator=draw)
    return {"rewards": rewards, "advantages": centred.flatten(), "lengths": lengths, "mask": mask, **values}


def by_trl(where: Path) -> dict[str, Tensor]:
    """The advantages `(B, T)` that the adapter of TRL puts into its loss, for each method by its text."""
    import tiny_trl as tiny
    from test_trl_methods import REUSED, config

    from forkwise.engines.base import reward_methods, rollout_methods
    from forkwise.engines.trl import EntropyShapedGRPOTrainer
    from forkwise.engines.trl.guard import GuardedBatch
    from forkwise.engines.trl.update import GROUPS, OLD_ENTROPY, POSITIONS

    class Fed(EntropyShapedGRPOTrainer):
        def _moment(self) -> Any:
            return super()._moment()._replace(seed=SEED)

    given = rollout()
    args = config(where, "steer", num_generations=GROUP, per_device_train_batch_size=ROWS, **REUSED)
    trainer = Fed(tiny.policy(), tiny.reward, args, train_dataset=tiny.prompts(), processing_class=tiny.tokenizer())
    made = {}
    for method in methods():
        rows = torch.arange(ROWS)
        batch: dict[str, Any] = {
            "completion_ids": given["ids"],
            "completion_mask": (torch.arange(6) < given["lengths"][:, None]).long(),
            "tool_mask": given["mask"].long(),
            "advantages": given["advantages"],
            "old_per_token_logps": given["old_logprobs"],
            OLD_ENTROPY: given["old_entropy"],
            POSITIONS: rows,
            GROUPS: rows // GROUP,
            "forkwise_correct": given["rewards"] > 0,
        }
        if early(method):
            old = (given["old_logprobs"], given["old_entropy"])
            assert reward_methods([method]) or rollout_methods([method])
            advantages = trainer._early_advantages(batch, [method], given["rewards"], *old)
        else:
            guarded = GuardedBatch(batch, [method])
            trainer._acting = [method]
            trainer._buffered_inputs = [batch]
            trainer.current_gradient_accumulation_steps = 1
            with torch.no_grad():
                trainer._shape(guarded, given["logprobs"], given["entropy"])
            advantages = guarded["advantages"]
        made[str(method)] = (advantages if advantages.dim() == 2 else advantages[:, None].expand(ROWS, 6)).clone()
    return made


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        torch.save(by_trl(Path(folder)), sys.argv[1])
