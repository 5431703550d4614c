"""What methods are given: the completions of a rollout or the tokens of an update, with the tensors they ask for."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

if TYPE_CHECKING:
    import torch
    from torch import Tensor
    from typing_extensions import Self

    from forkwise.core import ShapingStats


class Scope(str, Enum):
    """The scope of a method: how much it must see at once."""

    TOKEN = "token"
    COMPLETION = "completion"  # all tokens of a completion, the policy of the moment
    UPDATE = "update"  # all tokens of an optimizer update
    ROLLOUT = "rollout"  # all completions of a rollout, with the policy that drew them


class Need(str, Enum):
    """A tensor that a method asks for: the field of `Tokens` or `Rollout` of the same name."""

    ENTROPY = "entropy"
    OLD_ENTROPY = "old entropy"
    LOGPROBS = "log-probs"
    OLD_LOGPROBS = "old log-probs"
    SEQUENCE_LOGPROBS = "sequence log-probs"
    HIDDEN = "last hidden states"  # a method that asks for them is given one prompt's completions at a time
    IMAGE_SIMILARITY = "cosine with the image"
    IDS = "token ids"
    GROUPS = "groups"
    LABELS = "a column of the data set"  # which one, the method's `column` says; its `label` makes numbers of it
    CORRECT = "correctness"
    LENGTHS = "lengths"
    ANSWER_LOGITS = "layer logits of the answer"  # of which answer, the method's `marker` says
    PROMPT_KEYS = "prompts that recur"
    MEMORY = "memory of rollouts"  # what the method's `remember` returned after the last one
    REDRAWN = "prompts drawn again"  # see `forkwise.methods.redraw`; the fields `first_rewards` and `redrawn`
    REPLAY = "replay of completions with their old log-probs"  # see `forkwise.methods.replay`
    TEMPERED_LOGPROBS = "old log-probs at another temperature"  # which one, the method's `temperature_factor` says
    OTHER_LOGPROBS = "old log-probs under a second prompt"  # which one, the method's `second` says
    SUM_P2_LOG = "sum of p^2 (log p + H)"
    NUCLEUS_ENTROPY = "entropy of the nucleus"  # of which share of the probability, the method's `nucleus` says
    PROGRESS = "progress"
    STATES = "state across steps"
    ADVANTAGES = "the trainer's advantages"  # for a method of the rollout that changes them


class Condition(str, Enum):
    """A condition that must hold of a run for a method to do anything."""

    OFF_POLICY = "several updates per rollout"  # with one, old and current policy are the same
    EQUAL_GROUPS = "groups of equal rewards"  # which dynamic sampling takes away


State: TypeAlias = Mapping[str, float]
"""What a method remembers from one rollout to the next: numbers by name, the same on all processes."""


@dataclass(frozen=True)
class _Given:
    """A batch of tensors; what has the default None is given only to methods that require it."""

    def only(self, needs: Iterable[Need]) -> Self:
        """Returns the batch without the tensors that none of `needs` asks for."""
        kept = {need.name.lower() for need in needs}
        kept |= {"first_rewards"} if "redrawn" in kept else set()
        kept |= {"second"} if "other_logprobs" in kept else set()
        optional = [field.name for field in dataclasses.fields(self) if field.default is None]
        return dataclasses.replace(self, **{name: None for name in optional if name not in kept})


@dataclass(frozen=True)
class Rollout(_Given):
    """What a method of the reward stage sees: the N completions of a rollout, over all processes.

    Tensors that no method requires are None.

    Attributes:
        rewards: `(N,)`, the weighted sum of the reward functions.
        groups: `(N,)` int64, the prompt of each completion.
        correct: `(N,)` bool, reward above 0: right for rewards of 1/0 and of +1/-1.
        advantages: `(N,)`, those of the engine (GRPO's).
        sequence_logprobs: `(N,)`, mean log-probability of the completion's tokens under the policy that drew it, nats
            per token; NaN for a completion without tokens (truncated and masked).
        lengths: `(N,)` int64, the tokens of each completion that the loss counts.
        answer_logits: `(N, layers)`, the logit of the answer's first token after each layer; NaN without an answer.
        prompt_keys: `(N,)` int64, a number for the prompt of each completion, the same in all rollouts.
        memory: what the method remembers of earlier rollouts, see `RewardMethod.remember`.
        redrawn: `(N,)` bool, the completions that have taken the place of those drawn first.
        first_rewards: `(N,)`, the rewards of those drawn first, `rewards` where nothing has been replaced.
    """

    rewards: Tensor
    groups: Tensor | None = None
    correct: Tensor | None = None
    advantages: Tensor | None = None
    sequence_logprobs: Tensor | None = None
    lengths: Tensor | None = None
    answer_logits: Tensor | None = None
    prompt_keys: Tensor | None = None
    memory: Mapping[str, Any] | None = None
    redrawn: Tensor | None = None
    first_rewards: Tensor | None = None


@dataclass(frozen=True)
class Tokens(_Given):
    """What a method of the token or loss stage sees. Tensors that no method requires are None.

    Attributes:
        advantages: `(B, T)`.
        mask: `(B, T)` bool, the tokens that the loss counts. Elsewhere all values are arbitrary.
        entropy: `(B, T)`, nats, of the policy under update at the sampling temperature.
        old_entropy: `(B, T)`, nats, of the policy that drew the tokens.
        logprobs: `(B, T)`, nats, of the chosen tokens under the policy under update.
        old_logprobs: `(B, T)`, nats, of the chosen tokens under the policy that drew them.
        tempered_logprobs: `(B, T)`, nats, as `old_logprobs`, at the sampling temperature times the method's
            `temperature_factor`.
        other_logprobs: `(B, T)`, nats, as `old_logprobs`, under the other prompt of `TwoPromptMethod`.
        second: `(B,)` bool, whether a completion stands under its problem's second prompt.
        sum_p2_log: `(B, T)`, nats: `sum_v p_v^2 (log p_v + H)` over the vocabulary, of the policy under update.
        nucleus_entropy: `(B, T)`, nats, of the likeliest tokens alone, of the policy under update.
        hidden: `(B, T, d)` bfloat16, what the head got at each token, of the policy that drew it.
        image_similarity: `(B, T)`, the cosine of a token's last hidden state with the mean of those at the images of
            its prompt, of the policy that drew it; 0 without an image.
        ids: `(B, T)` int64, the tokens.
        groups: `(B,)` int64, the prompt of each completion.
        labels: `(B,)` int64, what the method's `label` makes of the data set's column.
        correct: `(B,)` bool, see `Rollout`.
        progress: the share of the run's updates that is done, from 0 on and below 1.
        states: the state of each method that has one, by its name, see `Method.first_state`.
        seed: the seed of random choices; another one for every update.
    """

    advantages: Tensor
    mask: Tensor
    entropy: Tensor | None = None
    old_entropy: Tensor | None = None
    logprobs: Tensor | None = None
    old_logprobs: Tensor | None = None
    tempered_logprobs: Tensor | None = None
    other_logprobs: Tensor | None = None
    second: Tensor | None = None
    sum_p2_log: Tensor | None = None
    nucleus_entropy: Tensor | None = None
    hidden: Tensor | None = None
    image_similarity: Tensor | None = None
    ids: Tensor | None = None
    groups: Tensor | None = None
    labels: Tensor | None = None
    correct: Tensor | None = None
    progress: float | None = None
    states: Mapping[str, State] | None = None
    seed: int = 0

    def generator(self, name: str) -> torch.Generator:
        """Seeds random numbers for the method `name`, on the CPU: the same however the batch is laid out."""
        import torch

        salt = int.from_bytes(name.encode(), "big") % (2**31 - 1)
        return torch.Generator().manual_seed((self.seed * (2**31 - 1) + salt) % (2**63))


class Change(NamedTuple):
    """The advantages that a method made of a batch's, and the statistics of its psi if it adds one."""

    advantages: Tensor
    shaping: ShapingStats | None = None


def given(tensor: Tensor | None) -> Tensor:
    """Returns a tensor that a method has required; an engine that left it out must not go on."""
    if tensor is None:
        raise RuntimeError("A method was not given a tensor that it requires.")
    return tensor


def wide(tensor: Tensor) -> Tensor:
    """Widens to float64, for sums and differences; to float32 on a device that has no float64 (MPS)."""
    import torch

    return tensor.to(torch.float32 if tensor.device.type == "mps" else torch.float64)
