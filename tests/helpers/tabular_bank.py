"""Banks of a policy that is small enough to enumerate: true advantages are exact, or have an error that is known."""

from __future__ import annotations

import itertools

import numpy as np

from forkwise.credit.bank import Bank, Groups

LENGTH, TOKENS = 3, 3


class TabularProblem:
    """Three steps of three tokens with a table of probabilities, and a verdict for each text."""

    def __init__(self, rng: np.random.Generator) -> None:
        prefixes = [p for t in range(LENGTH) for p in itertools.product(range(TOKENS), repeat=t)]
        self.next = {prefix: rng.dirichlet([0.6] * TOKENS) for prefix in prefixes}
        self.right = {text: bool(rng.random() < 0.4) for text in itertools.product(range(TOKENS), repeat=LENGTH)}

    def value(self, prefix: tuple[int, ...]) -> float:
        """Chance of a right answer after a prefix."""
        if len(prefix) == LENGTH:
            return float(self.right[prefix])
        return float(sum(p * self.value((*prefix, a)) for a, p in enumerate(self.next[prefix])))

    def chance(self, prefix: tuple[int, ...]) -> float:
        """Chance that a text begins so."""
        return float(np.prod([self.next[prefix[:t]][a] for t, a in enumerate(prefix)]))

    def text(self, rng: np.random.Generator) -> tuple[int, ...]:
        """Draws a text."""
        text: tuple[int, ...] = ()
        while len(text) < LENGTH:
            text = (*text, int(rng.choice(TOKENS, p=self.next[text])))
        return text


def tabular_bank(
    problems: int = 12, size: int = 8, seed: int = 0, *, noise: float = 0.0, name: str = "tabular"
) -> Bank:
    """Makes a bank in which every token is a state.

    Args:
        size: completions of a group.
        noise: standard deviation of each half's error.
    """
    rng = np.random.default_rng(seed)
    texts, worth, probs = [], [], []
    problem_S = np.repeat(np.arange(problems), size)
    correct = []
    for _ in range(problems):
        table = TabularProblem(rng)
        for _ in range(size):
            text = table.text(rng)
            texts.append(text)
            correct.append(table.right[text])
            values = [table.value(text[:t]) for t in range(LENGTH + 1)]
            worth += np.diff(values).tolist()
            probs += [table.next[text[:t]] for t in range(LENGTH)]
    ids_N, p_NV = np.array([a for text in texts for a in text]), np.array(probs)
    log_p = np.log(p_NV)
    entropy_N = -(p_NV * log_p).sum(1)
    groups = Groups(
        [f"p{q}" for q in range(problems)],
        problem_S,
        np.tile(np.arange(size), problems),
        np.array(correct),
        np.zeros(problem_S.size, dtype=np.bool_),
        np.full(problem_S.size, LENGTH),
        ids_N,
        entropy_N,
        log_p[np.arange(ids_N.size), ids_N],
        (p_NV**2).sum(1),
        (p_NV**2 * (log_p + entropy_N[:, None])).sum(1),
    )
    half_K2 = np.array(worth)[:, None] + noise * rng.standard_normal((ids_N.size, 2))
    error_K = np.full(ids_N.size, noise / np.sqrt(2))
    about = {"model": "tabular"}
    at_K, chance_K = np.arange(ids_N.size), np.ones(ids_N.size)
    return Bank(name, about, groups, at_K, chance_K, half_K2.mean(1), error_K, half_K2)
