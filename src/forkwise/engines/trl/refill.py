"""DAPO's dynamic sampling on TRL: prompts whose answers earn all the same are replaced, before anything is computed.

A rollout is drawn by TRL, and judged by its reward functions. Groups without a spread of rewards give way to groups of
further prompts, as many as are missing, until the rollout is full or a number of draws is reached. Then TRL goes on
with this rollout as if it had drawn nothing else. On one process nothing is left over; on several, which draw equally
many, groups beyond what a process needs are dropped: in the next rollout they would be of an older policy.

Source: DAPO, arXiv 2503.14476, equation 11; there, and in verl, at most 10 draws.
"""

from __future__ import annotations

from collections.abc import Iterator, Sized
from dataclasses import dataclass
from typing import Any

import torch

from forkwise.engines.trl.release import TRL
from forkwise.errors import InputError

_PER_ROW = (
    "prompt ids",
    "completion ids",
    "tool mask",
    "completions",
    "log-probs",
)  # the first five that TRL generates


@dataclass(frozen=True)
class RewardedGroup:
    """The answers of one prompt with their rewards.

    Attributes:
        inputs: rows of the data set, one per answer.
        generated: for each of the five lists that TRL generates per answer, those of these answers; None for none.
        rewards: `(answers, reward functions)`.
        extra: what reward functions logged with each answer, by column.
        live: whether the rewards differ, so that GRPO learns from the group.
    """

    inputs: list[dict[str, Any]]
    generated: list[list[Any] | None]
    rewards: torch.Tensor
    extra: dict[str, list[Any]]
    live: bool


class RefillMixin:
    """Gives a TRL trainer a rollout in which every group has a spread of rewards, as far as `args.max_draws` allow."""

    args: Any
    accelerator: Any
    _pending_extra_logs: Any
    _refilled: list[RewardedGroup] | None = None  # only while TRL computes a rollout from what was drawn here
    extra_prompts = 0
    """Prompts that all processes drew beyond the trainer's own; a checkpoint must hold it."""

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        trainer: Any = super()
        drawn = self._draw_beforehand(inputs) if self.model.training else None  # type: ignore[attr-defined]
        if drawn is None:
            whole: dict[str, Any] = trainer._generate_and_score_completions(inputs)
            return whole
        self._refilled = drawn
        try:
            scored: dict[str, Any] = trainer._generate_and_score_completions(
                [row for group in self._refilled for row in group.inputs]
            )
        finally:
            self._refilled = None
        return scored

    def _generate(self, prompts: list[Any]) -> Any:
        if self._refilled is None:
            return super()._generate(prompts)  # type: ignore[misc]
        lists = [
            None if parts[0] is None else [value for part in parts for value in part]
            for parts in zip(*(group.generated for group in self._refilled), strict=True)
        ]
        return (*lists, {}, None, [])

    def _calculate_rewards(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        rewards: torch.Tensor
        if self._refilled is None:
            rewards = super()._calculate_rewards(*args, **kwargs)  # type: ignore[misc]
        else:
            rewards = self.accelerator.gather(torch.cat([group.rewards for group in self._refilled]))
            for column in {name for group in self._refilled for name in group.extra}:
                for group in self._refilled:
                    self._pending_extra_logs[column] += group.extra.get(column, [None] * len(group.inputs))
        return rewards

    def _draw_beforehand(self, inputs: list[dict[str, Any]]) -> list[RewardedGroup] | None:
        """Returns the completions of a rollout; None where TRL is to draw them."""
        return None if self.args.max_draws == 1 else self._draw_until_full(inputs)

    def _draw_until_full(self, inputs: list[dict[str, Any]]) -> list[RewardedGroup]:
        """Returns as many groups as the rollout has on this process: live ones, and others where draws ran out."""
        size = self.args.num_generations
        check_draws(self, inputs, "Dynamic sampling (max_draws)")
        if not isinstance(self.train_dataset, Sized):  # type: ignore[attr-defined]
            raise InputError(
                "Dynamic sampling (max_draws) draws further prompts, which a streamed data set does not give."
            )
        wanted = len(inputs) // size
        live, dead, had = [], [], torch.zeros(self.accelerator.num_processes, dtype=torch.long)
        drawn = draws = 0
        for draws in range(1, self.args.max_draws + 1):
            groups, alive = self._draw(inputs)
            live += [group for group in groups if group.live]
            dead += [group for group in groups if not group.live]
            had += alive
            drawn += len(groups) * len(had)
            missing = int((wanted - had).max())  # of the process that has the fewest: all draw equally many
            if missing <= 0 or draws == self.args.max_draws:
                break
            inputs = [row for row in self._further_prompts(missing) for _ in range(size)]
        metrics = self._metrics["train"]  # type: ignore[attr-defined]
        metrics["dynamic_sampling/draws"].append(float(draws))
        metrics["dynamic_sampling/live_drawn"].append(int(had.sum()) / drawn)
        metrics["dynamic_sampling/live_trained"].append(int(had.clamp(max=wanted).sum()) / (wanted * len(had)))
        return [*live, *dead][:wanted]

    def _draw(self, inputs: list[dict[str, Any]]) -> tuple[list[RewardedGroup], torch.Tensor]:
        """Draws and judges the answers to these rows, and returns their groups and how many live on each process."""
        trainer: Any = super()
        prompts = [row["prompt"] for row in inputs]
        generated = trainer._generate(prompts)
        lists, (_, completion_ids, _, completions, *_) = generated[: len(_PER_ROW)], generated
        rewards = trainer._calculate_rewards(inputs, prompts, completions, completion_ids)
        size, weights = self.args.num_generations, self.reward_weights  # type: ignore[attr-defined]
        first = self.args.live_by
        names = self.reward_func_names  # type: ignore[attr-defined]
        if first is not None and first not in names:
            raise InputError(
                f"live_by is '{first}', and the reward functions are {', '.join(names)}: name one of them."
            )
        judged = rewards[:, names.index(first)] if first else (rewards * weights.to(rewards.device)).nansum(dim=1)
        spread = judged.view(-1, size)
        alive = spread.nan_to_num(torch.inf).amin(dim=1) < spread.nan_to_num(-torch.inf).amax(dim=1)
        mine = self.accelerator.process_index * len(inputs)
        extra = dict(self._pending_extra_logs)
        self._pending_extra_logs.clear()
        groups = [
            RewardedGroup(
                inputs[start : start + size],
                [None if values is None else list(values[start : start + size]) for values in lists],
                rewards[mine + start : mine + start + size],
                {column: values[start : start + size] for column, values in extra.items()},
                bool(alive[(mine + start) // size]),
            )
            for start in range(0, len(inputs), size)
        ]
        return groups, alive.view(self.accelerator.num_processes, -1).sum(dim=1).cpu()

    def _further_prompts(self, count: int) -> list[dict[str, Any]]:
        """Returns the next rows of this process in an order of their own: epochs of the data set, each shuffled."""
        processes, index = self.accelerator.num_processes, self.accelerator.process_index
        dataset = self._remove_unused_columns(self.train_dataset, description="training")  # type: ignore[attr-defined]
        places = _places(len(dataset), int(self.args.seed) + 1, self.extra_prompts)
        self.extra_prompts += count * processes
        everybodys = [next(places) for _ in range(count * processes)]
        return [dataset[row] for row in everybodys[index * count : (index + 1) * count]]


def _places(size: int, seed: int, skip: int) -> Iterator[int]:
    """Yields places of a data set of this size, epoch by epoch, without the first `skip`."""
    epoch, skip = divmod(skip, size)
    while True:
        order = torch.randperm(size, generator=torch.Generator().manual_seed(seed + epoch))
        yield from order[skip:].tolist()
        epoch, skip = epoch + 1, 0


def check_draws(trainer: Any, inputs: list[dict[str, Any]], who: str) -> None:
    """Refuses what more than one draw per rollout cannot be honoured with, on behalf of `who`."""
    size = trainer.args.num_generations
    if len(inputs) % size:
        raise InputError(
            f"{who} takes whole groups on each process, and the {len(inputs)} answers "
            f"of a rollout are no multiple of num_generations ({size}): change per_device_train_batch_size or "
            "steps_per_generation."
        )
    drawing = [name for name in ("rollout_func", "environment_factories", "tools") if getattr(trainer, name, None)]
    if drawing or any(key in inputs[0] for key in ("image", "images")):
        raise InputError(
            f"{who} takes text prompts and TRL's own generation (trl {TRL}), and here there "
            f"{'is ' + drawing[0] if drawing else 'are images'}: leave it out."
        )
