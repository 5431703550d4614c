"""The followers' formulas on examples small enough for a pocket calculator: values by hand beside forkwise's.

    python benchmarks/worked_examples.py

The values by hand were computed from the papers' formulas apart from forkwise, and stand here as they were written
down; `tests/methods/test_worked_examples.py` has their steps. A value that differs in its sixth decimal is marked, and
the program then ends with 1.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from forkwise.methods import RewardMethod, Rollout, TokenMethod, Tokens, parse_method
from forkwise.methods.heal import divergences
from forkwise.methods.meds import Meds
from forkwise.methods.miner import credits, surprise
from forkwise.methods.minerva import Minerva
from forkwise.methods.overlong import Overlong
from forkwise.methods.pipo import Pipo
from forkwise.methods.policy_split import PolicySplit
from forkwise.methods.repo_r import steer
from forkwise.methods.siren import Siren
from forkwise.methods.two_prompts import TwoPromptMethod
from forkwise.methods.vgpo import Vgpo
from forkwise.tasks.catalog import set_f1

_CLOSE = 1.5e-6

Values = Sequence[float]


def _wide(values: Any) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def _tokens(spec: str, advantages: Values, states: Any = None, **columns: Any) -> list[float]:
    """Runs a method on one completion."""
    made: dict[str, Any] = {
        name: torch.tensor(v) if name in ("correct", "groups", "second") else _wide([v]) for name, v in columns.items()
    }
    batch = Tokens(_wide([advantages]), torch.ones(1, len(advantages)).bool(), states=states, progress=0.25, **made)
    method = parse_method(spec)
    assert isinstance(method, TokenMethod | TwoPromptMethod)
    return [float(x) for x in method.advantages(batch)[0]]


def _rewards(spec: str, rewards: Values, **columns: Values) -> list[float]:
    """Runs a method on one group."""
    r, n = _wide(rewards), len(rewards)
    made: dict[str, Any] = {name: _wide(values) for name, values in columns.items()}
    given = Rollout(r, torch.zeros(n, dtype=torch.int64), r > 0, r * 0, **made)
    method = parse_method(spec)
    assert isinstance(method, RewardMethod)
    return [float(x) for x in method.advantages(given)]


def _clip(spec: str, *cases: tuple[float, float, float]) -> list[float]:
    """Runs a clip on tokens (old probability, ratio, A); returns A w / r."""
    old = [math.log(p) for p, _, _ in cases]
    new = [math.log(p * r) for p, r, _ in cases]
    return _tokens(spec, [a for _, _, a in cases], logprobs=new, old_logprobs=old)


def _miner() -> list[float]:
    means = _wide([-0.2, -0.4, -0.6, -0.8])
    lacking = surprise(means, torch.zeros(4, dtype=torch.int64), torch.ones(4).bool())
    logs = _wide([[0.5, 0.9], [0.4, 0.8]]).log()
    paid = credits(lacking[2:], logs, torch.ones(2, 2).bool(), 2.0, _wide(0.0015 * 2))
    return [*lacking.tolist(), *paid.flatten().tolist()]


def _pipo() -> list[float]:
    method = Pipo(window=3, lam=0.5)
    xis = [method.xi(_wide(mean), _wide([0.40, 0.44, 0.48])) for mean in (0.50, 0.40)]
    return [round(float(value), 4) for xi in xis for value in (xi, method.phi(xi))]  # 1e-6 is added to the deviation


def _split() -> list[float]:
    method = PolicySplit(eta=0.1, mix=0.6, cap=2.0, prompt="text")
    own, other = (-_wide(u).view(2, 2) for u in ([1.0, 2.0, 0.5, 0.5], [1.5, 3.0, 0.5, 1.0]))
    batch = Tokens(
        _wide([[1.0, 1.0], [-1.0, -1.0]]),
        torch.ones(2, 2).bool(),
        groups=torch.zeros(2, dtype=torch.int64),
        second=torch.ones(2).bool(),
        old_logprobs=own,
        other_logprobs=other,
    )
    return [float(x) for x in method.advantages(batch).flatten()]


def _siren() -> list[float]:
    entropies, batch = _wide([[0.1, 0.2, 0.3, 0.4, 0.5]]), torch.ones(1, 5).bool()
    given = Tokens(_wide([[0.0] * 5]), batch, states={"siren": {"anchor": 0.8}})
    return [float(Siren().term(entropies, given))]


def _meds() -> list[float]:
    sizes, wrong, right = torch.tensor([0, 4, 20]), _wide([0, 0, 0]), _wide([1, 1, 1])
    no, yes = torch.zeros(3).bool(), torch.ones(3).bool()
    return [*Meds().lowered(wrong, no, sizes).tolist(), *Meds(target="right").lowered(right, yes, sizes).tolist()]


def _vgpo() -> list[float]:
    method = Vgpo()
    w = method.grown(_wide([0.2, 0.8, 0.4, 0.6]))
    psi = (1 + w - w.mean()).clamp(0.1, 2)
    return [*psi.tolist(), *method.answers(_wide([1.9, 1.0, 2.8, 1.0])).tolist()]


def _heal() -> list[float]:
    entropies, mask = _wide([[1, 2, 3], [1, 2, 0], [3, 2, 1]]), torch.tensor([[1, 1, 1], [1, 1, 0], [1, 1, 1]]).bool()
    apart = divergences(entropies, mask)
    return [float(apart[i, j]) for i, j in ((0, 1), (0, 2), (1, 0), (1, 2), (2, 0), (2, 1))]


def _minerva() -> list[float]:
    drawn = Minerva().draw_rewards(_wide([1.0, 1.0, 0.5]), torch.tensor([False, True, False]))
    return [*drawn.tolist(), set_f1(frozenset({"M1001", "M1002"}), frozenset({"M1002", "M1003", "M1004"}))]


def _of_two(spec: str, advantages: Values, entropies: Values) -> list[float]:
    """Runs a method on two completions of one token each."""
    method = parse_method(spec)
    assert isinstance(method, TokenMethod)
    batch = Tokens(_wide(advantages)[:, None], torch.ones(2, 1).bool(), entropy=_wide(entropies)[:, None])
    return [float(x) for x in method.advantages(batch)[:, 0]]


def _dcpo() -> list[float]:
    method = parse_method("dcpo")
    assert isinstance(method, TokenMethod)
    batch = Tokens(
        _wide([[1.0], [-1.0]]),
        torch.ones(2, 1).bool(),
        old_logprobs=_wide([[-1.0], [-1.0]]),
        tempered_logprobs=_wide([[-1.1], [-1.1]]),
        correct=torch.tensor([True, False]),
        states={"dcpo": {"entropy": 0.3}},
    )
    return [float(x) for x in method.advantages(batch)[:, 0]]


_P = [math.log(p) for p in (0.9, 0.1, 0.5, 0.1)]

EXAMPLES: tuple[tuple[str, str, Values, Callable[[], Values]], ...] = (
    (
        "eapo",
        "H .1 .5 2.4, A 1",
        (0.9, 0.900332, 1.1),
        lambda: _tokens("eapo", [1, 1, 1], entropy=[0.1, 0.5, 2.4]),
    ),
    (
        "miner",
        "mean lp -.2 -.4 -.6 -.8; p .5 .9, .4 .8; N 2",
        (0, 0, 0.1, 0.3, 0.000514, 0.000021, 0.002219, 0.000247),
        _miner,
    ),
    (
        "opefo:weight=paper",
        "A 1 1 -1 -1, p .9 .1 .5 .1, H .5 1.5 .9 1.5",
        (1.139906, 0.860094, -0.860094, -1.139906),
        lambda: _tokens("opefo:weight=paper", [1, 1, -1, -1], logprobs=_P, entropy=[0.5, 1.5, 0.9, 1.5]),
    ),
    ("heal", "KL of (1,2,3), (1,2) and (3,2,1)", (0.053808, 1.150421, 0.068103, 0.796453, 1.150421, 0.629019), _heal),
    ("policy_split", "eta .1, mix .6, cap 2; u 1 2 .5 .5, u' 1.5 3 .5 1", (1, 1.140771, -1.082116, -1.058655), _split),
    ("meds", "clusters of 0, 4, 20: wrong 0, right 1", (0, -0.160944, -0.2, 1, 0.861368, 0.833333), _meds),
    (
        "vgpo",
        "w .2 .8 .4 .6; sums 1.9 1 2.8 1",
        (0.425, 1.425, 0.758333, 1.391667, 1.125, 0.9, 1.625, 0.9),
        _vgpo,
    ),
    ("pipo", "history .40 .44 .48, lambda .5; .50, .40", (1.5, 1.5, -1, -0.5), _pipo),
    (
        "flexible_clip",
        "p_old .1, r 9, A 1, a quarter of the run",
        (1.331707 / 9,),
        lambda: _clip("flexible_clip", (0.1, 9.0, 1.0)),
    ),
    (
        "repo_r",
        "p .1, A 1 and -1; zeta .001, then H .5 and .1 at target .3",
        (1.002303, -0.997697, 0.0005, 0.002),
        lambda: [
            *_tokens("repo_r", [1, -1], logprobs=[math.log(0.1)] * 2),
            steer(0.001, 0.5, 0.3),
            steer(0.001, 0.1, 0.3),
        ],
    ),
    (
        "maspo",
        "(p_old, r, A) (.1 1.5 1) (.9 1.5 1) (.1 .5 -1) (.9 .5 -1) (.1 .5 1)",
        (0.970838, 0.895291, -0.967238, -0.882948, 1),
        lambda: _clip("maspo", (0.1, 1.5, 1), (0.9, 1.5, 1), (0.1, 0.5, -1), (0.9, 0.5, -1), (0.1, 0.5, 1)),
    ),
    (
        "ce_gppo",
        "(r, A) (.5 -1) (2 1) (1.1 1) (1.5 -1) (12 -1)",
        (-1.2, 0.6, 1, -1, 0),
        lambda: _clip("ce_gppo", *((0.05, r, a) for r, a in ((0.5, -1), (2, 1), (1.1, 1), (1.5, -1), (12, -1)))),
    ),
    ("w_reinforce", "right, wrong", (0.1, -1), lambda: _rewards("w_reinforce", [1, 0])),
    (
        "unlikeliness",
        "all right; lp -.2 -.4 -.6 -.8",
        (-1.161881, -0.387294, 0.387294, 1.161881),
        lambda: _rewards("unlikeliness", [1, 1, 1, 1], sequence_logprobs=[-0.2, -0.4, -0.6, -0.8]),
    ),
    (
        "overlong",
        "16384, 18432, 20480 tokens",
        (0, -0.5, -1),
        lambda: Overlong().penalty(_wide([16384, 18432, 20480])).tolist(),
    ),
    (
        "edge_grpo",
        "mean H .5 and 1, A 1 and -1",
        (1.5, -0.75),
        lambda: _of_two("edge_grpo", [1, -1], [0.5, 1.0]),
    ),
    ("siren", "H .1 .2 .3 .4 .5, anchor .8", (0.00045,), _siren),
    (
        "entropy_balanced_advantage",
        "H .5 1.5, A 1 -1",
        (0.858579, -1.141421),
        lambda: _tokens("entropy_balanced_advantage", [1, -1], entropy=[0.5, 1.5]),
    ),
    (
        "dcpo",
        "target .5, H .3, half right; lp -1, lp_T -1.1",
        (0.98414, -0.833333),
        _dcpo,
    ),
    ("minerva", "draws right, right but leaking, half right; F1 of 1 in 2 and 3", (0.1, -0.4, 0.05, 0.4), _minerva),
    ("maxrl", "r 1 0 0 0", (3, -1, -1, -1), lambda: _rewards("maxrl", [1, 0, 0, 0])),
    ("opo", "r 1 0, lengths 10 30", (0.75, -0.25), lambda: _rewards("opo", [1, 0], lengths=[10, 30])),
    (
        "fipo",
        "log r .1 -.2 .3",
        (1.2, 1.098089, 1.2),
        lambda: _tokens("fipo", [1, 1, 1], logprobs=[-0.9, -1.2, -0.7], old_logprobs=[-1.0, -1.0, -1.0]),
    ),
    (
        "m2po",
        "log r .5 -.1 .2 0",
        (0, 1, 1, 1),
        lambda: _tokens("m2po", [1] * 4, logprobs=[-1.5, -2.1, -1.8, -2.0], old_logprobs=[-2.0] * 4),
    ),
)


def _text(values: Values) -> str:
    return " ".join(f"{round(value, 6) + 0:g}" if abs(value) < 1 else f"{round(value, 6):.7g}" for value in values)


def main() -> int:
    """Prints a table; returns how many examples differ."""
    differing = 0
    print("| method | example | by hand | forkwise |")
    print("|---|---|---|---|")
    for method, example, by_hand, made in EXAMPLES:
        values = made()
        same = len(values) == len(by_hand) and all(abs(a - b) < _CLOSE for a, b in zip(values, by_hand, strict=True))
        differing += not same
        print(f"| `{method}` | {example} | {_text(by_hand)} | {_text(values)}{'' if same else ' (differs)'} |")
    return min(differing, 1)


if __name__ == "__main__":
    sys.exit(main())
