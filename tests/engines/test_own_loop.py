"""The lines of docs/engines.md for a loop of one's own, as pasted, and the lines that it shows for prime-rl."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from forkwise.testing.engines import expected_advantages

PAGE = (Path(__file__).parents[2] / "docs" / "engines.md").read_text()


def test_the_six_lines_shape_the_advantages_of_ones_own_loss() -> None:
    (lines,) = re.findall(r"In a loop of your own:\n\n```python\n(.*?)```", PAGE, re.DOTALL)
    assert len([line for line in lines.splitlines() if line.strip()]) == 6
    # Two words of four, then all four, at temperature 2: log 2 and log 4 nats. The last token is padding.
    logits = torch.tensor([[[0.0, 0.0, -1e4, -1e4], [3.0, 3.0, 3.0, 3.0]], [[1.0, -1e4, -1e4, -1e4], [0.0] * 4]])
    a, mask = [[1.0, 1.0], [-1.5, -1.5]], [[1, 1], [1, 0]]
    scope: dict[str, Any] = {
        "logits": logits.requires_grad_(),
        "temperature": 2.0,
        "advantages": torch.tensor(a),
        "response_mask": torch.tensor(mask),
        "logprobs": "new",
        "old_logprobs": "old",
        "policy_loss": lambda *given: given,
    }
    exec(lines, scope)
    want = expected_advantages(a, [[math.log(2), math.log(4)], [0.0, math.log(4)]], mask, alpha=0.4, kappa=2.0)
    new, old, advantages, counted = scope["loss"]
    assert (new, old, counted.tolist()) == ("new", "old", mask)
    assert torch.allclose(advantages, torch.tensor(want), atol=1e-6)
    assert not advantages.requires_grad


# What the lines go into, with the names of prime-rl's functions and arguments that they touch, and nothing else.
PRIME_RL = """
from __future__ import annotations

@dataclass
class LossInputs:
    advantages: Any
{field}

def compute_loss(
    advantages,
    loss_fn,
{parameter}
):
    n = len(advantages)
{default_of}
{default}
    def make_inputs(sample_advantages, sample_entropy):
        return LossInputs(
            advantages=sample_advantages,
{argument}
        )
    for {loop}
        advantages,
{zipped}
    ):
        loss_fn(make_inputs(sample_advantages, sample_entropy))

def step(out, advantages, sequence_lengths, loss_fn):
    compute_loss(
        advantages,
        loss_fn,
{step}
    )
"""


def test_the_lines_for_prime_rl_are_few_and_hand_entropies_in() -> None:
    (lines,) = re.findall(r"```diff\n(.*?)```", PAGE, re.DOTALL)
    added = [line[1:] for line in lines.splitlines() if line.startswith("+") and line[:3] != "+++"]
    field_, parameter, default_of, default, loop, zipped, argument, step = added  # eight
    source = PRIME_RL.format(
        field=field_,
        parameter=parameter,
        default_of=default_of,
        default=default,
        loop=re.sub("for .*, sample_entropy", "sample_advantages, sample_entropy", loop.strip()),
        zipped=zipped,
        argument=argument,
        step=step,
    )
    scope: dict[str, Any] = {"__name__": __name__, "dataclass": dataclass, "field": field, "Any": Any}
    exec(source, scope)
    samples: list[Any] = []
    out = {"entropy": torch.tensor([[0.5, 1.0, 2.0, 0.1, 0.2]])}
    scope["step"](out, ["first", "second"], [2, 3], samples.append)
    assert [sample.advantages for sample in samples] == ["first", "second"]
    assert torch.equal(samples[0].entropy, torch.tensor([0.5, 1.0]))
    assert torch.equal(samples[1].entropy, torch.tensor([2.0, 0.1, 0.2]))
    scope["compute_loss"](["first", "second"], samples.append)  # as prime-rl's other callers do
    assert [sample.entropy for sample in samples[2:]] == [None, None]
    assert scope["LossInputs"]("alone").entropy is None
