"""Shaping by weights is shaping of advantages: by hand, and in TRL's own losses, multiplied where TRL lets one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("trl")

import tiny_trl as tiny
import torch
from test_trl import GRADIENT_TOLERANCE, loss_and_gradient, make, relative
from trl import GRPOTrainer

from forkwise.engines.weights import HOMOGENEOUS, check_weighable, shaping_weights
from forkwise.errors import InputError


def test_weights_by_hand() -> None:
    a = torch.tensor([[1.0, 1.0, -1.5, 0.0, 2.0]])
    h = torch.tensor([[0.5, 9.0, 1.0, 3.0, 1.0]])
    mask = torch.tensor([[1, 1, 1, 1, 0]])
    # psi = min(.4 h, |a| / 2): 0.2, 0.5 (cap), 0.4, 0 (a = 0), and nothing outside the mask
    want = torch.tensor([[1.2, 1.5, 1 - 0.4 / 1.5, 1.0, 1.0]])
    torch.testing.assert_close(shaping_weights(a, h, alpha=0.4, kappa=2.0, mask=mask), want)


def test_one_advantage_per_response_and_packed_tokens() -> None:
    h = torch.tensor([[0.5, 1.0], [2.0, 0.0]])
    want = torch.tensor([[1.2, 1.4], [0.8, 1.0]])  # psi of the second row: 0.8 of |A| = 4
    torch.testing.assert_close(shaping_weights(torch.tensor([1.0, -4.0]), h, alpha=0.4, kappa=2.0), want)
    packed = shaping_weights(torch.tensor([1.0, 1.0, -4.0, -4.0]), h.flatten(), alpha=0.4, kappa=2.0)
    torch.testing.assert_close(packed, want.flatten())


def test_alpha_zero_is_one_and_no_weight_reaches_zero() -> None:
    draw = torch.Generator().manual_seed(0)
    a, h = torch.randn(2000, generator=draw), 9 * torch.rand(2000, generator=draw)
    assert bool((shaping_weights(a, h, alpha=0.0) == 1).all())
    weights = shaping_weights(a, h, alpha=50.0, kappa=1.01)
    assert float(weights.min()) > 0
    torch.testing.assert_close(weights[a < 0].min(), torch.tensor(1 - 1 / 1.01))


@pytest.mark.parametrize("loss_type", HOMOGENEOUS)
def test_multiplied_losses_of_trl_are_those_on_shaped_advantages(tmp_path: Path, loss_type: str) -> None:
    batch = tiny.microbatch()

    class Weighted(GRPOTrainer):
        def get_high_entropy_mask(self, entropies: Any, mask: Any, threshold: float) -> torch.Tensor:
            return shaping_weights(batch["advantages"], entropies.detach(), alpha=0.4, kappa=2.0, mask=mask)

    weighted = make(Weighted, tmp_path, loss_type=loss_type, top_entropy_quantile=0.5)
    stock = make(GRPOTrainer, tmp_path, loss_type=loss_type)
    fed = {**batch, "advantages": tiny.shaped(batch["advantages"], tiny.exact_entropy(tiny.policy(), batch))}
    (loss, gradient), (want_loss, want) = loss_and_gradient(weighted, batch), loss_and_gradient(stock, fed)
    torch.testing.assert_close(loss, want_loss, rtol=1e-5, atol=1e-6)
    assert relative(gradient, want) < GRADIENT_TOLERANCE
    assert relative(loss_and_gradient(stock, batch)[1], want) > 0.01


@pytest.mark.parametrize(
    ("loss", "kl", "message"),
    [
        ("vespo", 0.0, "not known of 'vespo': use one of grpo, bnpo"),
        ("of_somebody", 0.0, "not known of 'of_somebody'"),
        ("dapo", 0.04, "multiply the KL term too, whose coefficient is 0.04: set it to 0"),
    ],
)
def test_refused(loss: str, kl: float, message: str) -> None:
    with pytest.raises(InputError, match=message):
        check_weighable(loss, kl=kl)
    check_weighable("dapo", kl=0.0)
