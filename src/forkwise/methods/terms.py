"""Methods that add a term to the loss through which the entropies themselves get a gradient."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING

from forkwise.methods.base import Method, Need, Scope, State, Tokens, given

if TYPE_CHECKING:
    from torch import Tensor


class EntropyTermMethod(Method):
    """A method that adds a term in the entropies of an update's tokens to the trainer's loss.

    Shaped advantages move log-probs; this moves the distribution's entropy, which no advantages can. The term is one
    number for the whole update, whatever micro-batches and processes it is cut into: an engine asks for its slopes in
    the entropies once, and each micro-batch then adds `sum slope H` of its own tokens.
    """

    scope = Scope.UPDATE
    slot = "entropy term"

    @abstractmethod
    def term(self, entropies: Tensor, tokens: Tokens) -> Tensor:
        """Computes the term, one number, differentiable in the `entropies` `(B, T)`, nats; elsewhere they are 0."""

    @property
    def nucleus(self) -> float:
        """Returns the share of the probability whose entropy is meant, in (0, 1]; 1 means the whole vocabulary."""
        return 1.0

    def needs(self) -> frozenset[Need]:
        """Adds the entropies."""
        return super().needs() | {Need.ENTROPY if self.nucleus == 1 else Need.NUCLEUS_ENTROPY}

    def first_seen(self, entropies: Tensor, tokens: Tokens) -> State:
        """Returns what the method remembers of the first rollout, under the policy that drew it: part of its state."""
        return {}

    def entropies(self, tokens: Tokens) -> Tensor:
        """Returns the entropies that are meant, `(B, T)`, 0 at tokens that do not count."""
        import torch

        meant = given(tokens.entropy if self.nucleus == 1 else tokens.nucleus_entropy)
        return torch.where(tokens.mask, meant.detach(), 0)

    def slopes(self, tokens: Tokens) -> tuple[Tensor, Tensor]:
        """Returns the term, and its derivative in each token's entropy, `(B, T)`."""
        import torch

        with torch.enable_grad():
            entropies = self.entropies(tokens).clone().requires_grad_()
            value = self.term(entropies, tokens)
            (slopes,) = torch.autograd.grad(value, entropies, allow_unused=True)
        return value.detach(), torch.zeros_like(entropies) if slopes is None else slopes
