"""What shaping does in expectation (docs/evidence.md), by enumerating every completion of a tabular policy in float64.

With rewards of 0 and 1, and A+ > 0 > A- the advantages of right and wrong completions of a prompt, the expected
on-policy gradient at a prefix s is `(A+ - A-) grad P(right | s)`; shaping multiplies it by
`1 + (psi+(s) - psi-(s)) / (A+ - A-)`.
"""

from __future__ import annotations

import itertools

import pytest
import torch

from forkwise.core import shape_advantages

VOCABULARY, LENGTH = 3, 3


def policy(seed: int) -> torch.Tensor:
    """Logits of a policy: one row per prefix of up to two tokens."""
    prefixes = sum(VOCABULARY**n for n in range(LENGTH))
    generator = torch.Generator().manual_seed(seed)
    return 2 * torch.randn(prefixes, VOCABULARY, generator=generator, dtype=torch.float64)


def row(prefix: tuple[int, ...]) -> int:
    """The row of a prefix: rows are ordered by length, then as numbers in base VOCABULARY."""
    start = sum(VOCABULARY**n for n in range(len(prefix)))
    return start + sum(token * VOCABULARY**i for i, token in enumerate(prefix))


COMPLETIONS = list(itertools.product(range(VOCABULARY), repeat=LENGTH))
RIGHT = {(0, 1, 2), (2, 2, 0), (1, 0, 0)}


def expected_gradients(
    logits: torch.Tensor, alpha: float, kappa: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Expected gradients of A and of psi, `(prefixes, V)`, and psi of right and wrong completions, `(prefixes,)`."""
    logp = torch.log_softmax(logits, dim=-1)
    probability = logp.exp()
    entropy = -(probability * logp).sum(-1)
    weight = {c: torch.stack([probability[row(c[:t]), c[t]] for t in range(LENGTH)]).prod() for c in COMPLETIONS}
    p = sum(w for c, w in weight.items() if c in RIGHT)
    spread = (p * (1 - p)).sqrt()
    plain, added = torch.zeros_like(logits), torch.zeros_like(logits)
    for c in COMPLETIONS:
        a = (float(c in RIGHT) - p) / spread
        rows = torch.tensor([row(c[:t]) for t in range(LENGTH)])
        psi = shape_advantages(a.expand(LENGTH), entropy[rows], alpha=alpha, kappa=kappa) - a
        score = -probability[rows]  # of a softmax: the one-hot of the token minus the probabilities
        score[torch.arange(LENGTH), torch.tensor(c)] += 1
        plain[rows] += weight[c] * a * score
        added[rows] += weight[c] * psi[:, None] * score
    right, wrong = (1 - p) / spread, p / spread
    return plain, added, (alpha * entropy).clamp(max=right / kappa), (alpha * entropy).clamp(max=wrong / kappa)


@pytest.mark.parametrize("seed", range(5))
def test_without_a_cap_the_term_is_a_baseline(seed: int) -> None:
    logits = policy(seed)
    plain, added, right, wrong = expected_gradients(logits, alpha=1e-3, kappa=1.0001)
    assert torch.equal(right, wrong)  # nothing is capped
    assert right.max() > 0
    assert plain.abs().max() > 0.01
    torch.testing.assert_close(added, torch.zeros_like(added), atol=1e-15, rtol=0)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("alpha", [0.1, 0.4, 2.0, 1e9])
def test_with_the_cap_it_scales_the_gradient_of_each_prefix(seed: int, alpha: float) -> None:
    kappa = 2.0
    plain, added, right, wrong = expected_gradients(policy(seed), alpha, kappa)
    logits = policy(seed)
    p = sum(
        torch.stack([torch.softmax(logits[row(c[:t])], -1)[c[t]] for t in range(LENGTH)]).prod()
        for c in COMPLETIONS
        if c in RIGHT
    )
    sum_of_sizes = 1 / (p * (1 - p)).sqrt()  # A+ - A-
    factor = (right - wrong) / sum_of_sizes
    torch.testing.assert_close(added, plain * factor[:, None], atol=1e-14, rtol=1e-10)
    if alpha == 1e9:  # capped everywhere: hard prompts are scaled up, easy ones down
        torch.testing.assert_close(factor, ((1 - 2 * p) / kappa).expand_as(factor))
