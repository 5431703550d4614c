"""What the model that drew completions says of their tokens, group by group.

Suffixes: B completions of a group, L tokens of these, V vocabulary, D width of the last hidden state.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from forkwise.errors import InputError
from forkwise.explore.teacher import load_scorer
from forkwise.sampling.forward import cannot, check_length
from forkwise.sampling.generate import fingerprint


@dataclass(frozen=True)
class ScoredGroup:
    """The tokens of a group, flat, in the order of its completions; float32.

    Attributes:
        log_probs_LV: of the distributions that the tokens were drawn from.
        hidden_LD: what the output layer was given there; None where it was not asked for.
    """

    log_probs_LV: Tensor
    hidden_LD: Tensor | None


class Policy:
    """A model, as transformers loads it, and the temperature at which it drew.

    Args:
        model: Hub id, folder or `embedded`.
    """

    def __init__(self, model: str, temperature: float, *, device: str = "auto", dtype: str = "auto") -> None:
        self.name, self.temperature = model, temperature
        scorer = load_scorer(model, device=device, dtype=dtype)
        self.model, self.tokenizer = scorer.model, scorer.tokenizer

    @property
    def fingerprint(self) -> str:
        """Names the weights."""
        return fingerprint(self.model)

    def score(
        self, prompt: Sequence[int], completions: Sequence[Sequence[int]], *, hidden: bool = False
    ) -> ScoredGroup:
        """Runs the model on the completions of a prompt, side by side.

        Raises:
            InputError: the model cannot be run on them, or its output layer is no linear one that was asked for.
        """
        with torch.no_grad():
            picked, states = self._logits(prompt, completions, hidden=hidden)
            return ScoredGroup(picked.log_softmax(-1), states)

    def update(
        self,
        prompt: Sequence[int],
        completions: Sequence[Sequence[int]],
        advantages_ML: Tensor,
        direction_LV: Tensor,
    ) -> Tensor:
        """Computes updates of all parameters, `(M, parameters)`, from directions in the logits.

        Args:
            advantages_ML: of each token; or `(M, 2 L)`, as the directions.
            direction_LV: in the logits over the temperature, `e_a - p`; or `(2 L, V)`, two for each token.
        """
        weights = [weight for weight in self.model.parameters() if weight.requires_grad]
        with torch.enable_grad():
            picked, _ = self._logits(prompt, completions, hidden=False)
            tokens, vocabulary = picked.shape
            update_MF = torch.zeros(len(advantages_ML), sum(weight.numel() for weight in weights))
            for row, advantages_L in zip(update_MF, advantages_ML, strict=True):
                if bool(advantages_L.any()):
                    along_LV = (advantages_L[:, None] * direction_LV).view(-1, tokens, vocabulary).sum(0)
                    parts = torch.autograd.grad(
                        picked, weights, along_LV, retain_graph=True, allow_unused=True, materialize_grads=True
                    )
                    row.copy_(torch.cat([part.flatten() for part in parts]))
        return update_MF

    def _logits(
        self, prompt: Sequence[int], completions: Sequence[Sequence[int]], *, hidden: bool
    ) -> tuple[Tensor, Tensor | None]:
        """Returns the logits over the temperature before each token, and what the output layer was given there."""
        device = self.model.device
        width = len(prompt) + max(map(len, completions))
        check_length(self.model, width - 1, "A sample, before its last token,")
        ids = torch.zeros(len(completions), width, dtype=torch.int64)
        mask = torch.zeros_like(ids)
        for i, completion in enumerate(completions):
            row = [*prompt, *completion]
            ids[i, : len(row)] = torch.tensor(row)
            mask[i, : len(row)] = 1
        inputs: dict[str, Any] = {"input_ids": ids.to(device), "attention_mask": mask.to(device), "use_cache": False}
        places = torch.tensor(
            [(i, len(prompt) - 1 + t) for i, completion in enumerate(completions) for t in range(len(completion))],
            device=device,
        )
        states: list[Tensor] = []
        layer = self.model.get_output_embeddings()
        if hidden and (layer is None or getattr(layer, "weight", None) is None):
            raise InputError(f"The model '{self.name}' has no output layer whose gradient could be looked at.")
        handle = layer.register_forward_hook(lambda _, args, __: states.append(args[0])) if hidden else None
        try:
            logits = self.model(**inputs).logits
        except Exception as error:  # models fail in kinds of their own
            raise cannot(self.model, f"samples of {width:,} tokens, prompt included", width, error) from error
        finally:
            if handle is not None:
                handle.remove()
        picked = logits[places[:, 0], places[:, 1]].float() / self.temperature
        return picked, states[0][places[:, 0], places[:, 1]].float() if hidden else None


def token_numbers(log_probs_LV: Tensor, ids_L: Tensor) -> dict[str, Tensor]:
    """Computes what methods ask of tokens, `(L,)` float64 each, by the names that `Groups` has for them."""
    log_p = log_probs_LV.double()
    p = log_p.exp()
    term = torch.where(p > 0, p * log_p, 0)
    entropy = -term.sum(1)
    return {
        "entropy": entropy,
        "logprob": log_p.gather(1, ids_L[:, None])[:, 0],
        "sum_p2": (p * p).sum(1),
        "sum_p2_log": (p * term).sum(1) + (p * p).sum(1) * entropy,
    }
