"""What the method tests share: small batches with every tensor that a method may require."""

from __future__ import annotations

import math
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor

from forkwise.methods import Rollout, Tokens


def tokens(advantages: list[Any], **columns: Any) -> Tokens:
    """A batch from nested lists; all tokens count unless `mask` says otherwise."""
    a = torch.tensor(advantages, dtype=torch.float64)
    made = {name: value if isinstance(value, int) else torch.tensor(value) for name, value in columns.items()}
    made.setdefault("mask", torch.ones_like(a))
    made["mask"] = made["mask"].bool()
    wide = {name: v.double() if isinstance(v, Tensor) and v.is_floating_point() else v for name, v in made.items()}
    return Tokens(a, **wide)


def rollout(rewards: list[float], groups: list[int], logprobs: list[float] | None = None) -> Rollout:
    """The completions of a rollout with GRPO's advantages by population deviation."""
    r, ids = torch.tensor(rewards, dtype=torch.float64), torch.tensor(groups)
    advantages = torch.zeros_like(r)
    for group in set(groups):
        inside = r[ids == group]
        spread = inside.std(correction=0)
        advantages[ids == group] = (inside - inside.mean()) / spread if spread > 0 else 0.0
    return Rollout(r, ids, r > 0, advantages, None if logprobs is None else torch.tensor(logprobs, dtype=torch.float64))


@st.composite
def random_tokens(draw: st.DrawFn, max_rows: int = 6, max_columns: int = 7) -> Tokens:
    """Any batch: groups of two or three completions, ragged lengths, consistent entropies and log-probs."""
    rows, columns = draw(st.integers(2, max_rows)), draw(st.integers(1, max_columns))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))

    def uniform(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(rows, columns, generator=generator, dtype=torch.float64)

    lengths = torch.randint(1, columns + 1, (rows,), generator=generator)
    logprobs = uniform(math.log(1e-3), -1e-3)
    correct = torch.rand(rows, generator=generator) < 0.5
    size = torch.where(correct, 1.0, -1.0).double() * (0.1 + 2 * torch.rand(rows, generator=generator).double())
    advantages = size[:, None].expand(rows, columns).clone()
    advantages[torch.rand(rows, generator=generator) < 0.15] = 0.0
    return Tokens(
        advantages,
        torch.arange(columns) < lengths[:, None],
        entropy=uniform(0, 3),
        old_entropy=uniform(0, 3),
        logprobs=logprobs,
        old_logprobs=logprobs + uniform(-0.4, 0.4),
        groups=torch.arange(rows) // 2,
        correct=correct,
        seed=draw(st.integers(0, 1000)),
    )
