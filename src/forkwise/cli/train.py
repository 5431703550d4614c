"""The commands `forkwise grpo` and `forkwise ppo`."""

from __future__ import annotations

import typer

from forkwise.cli.common import long_command


def grpo(ctx: typer.Context) -> None:
    """Train with GRPO and entropy-shaped advantages (every TRL GRPOConfig field is a flag; see grpo --help)."""
    with long_command():
        from forkwise.training import grpo as training

        training.main(ctx.args)


def ppo(ctx: typer.Context) -> None:
    """Train with PPO, a critic and entropy-shaped advantages (flags as for grpo, and the critic's; see ppo --help)."""
    with long_command():
        from forkwise.training import ppo as training

        training.main(ctx.args)
