"""GRPO with entropy-shaped advantages on Countdown, with the small model that forkwise ships.

    python examples/trl_grpo.py

This is TRL's own GRPO script. The difference is the two class names, and `alpha` and `kappa`.
"""

from __future__ import annotations

from typing import Any

from datasets import Dataset

from forkwise import EntropyShapedGRPOConfig, EntropyShapedGRPOTrainer  # instead of trl's GRPOConfig, GRPOTrainer
from forkwise.lab import BASE_MODEL
from forkwise.tasks.countdown import Countdown

task = Countdown()
problems = {problem.prompt: problem for problem in task.problems("train", 2048)}


def reward(prompts: list[str], completions: list[str], **_: Any) -> list[float]:
    """1 for an expression that uses every number once and hits the target, else 0."""
    verdicts = task.verify(completions, [problems[prompt] for prompt in prompts])
    return [float(verdict.correct is True) for verdict in verdicts]


trainer = EntropyShapedGRPOTrainer(
    model=str(BASE_MODEL),
    reward_funcs=reward,
    args=EntropyShapedGRPOConfig(
        output_dir="runs/trl_grpo",
        alpha=0.4,  # weight of the entropy in the advantage
        kappa=2.0,  # the entropy adds at most half of |A|
        epsilon=0.2,
        epsilon_high=0.28,
        per_device_train_batch_size=64,
        num_generations=8,
        max_completion_length=104,
        learning_rate=1e-4,
        max_steps=20,
        logging_steps=2,
        use_cpu=True,
        bf16=False,
        report_to="none",
    ),
    train_dataset=Dataset.from_dict({"prompt": list(problems)}),
)
trainer.train()
