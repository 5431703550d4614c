"""Entropy, shaped, group and critic advantages as functions of tensors. Imports torch and no other room of ours."""

from forkwise.core.advantages import group_advantages, leave_one_out
from forkwise.core.entropy import Extras, HiddenStatesError, LogprobEntropy, logprob_and_entropy, token_entropy
from forkwise.core.gae import Gae, ValueLoss, clipped_value_loss, explained_variance, gae, whiten
from forkwise.core.heads import (
    Head,
    Places,
    Scores,
    adapters_in_use,
    few_tokens,
    score_by_logits,
    score_tokens,
)
from forkwise.core.in_place import HeadError, causal_model
from forkwise.core.proof import prove_head
from forkwise.core.shaping import ShapingStats, shape_advantages, shape_and_measure
from forkwise.core.shortcuts import HeadMismatch, compare_head, trained_beside_head

__all__ = [
    "Extras",
    "Gae",
    "Head",
    "HeadError",
    "HeadMismatch",
    "HiddenStatesError",
    "LogprobEntropy",
    "Places",
    "Scores",
    "ShapingStats",
    "ValueLoss",
    "adapters_in_use",
    "causal_model",
    "clipped_value_loss",
    "compare_head",
    "explained_variance",
    "few_tokens",
    "gae",
    "group_advantages",
    "leave_one_out",
    "logprob_and_entropy",
    "prove_head",
    "score_by_logits",
    "score_tokens",
    "shape_advantages",
    "shape_and_measure",
    "token_entropy",
    "trained_beside_head",
    "whiten",
]
