"""How engines add up what a loss reports, over micro-batches and processes; the commits are those of docs/engines.md.

Each takes the reports of all micro-batches of all processes, and how many tokens each has.
"""

from __future__ import annotations


def slime(parts: list[dict[str, float]], tokens: list[int]) -> dict[str, float]:
    """train_metric_utils.reduce_train_step_metrics: a sum over micro-batches and ranks, by the global batch size."""
    return {name: sum(part[name] for part in parts) / 128 for name in parts[0]}


def nemo_rl(parts: list[dict[str, float]], tokens: list[int]) -> dict[str, float]:
    """grpo.grpo_train: np.sum over micro-batches of all ranks."""
    return {name: sum(part[name] for part in parts) for name in parts[0]}


def roll(parts: list[dict[str, float]], tokens: list[int]) -> dict[str, float]:
    """functionals.reduce_metrics: a mean over micro-batches and workers."""
    return {name: sum(part[name] for part in parts) / len(parts) for name in parts[0]}


def openrlhf(parts: list[dict[str, float]], tokens: list[int]) -> dict[str, float]:
    """ppo_actor.ppo_train, weights of \"token\": a mean weighted by the tokens of the micro-batches."""
    pairs = list(zip(parts, tokens, strict=True))
    return {name: sum(part[name] * n for part, n in pairs) / sum(tokens) for name in parts[0]}
