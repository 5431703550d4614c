"""PPO with a critic for verifiable rewards, on TRL's GRPO machinery; and `forkwise ppo`.

TRL generates, scores, clips, logs and distributes as in GRPO. What differs is the credit: a critic V, the reward at
the last completion token, generalized advantage estimation (arXiv 1506.02438), whitening over all processes. The
advantages, shape `(B, T)`, take the place of the group's, and are entropy-shaped in the loss (arXiv 2506.14758, Eq.
5-7). The critic is a second model with an optimizer and a schedule of its own; it learns by the clipped value loss
after each backward pass of the policy, so that both see the same micro-batches.
"""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import ProcessorMixin, SchedulerType, get_scheduler

from forkwise.core import clipped_value_loss, explained_variance, gae, whiten
from forkwise.core.gae import masked_moments
from forkwise.engines.trl import EntropyShapingMixin
from forkwise.errors import InputError
from forkwise.training import critic_engine
from forkwise.training.arguments import parse_run
from forkwise.training.critic import load_weights, make_critic, token_values
from forkwise.training.ppo_config import EntropyShapedPPOConfig
from forkwise.training.rewards import finite_reward
from forkwise.training.run import train
from forkwise.training.trainer import RunTrainer

__all__ = ["EntropyShapedPPOConfig", "EntropyShapedPPOTrainer", "main"]

CRITIC = "critic"  # folder of the critic's weights, beside the policy's
CRITIC_STATE = "critic_state.pt"


class EntropyShapedPPOTrainer(RunTrainer):
    """PPO with a critic and entropy-shaped advantages; `args` is an `EntropyShapedPPOConfig`, the default if None.

    The parameters are `GRPOTrainer`'s. Reward functions must give every completion at least one finite number. The
    critic is `trainer.critic`, a token-classification model with one label, saved in `<output_dir>/critic`.

    Logged beside TRL's metrics and `shaping/*`, over all tokens of all processes: per rollout
    `critic/explained_variance`, `critic/return_mean`, `critic/value_mean`, `critic/advantage_std` (before whitening);
    per update `critic/value_loss`, `critic/value_clip_frac`, `critic/grad_norm`, `critic/learning_rate`.

    Warns:
        UserWarning: when the critic's warm-up takes up the whole run.

    Raises:
        InputError: settings, value models and rewards that PPO cannot work with; a checkpoint without a critic.
        RuntimeError: a training step whose loss did not get the critic's advantages, or in which no gradient reached
            the critic.
    """

    _has_critic = True
    _tag_names = ["trl", "ppo", "forkwise"]  # noqa: RUF012  (TRL's attribute)
    _name = "PPO with a critic and entropy-shaped advantages"

    def __init__(
        self,
        model: Any,
        reward_funcs: Any = None,
        args: EntropyShapedPPOConfig | None = None,
        *more: Any,
        **kwargs: Any,
    ) -> None:
        if args is None:
            name = model if isinstance(model, str) else model.config.name_or_path
            args = EntropyShapedPPOConfig(f"{name.split('/')[-1]}-PPO")
        if not isinstance(args, EntropyShapedPPOConfig):
            raise TypeError(f"args is a {type(args).__name__}; make it an EntropyShapedPPOConfig.")
        if reward_funcs is not None:  # an environment may give the rewards
            functions = reward_funcs if isinstance(reward_funcs, list) else [reward_funcs]
            reward_funcs = [f if isinstance(f, nn.Module) else finite_reward(f) for f in functions]
        super().__init__(model, reward_funcs, args, *more, **kwargs)
        critic_engine.check(self.accelerator, shares_base=args.critic_shares_base)
        if isinstance(self.processing_class, ProcessorMixin):
            raise InputError("PPO trains text models; a critic for images is not supported.")
        trust = getattr(args, "trust_remote_code", False)
        with critic_engine.whole(self.accelerator, self.model):
            self.critic: nn.Module = make_critic(
                self.model,
                self.processing_class,
                value_model=args.value_model,
                shares_base=args.critic_shares_base,
                trust_remote_code=trust,
            )
        if args.gradient_checkpointing:
            self._checkpoint_activations()
        self.critic_optimizer: Any = None
        self.critic_scheduler: Any = None
        self._micro_batch: dict[str, Any] | None = None  # what the policy loss has just been computed on
        self._update_batches: list[dict[str, Any]] = []  # micro-batches of the update that is being accumulated

    # -------------------------------------------------------------------------------------------------- setting up

    def _checkpoint_activations(self) -> None:
        model: Any = self.critic
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=self.args.gradient_checkpointing_kwargs)
        if self.args.critic_shares_base:
            model.enable_input_require_grads()  # reentrant checkpointing sees no gradient below a frozen base

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """Returns the policy's schedule, and makes the critic, its optimizer and schedule ready before training."""
        scheduler = super().create_scheduler(num_training_steps, optimizer)
        if num_training_steps <= self.args.critic_warmup_steps and self.is_world_process_zero():
            warnings.warn(
                f"critic_warmup_steps={self.args.critic_warmup_steps} covers all {num_training_steps} steps of this "
                "run: the policy will not learn.",
                stacklevel=2,
            )
        if self.critic_optimizer is None:
            critics_own = self._new_critic_optimizer()
            self.critic, self.critic_optimizer = critic_engine.prepare(self.accelerator, self.critic, critics_own)
        policy_schedule = self.args.lr_scheduler_type
        kind = SchedulerType(self.args.critic_lr_scheduler_type or policy_schedule)
        try:
            self.critic_scheduler = get_scheduler(
                kind,
                optimizer=self.critic_optimizer,
                num_warmup_steps=self.args.critic_lr_warmup_steps,
                num_training_steps=num_training_steps,
                scheduler_specific_kwargs=self.args.lr_scheduler_kwargs if kind == policy_schedule else None,
            )
        except (TypeError, ValueError) as error:
            raise InputError(
                f"The critic's schedule '{kind.value}' needs settings that only the policy's can have "
                f"(lr_scheduler_kwargs): choose a critic_lr_scheduler_type without, such as 'constant' or 'cosine' "
                f"({str(error).splitlines()[0]})."
            ) from error
        return scheduler

    def _new_critic_optimizer(self) -> torch.optim.Optimizer:
        args = copy.copy(self.args)
        args.learning_rate = self.args.critic_learning_rate
        kind, options = self.get_optimizer_cls_and_kwargs(args, self.critic)
        if not (isinstance(kind, type) and issubclass(kind, torch.optim.Optimizer)) or {"params", "model"} & {*options}:
            raise InputError(f"optim='{self.args.optim}' is made for one model; PPO needs e.g. 'adamw_torch'.")
        decayed = set(self.get_decay_parameter_names(self.critic))
        named = [(name, p) for name, p in self.critic.named_parameters() if p.requires_grad]
        groups = [
            {"params": [p for name, p in named if name in decayed], "weight_decay": self.args.weight_decay},
            {"params": [p for name, p in named if name not in decayed], "weight_decay": 0.0},
        ]
        return kind(groups, **options)

    # ---------------------------------------------------------------------------------------- rollouts: credit (B, T)

    def _generate_and_score_completions(self, inputs: Any) -> dict[str, Any]:
        batch: dict[str, Any] = super()._generate_and_score_completions(inputs)
        if self.model.training:  # evaluation stays TRL's
            self._credit(batch)
        return batch

    @torch.no_grad()
    def _credit(self, batch: dict[str, Any]) -> None:
        """Replaces the group's advantages `(B,)` by the critic's `(B, T)`, and adds `old_values` and `returns`."""
        size = len(batch["completion_ids"])
        start = self.accelerator.process_index * size
        rewards = self._total_rewards("PPO needs")[start : start + size]

        around = self._rollout_values(batch)  # (B, T + 1)
        values, mask = around[:, :-1], _policy_mask(batch)
        if self.check_finite:
            self.require_finite({"values of the critic": torch.where(mask.bool(), values, 0)})
        bootstrap = None
        if self.args.truncated_completions == "bootstrap":
            cut, length = self._truncated(batch)
            bootstrap = torch.where(cut, around.gather(1, length[:, None])[:, 0], 0)
            rewards = torch.where(cut, 0, rewards)
        # The outcome reward is paid at the last token that the policy chose.
        last = (mask * torch.arange(1, mask.size(1) + 1, device=mask.device)).argmax(dim=1, keepdim=True)
        token_rewards = torch.zeros_like(values).scatter_(1, last, rewards[:, None].to(values))
        credit = gae(token_rewards, values, mask, gamma=self.args.gamma, lam=self.args.lam, bootstrap=bootstrap)

        over_all = self._sum_over_processes
        batch["advantages"] = whiten(credit.advantages, mask, reduce=over_all)
        batch["old_values"], batch["returns"] = values, credit.returns
        logged = self._metrics["train"]
        for name, tensor in (("return", credit.returns), ("value", values)):
            logged[f"critic/{name}_mean"].append(masked_moments(tensor, mask, reduce=over_all)[0].item())
        spread = masked_moments(credit.advantages, mask, reduce=over_all)[1].sqrt()
        logged["critic/advantage_std"].append(spread.item())
        explained = explained_variance(values, credit.returns, mask, reduce=over_all)
        if not math.isnan(explained):
            logged["critic/explained_variance"].append(explained)
        # TRL's table of completions has one number for each: the mean.
        means = (batch["advantages"] * mask).sum(dim=1) / mask.sum(dim=1).clamp(min=1)
        self._show_advantages(self.accelerator.gather(means))

    def _rollout_values(self, batch: dict[str, Any]) -> Tensor:
        self.critic.eval()
        critic = critic_engine.unwrapped(self.accelerator, self.critic)
        names = ("prompt_ids", "prompt_mask", "completion_ids", "completion_mask")
        rows = self.args.per_device_train_batch_size
        parts = [{n: batch[n][i : i + rows] for n in names} for i in range(0, len(batch["completion_ids"]), rows)]
        return torch.cat([token_values(critic, part) for part in parts])

    def _truncated(self, batch: dict[str, Any]) -> tuple[Tensor, Tensor]:
        """Finds the completions that TRL counts as cut off, and the lengths of all; both `(B,)`.

        Completions cut off end in no token that ends a completion (TRL before 1.16 knows the tokenizer's alone), nor in
        the padding token.
        """
        tokenizer = self.processing_class
        ends = {*getattr(self, "eos_token_ids", [tokenizer.eos_token_id]), tokenizer.pad_token_id} - {None}
        length = batch["completion_mask"].sum(dim=1)
        final = batch["completion_ids"].gather(1, (length - 1).clamp(min=0)[:, None])[:, 0]
        return ~torch.isin(final, torch.tensor(sorted(ends), device=final.device)), length

    # ------------------------------------------------------------------------------------------------------- updates

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
        """Runs TRL's step on the policy and, with the last micro-batch of an update, the critic's on the same ones."""
        self._micro_batch = None
        # Without a policy loss there is nothing to shape, which the mixin would take for a failure.
        policy_step: Any = super(EntropyShapingMixin, self) if self._only_critic() else super()
        still = critic_engine.policy_stands_still if self._only_critic() else nullcontext
        with still(self.accelerator):
            loss: Tensor = policy_step.training_step(*args, **kwargs)
        batch, self._micro_batch = self._micro_batch, None
        if batch is None:
            raise RuntimeError("The loss of this training step bypassed the critic: was `_compute_loss` overridden?")
        self._update_critic(batch)
        return loss

    def _only_critic(self) -> bool:
        return bool(self.state.global_step < self.args.critic_warmup_steps)

    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> Tensor:
        loss: Tensor
        if self.model.training:
            if "returns" not in inputs or inputs["advantages"].shape != inputs["completion_mask"].shape:
                raise RuntimeError("The critic's advantages did not reach the policy loss of this training step.")
            self._micro_batch = inputs
            if self._only_critic():
                # No forward pass: all gradients stay None, and optimizers skip such parameters altogether, weight
                # decay and moments included.
                return torch.zeros((), device=self.accelerator.device, requires_grad=True)
        loss = super()._compute_loss(model, inputs)
        return loss

    def _update_critic(self, batch: dict[str, Any]) -> None:
        """Keeps the micro-batch; with the last of an update, steps `critic_epochs` times on all of them."""
        self._update_batches.append(batch)
        if not self.accelerator.sync_gradients:
            return
        batches, self._update_batches = self._update_batches, []
        logged = self._metrics["train"]
        logged["critic/learning_rate"].append(self.critic_scheduler.get_last_lr()[0])
        for epoch in range(self.args.critic_epochs):
            # By number: an update that goes twice over its rollout meets the same micro-batch again.
            losses = [self._critic_backward(batch, last=i == len(batches)) for i, batch in enumerate(batches, start=1)]
            norm = self._step_critic()
            if epoch == 0:  # what the critic knew before this update
                if norm is not None:
                    logged["critic/grad_norm"].append(norm)
                for loss, clipped in losses:
                    logged["critic/value_loss"].append(loss)
                    logged["critic/value_clip_frac"].append(clipped)
        self.critic_scheduler.step()
        self._micro_batch_seen = None

    def _critic_backward(self, batch: dict[str, Any], *, last: bool) -> tuple[float, float]:
        """Adds a micro-batch's gradient of the value loss; returns mean loss and clipped share over all processes."""
        self.critic.train()
        mask = _policy_mask(batch)
        with nullcontext() if last else critic_engine.accumulating(self.accelerator, self.critic):
            with self.compute_loss_context_manager():
                values = token_values(self.critic, batch)[:, :-1]
            losses, clipped = clipped_value_loss(
                values, batch["old_values"], batch["returns"], mask, clip=self.args.cliprange_value
            )
            # As in TRL's token-level policy loss: per token of the update, DDP averaging over processes included.
            updates = self.args.steps_per_generation / self.current_gradient_accumulation_steps
            tokens = batch["num_items_in_batch"].clamp(min=1) / (self.accelerator.num_processes * updates)
            if self.check_finite:
                self._micro_batch_seen = batch
                counted = torch.where(mask.bool(), values, 0)
                self.require_finite({"values of the critic": counted, "loss of the critic": losses})
            critic_engine.backward(self.accelerator, self.critic, losses.sum() / tokens, last=last)
        if self.check_finite:
            gradients = ((f"critic.{name}", p.grad) for name, p in self.critic.named_parameters() if p.grad is not None)
            self.require_finite_tensors("gradient", gradients)
        totals = self._sum_over_processes(torch.stack([losses.detach().sum(), clipped.sum(), mask.sum().to(losses)]))
        loss, share = (totals[:2] / totals[2].clamp(min=1)).tolist()
        return loss, share

    def _step_critic(self) -> float | None:
        """Makes one step of the critic's optimizer; returns the norm of its gradient."""
        kept_by_engine = self.is_deepspeed_enabled  # which has stepped with the last backward pass
        if not kept_by_engine and all(p.grad is None for p in self.critic.parameters()):
            raise RuntimeError("No gradient reached the critic in this training step.")
        limit = self.args.max_grad_norm or 0  # for the policy, too, what is not above 0 clips nothing
        norm = critic_engine.clip(self.accelerator, self.critic, limit if limit > 0 else math.inf)
        self.critic_optimizer.step()
        self.critic_optimizer.zero_grad()
        return norm

    # --------------------------------------------------------------------------------------------------- checkpoints

    def save_model(self, output_dir: str | None = None, *args: Any, **kwargs: Any) -> None:
        """Saves the policy in `output_dir` and the critic in `output_dir/critic`, both for `from_pretrained`.

        Under FSDP only with its state-dict type `FULL_STATE_DICT`, the critic as transformers the policy.
        """
        options: dict[str, Any] = {}
        if sharded := self.is_fsdp_enabled or self.is_deepspeed_enabled:
            plugin = getattr(self.accelerator.state, "fsdp_plugin", None)
            gathers = plugin is None or "FULL_STATE_DICT" in str(plugin.state_dict_type)
            options = {"state_dict": self.accelerator.get_state_dict(self.critic)} if gathers else {}
        if self.args.should_save and (options or not sharded):
            folder = Path(output_dir or self.args.output_dir) / CRITIC
            self.accelerator.unwrap_model(self.critic).save_pretrained(folder, **options)
            self.processing_class.save_pretrained(folder)
        super().save_model(output_dir, *args, **kwargs)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        super()._save_optimizer_and_scheduler(output_dir)
        folder = Path(output_dir)
        folder.mkdir(parents=True, exist_ok=True)  # another process may not have come so far
        state = {"scheduler": self.critic_scheduler.state_dict()}
        sharded = critic_engine.save_shards(self.accelerator, self.critic, self.critic_optimizer, output_dir)
        if self.args.should_save:
            if not sharded:
                state["optimizer"] = self.critic_optimizer.state_dict()
            torch.save(state, folder / CRITIC_STATE)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is None:
            return
        folder = Path(checkpoint)
        if not (folder / CRITIC_STATE).exists():
            raise InputError(f"The checkpoint '{folder}' holds no critic: it is not one of a PPO run.")
        state = torch.load(folder / CRITIC_STATE, map_location="cpu", weights_only=True)
        if not critic_engine.load_shards(self.accelerator, self.critic, self.critic_optimizer, checkpoint):
            if "optimizer" not in state:
                raise InputError(
                    f"The checkpoint '{folder}' is one of a sharded run; resume it sharded in the same way."
                )
            load_weights(self.accelerator.unwrap_model(self.critic), folder / CRITIC)
            self.critic_optimizer.load_state_dict(state["optimizer"])
        self.critic_scheduler.load_state_dict(state["scheduler"])


def _policy_mask(batch: dict[str, Any]) -> Tensor:
    """Marks the tokens that the policy chose with 1, `(B, T)`: neither padding nor a tool's answer."""
    mask: Tensor = batch["completion_mask"] * batch.get("tool_mask", 1)
    return mask


def main(argv: Sequence[str]) -> None:
    """Runs `forkwise ppo ARGV`."""
    run, config, model_config = parse_run(argv, EntropyShapedPPOConfig, "ppo")
    train(run, config, model_config, EntropyShapedPPOTrainer)
