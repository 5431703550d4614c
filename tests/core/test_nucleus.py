"""The entropy of a nucleus: by hand, against brute force in float64, with its gradient, in blocks as in one piece."""

from __future__ import annotations

import math

import pytest

torch = pytest.importorskip("torch")

from forkwise.core import nucleus
from forkwise.core.nucleus import nucleus_entropy, nucleus_entropy_of_hidden


@pytest.mark.parametrize(
    ("p", "top_p", "expected"),
    [
        # .5 and .2 of .7: -(5/7) ln(5/7) - (2/7) ln(2/7); the third token would make it .9.
        ((0.5, 0.2, 0.2, 0.1), 0.8, 0.598270),
        ((0.9, 0.06, 0.04), 0.8, 0.0),  # the likeliest token alone
        ((0.25, 0.25, 0.25, 0.25), 1.0, math.log(4)),
    ],
)
def test_by_hand(p: tuple[float, ...], top_p: float, expected: float) -> None:
    logits = torch.tensor(p, dtype=torch.float64).log()
    assert float(nucleus_entropy(logits, top_p)) == pytest.approx(expected, abs=1e-6)
    assert float(nucleus_entropy(logits + 3, top_p)) == pytest.approx(expected, abs=1e-6)


def brute(logits: torch.Tensor, top_p: float) -> torch.Tensor:
    """One token after the other, in Python."""
    p = logits.softmax(0)
    shares = p.detach().tolist()
    inside, total = [], 0.0
    for i in sorted(range(len(p)), key=lambda i: -shares[i]):
        total += shares[i]
        if inside and total > top_p:
            break
        inside.append(i)
    q = p[inside] / p[inside].sum()
    return -(q * q.log()).sum()


def test_values_and_gradients_through_the_head(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 7 tokens in blocks of 2, with scale, soft cap, bias and a temperature; float64 against autograd of `brute`."""
    monkeypatch.setattr(nucleus, "_BLOCK", 2 * 11)
    draw = torch.Generator().manual_seed(0)
    hidden, weight, bias = (
        (0.7 * torch.randn(*shape, generator=draw, dtype=torch.float64)).requires_grad_()
        for shape in ((7, 5), (11, 5), (11,))
    )
    ours = nucleus_entropy_of_hidden(hidden, weight, 0.7, bias=bias, logit_scale=1.3, softcap=4.0, temperature=0.9)
    logits = 4 * torch.tanh(1.3 * (hidden @ weight.t() + bias) / 4) / 0.9
    want = torch.stack([brute(row, 0.7) for row in logits])
    assert int((want > 0).sum()) > 4
    torch.testing.assert_close(ours, want)
    slopes = torch.randn(7, generator=draw, dtype=torch.float64)
    for a, b in zip(
        torch.autograd.grad((ours * slopes).sum(), (hidden, weight, bias)),
        torch.autograd.grad((want * slopes).sum(), (hidden, weight, bias)),
        strict=True,
    ):
        torch.testing.assert_close(a, b)


def test_only_the_likeliest_count_as_the_vocabulary() -> None:
    logits = torch.tensor([0.4, 0.3, 0.2, 0.1]).double().log()
    # Of .4 and .3 alone: 4/7 and 3/7, the second of which makes 1.
    assert float(nucleus_entropy(logits, 1.0, most=2)) == pytest.approx(0.682908, abs=1e-6)
    assert float(nucleus_entropy(logits, 0.6, most=2)) == 0


def test_no_tokens() -> None:
    assert nucleus_entropy_of_hidden(torch.zeros(0, 5), torch.ones(11, 5), 0.8).shape == (0,)
