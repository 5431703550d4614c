"""Checks that every method must pass, whatever the batch.

from forkwise.testing.methods import check_method

def test_skip_certain() -> None:
    check_method(SkipCertain(below=0.1))
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

from forkwise.errors import InputError
from forkwise.methods import EntropyTermMethod, Method, Need, ReplayMethod, RewardMethod, Rollout, TokenMethod, Tokens
from forkwise.methods.base import make
from forkwise.methods.chain import run_entropy_terms, run_reward_methods, run_token_methods
from forkwise.methods.replay import Drawn, Memory
from forkwise.methods.two_prompts import TwoPromptMethod

Batch = TypeVar("Batch", Rollout, Tokens)


def check_method(method: Method, *, random: bool = False, batches: int = 25) -> None:
    """Runs every check on random batches, and reads the method back from its own text.

    Args:
        method: the method, with the options to check it with.
        random: whether the method makes random choices, which may follow the order of the rows: it is not checked.
        batches: how many random batches.

    Raises:
        AssertionError: a check fails; the sentence names the method and what does not hold.
    """
    pairs = (pair.partition("=") for pair in str(method).partition(":")[2].split(",") if pair)
    try:
        again = make(type(method), {key: value for key, _, value in pairs})
    except (InputError, TypeError):
        again = None
    _hold(again == method, method, f"is not what its own text says, {method}")
    for seed in range(batches):
        if isinstance(method, TokenMethod | TwoPromptMethod):
            check_tokens(method, token_batch(seed, rows=2 + seed % 5, columns=2 + seed % 6), random=random)
        elif isinstance(method, RewardMethod):
            check_rollout(method, rollout_batch(seed), random=random)
        elif isinstance(method, EntropyTermMethod):
            check_term(method, token_batch(seed, rows=2 + seed % 5, columns=2 + seed % 6))
        if isinstance(method, ReplayMethod):
            check_replay(method, seed)


def check_tokens(method: TokenMethod | TwoPromptMethod, batch: Tokens, *, random: bool = False) -> None:
    """Checks a method of the token or loss stage on one batch: padding, order, finite numbers, its needs."""
    _check_unchanged(method, batch)
    mask = batch.mask
    plain = acted(method, batch)
    wider = acted(method, padded(batch, 3))[:, : mask.shape[1]]
    _hold(_close(wider[mask], plain[mask]), method, "gives other advantages when rows are padded with other values")
    if not random and int(mask.sum()) > 2:  # two tokens have one covariance, and of equals the first is taken
        order = torch.arange(len(mask)).flip(0)
        turned = acted(method, rows_of(batch, order))[order]
        _hold(
            _close(turned[mask], plain[mask]),
            method,
            "gives other advantages when the rows stand in another order",
        )


def check_rollout(method: RewardMethod, batch: Rollout, *, random: bool = False) -> None:
    """Checks a method of the reward stage on one rollout: order, finite numbers, its needs."""
    _check_unchanged(method, batch)
    if not random:
        order = torch.arange(len(batch.rewards)).flip(0)
        turned = acted(method, rows_of(batch, order))[order]
        same = _close(turned, acted(method, batch))
        _hold(same, method, "gives other advantages when the completions stand in another order")


def check_term(method: EntropyTermMethod, batch: Tokens) -> None:
    """Checks a method with a term in the entropies on one batch: padding, order, its needs."""

    def made(batch: Tokens) -> tuple[Tensor, Tensor]:
        inputs = batch.only(method.needs() | {Need.STATES})
        state = {**method.first_state(), **method.first_seen(0.9 * method.entropies(inputs), inputs)}
        batch = dataclasses.replace(batch, states={method.name: state}).only(method.needs())
        value, slopes, _ = run_entropy_terms([method], batch)
        return value, torch.where(batch.mask, slopes, 0)

    mask = batch.mask
    value, slopes = made(batch)
    wider_value, wider = made(padded(batch, 3))
    same = _close(wider_value, value) and _close(wider[:, : mask.shape[1]], slopes)
    _hold(same, method, "gives another term when rows are padded with other values")
    order = torch.arange(len(mask)).flip(0)
    turned_value, turned = made(rows_of(batch, order))
    _hold(
        _close(turned_value, value) and _close(turned[order], slopes),
        method,
        "gives another term when the rows stand in another order",
    )


def check_replay(method: ReplayMethod, seed: int, *, rollouts: int = 12, size: int = 8) -> None:
    """Checks a method that replays on rollouts one after another: what it learns from is there, and does not depend on
    the order in which completions stand; the memory that it is given stays as it is.
    """

    def run(turned: bool) -> list[list[tuple[int, float]]]:
        draw, following = torch.Generator().manual_seed(seed), 0
        learned: list[list[tuple[int, float]]] = []
        memory: Memory = {}
        for _ in range(rollouts):
            rewards = (torch.rand(size, generator=draw) < torch.rand((), generator=draw)).double()
            cut = torch.rand(size, generator=draw) < 0.1
            advantages = (rewards - rewards.mean()) / (rewards.std() + 1e-4)
            order = torch.arange(size).flip(0) if turned else torch.arange(size)
            drawn = Drawn(following + order, rewards[order], advantages[order], cut[order], cut[order] & False)
            following += size
            before = {name: tensor.clone() for name, tensor in memory.items()}
            noted = method.note(memory, drawn)
            _hold(_same(memory, before), method, "changes the memory that it is given")
            memory = noted
            while True:
                before = {name: tensor.clone() for name, tensor in memory.items()}
                lesson, after = method.lesson(memory, size, torch.Generator().manual_seed(seed))
                _hold(_same(memory, before), method, "changes the memory that it is given")
                if lesson is None:
                    break
                all_kept = bool(torch.isin(lesson.rows, method.kept(memory)).all()) and len(lesson.rows) <= size
                _hold(all_kept, method, "learns from completions that it does not keep, or from too many")
                _hold(
                    bool(lesson.weights.isfinite().all()), method, "weighs completions by numbers that are not finite"
                )
                learned.append(sorted(zip(lesson.rows.tolist(), lesson.weights.tolist(), strict=True)))
                memory = after
        return learned

    _hold(run(turned=False) == run(turned=False), method, "does not learn the same from the same rollouts")
    if not method.again.number:
        plain, turned = run(turned=False), run(turned=True)
        same = [[r for r, _ in a] == [r for r, _ in b] for a, b in zip(plain, turned, strict=True)]
        _hold(all(same), method, "learns from others when the completions stand in another order")


def _same(memory: Any, before: dict[str, Tensor]) -> bool:
    return memory.keys() == before.keys() and all(torch.equal(memory[name], before[name]) for name in before)


def acted(method: Method, batch: Tokens | Rollout) -> Tensor:
    """Returns the advantages that the method makes of a batch cut down to what it requires, with its first state."""
    if isinstance(batch, Tokens):
        batch = dataclasses.replace(batch, states={method.name: method.first_state()})
    try:
        if isinstance(method, RewardMethod) and isinstance(batch, Rollout):
            return run_reward_methods([method], batch)[0]
        if isinstance(method, TokenMethod) and isinstance(batch, Tokens):
            return run_token_methods([method], batch)[0]
        if isinstance(method, TwoPromptMethod) and isinstance(batch, Tokens):
            return method.advantages(batch.only(method.needs()))
    except (AttributeError, RuntimeError, TypeError) as error:
        needs = ", ".join(sorted(need.name for need in method.needs())) or "nothing"
        raise AssertionError(
            f"The method '{method.name}' failed on a batch with what it requires ({needs}) and no more: {error}"
        ) from error
    raise AssertionError(f"The method '{method.name}' does not act on {type(batch).__name__}.")


def token_batch(seed: int, *, rows: int = 4, columns: int = 6) -> Tokens:
    """Makes a batch with every tensor: groups of two or three, ragged lengths, fitting entropies and log-probs."""
    generator = torch.Generator().manual_seed(seed)

    def uniform(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(rows, columns, generator=generator, dtype=torch.float64)

    lengths = torch.randint(1, columns + 1, (rows,), generator=generator)
    logprobs = uniform(math.log(1e-3), -1e-3)
    correct = torch.rand(rows, generator=generator) < 0.5
    size = torch.where(correct, 1.0, -1.0).double() * (0.1 + 2 * torch.rand(rows, generator=generator).double())
    advantages = size[:, None].expand(rows, columns).clone()
    advantages[torch.rand(rows, generator=generator) < 0.15] = 0.0
    return Tokens(
        advantages,
        torch.arange(columns) < lengths[:, None],
        entropy=uniform(0, 3),
        old_entropy=uniform(0, 3),
        logprobs=logprobs,
        old_logprobs=logprobs + uniform(-0.4, 0.4),
        tempered_logprobs=logprobs + uniform(-0.4, 0.4),
        other_logprobs=logprobs + uniform(-0.4, 0.4),
        sum_p2_log=uniform(-0.3, 0.3),
        nucleus_entropy=uniform(0, 2),
        hidden=torch.randn(rows, columns, 3, generator=generator).bfloat16(),
        image_similarity=uniform(-1, 1),
        ids=torch.randint(0, 3, (rows, columns), generator=generator),
        groups=torch.arange(rows) // 2,
        labels=torch.arange(rows) % 2,
        second=torch.arange(rows) % 2 == 1,
        correct=correct,
        progress=seed % 7 / 7,
        seed=seed % 1000,
    )


def rollout_batch(seed: int) -> Rollout:
    """Returns a rollout with every tensor: one to three groups of four to six completions, rewards of 1 and 0."""
    generator = torch.Generator().manual_seed(seed)

    def whole(low: int, high: int) -> int:
        return int(torch.randint(low, high + 1, (1,), generator=generator))

    groups = [group for group in range(whole(1, 3)) for _ in range(whole(4, 6))]
    logprobs = [-0.1 - 0.37 * ((7 * i) % 5) for i in range(len(groups))]
    return rollout_of([float(whole(0, 1)) for _ in groups], groups, logprobs)


def rollout_of(rewards: Sequence[float], groups: Sequence[int], logprobs: Sequence[float] | None = None) -> Rollout:
    """Returns the completions of a rollout, with GRPO's advantages by population deviation."""
    r, ids = torch.tensor(rewards, dtype=torch.float64), torch.tensor(groups)
    advantages = torch.zeros_like(r)
    for group in set(groups):
        inside = r[ids == group]
        spread = inside.std(correction=0)
        advantages[ids == group] = (inside - inside.mean()) / spread if spread > 0 else 0.0
    lengths = torch.arange(len(groups)) % 5 + 1
    likelihoods = None if logprobs is None else torch.tensor(logprobs, dtype=torch.float64)
    answers = torch.sin(torch.arange(3 * len(groups)).view(-1, 3) * 1.7)
    return Rollout(
        *(r, ids, r > 0, advantages, likelihoods, lengths, answers, ids),
        memory={},
        redrawn=torch.zeros_like(r, dtype=torch.bool),
        first_rewards=r,
    )


def rows_of(batch: Batch, rows: Tensor) -> Batch:
    """Returns the batch with these rows in this order."""
    return dataclasses.replace(batch, **{name: tensor[rows] for name, tensor in _tensors(batch).items()})


def padded(batch: Tokens, columns: int) -> Tokens:
    """Pads tokens with rubbish behind them."""
    wider: dict[str, Any] = {}
    for name, tensor in _tensors(batch).items():
        if tensor.dim() >= 2:
            rubbish = torch.full(
                (len(tensor), columns, *tensor.shape[2:]), False if name == "mask" else 0.77, dtype=tensor.dtype
            )
            wider[name] = torch.cat([tensor, rubbish], dim=1)
    return dataclasses.replace(batch, **wider)


def _check_unchanged(method: Method, batch: Tokens | Rollout) -> None:
    before = {name: tensor.clone() for name, tensor in _tensors(batch).items()}
    acted(method, batch)
    same = all(torch.equal(tensor, before[name]) for name, tensor in _tensors(batch).items())
    _hold(same, method, "changes the tensors that it is given")


def _tensors(batch: Tokens | Rollout) -> dict[str, Any]:
    values = {field.name: getattr(batch, field.name) for field in dataclasses.fields(batch)}
    return {name: value for name, value in values.items() if isinstance(value, Tensor)}


def _close(a: Tensor, b: Tensor) -> bool:
    return torch.allclose(a, b, rtol=1e-9, atol=1e-9)


def _hold(holds: bool, method: Method, claim: str) -> None:
    if not holds:
        raise AssertionError(f"The method '{method.name}' {claim}.")
