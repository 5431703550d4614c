"""The gradient measurement: unbiased where the answer is known, and right about which term is a baseline."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("trl")

import torch
from expected_gradients import DECILES, batches, expectation, gradients, measure
from transformers import AutoModelForCausalLM, AutoTokenizer

from forkwise.embedded import EMBEDDED_MODEL


def test_the_squared_norm_of_an_expectation_is_unbiased() -> None:
    rng = np.random.default_rng(0)
    mean = np.array([0.3, -0.4, 0.0])  # squared norm 0.25
    norms = [expectation("g", torch.tensor(mean + rng.normal(size=(8, 3)))).squared_norm for _ in range(4000)]
    assert abs(np.mean(norms) - 0.25) < 4 * np.std(norms) / 4000**0.5


def test_squared_norm_and_jackknife_by_hand() -> None:
    g = torch.tensor([[1.0, 0.0], [0.0, 2.0], [1.0, 1.0]], dtype=torch.float64)
    # Products of pairs: 0, 1, 2; their mean is 1. Leaving one out: 2, 1, 0; jackknife variance 2/3 * (1 + 0 + 1).
    expected = expectation("g", g)
    assert expected.squared_norm == pytest.approx(1.0)
    assert expected.standard_error == pytest.approx((4 / 3) ** 0.5)
    assert expected.within == pytest.approx((1 + 4 + 2) / 3)


def test_gradients_are_those_of_each_completion_alone() -> None:
    model = AutoModelForCausalLM.from_pretrained(
        EMBEDDED_MODEL, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    tokenizer = AutoTokenizer.from_pretrained(EMBEDDED_MODEL)
    (batch,) = batches(model, tokenizer, "countdown:4", 2, 2, 2, seed=0)
    weight = torch.arange(batch.mask.numel(), dtype=torch.float32).reshape(batch.mask.shape) / 100
    (together,) = gradients(model, batch, [weight])
    alone = torch.zeros_like(together)
    t = batch.mask.shape[1]
    for i in range(len(batch.ids)):  # without padding
        ids = batch.ids[i][batch.attention[i] > 0]
        n = int(batch.mask[i].sum())
        logps = torch.log_softmax(model(input_ids=ids[None]).logits[0, :-1], dim=-1)
        chosen = logps.gather(1, ids[1:, None])[-n:, 0]
        parts = torch.autograd.grad((chosen * weight[i, :n]).sum() / len(batch.ids), list(model.parameters()))
        alone += torch.cat([part.double().flatten() for part in parts])
    assert t >= n
    torch.testing.assert_close(together, alone, rtol=1e-3, atol=1e-5 * float(alone.abs().max()))


def test_where_everything_is_capped_shaping_is_a_factor_by_sign() -> None:
    """`psi = |A| / 2`: half the gradient along it where A > 0, against it where A < 0."""
    model = AutoModelForCausalLM.from_pretrained(EMBEDDED_MODEL, dtype=torch.float32, attn_implementation="eager")
    tokenizer = AutoTokenizer.from_pretrained(EMBEDDED_MODEL)
    data = list(batches(model.eval(), tokenizer, "countdown:4", 6, 4, 2, seed=0))
    # Sampled entropies are 0 at some tokens, where nothing would be capped.
    data = [replace(b, entropy=b.entropy.clamp(min=1e-3)) for b in data]
    expectations, directions = measure(model, data, alpha=1e6, kappa=2.0)
    assert [e.name for e in expectations] == ["A", "psi", "alpha H, uncapped"]
    parts = {d.name: d for d in directions}
    for name, sign in (("A > 0", 1), ("A < 0", -1)):
        part = parts[name]
        assert part.tokens > 0
        assert part.psi_over_adv == pytest.approx(0.5)
        assert part.cosine == pytest.approx(sign)
        assert part.added_norm == pytest.approx(part.plain_norm / 2)
        assert part.shaped_norm == pytest.approx(part.plain_norm * (1 + sign / 2))
        assert part.shaped_cosine == pytest.approx(1)
    total, deciles = parts["all tokens"], [parts[f"entropy decile {i + 1}"] for i in range(DECILES)]
    assert total.tokens == parts["A > 0"].tokens + parts["A < 0"].tokens == sum(d.tokens for d in deciles)
