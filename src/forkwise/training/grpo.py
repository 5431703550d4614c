"""`forkwise grpo`: GRPO with entropy-shaped advantages on a task or dataset."""

from __future__ import annotations

from collections.abc import Sequence

from forkwise.engines.trl import EntropyShapedGRPOConfig
from forkwise.training.arguments import parse_run
from forkwise.training.run import train
from forkwise.training.trainer import RunTrainer


def main(argv: Sequence[str]) -> None:
    """Runs `forkwise grpo ARGV`."""
    run, config, model_config = parse_run(argv, EntropyShapedGRPOConfig, "grpo")
    train(run, config, model_config, RunTrainer)
