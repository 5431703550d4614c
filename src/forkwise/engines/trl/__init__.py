"""Entropy-shaped advantages in TRL's GRPO: `A + min(alpha * H.detach(), |A| / kappa)` (arXiv 2506.14758, Eq. 5-7).

Everything but the advantages is TRL's. TRL's loss first asks for the log-probabilities and entropies of the current
policy and then reads `inputs["advantages"]`; between the two, the mixin puts the shaped advantages, shape `(B, T)`,
into a copy of the micro-batch. H is in nats, at the sampling temperature; it comes from our operator, or from TRL.

The same hook runs any of `forkwise.methods` (the config's `method`). Those that work on rewards, or need whole groups,
act when TRL has scored a rollout. Those that select among the tokens of an update see all of it, gathered over
micro-batches and processes; further micro-batches are then scored once more beforehand, without gradient.

A training step in which that did not happen raises `RuntimeError`. At `alpha = 0` with `entropy_backend="trl"` the
trainer is TRL's, bit for bit. Whoever computes log-probs and entropies, they are compared once with those of the
policy's own logits.
"""

from forkwise.engines.trl.config import EntropyShapedGRPOConfig, check_rollout
from forkwise.engines.trl.trainer import EntropyShapedGRPOTrainer, EntropyShapingMixin

__all__ = ["EntropyShapedGRPOConfig", "EntropyShapedGRPOTrainer", "EntropyShapingMixin", "check_rollout"]
