"""What the method tests share: small batches with every tensor that a method may require."""

from __future__ import annotations

from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor

from forkwise.methods import Tokens
from forkwise.testing.methods import rollout_of as rollout
from forkwise.testing.methods import token_batch

__all__ = ["random_tokens", "rollout", "tokens"]


def tokens(advantages: list[Any], **columns: Any) -> Tokens:
    """A batch from nested lists; all tokens count unless `mask` says otherwise."""
    a = torch.tensor(advantages, dtype=torch.float64)
    made = {name: value if isinstance(value, int | float) else torch.tensor(value) for name, value in columns.items()}
    made.setdefault("mask", torch.ones_like(a))
    made["mask"] = made["mask"].bool()
    wide = {name: v.double() if isinstance(v, Tensor) and v.is_floating_point() else v for name, v in made.items()}
    return Tokens(a, **wide)


def random_tokens() -> st.SearchStrategy[Tokens]:
    """Any batch of the test kit."""
    return st.builds(token_batch, st.integers(0, 2**31), rows=st.integers(2, 6), columns=st.integers(1, 7))
