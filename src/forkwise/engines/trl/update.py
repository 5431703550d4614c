"""The batch of a whole optimizer update, gathered over micro-batches and processes in one order.

A method that selects among tokens must see all tokens of an update before its first micro-batch is computed, in an
order that does not depend on how the update was cut up. That order is the rollout's: row i is the i-th completion that
was generated, over all processes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from forkwise.methods import Method, Need, RewardMethod, Scope, State, TokenMethod, Tokens
from forkwise.methods.chain import run_token_methods

# Keys that the mixin adds to TRL's micro-batches.
POSITIONS = "forkwise_rows"  # (B,) int64: position of the completion in the rollout, over all processes
OLD_ENTROPY = "forkwise_old_entropy"  # (B, T)
GROUPS = "forkwise_groups"  # (B,) int64
CORRECT = "forkwise_correct"  # (B,) bool
EARLY_ADVANTAGES = "forkwise_advantages"  # those that the methods of the rollout made

_PER_TOKEN = (
    *("advantages", "mask", "entropy", "old_entropy", "logprobs", "old_logprobs"),
    *("tempered_logprobs", "sum_p2_log"),
)


@dataclass(frozen=True)
class UpdateAdvantages:
    """The advantages of an update, made for all its micro-batches at the first; each then takes its share.

    Attributes:
        step: the trainer's step in which the update is made.
        shares: the shares not taken yet: a micro-batch's completion ids (by identity), and its advantages.
    """

    step: int
    shares: list[tuple[Tensor, Tensor]]

    def take_share(self, step: int, completion_ids: Tensor) -> Tensor | None:
        """Returns the advantages of a micro-batch, once; None for a micro-batch of another update."""
        for i, (ids, advantages) in enumerate(self.shares):
            if step == self.step and ids is completion_ids:
                del self.shares[i]
                return advantages
        return None


def rollout_methods(methods: Sequence[Method]) -> list[TokenMethod]:
    """Picks the methods that make advantages per token as soon as a rollout is scored."""
    return [m for m in methods if isinstance(m, TokenMethod) and m.scope is Scope.ROLLOUT]


def update_methods(methods: Sequence[Method]) -> list[TokenMethod]:
    """Picks the methods that act within the loss."""
    return [m for m in methods if isinstance(m, TokenMethod) and m.scope is not Scope.ROLLOUT]


def reward_methods(methods: Sequence[Method]) -> list[RewardMethod]:
    """Picks the methods that make advantages from rewards."""
    return [m for m in methods if isinstance(m, RewardMethod)]


def needs(methods: Sequence[Method]) -> frozenset[Need]:
    """Collects everything that at least one of the methods requires."""
    return frozenset().union(*(method.needs() for method in methods))


class Moment(NamedTuple):
    """What methods are told of the step that they act in: fields of `Tokens`."""

    seed: int
    progress: float
    states: Mapping[str, State]


def local_tokens(
    batch: dict[str, Any],
    advantages: Tensor,
    logprobs: Tensor,
    entropy: Tensor,
    wanted: frozenset[Need],
    moment: Moment,
    sum_p2_log: Tensor | None = None,
) -> Tokens:
    """Presents one micro-batch as methods see it, with the tensors that they require.

    Without log-probs and entropies of an old policy in the batch, the policy under update is the one that sampled.
    """
    entropy, logprobs = entropy.detach(), logprobs.detach()
    old_logprobs, old_entropy = batch.get("old_per_token_logps"), batch.get(OLD_ENTROPY)
    return Tokens(
        (advantages[:, None] if advantages.dim() == 1 else advantages).expand_as(entropy),
        token_mask(batch),
        entropy=entropy,
        old_entropy=entropy if old_entropy is None else old_entropy,
        logprobs=logprobs,
        old_logprobs=logprobs if old_logprobs is None else old_logprobs,
        sum_p2_log=sum_p2_log,
        groups=batch.get(GROUPS),
        correct=batch.get(CORRECT),
        **moment._asdict(),
    ).only(wanted)


def token_mask(batch: dict[str, Any]) -> Tensor:
    """Returns the tokens that TRL's loss counts, `(B, T)` bool."""
    mask: Tensor = batch["completion_mask"] * batch.get("tool_mask", 1) != 0
    return mask


def run_on_whole_update(
    methods: Sequence[TokenMethod], parts: Sequence[Tokens], rows: Sequence[Tensor], accelerator: Any
) -> tuple[list[Tensor], dict[str, Tensor]]:
    """Runs the methods on a whole update, or a whole rollout.

    Args:
        methods: the methods, in the order in which they act.
        parts: this process's micro-batches, `(B, T)` each.
        rows: for each micro-batch, the positions of its completions in the rollout, `(B,)`.
        accelerator: gathers over processes, all of which must call this.

    Returns:
        The advantages of each part, and the totals of `run_token_methods`, over all processes.
    """
    columns = {
        field.name: torch.cat([getattr(part, field.name) for part in parts])
        for field in dataclasses.fields(Tokens)
        if isinstance(getattr(parts[0], field.name), Tensor)
    }
    local = torch.cat(list(rows))
    everyone: Tensor = accelerator.gather(local)
    order = everyone.argsort()
    whole: dict[str, Any] = {
        name: _gather(tensor, name in _PER_TOKEN, accelerator)[order] for name, tensor in columns.items()
    }
    tokens = dataclasses.replace(parts[0], **whole)  # what is no tensor is the same in all parts
    advantages, totals = run_token_methods(methods, tokens)
    mine = torch.searchsorted(everyone[order], local)
    sizes = [len(part.mask) for part in parts]
    return list(advantages[mine, : parts[0].mask.shape[1]].split(sizes)), totals


def _gather(tensor: Tensor, padded: bool, accelerator: Any) -> Tensor:
    """Gathers a tensor over processes, padded with zeros to one length; a mask reads those as False."""
    boolean = tensor.dtype == torch.bool
    values = tensor.to(torch.uint8) if boolean else tensor.contiguous()
    if padded:
        values = accelerator.pad_across_processes(values, dim=1)
    gathered: Tensor = accelerator.gather(values)
    return gathered.bool() if boolean else gathered
