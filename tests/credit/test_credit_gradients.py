"""Updates in gradients: products, leave-one-out and what follows, against brute force and a truth that is known."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from forkwise.credit.gradients import Parts, Products, needed, numbers, products, update
from forkwise.credit.results import GradientCredit, MethodGradient
from forkwise.credit.weights import BINS, best_weights
from forkwise.explore.findings import Estimate
from forkwise.report.credit import gradient_conclusion, gradients
from forkwise.report.table import Table


def from_updates(u_QGMF: np.ndarray, size: int, reference: int) -> Products:
    """Products by definition, from the updates `(Q, groups, M, F)`."""
    mean_QMF = u_QGMF.mean(axis=1)
    total = mean_QMF.sum(axis=0)
    return Products(
        np.einsum("qgmf,qgnf->qmn", u_QGMF, u_QGMF) / u_QGMF.shape[1],
        np.einsum("qmf,qnf->qmn", mean_QMF, mean_QMF),
        np.einsum("qmf,nf->qmn", mean_QMF, total),
        total @ total.T,
        reference,
        size,
    )


def test_an_update_is_the_gradient_of_the_output_layer() -> None:
    # The policy term sum A log pi, differentiated by torch in the layer's weight.
    generator = torch.Generator().manual_seed(0)
    hidden, made = (torch.randn(shape, generator=generator, dtype=torch.float64) for shape in ((5, 3), (2, 5)))
    weight = torch.randn(4, 3, generator=generator, dtype=torch.float64, requires_grad=True)
    tokens = torch.tensor([0, 3, 1, 1, 2])
    log_p = (hidden @ weight.T).log_softmax(-1)
    residual = -log_p.exp().detach()
    residual[range(5), tokens] += 1
    found = update(made, residual, hidden)
    for m in range(2):
        (exact,) = torch.autograd.grad((made[m] * log_p[range(5), tokens]).sum(), weight, retain_graph=True)
        assert found[m].numpy() == pytest.approx(exact.flatten().numpy())


def test_two_passes_give_the_products_by_definition() -> None:
    rng = np.random.default_rng(0)
    parts = [
        [tuple(torch.from_numpy(rng.standard_normal(shape)) for shape in ((3, 6), (6, 4), (6, 2))) for _ in range(2)]
        for _ in range(5)
    ]

    def problems() -> Iterator[list[Parts]]:
        yield from parts

    found = products(problems, 2, 16)
    u = np.array([[update(*p).numpy() for p in groups] for groups in parts])
    expected = from_updates(u, 16, 2)
    for name in ("square_QMM", "own_QMM", "sum_QMM", "total_MM"):
        assert getattr(found, name) == pytest.approx(getattr(expected, name), rel=1e-5, abs=1e-5)
    pairs = sum(u.mean(1)[a] @ u.mean(1)[b].T for a in range(5) for b in range(5) if a != b)
    assert found.all_pairs() == pytest.approx(pairs, rel=1e-5, abs=1e-5)
    without = sum(u.mean(1)[a] @ u.mean(1)[b].T for a in range(5) for b in range(5) if a != b and 3 not in (a, b))
    assert found.left_out()[3] == pytest.approx(without, rel=1e-5, abs=1e-5)


def test_numbers_of_updates_whose_truth_is_known() -> None:
    # True gradient e1. Method 0: e1 with noise of variance 1 in each of 8 entries; method 1: (e1 + e2) / sqrt 2, with
    # noise of .5. Groups of 4: a completion's noise is 4 times a group's, so signal to noise is 1 / (4 * 8) and
    # 1 / (4 * 4).
    rng = np.random.default_rng(1)
    problems, entries = 4000, 8
    e1, e2 = np.eye(entries)[:2]
    u = np.stack(
        [
            e1 + rng.standard_normal((problems, entries)),
            (e1 + e2) / np.sqrt(2) + np.sqrt(0.5) * rng.standard_normal((problems, entries)),
            e1 + rng.standard_normal((problems, entries)),
        ],
        axis=1,
    )[:, None]
    of = from_updates(u, 4, 2)
    first, second = numbers(of, 0, 64), numbers(of, 1, 64)
    for found, exact in (
        (first.direction, 1.0),
        (second.direction, np.sqrt(0.5)),
        (first.signal, 1 / 32),
        (second.signal, 1 / 16),
        (first.cosine, 1 / np.sqrt(1 + 32 / 64)),
        (second.cosine, np.sqrt(0.5) / np.sqrt(1 + 16 / 64)),
    ):
        assert abs(found.value - exact) < 4 * found.error < 0.1
    # cos of method 0 with 16 completions: 1 / sqrt 3. Method 1: .5 / (1 + 16 / n) = 1 / 3, so n = 32, twice 16.
    ratio = needed(of, 1, 0, 16)
    assert abs(ratio.value - np.log(2)) < 4 * ratio.error < 0.5
    assert not np.isfinite(needed(of, 1, 0, 64).value)  # its direction alone is below method 0's cosine
    assert needed(of, 0, 0, 64).value == pytest.approx(0)


def test_the_best_weights_find_those_that_are_true() -> None:
    # The part of bin b is w_b times the true gradient in an entry of its own, with noise 1 there: with few completions
    # the best weight is in proportion to signal over noise, w_b; monotone for rising w.
    rng = np.random.default_rng(2)
    bins, problems = len(BINS), 3000
    w = np.linspace(0, 0.9, bins)
    parts = np.zeros((problems, bins + 1, bins))
    for b in range(bins):
        parts[:, b, b] = w[b] + rng.standard_normal(problems)
    parts[:, bins] = np.where(w > 0, 1, 0) + rng.standard_normal((problems, bins))
    found = best_weights(from_updates(parts[:, None], 16, bins), 1, 0.95)
    expected = w / np.sqrt((w**2).mean())
    assert [f.rising.value for f in found] == pytest.approx(expected, abs=0.2)
    assert np.all(np.diff([f.rising.value for f in found]) >= -1e-9)
    covered = [f.rising.low <= e <= f.rising.high for f, e in zip(found[2:], expected[2:], strict=True)]
    assert sum(covered) >= 6


def test_no_completions_are_needed_for_a_cosine_below_zero() -> None:
    # Method 0 points away from the truth, method 1 at it: GRPO's cosine is no target.
    rng = np.random.default_rng(3)
    e1 = np.eye(4)[0]
    u = np.stack([sign * e1 + 0.1 * rng.standard_normal((50, 4)) for sign in (-1, 1, 1)], axis=1)[:, None]
    assert not np.isfinite(needed(from_updates(u, 4, 2), 1, 0, 64).value)


@pytest.mark.parametrize(
    ("low", "said"), [(-0.2, "nearer by a band over all methods are 1 (b +0.900)"), (0.0005, "b needs 2")]
)
def test_completions_are_needed_for_a_cosine_that_is_surely_above_zero_alone(low: float, said: str) -> None:
    # GRPO's cosine is 0.001: where its interval holds 0, the 2 completions that would have it are an answer to nothing.
    nothing = Estimate(None)

    def method(name: str, cosine: Estimate, band: Estimate, needed: Estimate) -> MethodGradient:
        of = dict.fromkeys(("direction", "signal", "placebo_minus_grpo", "minus_placebo"), nothing)
        return MethodGradient(
            method=name, cosine=cosine, minus_grpo=band, band=band, adjusted_p=0.01, needed=needed, **of
        )

    grpo = method("grpo", Estimate(0.001, low, 0.2), nothing, Estimate(256.0))
    other = method("b", Estimate(0.901, 0.8, 0.95), Estimate(0.9, 0.7, 1.1), Estimate(2.0, 1.0, 4.0))
    sizes = {"problems": 60, "groups": 120, "with_contrast": 118, "completions": 1920, "group_size": 16, "of": 256}
    one = GradientCredit(name="t", model="m", weights="w", half="all", methods=[grpo, other], bins=[], **sizes)
    assert said in gradient_conclusion(one)
    cells = [row[-1] for table in gradients(one) if isinstance(table, Table) for row in table.rows]
    assert (cells[1] == "none: GRPO's is not surely above 0") == (low < 0)
