"""Prompts of a rollout that are drawn again on TRL, at another temperature, for methods that replace completions."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from forkwise.engines.trl.refill import RefillMixin, RewardedGroup, check_draws
from forkwise.methods.redraw import RedrawMethod


class RedrawMixin(RefillMixin):
    """Draws again what a method wants drawn again, and replaces what it wants replaced, before TRL goes on."""

    _method_states: Any
    _first_rewards: torch.Tensor | None = None  # (N,) of the completions drawn first, all processes
    _redrawn: torch.Tensor | None = None  # (N,) bool

    def _draw_beforehand(self, inputs: list[dict[str, Any]]) -> list[RewardedGroup] | None:
        self._first_rewards = self._redrawn = None
        asking = [method for method in self.args.methods if isinstance(method, RedrawMethod)]
        states = self._method_states.states
        if asking:  # before the first rollout, which none of them may draw again
            check_draws(self, inputs, f"The method '{asking[0].name}'")
        if not asking or not asking[0].draws_again(states):
            return super()._draw_beforehand(inputs)
        method: RedrawMethod = asking[0].at(self._progress(), states)  # type: ignore[attr-defined]
        size = self.args.num_generations
        first, _ = self._draw(inputs)
        factor = method.temperature_factor(states)
        again_inputs = inputs[: max(1, int(method.share * len(first))) * size]
        with self._drawing_at(factor):
            again, _ = self._draw(again_inputs)
        group, drawn_again = _joined(first), _joined(again)
        groups = torch.arange(len(again_inputs), device=drawn_again.rewards.device) // size
        chosen = method.chosen(self._totals(drawn_again.rewards), groups, states)[: len(inputs)].tolist()
        redrawn = torch.arange(len(inputs), device=group.rewards.device) < len(chosen)
        gather = self.accelerator.gather
        self._first_rewards, self._redrawn = gather(self._totals(group.rewards)), gather(redrawn.to(torch.uint8)).bool()
        metrics = self._metrics["train"]  # type: ignore[attr-defined]
        metrics["redraw/temperature"].append(self.temperature * factor)  # type: ignore[attr-defined]
        metrics["redraw/replaced"].append(float(self._redrawn.float().mean()))
        return [_with_places_of(group, drawn_again, chosen)]

    def _totals(self, rewards: torch.Tensor) -> torch.Tensor:
        total: torch.Tensor = (rewards * self.reward_weights.to(rewards.device)).nansum(dim=1)  # type: ignore[attr-defined]
        return total

    @contextmanager
    def _drawing_at(self, factor: float, top_p: float | None = None) -> Iterator[None]:
        """Multiplies the temperature of TRL's generation, and sets its nucleus; its scores stay as they are."""
        settings = self.generation_config  # type: ignore[attr-defined]
        usual = settings.temperature, settings.top_p
        settings.temperature = settings.temperature * factor
        settings.top_p = settings.top_p if top_p is None else top_p
        try:
            yield
        finally:
            settings.temperature, settings.top_p = usual


def _joined(groups: Sequence[RewardedGroup]) -> RewardedGroup:
    """Puts the completions of several groups into one."""
    columns = {name for group in groups for name in group.extra}
    return RewardedGroup(
        [row for group in groups for row in group.inputs],
        [
            None if parts[0] is None else [value for part in parts for value in part]
            for parts in zip(*(group.generated for group in groups), strict=True)
        ],
        torch.cat([group.rewards for group in groups]),
        {name: [v for g in groups for v in g.extra.get(name, [None] * len(g.inputs))] for name in columns},
        live=any(group.live for group in groups),
    )


def _with_places_of(group: RewardedGroup, redrawn: RewardedGroup, chosen: Sequence[int]) -> RewardedGroup:
    """Returns the group with the chosen ones of the others in place of its first completions."""
    count = len(chosen)

    def replaced(values: Sequence[Any], theirs: Sequence[Any]) -> list[Any]:
        return [*(theirs[index] for index in chosen), *values[count:]]

    none = [None] * len(redrawn.inputs)
    return dataclasses.replace(
        group,
        inputs=replaced(group.inputs, redrawn.inputs),
        generated=[
            None if value is None or theirs is None else replaced(value, theirs)
            for value, theirs in zip(group.generated, redrawn.generated, strict=True)
        ],
        rewards=torch.cat([redrawn.rewards[chosen], group.rewards[count:]]),
        extra={name: replaced(value, redrawn.extra.get(name, none)) for name, value in group.extra.items()},
    )
