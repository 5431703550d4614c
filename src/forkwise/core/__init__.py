"""Entropy, shaped, group and critic advantages as functions of tensors. Imports torch and no other room of ours."""

from forkwise.core.advantages import group_advantages, leave_one_out
from forkwise.core.entropy import Extras, HiddenStatesError, LogprobEntropy, logprob_and_entropy, token_entropy
from forkwise.core.gae import Gae, ValueLoss, clipped_value_loss, explained_variance, gae, whiten
from forkwise.core.heads import HeadMismatch, causal_model, compare_head, few_tokens
from forkwise.core.shaping import ShapingStats, shape_advantages, shape_and_measure

__all__ = [
    "Extras",
    "Gae",
    "HeadMismatch",
    "HiddenStatesError",
    "LogprobEntropy",
    "ShapingStats",
    "ValueLoss",
    "causal_model",
    "clipped_value_loss",
    "compare_head",
    "explained_variance",
    "few_tokens",
    "gae",
    "group_advantages",
    "leave_one_out",
    "logprob_and_entropy",
    "shape_advantages",
    "shape_and_measure",
    "token_entropy",
    "whiten",
]
