"""TRL's micro-batches as methods see them, and the shares that they take of an update made at its first."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import Tensor

from forkwise.methods import Need, State, Tokens

# Keys that the mixin adds to TRL's micro-batches.
POSITIONS = "forkwise_rows"  # (B,) int64: position of the completion in the rollout, over all processes
OLD_ENTROPY = "forkwise_old_entropy"  # (B, T)
GROUPS = "forkwise_groups"  # (B,) int64
CORRECT = "forkwise_correct"  # (B,) bool
IMITATED = "forkwise_imitated"  # there in micro-batches of completions that are imitated, which no method shapes
EARLY_ADVANTAGES = "forkwise_advantages"  # those that the methods of the rollout made


@dataclass(frozen=True)
class UpdateAdvantages:
    """The advantages of an update, made for all its micro-batches at the first; each then takes its share.

    Attributes:
        step: the trainer's step in which the update is made.
        shares: the shares not taken yet: a micro-batch's completion ids (by identity), its advantages `(B, T)`, and
            the slopes of the update's terms in its entropies `(B, T)`.
        terms: the sum of the update's terms.
    """

    step: int
    shares: list[tuple[Tensor, Tensor, Tensor]]
    terms: Tensor

    def take_share(self, step: int, completion_ids: Tensor) -> tuple[Tensor, Tensor] | None:
        """Returns advantages and slopes of a micro-batch, once; None for a micro-batch of another update."""
        for i, (ids, *share) in enumerate(self.shares):
            if step == self.step and ids is completion_ids:
                del self.shares[i]
                return share[0], share[1]
        return None


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
    nucleus_entropy: Tensor | None = None,
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
        nucleus_entropy=None if nucleus_entropy is None else nucleus_entropy.detach(),
        ids=batch["completion_ids"],
        groups=batch.get(GROUPS),
        correct=batch.get(CORRECT),
        **moment._asdict(),
    ).only(wanted)


def token_mask(batch: dict[str, Any]) -> Tensor:
    """Returns the tokens that TRL's loss counts, `(B, T)` bool."""
    mask: Tensor = batch["completion_mask"] * batch.get("tool_mask", 1) != 0
    return mask
