"""A method of one's own: a frozen config and a function of tensors, tried by hand and then in two training steps.

    python examples/own_method.py

In a package, an entry point makes it known to `--method` and to configs:

    [project.entry-points."forkwise.methods"]
    skip_certain = "my_package.skip_certain:SkipCertain"
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from typing import Any

import torch
from datasets import Dataset

from forkwise import EntropyShapedGRPOConfig, EntropyShapedGRPOTrainer
from forkwise.lab import BASE_MODEL
from forkwise.methods import Need, Scope, TokenMethod, Tokens, all_methods


@dataclass(frozen=True)
class SkipCertain(TokenMethod):
    """Tokens at which the policy is certain teach nothing: their advantage is set to 0."""

    below: float = 0.05
    """Nats. A larger value leaves fewer tokens to learn from."""

    name = "skip_certain"
    title = "No gradient at tokens of low entropy"
    formula = "A where H >= below, else 0"
    scope = Scope.TOKEN  # UPDATE, if it compared tokens with one another
    requires = frozenset({Need.ENTROPY})

    def advantages(self, tokens: Tokens) -> torch.Tensor:
        """The advantages `(B, T)` after the method, from those before it."""
        assert tokens.entropy is not None  # it was required
        return torch.where(tokens.entropy >= self.below, tokens.advantages, 0.0)


# By hand: of four tokens, the second and the fourth are below 0.1 nats.
four = Tokens(
    advantages=torch.tensor([[1.0, 1.0, -2.0, -2.0]]),
    mask=torch.ones(1, 4, dtype=torch.bool),
    entropy=torch.tensor([[0.7, 0.0, 0.1, 0.09]]),
)
print(SkipCertain(below=0.1).advantages(four).tolist())  # [[1.0, 0.0, -2.0, 0.0]]

# In training: a script has no entry point, so it puts the method into the table itself.
all_methods()["skip_certain"] = SkipCertain


def digits(completions: list[str], **_: Any) -> list[float]:
    """The share of digits: a reward that even two steps of a small model can tell apart."""
    return [sum(map(str.isdigit, text)) / max(len(text), 1) for text in completions]


with tempfile.TemporaryDirectory() as folder:
    trainer = EntropyShapedGRPOTrainer(
        model=str(BASE_MODEL),
        reward_funcs=digits,
        args=EntropyShapedGRPOConfig(
            output_dir=folder,
            method=["skip_certain:below=0.1"],
            per_device_train_batch_size=8,
            num_generations=4,
            max_completion_length=16,
            max_steps=2,
            logging_steps=1,
            save_strategy="no",
            use_cpu=True,
            bf16=False,
            report_to="none",
            disable_tqdm=True,
        ),
        train_dataset=Dataset.from_dict({"prompt": [f"1 + {n} =" for n in range(8)]}),
    )
    trainer.train()
for row in trainer.state.log_history:
    if "method/skip_certain/changed" in row:
        print(f"step {row['step']}: {row['method/skip_certain/changed']:.0%} of the tokens skipped")
