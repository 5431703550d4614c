"""The part of the mixin that acts when TRL has scored a rollout, and keeps what the loss will need from it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch

from forkwise.core import HeadError
from forkwise.core.hidden import last_hidden_states
from forkwise.engines.base import (
    ActionLog,
    entropy_terms,
    needs,
    quoted,
    reward_methods,
    rollout_methods,
    update_methods,
)
from forkwise.engines.states import MethodStates
from forkwise.engines.trl.answers import answer_logits, prompt_keys
from forkwise.engines.trl.guard import finite_draws, sees_rollouts
from forkwise.engines.trl.head import IMAGES, HeadMixin
from forkwise.engines.trl.images import image_similarity
from forkwise.engines.trl.redraw import RedrawMixin
from forkwise.engines.trl.release import HOST, not_shaped
from forkwise.engines.trl.update import (
    CORRECT,
    EARLY_ADVANTAGES,
    GROUPS,
    OLD_ENTROPY,
    POSITIONS,
    Moment,
    local_tokens,
    token_mask,
)
from forkwise.engines.whole_update import gather_update, run_on_whole_update
from forkwise.errors import InputError
from forkwise.methods import Method, Need, Rollout, TokenMethod, Tokens
from forkwise.methods.chain import run_reward_methods, run_token_methods

_ENTROPIES = {Need.ENTROPY, Need.OLD_ENTROPY}
_TEXT = ("prompt_ids", "prompt_mask", "completion_ids", "completion_mask")
_LOGPROBS = {Need.SEQUENCE_LOGPROBS, Need.LOGPROBS, Need.OLD_LOGPROBS}


class RolloutMixin(HeadMixin, RedrawMixin):
    """Runs the methods that work on rewards or need whole rollouts; see `EntropyShapingMixin`."""

    temperature: float  # TRL's, of sampling and scoring
    _scored_rewards: torch.Tensor | None = None  # (completions of all processes, functions) of the newest rollout

    _rollout_inputs: Sequence[dict[str, Any]] = ()  # rows of the data set, one per completion of this process

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._action_log = ActionLog(HOST.alpha)
        self._method_states = MethodStates()
        super().__init__(*args, **kwargs)

    def _calculate_rewards(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        self._rollout_inputs = args[0] if args else kwargs["inputs"]
        rewards: torch.Tensor = super()._calculate_rewards(*args, **kwargs)
        self._scored_rewards = rewards if self.model.training else None
        return rewards

    def _generate_and_score_completions(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        self._scored_rewards = None
        if self.model.training:
            self._method_states.check_outside(self.args.methods)
            self._method_states.advance(self.args.methods, self._progress(), self._sum_over_processes)
        with finite_draws(self):
            batch: dict[str, Any] = super()._generate_and_score_completions(*args, **kwargs)
        ids, mask = _whole(batch)  # before the loss, where a proof would stand between a pass and its gradient
        more = [name for name in IMAGES if batch.get(name) is not None]
        self._way(self.model, ids, mask, batch["completion_ids"].size(1), more)
        if self.model.training and sees_rollouts(self.args.methods):
            with torch.no_grad():
                self._run_rollout_methods(batch, self._methods_now())
        return batch

    def _run_rollout_methods(self, batch: dict[str, Any], methods: Sequence[Method]) -> None:
        """Runs the methods that need whole rollouts, and keeps what the methods in the loss will need from this one."""
        blind = [m for m in methods if Need.IMAGE_SIMILARITY not in m.needs() and sees_rollouts([m])]
        if "pixel_values" in batch and blind:
            raise InputError("Methods that select among tokens or act on rollouts train text models only, not images.")
        size = len(batch["completion_ids"])
        start = self.accelerator.process_index * size
        rows = torch.arange(start, start + size, device=batch["completion_ids"].device)
        batch[POSITIONS] = rows
        early = [*reward_methods(methods), *rollout_methods(methods)]
        required = needs(early)
        logprobs, entropy = batch.get("old_per_token_logps"), None
        off_policy = logprobs is not None
        later = needs([*update_methods(methods), *entropy_terms(methods)])
        keep = Need.OLD_ENTROPY in later and off_policy
        if keep or required & _ENTROPIES or (required & _LOGPROBS and logprobs is None):
            logprobs, entropy = self._score(batch)
        if keep:
            batch[OLD_ENTROPY] = entropy
        if Need.GROUPS in later:
            batch[GROUPS] = rows // self.num_generations
        self._show_first_rollout(batch, methods)
        if not (early or Need.CORRECT in later):
            return
        rewards = self._total_rewards(f"the methods {quoted(methods)} need")
        if Need.CORRECT in later:
            batch[CORRECT] = (rewards > 0)[rows]
        if early:
            batch["advantages"] = batch[EARLY_ADVANTAGES] = self._early_advantages(
                batch, methods, rewards, logprobs, entropy
            )

    def _show_first_rollout(self, batch: dict[str, Any], methods: Sequence[Method]) -> None:
        """Lets methods with a term see the rollout before anything is learned, if they have not seen one."""
        states = self._method_states
        new = [m for m in entropy_terms(methods) if (first := m.first_state()) and states.states[m.name] == first]
        if not new:
            return
        logprobs, entropy = self._score(batch)
        more = (self._sum_p2_log, self._nucleus_entropy)
        tokens = local_tokens(batch, batch["advantages"], logprobs, entropy, needs(new), self._moment(), *more)
        whole = gather_update([tokens], [batch[POSITIONS]], self.accelerator).tokens
        for method in new:
            states.know(method.name, method.first_seen(method.entropies(whole), whole))

    def _early_advantages(
        self, batch: dict[str, Any], methods: Sequence[Method], rewards: torch.Tensor, logprobs: Any, entropy: Any
    ) -> torch.Tensor:
        """Returns the advantages of this process's completions after the methods of the rollout; `(B,)` or `(B, T)`."""
        gather, mask, rows = self.accelerator.gather, token_mask(batch), batch[POSITIONS]
        mean_logprobs = None
        if Need.SEQUENCE_LOGPROBS in needs(reward_methods(methods)):
            mean_logprobs = gather(torch.where(mask, logprobs, 0).sum(dim=1) / mask.sum(dim=1))  # NaN without tokens
        groups, correct = torch.arange(len(rewards), device=rewards.device) // self.num_generations, rewards > 0
        lengths = gather(mask.sum(dim=1))
        redrawn = torch.zeros_like(correct) if self._redrawn is None else self._redrawn
        first = rewards if self._first_rewards is None else self._first_rewards
        everywhere = gather(batch["advantages"])
        rollout = Rollout(
            *(rewards, groups, correct, everywhere, mean_logprobs, lengths),
            redrawn=redrawn,
            first_rewards=first,
            **self._recurring(batch, reward_methods(methods)),
        )
        per_completion, totals = run_reward_methods(reward_methods(methods), rollout)
        for method in reward_methods(methods):
            if Need.MEMORY in method.needs():
                self._method_states.memories[method.name] = method.remember(rollout)
        if totals:
            self._action_log.add(totals)
            self._show_advantages(per_completion)
        advantages = per_completion[rows]
        token_methods, of_groups = _by_groups(rollout_methods(methods))
        if token_methods:
            tokens = Tokens(
                advantages[:, None].expand_as(mask),
                mask,
                entropy=entropy,
                old_entropy=entropy,
                logprobs=logprobs,
                old_logprobs=logprobs,
                tempered_logprobs=self._tempered_logprobs(batch, token_methods),
                image_similarity=self._image_similarity(batch, token_methods),
                ids=batch["completion_ids"],
                groups=groups[rows],
                labels=self._labels(token_methods, rows),
                correct=correct[rows],
                **self._moment()._asdict(),
            ).only(needs(token_methods))
            (advantages,), totals = run_on_whole_update(token_methods, [tokens], [rows], self.accelerator)
            self._action_log.add(totals)
        if of_groups:
            advantages = self._group_advantages(batch, of_groups, advantages, groups[rows], correct[rows])
        return advantages

    def _group_advantages(
        self,
        batch: dict[str, Any],
        methods: Sequence[TokenMethod],
        advantages: torch.Tensor,
        groups: torch.Tensor,
        correct: torch.Tensor,
    ) -> torch.Tensor:
        """Returns the advantages `(B, T)` after methods of hidden states, which exist for one group at a time."""
        mask = token_mask(batch)
        shaped = (advantages[:, None] if advantages.dim() == 1 else advantages).expand_as(mask).clone()
        sums: dict[str, torch.Tensor] = {}
        for start in range(0, len(mask), self.num_generations):
            rows = slice(start, start + self.num_generations)
            tokens = Tokens(
                shaped[rows],
                mask[rows],
                hidden=self._hidden_states({name: batch[name][rows] for name in _TEXT}),
                groups=groups[rows],
                correct=correct[rows],
                **self._moment()._asdict(),
            ).only(needs(methods))
            shaped[rows], totals = run_token_methods(methods, tokens)
            sums = {name: total + sums.get(name, 0) for name, total in totals.items()}
        self._action_log.add({name: self._sum_over_processes(total) for name, total in sums.items()})
        return shaped

    def _hidden_states(self, batch: dict[str, Any]) -> torch.Tensor:
        """Computes what the head gets at the completions' tokens, `(B, T, d)` bfloat16, 0 at padding."""
        ids, mask = _whole(batch)
        counted = batch["completion_mask"] != 0
        rows, columns = counted.nonzero().unbind(1)
        inputs = {"input_ids": ids, "attention_mask": mask, "use_cache": False}
        try:
            with self.accelerator.autocast():
                states = last_hidden_states(self.model, inputs, rows, columns - counted.shape[1] - 1)
        except HeadError as error:
            names = quoted([m for m in self.args.methods if Need.HIDDEN in m.needs()])
            raise InputError(f"The methods {names} need hidden states, and this model: {error}.") from error
        kept = states.new_zeros(*counted.shape, states.shape[1])
        kept[counted] = states
        return kept

    def _image_similarity(self, batch: dict[str, Any], methods: Sequence[Method]) -> torch.Tensor | None:
        """Compares the rollout's tokens with the images of their prompts, if one of the methods asks for it."""
        if Need.IMAGE_SIMILARITY not in needs(methods):
            return None
        try:
            with self.accelerator.autocast():
                return image_similarity(self.model, batch, self.args.per_device_train_batch_size)
        except HeadError as error:
            asking = quoted([method for method in methods if Need.IMAGE_SIMILARITY in method.needs()])
            raise InputError(f"The methods {asking} need hidden states, and this model: {error}.") from error

    def _recurring(self, batch: dict[str, Any], methods: Sequence[Method]) -> dict[str, Any]:
        """Returns what methods that remember answers ask for, of all processes' completions."""
        asking: list[Any] = [method for method in methods if Need.MEMORY in method.needs()]
        if not asking:
            return {}
        rows, gather = self.args.per_device_train_batch_size, self.accelerator.gather
        try:
            logits = answer_logits(self.model, batch, self.processing_class, asking[0].marker, rows)
        except HeadError as error:
            raise InputError(
                f"The method '{asking[0].name}' reads the logits of layers, and this model: {error}."
            ) from error
        return {
            "answer_logits": gather(logits),
            "prompt_keys": gather(prompt_keys(batch)),
            "memory": self._method_states.memories.get(asking[0].name, {}),
        }

    def _labels(self, methods: Sequence[TokenMethod], rows: torch.Tensor) -> torch.Tensor | None:
        """Returns the labels of this process's completions, by the column that one of the methods asks for, if any."""
        asking = [method for method in methods if Need.LABELS in method.needs()]
        if not asking:
            return None
        values = [row[column_of(asking[0], row)] for row in self._rollout_inputs]
        return torch.tensor([asking[0].label(value) for value in values], device=rows.device)

    def _tempered_logprobs(self, batch: dict[str, Any], methods: Sequence[Method]) -> torch.Tensor | None:
        """Scores the rollout at the other temperature that one of the methods asks for, if any."""
        asking = [method for method in methods if Need.TEMPERED_LOGPROBS in method.needs()]
        if not asking:
            return None
        sampling = self.temperature
        self.temperature = sampling * asking[0].temperature_factor(self._method_states.states)
        try:
            return self._score(batch)[0]
        finally:
            self.temperature = sampling

    def _total_rewards(self, who_needs: str) -> torch.Tensor:
        """Returns the weighted reward of each completion of all processes; refuses missing ones for `who_needs`."""
        rewards = self._scored_rewards
        if rewards is None:
            raise RuntimeError(
                f"TRL's rollout did not call `_calculate_rewards`; {who_needs} its rewards. {HOST.remedy}"
            )
        unscored = rewards.isnan().all(dim=1)
        if bool(unscored.any()):
            raise InputError(
                f"No reward function gave a number for {int(unscored.sum())} of {len(rewards)} completions; "
                f"{who_needs} a reward for each."
            )
        total: torch.Tensor = (rewards * self.reward_weights.to(rewards.device)).nansum(dim=1)
        return total

    def _show_advantages(self, advantages: torch.Tensor) -> None:
        """Puts these advantages, one per completion of all processes, into TRL's table in place of the group's."""
        shown = self._logs["advantages"]
        values = advantages.tolist()
        for _ in range(min(len(values), len(shown))):
            shown.pop()
        shown.extend(values)

    @torch.no_grad()
    def _score(self, batch: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
        """Computes log-probs and entropies `(B, T)` of a batch under the current weights, as in the loss."""
        ids, mask = _whole(batch)
        rows = self.args.per_device_train_batch_size
        scored = self._get_per_token_logps_and_entropies(
            self.model, ids, mask, batch["completion_ids"].size(1), batch_size=rows, compute_entropy=True
        )
        if scored[1] is None:
            raise not_shaped("the per-token entropies are None (as with Unsloth's patched trainer)", self.args.methods)
        return scored[0], scored[1]

    def _methods_now(self) -> Sequence[Method]:
        """Returns the methods with the options that they have in this step."""
        states, progress = self._method_states.states, self._progress()
        return tuple(method.at(progress, states) for method in self.args.methods)

    def _progress(self) -> float:
        return self.state.global_step / self.state.max_steps if self.state.max_steps > 0 else 0.0

    def _moment(self) -> Moment:
        seed = int(self.args.seed) * 2**24 + int(self.state.global_step)
        return Moment(seed, self._progress(), self._method_states.states)

    def _sum_over_processes(self, tensor: torch.Tensor) -> torch.Tensor:
        total: torch.Tensor = self.accelerator.reduce(tensor, reduction="sum")
        return total


def column_of(method: Method, columns: Iterable[str]) -> str:
    """Returns the column of the data set that a method asks for; refuses a data set without it."""
    name: str = method.column  # type: ignore[attr-defined]
    check_column(method, name, columns)
    return name


def check_column(method: Method, name: str, columns: Iterable[str]) -> None:
    """Refuses a data set without a column that a method reads."""
    if name not in columns:
        raise InputError(
            f"The method '{method.name}' reads the column '{name}' of the data set, which has {', '.join(columns)}: "
            f"name one of them, as in {method.name}:column={next(iter(columns))}."
        )


def _by_groups(methods: Sequence[TokenMethod]) -> tuple[list[TokenMethod], list[TokenMethod]]:
    """Separates the methods that are given whole rollouts from those that are given one group at a time."""
    groups = [method for method in methods if Need.HIDDEN in method.needs()]
    return [method for method in methods if method not in groups], groups


def _whole(batch: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
    """Joins prompts and completions: their ids and their mask, `(B, P + T)` each."""
    return (
        torch.cat([batch["prompt_ids"], batch["completion_ids"]], dim=1),
        torch.cat([batch["prompt_mask"], batch["completion_mask"]], dim=1),
    )
