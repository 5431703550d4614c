"""The kit's numbers are those worked out by hand, and it notices an adapter that does not do its work."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from forkwise.testing.engines import (
    check_alpha_zero,
    check_metrics,
    check_skipped_step,
    expected_advantages,
    expected_metrics,
)

# alpha 0.4, kappa 2: psi = min(0.4 H, |A| / 2) is 0.2 (H binds), 0.5 (cap) | 0.75 (cap), 0.04; the last has mask 0.
A = [[1.0, 1.0], [-1.5, -1.5, 9.0]]
H = [[0.5, 2.0], [3.0, 0.1, 9.0]]
MASK = [[1, 1], [1, 1, 0]]
WANT = {
    "shaping/psi_over_adv": (0.2 + 0.5 + 0.75 / 1.5 + 0.04 / 1.5) / 4,
    "shaping/capped_frac": 2 / 4,
    "shaping/psi_pos": 0.35,
    "shaping/psi_neg": 0.395,
}


def test_expectations_are_those_by_hand() -> None:
    shaped = expected_advantages(A, H, MASK, alpha=0.4, kappa=2.0)
    assert shaped[0] == pytest.approx([1.2, 1.5])
    assert shaped[1] == pytest.approx([-0.75, -1.46, 9.0])
    assert expected_metrics(A, H, MASK, alpha=0.4, kappa=2.0) == pytest.approx(WANT)


def test_metrics() -> None:
    check_metrics({**WANT, "loss": 1.0}, A, H, MASK, alpha=0.4, kappa=2.0)
    with pytest.raises(AssertionError, match="psi_pos is logged as None; its definition gives 0.35"):
        check_metrics({k: v for k, v in WANT.items() if k != "shaping/psi_pos"}, A, H, MASK, alpha=0.4, kappa=2.0)
    with pytest.raises(AssertionError, match="capped_frac is logged as 0.51"):
        check_metrics({**WANT, "shaping/capped_frac": 0.51}, A, H, MASK, alpha=0.4, kappa=2.0)


def test_alpha_zero() -> None:
    update = torch.tensor([0.1, -0.2])
    check_alpha_zero(update, update.clone(), [{"loss": 1.0}])
    with pytest.raises(AssertionError, match="bit for bit"):
        check_alpha_zero(update, update * (1 + 1e-6), [])
    with pytest.raises(AssertionError, match="nothing is compared"):
        check_alpha_zero(0 * update, 0 * update, [])
    with pytest.raises(AssertionError, match="yet shaping/psi_pos is logged"):
        check_alpha_zero(update, update, [{"shaping/psi_pos": 0.0}])


def test_skipped_steps() -> None:
    def raising(message: str) -> None:
        raise RuntimeError(message)

    for message in ("Advantages were not entropy-shaped: x", "The methods 'erc' did not act: x"):
        assert check_skipped_step(lambda message=message: raising(message)) == message
    with pytest.raises(AssertionError, match="a silent no-op"):
        check_skipped_step(lambda: None)
    with pytest.raises(AssertionError, match="raises something else: out of memory"):
        check_skipped_step(lambda: raising("out of memory"))
