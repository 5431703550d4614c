"""Which states are worth reading: forks, false forks and hidden forks, by hand."""

from __future__ import annotations

from forkwise.forks.reading import to_read
from forkwise.forks.results import StateRow


def state(entropy: float, decided: float, open_: float, p: float) -> StateRow:
    return StateRow(
        run="r",
        problem_id="q",
        sample_id=0,
        position=0,
        token="t",
        kind="other",
        entropy=entropy,
        chance=1.0,
        correct=True,
        value=0.5,
        decided=decided,
        open=open_,
        p=p,
        forced=[],
    )


# Above 1 nat the mean of what is decided is 0.08, and the median of what is open 0.22.
STATES = [
    state(1.5, 0.20, 0.25, 0.01),  # 0: a fork
    state(1.2, 0.22, 0.25, 0.04),  # 1: a fork that decides more
    state(1.9, 0.09, 0.20, 0.20),  # 2: more than the mean, and may be chance
    state(1.4, 0.01, 0.20, 0.02),  # 3: surely something, and less than the mean
    state(1.6, -0.02, 0.24, 0.90),  # 4: a false fork
    state(1.8, -0.02, 0.01, 0.90),  # 5: nothing is open there
    state(0.3, 0.15, 0.20, 0.01),  # 6: a hidden fork
    state(0.2, 0.15, 0.20, 0.40),  # 7: low entropy, and may be chance
]


def test_forks_false_forks_and_hidden_forks() -> None:
    assert to_read(STATES, 1.0, 10) == ([1, 0], [4], [6])
    assert to_read(STATES, 1.0, 1) == ([1], [4], [6])
