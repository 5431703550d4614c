"""What tests of hooks share: batches of the kit as tensors, a clipped loss, modules of engines that are not there."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

from forkwise.engines.hooks.totals import TOTALS, ratios
from forkwise.testing.engines import Batch, check_adapter, check_metrics

LONGEST = 5


def padded(rows: Any) -> Any:
    """Rows of numbers as `(B, 5)`, with zeros behind."""
    return torch.tensor([[*row, *[0.0] * (LONGEST - len(row))] for row in rows], dtype=torch.float64)


def each(batch: Batch) -> Iterator[tuple[list[float], list[float], list[float], list[float]]]:
    """Advantages, entropies and mask of each sequence, its prompt's numbers before its response's, and the prompt."""
    prompts = batch.prompts or [[]] * len(batch.mask)
    for a, h, mask, numbers in zip(*batch.columns, prompts, strict=True):
        prompt = [float(number) for number in numbers]
        yield [*prompt, *a], [*prompt, *h], [*[0.0] * len(prompt), *mask], prompt


def behind_prompts(batch: Batch, *names: str) -> list[Any]:
    """`(B, P + 5)`: prompts ending in one column, padded on their left, responses behind them."""
    width = max(len(prompt) for *_, prompt in each(batch))
    before = torch.zeros(len(batch.mask), width, dtype=torch.float64)
    for row, (*_, prompt) in enumerate(each(batch)):
        before[row, width - len(prompt) :] = torch.tensor(prompt, dtype=torch.float64)
    return [torch.cat([before * (name != "mask"), padded(getattr(batch, name))], dim=1) for name in names]


def packed(batch: Batch) -> list[Any]:
    """Advantages, entropies and mask `(N,)` of whole sequences, one behind the other."""
    columns = zip(*((a, h, m) for a, h, m, _ in each(batch)), strict=True)
    return [torch.tensor([x for row in rows for x in row], dtype=torch.float64) for rows in columns]


def across(rule: Callable[[list[Any], list[int]], Any], outcome: Any, batch: Batch) -> dict[str, float]:
    """What an engine logs whose rule adds up what each of two processes reports of its micro-batch.

    Args:
        rule: the engine's, given the reports of all micro-batches and how many tokens each has.
        outcome: this process's.
        batch: this process's.
    """
    mine = (dict(zip(TOTALS, outcome.totals.tolist(), strict=True)), int(sum(map(sum, batch.mask))))
    reports = of_all_processes(mine)
    summed = rule([report for report, _ in reports], [tokens for _, tokens in reports])
    return ratios({f"shaping/total/{name}": value for name, value in summed.items()})


def holds(*engine_and_adapter: Any, **more: Any) -> None:
    """Runs the contract's kit, and says what holds: `pytest -rP` shows it, and docs/engines.md."""
    test = os.environ["PYTEST_CURRENT_TEST"].removesuffix(" (call)").removeprefix("tests/engines/")
    print(f"{test}: {'; '.join(check_adapter(*engine_and_adapter, **more))}")


def of_all_processes(value: Any) -> list[Any]:
    """What each process of the group has."""
    values: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(values, value)
    return values


def of_two_processes() -> Any:
    """accelerate's own `Accelerator` in a process of the kit, over its gloo group."""
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState, GradientState

    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    accelerator = Accelerator(cpu=True)
    assert accelerator.num_processes == 2
    return accelerator


def drawn() -> Any:
    return torch.linspace(-1.5, -0.1, 4 * LONGEST, dtype=torch.float64).view(4, LONGEST)


def clipped(logprobs: Any, advantages: Any, mask: Any) -> Any:
    """PPO's clipped loss, an average over the mask; the old policy gave every token -0.8 nats."""
    ratio = (logprobs + 0.8).exp()
    loss = -torch.minimum(ratio * advantages, ratio.clamp(0.8, 1.2) * advantages)
    return (loss * mask).sum() / mask.sum()


def modules(monkeypatch: pytest.MonkeyPatch, **contents: Any) -> None:
    """Puts modules into this process, and those above them; two underscores stand for a dot."""
    for name, attributes in contents.items():
        path = name.replace("__", ".")
        for end in [i for i, letter in enumerate(path) if letter == "."] + [len(path)]:
            if path[:end] not in sys.modules:
                monkeypatch.setitem(sys.modules, path[:end], ModuleType(path[:end]))
        vars(sys.modules[path]).update(attributes)


def totals_of(metrics: Any) -> Any:
    """The sums that a hook gives to an engine, None where there are none."""
    sums = [float(value) for name, value in metrics.items() if name.startswith("shaping/total/")]
    return torch.tensor(sums, dtype=torch.float64) if sums else None


def check_logged(metrics: Any, batch: Batch, settings: Any) -> None:
    """What a hook logs: nothing with alpha 0, else the numbers of the tokens inside the mask."""
    logged = {name: float(value) for name, value in metrics.items() if name.startswith("shaping/")}
    if any(name.startswith("shaping/total/") for name in logged):
        logged = ratios(logged)
    if getattr(settings, "forkwise_alpha", 0):
        check_metrics(logged, *batch.columns, alpha=settings.forkwise_alpha, kappa=settings.forkwise_kappa)
    else:
        assert not logged


def one_process() -> SimpleNamespace:
    """What is needed of accelerate's `Accelerator`, of a run in one process."""
    return SimpleNamespace(device=torch.device("cpu"), reduce=lambda tensor, reduction: tensor, is_main_process=True)


def constants(alpha: float, kappa: float = 2.0) -> SimpleNamespace:
    return SimpleNamespace(forkwise_alpha=alpha, forkwise_kappa=kappa)
