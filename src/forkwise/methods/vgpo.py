"""VGPO, arXiv 2604.09349: in models that see, tokens and answers count by how near their states are to the image's.

Formula as in the authors' code (wzb-bupt/VGPO), with groups of one prompt.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from forkwise.methods.base import Need, Scope, TokenMethod, Tokens, check_range, given, wide

if TYPE_CHECKING:
    from torch import Tensor

_EQUAL = 1e-6  # a smaller spread counts as none; there 1e-8 is added to it
_TOKEN, _ANSWER = (0.1, 2.0), (0.9, 2.0)  # bounds of the factors


@dataclass(frozen=True)
class Vgpo(TokenMethod):
    """`A` times a factor of the token and one of the answer, both from the cosine with the image's mean state.

    The cosines w of a prompt's answers are brought to [0, 1]. In an answer's tail the largest ones grow, by up to
    `compensation` at its end, since attention to the image fades. A token's factor is `1 + w - mean w` over the answer,
    an answer's `1 + phi - mean phi` over the prompt's answers, phi the sum of its w, brought to [0, 1]. Without an
    image both are 1.

    Args:
        compensation: at least 0.
        tail: where it begins, as a share of the answer, in [0, 1).
        share: of the tail's tokens that grow, in (0, 1]; at least one.
    """

    compensation: float = 0.3
    tail: float = 0.5
    share: float = 0.2

    name = "vgpo"
    title = "VGPO: visually guided policy optimization (arXiv 2604.09349)"
    paper = "2604.09349"
    formula = "A alpha psi; psi = 1 + w - mean w, w the cosine of a token's state with the image's; alpha of sums of w"
    scope = Scope.ROLLOUT
    requires = frozenset({Need.IMAGE_SIMILARITY, Need.GROUPS, Need.ADVANTAGES})

    def __post_init__(self) -> None:
        check_range(self, "compensation", 0, float("inf"))
        check_range(self, "tail", 0, 0.999)
        check_range(self, "share", 0, 1, open_low=True)

    def advantages(self, tokens: Tokens) -> Tensor:
        """Returns the weighted advantages, `(B, T)`."""
        import torch

        similarity, groups = wide(given(tokens.image_similarity)), given(tokens.groups)
        factor = torch.ones_like(similarity)
        for group in groups.unique():
            rows = ((groups == group) & tokens.mask.any(dim=1)).nonzero(as_tuple=True)[0].tolist()
            if not rows:
                continue
            kept = [similarity[i][tokens.mask[i]] for i in rows]
            every = torch.cat(kept)
            grown = [self.grown(w) for w in _scaled(every).split([len(w) for w in kept])]
            answers = self.answers(torch.stack([w.sum() for w in grown]))
            for i, w, of_answer in zip(rows, grown, answers, strict=True):
                psi = (1 + w - w.mean()).clamp(*_TOKEN)
                factor[i] = factor[i].masked_scatter(tokens.mask[i], psi * of_answer)
        return tokens.advantages * factor

    def grown(self, w: Tensor) -> Tensor:
        """Returns an answer's cosines `(T,)` with the largest of its tail grown, brought to [0, 1] again."""
        import torch

        count = len(w)
        start = min(int(self.tail * count), count - 1)
        largest = w[start:].topk(max(1, int(self.share * (count - start)))).values.min()
        places = torch.arange(count, device=w.device)
        more = self.compensation * places.to(w) / max(count - 1, 1)
        return _scaled(torch.where((places >= start) & (w >= largest), w * (1 + more), w))

    def answers(self, phi: Tensor) -> Tensor:
        """Returns the factors of a prompt's answers from the sums of their w, `(G,)`."""
        scaled = _scaled(phi)
        factors: Tensor = (1 + scaled - scaled.mean()).clamp(*_ANSWER)
        return factors


def _scaled(values: Tensor) -> Tensor:
    """Brings values `(N,)` to [0, 1]; equal ones to 0."""
    low, spread = values.min(), values.max() - values.min()
    return (values - low) / spread if float(spread) > _EQUAL else values * 0
