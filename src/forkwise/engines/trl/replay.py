"""Lessons of completions of earlier rollouts on TRL, each with the log-probs of the policy that drew it.

A lesson takes the place of a rollout in TRL's loop: its micro-batches, its updates, its step of the schedule. Where a
method wants to learn from what it has, TRL's prompts of that turn are left out, and nothing is drawn. A new rollout
from which nothing else is learned first is TRL's batch, untouched.

The file has more than 400 lines because one mixin's state goes through drawing, keeping and learning.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sized
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from accelerate.utils import gather_object
from torch import Tensor
from transformers import TrainerCallback

from forkwise.engines.base import entropy_terms, needs, update_methods
from forkwise.engines.rows import ROW, Rows, small
from forkwise.engines.trl.refill import check_draws
from forkwise.engines.trl.rollout import RolloutMixin
from forkwise.engines.trl.update import (
    CORRECT,
    EARLY_ADVANTAGES,
    GROUPS,
    IMITATED,
    OLD_ENTROPY,
    POSITIONS,
    token_mask,
)
from forkwise.errors import InputError
from forkwise.methods import Need, Tokens
from forkwise.methods.chain import counts
from forkwise.methods.hints import HintMethod
from forkwise.methods.replay import Drawn, Lesson, Memory, ReplayMethod
from forkwise.methods.two_prompts import TwoPromptMethod

_OF_ONE_ROLLOUT = (POSITIONS, EARLY_ADVANTAGES, GROUPS, CORRECT)
_RATE = "forkwise_rate"  # (), by which a lesson multiplies the learning rate
_FILLED = "forkwise_filled"  # (), by how much a lesson's filling dilutes a mean over completions
_MEANS_OVER_COMPLETIONS = ("grpo", "sapo", "dr_grpo", "luspo")  # TRL's losses that are one, filling included
_NUMBERS = "numbers"  # of the newest rollout's first completion, of the one behind its last, and of the next one drawn
_ROWS, _REMEMBERED = "rows/", "method/"  # where they stand in a method's memory


class _Kept(NamedTuple):
    """What is remembered for a method: its memory, completions, the newest rollout's numbers, and the next number."""

    memory: Memory
    rows: Rows | None
    newest: tuple[int, int]
    following: int


class ReplayMixin(RolloutMixin):
    """Gives TRL a method's lessons in the place of rollouts; see `EntropyShapingMixin`."""

    num_generations: int  # TRL's
    _rate = 1.0  # of the lesson that is being learned
    _lesson_rows: Rows | None = None  # what the lesson that is being made learns from

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if any(isinstance(method, ReplayMethod) for method in getattr(self.args, "methods", ())):
            self.add_callback(LessonRate(self))

    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> Tensor:
        if self.model.training:
            self._rate = float(inputs.get(_RATE, 1.0))
        loss: Tensor = super()._compute_loss(model, inputs)
        return loss * inputs[_FILLED] if _FILLED in inputs else loss

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:  # type: ignore[override]
        asking = [method for method in self.args.methods if isinstance(method, ReplayMethod)]
        if not asking or not self.model.training:
            return super()._generate_and_score_completions(inputs)
        method: ReplayMethod = asking[0].at(self._progress(), self._method_states.states)
        self._check_drawing(method, inputs)
        size, draws, batch = int(self.args.generation_batch_size), 0, None
        lesson = self._next_lesson(method, size)
        two = method if isinstance(method, TwoPromptMethod) else None
        while lesson is None and draws < method.draws:
            if draws:
                inputs = self._more_prompts(len(inputs))
            asked = inputs if two is None else _every_second(two, inputs)
            batch = super()._generate_and_score_completions(asked)
            with torch.no_grad():
                self._keep(method, inputs, batch)
            draws += 1
            lesson = self._next_lesson(method, size)
        if lesson is None:
            lesson = self._next_lesson(method, size, whole=False)
        if lesson is None:
            raise RuntimeError(f"The method '{method.name}' had nothing to learn from a rollout.")
        self._count(method, lesson, draws)
        newest = torch.arange(*self._memory(method).newest)
        if (
            batch is not None
            and two is None
            and not lesson.imitation
            and torch.equal(lesson.rows, newest)
            and bool((lesson.weights == 1).all())
        ):
            return batch
        return self._batch_of(lesson, size)

    # ---------------------------------------------------------------------------------------------- what is remembered

    def _memory(self, method: ReplayMethod) -> _Kept:
        entries = self._method_states.memories.get(method.name, {})
        if not entries:
            return _Kept({}, None, (0, 0), 0)
        columns = {name.removeprefix(_ROWS): t for name, (t,) in entries.items() if name.startswith(_ROWS)}
        memory = {name.removeprefix(_REMEMBERED): t for name, (t,) in entries.items() if name.startswith(_REMEMBERED)}
        first, end, following = entries[_NUMBERS][0].tolist()
        return _Kept(memory, Rows(columns), (first, end), following)

    def _remember(self, method: ReplayMethod, kept: _Kept) -> None:
        assert kept.rows is not None
        columns = kept.rows.only(method.kept(kept.memory)).columns
        entries = {_NUMBERS: (torch.tensor([*kept.newest, kept.following]),)}
        entries |= {_REMEMBERED + name: (tensor,) for name, tensor in kept.memory.items()}
        entries |= {_ROWS + name: (column,) for name, column in columns.items()}
        self._method_states.memories[method.name] = entries

    def _next_lesson(self, method: ReplayMethod, size: int, *, whole: bool = True) -> Lesson | None:
        kept = self._memory(method)
        if kept.rows is None:
            return None
        generator = torch.Generator().manual_seed(self._moment().seed)
        lesson, after = method.lesson(kept.memory, size, generator, whole=whole)
        if lesson is not None:
            self._lesson_rows = kept.rows.of(lesson.rows)
            self._remember(method, kept._replace(memory=after))
        return lesson

    # ----------------------------------------------------------------------------------------------- what is drawn

    def _check_drawing(self, method: ReplayMethod, inputs: list[dict[str, Any]]) -> None:
        """Refuses, before anything is drawn, what a method that draws more than a rollout could not go on with."""
        if method.needs() & {Need.REDRAWN, Need.OTHER_LOGPROBS}:
            check_draws(self, inputs, f"The method '{method.name}'")
        if method.draws > 1 and not isinstance(self.train_dataset, Sized):
            raise InputError(
                f"The method '{method.name}' draws further prompts, which a streamed data set does not give."
            )

    def _keep(self, method: ReplayMethod, inputs: list[dict[str, Any]], batch: dict[str, Any]) -> None:
        """Keeps a rollout, and what is drawn again for it, and tells the method."""
        rewards = self._total_rewards(f"The method '{method.name}' needs")
        if isinstance(method, TwoPromptMethod):
            parts = [self._gathered(part) for part in self._under_both(method, inputs, batch)]
            complete = parts[0]
        else:
            complete = self._gathered(self._complete(batch))
            parts = [complete]
        rewards_of = [rewards.detach().cpu()] * len(parts)
        size = int(self.args.num_generations)
        means = _means(complete)
        count = method.again.number
        hard = method.hard(rewards_of[0].view(-1, size), means.view(-1, size)) if count else torch.zeros(0).bool()
        if bool(hard.any()):
            more, its_rewards, its_leaks = self._drawn_again(method, inputs, hard)
            parts.append(more)
            rewards_of.append(its_rewards)
        else:
            its_leaks = torch.zeros(0, dtype=torch.bool)
        kept = self._memory(method)
        following, numbered = kept.following, []
        for part in parts:
            numbers = torch.arange(following, following + len(part["advantages"]))
            following += len(numbers)
            numbered.append(Rows({**part, ROW: numbers}))
        newest = kept.following, kept.following + len(numbered[0])
        drawn = numbered[0] if len(numbered) == 1 else numbered[0].joined(numbered[1])
        cut = drawn.columns["completion_mask"].sum(dim=1) >= self.args.max_completion_length
        again = drawn.numbers() >= newest[1]
        leaks = torch.cat([torch.zeros(len(drawn) - len(its_leaks), dtype=torch.bool), its_leaks])
        seed = self._moment().seed
        noted = method.note(
            kept.memory,
            Drawn(drawn.numbers(), torch.cat(rewards_of), _means(drawn.columns), cut, again, leaks, seed),
        )
        if count:
            self._metrics["train"][f"method/{method.name}/drawn_again"].append(float(hard.double().mean()))
        rows = drawn if kept.rows is None else kept.rows.joined(drawn)
        self._remember(method, _Kept(noted, rows, newest, following))

    def _complete(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Returns the batch with what its completions need to be learned from later."""
        later = needs([*update_methods(self.args.methods), *entropy_terms(self.args.methods)])
        entropy = Need.OLD_ENTROPY in later and OLD_ENTROPY not in batch
        if "old_per_token_logps" in batch and not entropy:
            return batch
        logprobs, entropies = self._score(batch)
        more = {"old_per_token_logps": batch.get("old_per_token_logps", logprobs)}
        return {**batch, **more, **({OLD_ENTROPY: entropies} if entropy else {})}

    def _under_both(
        self, method: TwoPromptMethod, inputs: list[dict[str, Any]], batch: dict[str, Any]
    ) -> list[dict[str, Any]]:
        """Returns the completions under the prompts that they were drawn with, and under the others.

        `inputs` have the first prompts. Both have the advantages that the method makes.
        """
        complete = self._complete(batch)
        first, second = [row["prompt"] for row in inputs], [method.second(row["prompt"]) for row in inputs]
        high = torch.arange(len(inputs), device=batch["completion_ids"].device) % 2
        prompts = [a if drawn_second else b for a, b, drawn_second in zip(first, second, high.tolist(), strict=True)]
        other = self._complete(self._under(batch, prompts))
        twice = {name: torch.cat([complete[name], complete[name]]) for name in ("advantages", "completion_mask")}
        counted = torch.cat([token_mask(batch)] * 2)
        a, groups = twice["advantages"], torch.arange(len(inputs), device=high.device) // int(self.args.num_generations)
        logprobs, swapped = (
            torch.cat([one["old_per_token_logps"], two["old_per_token_logps"]])
            for one, two in ((complete, other), (other, complete))
        )
        tokens = Tokens(
            (a[:, None] if a.dim() == 1 else a).expand_as(counted),
            counted,
            old_logprobs=logprobs,
            other_logprobs=swapped,
            groups=groups.repeat(2),
            second=torch.cat([high, 1 - high]) == 1,
        ).only(method.needs())
        shaped = method.advantages(tokens)
        if not bool(shaped.isfinite().all()):
            raise RuntimeError(f"The method '{method.name}' made advantages that are not finite.")
        total = counts(tokens.advantages, shaped, counted)
        self._action_log.add({f"method/{method.name}": self._sum_over_processes(total)})
        first_half, second_half = shaped.to(logprobs.dtype).chunk(2)
        return [{**complete, "advantages": first_half}, {**other, "advantages": second_half}]

    def _gathered(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        """Gathers completions over processes, as columns of `Rows`."""
        count, processes = len(batch["completion_ids"]), self.accelerator
        columns = {}
        for name, tensor in batch.items():
            if name in _OF_ONE_ROLLOUT or not isinstance(tensor, Tensor) or tensor.dim() == 0 or len(tensor) != count:
                continue
            values = tensor.to(torch.uint8) if tensor.dtype == torch.bool else tensor.contiguous()
            if values.dim() == 2:
                values = processes.pad_across_processes(values, dim=1, pad_first=name.startswith("prompt_"))
            columns[name] = small(name, processes.gather(values))
        return columns

    def _drawn_again(
        self, method: ReplayMethod, inputs: list[dict[str, Any]], hard: Tensor
    ) -> tuple[dict[str, Tensor], Tensor, Tensor]:
        """Draws the hard prompts again, over all processes.

        Returns:
            The completions, under the prompts without hints; their rewards; and whether they leak.
        """
        count, factor, top_p = method.again
        everyone: list[dict[str, Any]] = gather_object(inputs)
        size, processes = int(self.args.num_generations), self.accelerator.num_processes
        prompts = [everyone[int(group) * size] for group in hard.nonzero()]
        each = -(-len(prompts) // processes)  # all processes draw equally many; what is too much is dropped
        turn = self.accelerator.process_index
        mine = [prompts[i % len(prompts)] for i in range(turn * each, (turn + 1) * each)]
        rows = [row for row in mine for _ in range(count)]
        hints = method if isinstance(method, HintMethod) else None
        asked = rows if hints is None else [{**row, "prompt": hints.hinted(row)} for row in rows]
        usual = self.num_generations
        self.num_generations = count
        try:
            with self._drawing_at(factor, top_p), self._unlogged_metrics():
                batch = super(RolloutMixin, self)._generate_and_score_completions(asked)
        finally:
            self.num_generations = usual
        rewards = self._total_rewards(f"The method '{method.name}' needs").detach().cpu()
        leaks = torch.zeros(len(rows), dtype=torch.uint8, device=batch["completion_ids"].device)
        if hints is not None:
            batch = self._under(batch, [row["prompt"] for row in rows])
            for i, (text, row) in enumerate(zip(self._texts(batch), rows, strict=True)):
                leaks[i] = hints.leak(text, row) is not None
        wanted = len(prompts) * count
        columns = {name: column[:wanted] for name, column in self._gathered(self._complete(batch)).items()}
        return columns, rewards[:wanted], self.accelerator.gather(leaks)[:wanted].cpu() == 1

    def _texts(self, batch: dict[str, Any]) -> list[str]:
        """Returns the completions of a batch as texts."""
        pairs = zip(batch["completion_ids"], batch["completion_mask"], strict=True)
        return [self._tokenizer.decode(ids[mask != 0], skip_special_tokens=True) for ids, mask in pairs]

    def _under(self, batch: dict[str, Any], prompts: list[Any]) -> dict[str, Any]:
        """Returns the completions of a batch under other prompts, without what was scored under the first ones."""
        device = batch["completion_ids"].device
        ids, mask = _padded_in_front(self._tokenize_prompts(prompts)[0], int(self._tokenizer.pad_token_id))
        kept = {name: value for name, value in batch.items() if name not in ("old_per_token_logps", OLD_ENTROPY)}
        return {**kept, "prompt_ids": ids.to(device), "prompt_mask": mask.to(device)}

    @contextmanager
    def _unlogged_metrics(self) -> Iterator[None]:
        """Keeps what TRL measures of completions that were drawn again out of the rollout's metrics."""
        usual = self._metrics["train"]
        self._metrics["train"] = defaultdict(list)
        try:
            yield
        finally:
            self._metrics["train"] = usual

    def _more_prompts(self, completions: int) -> list[dict[str, Any]]:
        """Returns rows of the data set for another rollout."""
        size = int(self.args.num_generations)
        return [row for row in self._further_prompts(completions // size) for _ in range(size)]

    # --------------------------------------------------------------------------------------------- what is learned from

    def _batch_of(self, lesson: Lesson, size: int) -> dict[str, Any]:
        """Returns this process's part of a lesson as TRL's batch; what is missing to `size` counts nothing."""
        assert self._lesson_rows is not None
        rows, device = self._lesson_rows.trimmed(), self.accelerator.device
        columns = dict(rows.columns)
        weights = lesson.weights.to(columns["advantages"])
        advantages = columns["advantages"]
        advantages = torch.ones_like(advantages) if lesson.imitation else advantages
        columns["advantages"] = advantages * (weights if advantages.dim() == 1 else weights[:, None])
        columns = {name: _filled(column, size) for name, column in columns.items() if name != ROW}
        columns["prompt_mask"][len(rows) :, -1] = True  # a model must see something
        pad = int(self._tokenizer.pad_token_id)
        for part in ("prompt", "completion"):
            ids, mask = columns[f"{part}_ids"], columns[f"{part}_mask"]
            columns[f"{part}_ids"] = torch.where(mask, ids, pad)
        start = self.accelerator.process_index * (size // self.accelerator.num_processes)
        mine = slice(start, start + size // self.accelerator.num_processes)
        whole = {name: _large(column) for name, column in columns.items()}
        batch: dict[str, Any] = {name: column[mine].to(device) for name, column in whole.items()}
        if lesson.imitation:
            del batch["old_per_token_logps"]
            batch[IMITATED] = torch.tensor(True, device=device)
        batch[_RATE] = torch.tensor(lesson.rate, device=device)
        if 0 < len(rows) < size and self.loss_type in _MEANS_OVER_COMPLETIONS:
            batch[_FILLED] = torch.tensor(size / len(rows), device=device)
        batch[EARLY_ADVANTAGES] = batch["advantages"]
        batch[POSITIONS] = torch.arange(size, device=device)[mine]
        batch["num_items_in_batch"] = token_mask(whole).sum().to(device)
        ids, mask = (torch.cat([batch[f"prompt_{k}"], batch[f"completion_{k}"]], dim=1) for k in ("ids", "mask"))
        self._way(self.model, ids, mask, batch["completion_ids"].size(1))
        return batch

    def _count(self, method: ReplayMethod, lesson: Lesson, draws: int) -> None:
        """Logs what the lesson has in the place of the rollout that was drawn for it."""
        assert self._lesson_rows is not None
        learned = _means(self._lesson_rows.columns)
        kept = self._memory(method)
        before = torch.where((lesson.rows >= kept.newest[0]) & (lesson.rows < kept.newest[1]), learned, 0)
        after = (torch.ones_like(learned) if lesson.imitation else learned) * lesson.weights.to(learned)
        total = counts(before, after, torch.ones_like(after, dtype=torch.bool)).to(self.accelerator.device)
        if not isinstance(method, TwoPromptMethod):  # which has counted its tokens
            self._action_log.add({f"method/{method.name}": total})
        metrics = self._metrics["train"]
        metrics["replay/rollouts"].append(float(draws))
        metrics["replay/imitation"].append(float(lesson.imitation))
        for key, value in method.measures(kept.memory).items():
            metrics[f"method/{method.name}/{key}"].append(value)


class LessonRate(TrainerCallback):
    """Multiplies the learning rate by that of the lesson while the optimizer makes its step."""

    def __init__(self, trainer: ReplayMixin) -> None:
        """Takes the trainer, which knows the lesson."""
        self._trainer = trainer
        self._usual: list[float] = []

    def on_pre_optimizer_step(self, *_: Any, optimizer: Any = None, **__: Any) -> None:
        """Multiplies the learning rate of each group of parameters by that of the lesson."""
        groups = self._trainer.optimizer.param_groups
        self._usual = [group["lr"] for group in groups]
        for group in groups:
            group["lr"] = group["lr"] * self._trainer._rate

    def on_optimizer_step(self, *_: Any, optimizer: Any = None, **__: Any) -> None:
        """Gives each group of parameters its usual learning rate back."""
        for group, usual in zip(self._trainer.optimizer.param_groups, self._usual, strict=True):
            group["lr"] = usual


def _every_second(method: TwoPromptMethod, inputs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Returns rows of the data set of which every second one has the method's second prompt."""
    return [{**row, "prompt": method.second(row["prompt"])} if i % 2 else row for i, row in enumerate(inputs)]


def _padded_in_front(rows: list[list[int]], pad: int) -> tuple[Tensor, Tensor]:
    """Returns prompts of unequal lengths as ids and mask, `(B, P)` each."""
    width = max(map(len, rows))
    ids = torch.tensor([[pad] * (width - len(row)) + list(row) for row in rows])
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
    return ids, mask


def _means(columns: Any) -> Tensor:
    """Averages the advantages of each completion over its tokens, `(N,)`."""
    advantages: Tensor = columns["advantages"]
    if advantages.dim() == 1:
        return advantages.double()
    mask: Tensor = columns["completion_mask"]
    return (advantages.double() * mask).sum(dim=1) / mask.sum(dim=1).clamp(min=1)


def _filled(column: Tensor, size: int) -> Tensor:
    """Returns a column with zeros behind it, so that it has `size` completions."""
    missing = column.new_zeros(size - len(column), *column.shape[1:])
    return torch.cat([column, missing])


def _large(column: Tensor) -> Tensor:
    """Returns a column with whole numbers in 64 bits, as TRL has them."""
    return column if column.is_floating_point() else column.long()
