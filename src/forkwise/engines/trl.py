"""Entropy-shaped advantages in TRL's GRPO: `A + min(alpha * H.detach(), |A| / kappa)` (arXiv 2506.14758, Eq. 5-7).

Everything but the advantages is TRL's. TRL's loss first asks for the log-probabilities and entropies of the current
policy and then reads `inputs["advantages"]`; between the two, the mixin puts the shaped advantages, shape `(B, T)`,
into a copy of the micro-batch. H is the entropy that TRL itself computes: nats, at the sampling temperature.

The same hook runs any of `forkwise.methods` (the config's `method`). Those that work on rewards, or need whole groups,
act when TRL has scored a rollout. Those that select among the tokens of an update see all of it, gathered over
micro-batches and processes; further micro-batches are then scored once more beforehand, without gradient.

A training step in which that did not happen raises `RuntimeError`. At `alpha = 0` the trainer is TRL's, bit for bit.
Log-probs and entropies as TRL computes them are compared, once, with those of the policy's own logits: TRL's fused head
does not know every model's.
"""

from __future__ import annotations

import dataclasses
import math
import textwrap
import warnings
from collections.abc import Iterator, Sequence, Sized
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
import trl
from packaging.version import Version
from transformers import Trainer
from trl import GRPOConfig, GRPOTrainer

from forkwise.core import ShapingStats, causal_model, compare_head, few_tokens
from forkwise.engines.settings import ShapingSettings
from forkwise.engines.trl_methods import (
    CORRECT,
    GROUPS,
    MADE,
    OLD_ENTROPY,
    ROWS,
    Plan,
    act_on_update,
    local_tokens,
    needs,
    reward_methods,
    rollout_methods,
    token_mask,
    update_methods,
)
from forkwise.errors import InputError
from forkwise.methods import (
    LossMethod,
    Method,
    Need,
    Rollout,
    Scope,
    SettingsMethod,
    Tokens,
    parse_methods,
    settings_of,
)
from forkwise.methods.chain import act_on_rollout, act_on_tokens, shares
from forkwise.methods.entropy_advantage import EntropyAdvantage

if TYPE_CHECKING:
    from trl import GRPOTrainer as _Trainer
else:
    _Trainer = object

__all__ = ["EntropyShapedGRPOConfig", "EntropyShapedGRPOTrainer", "EntropyShapingMixin", "check_rollout"]

_TRL = Version(trl.__version__)
if Version("1.9") > _TRL:
    raise ImportError(f"forkwise.engines.trl needs trl>=1.9, found {_TRL}: pip install 'forkwise[train]'")

_REMEDY = "install trl==1.14.2, which goes by the logits" if Version("1.15") <= _TRL else "train another model"
_LOGGED = ("psi_over_adv", "capped_frac", "psi_pos", "psi_neg")
_ENTROPIES = {Need.ENTROPY, Need.OLD_ENTROPY}
_LOGPROBS = {Need.SEQUENCE_LOGPROBS, Need.LOGPROBS, Need.OLD_LOGPROBS}
_OF_ROLLOUTS = {Need.OLD_ENTROPY, Need.GROUPS, Need.CORRECT}
_OTHER_WEIGHTS = ("sapo", "vespo")  # losses of TRL whose weight of a token is not its ratio
_MOSTLY_CAPPED = 0.9  # above it psi is |A| / kappa nearly everywhere: a constant factor, not entropy, shapes the update


@dataclass
class EntropyShapedGRPOConfig(ShapingSettings, GRPOConfig):
    """`GRPOConfig` with the two constants of the method; every other field is TRL's, defaults included.

    Args:
        alpha: weight of the entropy (nats), at least 0. Larger values favour uncertain tokens more, until the cap
            binds at `H = |A| / (alpha * kappa)`; 0 turns shaping off. The paper uses 0.4 for GRPO, 0.1 for PPO.
        kappa: cap of the added term as a fraction of the advantage, `|A| / kappa`, above 1 so that no advantage
            changes its sign. Larger values mean a smaller cap. The paper uses 2.
        method: methods as text, `NAME[:key=value,...]` (`forkwise methods` lists them). alpha and kappa are the
            shorthand of the one method `entropy_advantage:alpha=...,kappa=...`; where methods are named, exactly those
            act, and alpha becomes 0 unless that method is among them. Methods that TRL has itself set its fields.

    Raises:
        InputError: for constants outside these ranges, for methods that do not exist or do not go together, and for
            settings under which TRL cannot shape.

    Warns:
        UserWarning: for losses whose ratio is per sequence; only the mean shaped advantage reaches their gradient.
    """

    has_groups: ClassVar[bool] = True  # whether advantages come from groups, which a critic's do not
    trainer_class: ClassVar[str] = "EntropyShapedGRPOTrainer"  # that does what this config says

    def __post_init__(self) -> None:
        self._check_numbers()
        self._resolve_methods()
        if not 0 <= self.alpha < math.inf:
            raise InputError(f"alpha must be a finite number of at least 0, got {self.alpha}.")
        if not 1 < self.kappa < math.inf:
            raise InputError(
                f"kappa must be a finite number greater than 1, got {self.kappa}: a smaller one could cancel or flip "
                "the sign of an advantage. The paper uses 2."
            )
        super().__post_init__()
        if Version("1.14") > _TRL and self.use_liger_kernel:
            raise InputError(
                f"use_liger_kernel=True in trl {_TRL} computes the loss without entropies, so advantages would not be "
                "shaped; set it to False or install trl>=1.16."
            )
        if Version("1.15.0") == _TRL and self.device.type not in ("cuda", "xpu"):
            raise InputError(f"trl 1.15.0 cannot compute the GRPO loss on {self.device.type}; install trl>=1.16.")
        self._check_methods()
        per_token = update_methods(self.methods) or rollout_methods(self.methods)
        if per_token and self._per_sequence:
            warnings.warn(
                f"With loss_type={self.loss_type!r} and importance_sampling_level={self.importance_sampling_level!r} "
                "the importance ratio or the weight is per sequence: the shaped advantages lose their token "
                "selectivity. Use importance_sampling_level='token' and another loss_type to keep it.",
                stacklevel=3,
            )

    @property
    def _per_sequence(self) -> bool:
        """Whether the importance ratio, or the weight of a token, is one of its whole sequence."""
        return bool(self.importance_sampling_level == "sequence" or self.loss_type == "luspo")

    def get_warmup_steps(self, num_training_steps: int) -> int:
        """As in transformers, where every trainer asks for it when training starts; not every trainer may.

        Raises:
            InputError: a trainer asks that would train without what this config says, and without a word.
        """
        if (self.methods or not self.has_groups) and not _SHAPES.get():
            raise InputError(
                f"This {type(self).__name__} is in the hands of a trainer that would ignore its alpha, kappa and "
                f"method: train with forkwise's {self.trainer_class}, or put EntropyShapingMixin before your trainer "
                "class."
            )
        steps: int = super().get_warmup_steps(num_training_steps)
        return steps

    def _check_numbers(self) -> None:
        """Refuses what torch and TRL refuse late, with a traceback, or not at all."""
        if not 0 < self.temperature < math.inf:
            raise InputError(f"temperature must be a finite number greater than 0, got {self.temperature}.")
        for name in ("learning_rate", "weight_decay", "beta", "epsilon"):
            if not 0 <= getattr(self, name) < math.inf:
                raise InputError(f"{name} must be a finite number of at least 0, got {getattr(self, name)}.")
        if not all(math.isfinite(weight) for weight in self.reward_weights or []):
            raise InputError(f"reward_weights must be finite numbers, got {self.reward_weights}.")
        for name in ("num_iterations", "steps_per_generation", "gradient_accumulation_steps"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise InputError(f"{name} must be at least 1, got {getattr(self, name)}.")

    @property
    def methods(self) -> tuple[Method, ...]:
        """The methods that act, in their order; `alpha > 0` alone is the entropy-shaped advantage.

        Those that only set fields of TRL are not among them.
        """
        if self.method:
            return tuple(m for m in self._methods if not isinstance(m, SettingsMethod))
        return (EntropyAdvantage(self.alpha, self.kappa),) if self.alpha != 0 else ()

    def _resolve_methods(self) -> None:
        """Reads `method`, sets the fields of TRL that it asks for, and says it all in full. Harmless a second time."""
        self._methods: tuple[Method, ...] = ()
        if isinstance(self.method, str):
            self.method = [self.method]
        if not self.method:
            return
        defaults = {name: _default(self, name) for name in ("alpha", "kappa")}
        self._methods = parse_methods(self.method, defaults)
        shaped = [method for method in self._methods if hasattr(method, "kappa")]
        for name, off in (("alpha", 0), ("kappa", None)):
            used = [getattr(method, name) for method in shaped if hasattr(method, name)]
            if getattr(self, name) not in (off, defaults[name], *used):
                raise InputError(
                    f"{name} is the shorthand of a method; beside --method write it there, as in "
                    f"entropy_advantage:{name}={getattr(self, name)}."
                )
        entropy = [method for method in shaped if isinstance(method, EntropyAdvantage)]
        self.alpha = entropy[0].alpha if entropy else 0.0
        self.kappa = shaped[0].kappa if shaped else defaults["kappa"]
        self._apply_settings()
        self.method = [str(method) for method in self._methods]

    def _apply_settings(self) -> None:
        for name, value in settings_of(self._methods).items():
            by = next(m.name for m in self._methods if name in settings_of([m]))
            if not hasattr(self, name):
                raise InputError(f"The method '{by}' needs {name}, which trl {_TRL} does not have: install trl>=1.16.")
            # TRL takes True and False, from before there were names.
            now = {True: "group", False: "none"}.get(getattr(self, name)) if name == "scale_rewards" else None
            now = now or getattr(self, name)
            if now not in (value, _default(self, name)):
                raise InputError(
                    f"The method '{by}' sets {name} to {value}, but it is given as {now}: leave one of them out."
                )
            setattr(self, name, value)

    def _check_methods(self) -> None:
        """Refuses settings under which a method could not act as it should."""
        for method in self._methods or self.methods:
            if self.has_groups:
                method.check_group_size(int(self.num_generations))
            group = method.slot == "advantages" or "scale_rewards" in settings_of([method])
            if group and not self.has_groups:
                raise InputError(f"The method '{method.name}' compares the answers of a group; PPO has a critic.")
            if method.slot == "advantages" and self.multi_objective_aggregation != "sum_then_normalize":
                raise InputError(
                    f"The method '{method.name}' adds up the weighted rewards: leave multi_objective_aggregation at "
                    "'sum_then_normalize'."
                )
            if isinstance(method, LossMethod) and (self._per_sequence or self.loss_type in _OTHER_WEIGHTS):
                raise InputError(
                    f"The method '{method.name}' adds a term whose gradient is right only where the loss weighs each "
                    f"token by its own ratio, which loss_type={self.loss_type!r} with importance_sampling_level="
                    f"{self.importance_sampling_level!r} does not: use 'dapo' (or another of GRPO's) and 'token'."
                )
            steps, updates = self.gradient_accumulation_steps, self.steps_per_generation * self.num_iterations
            if Need.OFF_POLICY in method.needs() and steps % updates == 0:
                raise InputError(
                    f"The method '{method.name}' compares the policy with the one that drew the rollout, which in a "
                    "run with one update per rollout is the same, so it would do nothing: set num_iterations to 2, or "
                    "steps_per_generation to twice gradient_accumulation_steps."
                )
            if method.scope is Scope.UPDATE and self.steps_per_generation % steps != 0:
                raise InputError(
                    f"The method '{method.name}' selects among all tokens of an update, which must come from one "
                    f"rollout: set steps_per_generation ({self.steps_per_generation}) to a multiple of "
                    f"gradient_accumulation_steps ({steps})."
                )


_SHAPES: ContextVar[bool] = ContextVar("a trainer that shapes is at work", default=False)


@contextmanager
def _shaping() -> Iterator[None]:
    """While it lasts, whoever asks a config of ours is a trainer that does what it says.

    A mark in the config itself would go along when it is copied, pickled, or handed to another trainer.
    """
    token = _SHAPES.set(True)
    try:
        yield
    finally:
        _SHAPES.reset(token)


class _GuardedBatch(dict[str, Any]):
    """A micro-batch that holds no `"advantages"` until they are shaped, and notes whether the loss read them.

    Taking the key out, instead of hiding it, makes `dict(batch)`, `**batch` and `.items()` as safe as indexing.
    The batch it is made from is never written to: TRL reuses it for `num_iterations` updates.
    """

    def __init__(self, batch: dict[str, Any], methods: Sequence[Method]) -> None:
        if "advantages" not in batch:
            raise _not_shaped("TRL's micro-batch has no 'advantages'", methods)
        super().__init__(batch)
        self.methods = methods
        self.unshaped: torch.Tensor = self.pop("advantages")
        self.shaped = self.read = False
        self.why_not = "no per-token entropies were computed before, by `_get_per_token_logps_and_entropies`"

    def shape(self, advantages: torch.Tensor) -> None:
        super().__setitem__("advantages", advantages)
        self.shaped = True

    def __getitem__(self, key: str) -> Any:
        if key == "advantages":
            if not self.shaped:
                raise _not_shaped(f"the loss read the advantages, but {self.why_not}", self.methods)
            self.read = True
        return super().__getitem__(key)

    def get(self, key: str, default: Any = None) -> Any:
        return self[key] if key == "advantages" else super().get(key, default)

    def __setitem__(self, key: str, value: Any) -> None:
        if key == "advantages":
            raise _not_shaped("the loss replaced the advantages; change them before the loss", self.methods)
        super().__setitem__(key, value)


class EntropyShapingMixin(_Trainer):
    """Shapes the advantages of any `GRPOTrainer` subclass: `class Mine(EntropyShapingMixin, MyGRPOTrainer)`.

    The trainer's `args` must be an `EntropyShapedGRPOConfig` (or a subclass of it). Advantages `(B,)` or `(B, T)`
    are shaped with the entropy of the policy that is being updated, in every training loss; evaluation is TRL's.
    Logged with TRL's metrics, over all tokens of all processes since the last log: `shaping/psi_over_adv`,
    `shaping/capped_frac`, `shaping/psi_pos`, `shaping/psi_neg` (see `forkwise.core.ShapingStats`), and for each method
    `method/NAME/changed` and `method/NAME/shift` (see `forkwise.methods.chain.shares`).

    Raises:
        TypeError: when the class is defined, for trainers whose loss cannot use per-token advantages, and when the
            mixin stands after the trainer; when it is constructed, for a config without `alpha` and `kappa`.
        RuntimeError: in the first training step in which shaped advantages did not reach the loss.
        InputError: in the first rollout, if TRL's log-probs or entropies are not those of the policy's own logits;
            completions without a reward, or with images, for methods that cannot do without or with.

    Warns:
        UserWarning: once, when more than 90 % of the tokens of a logging window are at the cap.
    """

    _shaping_batch: _GuardedBatch | None = None  # set only while a training loss is being computed
    _shaped_losses = 0
    _shaping_totals: torch.Tensor | None = None  # sufficient statistics since the last log, summed over processes
    _warned_of_cap = False
    _plan: Plan | None = None
    _scored_rewards: torch.Tensor | None = None  # (completions of all processes, functions) of the newest rollout
    _head_is_checked = False
    _has_critic = False  # else a PPO config would train GRPO

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if not issubclass(cls, Trainer):
            return  # still a mixin
        if not issubclass(cls, GRPOTrainer) or any(base.__name__ == "GMPOTrainer" for base in cls.__mro__):
            raise TypeError(
                f"{cls.__name__}: entropy-shaped advantages need TRL's GRPOTrainer or a subclass with its token-level "
                "loss; RLOO, GMPO and AsyncGRPO have one advantage per sequence or a loss of their own."
            )
        if cls.__mro__.index(EntropyShapingMixin) > cls.__mro__.index(GRPOTrainer):
            raise TypeError(f"{cls.__name__}: name EntropyShapingMixin before the trainer, or it would do nothing.")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._method_totals: dict[str, torch.Tensor] = {}  # since the last log, over processes
        super().__init__(*args, **kwargs)
        _require_config(self.args, critic=self._has_critic)

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """The trainer's `train`; a dataset of which it would not train a single step is refused."""
        if isinstance(self.train_dataset, Sized):
            check_rollout(self.args, len(self.train_dataset))
        with _shaping():
            return super().train(*args, **kwargs)

    def create_scheduler(self, *args: Any, **kwargs: Any) -> Any:
        """The trainer's schedule of the learning rate."""
        with _shaping():
            return super().create_scheduler(*args, **kwargs)

    # ------------------------------------------------------------------------------------------------------- rollouts

    def _calculate_rewards(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        rewards: torch.Tensor = super()._calculate_rewards(*args, **kwargs)
        self._scored_rewards = rewards if self.model.training else None
        return rewards

    def _generate_and_score_completions(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        batch: dict[str, Any] = super()._generate_and_score_completions(*args, **kwargs)
        if not self._head_is_checked:
            ids, mask = _whole(batch)
            self._check_head(ids, mask, batch["completion_ids"].size(1), images="pixel_values" in batch)
        if self.model.training and _sees_rollouts(self.args.methods):
            with torch.no_grad():
                self._act_on_rollout(batch, self.args.methods)
        return batch

    @torch.no_grad()
    def _check_head(self, ids: torch.Tensor, mask: torch.Tensor, completion_length: int, *, images: bool) -> None:
        """Raises unless TRL computes what the policy's own logits say, on a few tokens of one of these completions.

        All processes compare, since a sharded model needs them all, and all stop if one finds a difference.
        """
        row = int(mask[:, -completion_length:].sum(dim=1).argmax())
        real = mask[row].bool()
        prompt, completion = (
            ids[row, part][real[part]] for part in (slice(-completion_length), slice(-completion_length, None))
        )
        # In a prompt with images, tokens stand for them, which mean nothing without.
        few = few_tokens(prompt[:0] if images else prompt, completion)
        if self._any_process(few.shape[1] < 2):
            return  # the next rollout will do
        self._head_is_checked = True

        def by_trl(ids: torch.Tensor) -> list[torch.Tensor]:
            numbers = self._get_per_token_logps_and_entropies(
                self.model, ids, torch.ones_like(ids), ids.shape[1] - 1, compute_entropy=True
            )
            return [n for n in numbers[:2] if n is not None]  # without entropies (Unsloth) the loss will raise

        precision = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(self.accelerator.mixed_precision)
        try:
            mismatch = compare_head(self.model, few, by_trl, temperature=self.temperature, precision=precision)
        except torch.OutOfMemoryError:
            raise
        except (AttributeError, RuntimeError, TypeError) as error:
            name = type(causal_model(self.model)).__name__
            raise InputError(
                f"trl {_TRL} cannot compute the log-probs of {name} ({str(error).splitlines()[0]}); {_REMEDY}."
            ) from error
        if self._any_process(mismatch is not None):
            what = str(mismatch or "another process found a log-prob or an entropy that is not the logits'")
            raise InputError(f"trl {_TRL} would train on wrong numbers: {what}; {_REMEDY}.")

    def _any_process(self, flag: bool) -> bool:
        return bool(self._sum_over_processes(torch.tensor(float(flag), device=self.accelerator.device)) > 0)

    def _act_on_rollout(self, batch: dict[str, Any], methods: Sequence[Method]) -> None:
        """Runs the methods that need whole rollouts, and notes what the others will need of this one."""
        if "pixel_values" in batch:
            raise InputError("Methods that select among tokens or act on rollouts train text models only, not images.")
        size = len(batch["completion_ids"])
        start = self.accelerator.process_index * size
        rows = torch.arange(start, start + size, device=batch["completion_ids"].device)
        batch[ROWS] = rows
        early = [*reward_methods(methods), *rollout_methods(methods)]
        wanted = needs(early)
        logprobs, entropy = batch.get("old_per_token_logps"), None
        off_policy = logprobs is not None
        later = needs(update_methods(methods))
        keep = Need.OLD_ENTROPY in later and off_policy
        if keep or wanted & _ENTROPIES or (wanted & _LOGPROBS and logprobs is None):
            logprobs, entropy = self._score(batch)
        if keep:
            batch[OLD_ENTROPY] = entropy
        if Need.GROUPS in later:
            batch[GROUPS] = rows // self.num_generations
        if not (early or Need.CORRECT in later):
            return
        rewards = self._total_rewards(methods)
        if Need.CORRECT in later:
            batch[CORRECT] = (rewards > 0)[rows]
        if early:
            batch["advantages"] = batch[MADE] = self._early_advantages(batch, methods, rewards, logprobs, entropy)

    def _early_advantages(
        self, batch: dict[str, Any], methods: Sequence[Method], rewards: torch.Tensor, logprobs: Any, entropy: Any
    ) -> torch.Tensor:
        """The advantages of this process's completions after the methods of the rollout; `(B,)` or `(B, T)`."""
        gather, mask = self.accelerator.gather, token_mask(batch)
        mean_logprobs = None
        if Need.SEQUENCE_LOGPROBS in needs(reward_methods(methods)):
            mean_logprobs = gather(torch.where(mask, logprobs, 0).sum(dim=1) / mask.sum(dim=1))  # NaN without tokens
        rollout = Rollout(
            rewards,
            torch.arange(len(rewards), device=rewards.device) // self.num_generations,
            rewards > 0,
            gather(batch["advantages"]),
            mean_logprobs,
        )
        made, totals = act_on_rollout(reward_methods(methods), rollout)
        if totals:
            self._count(totals)
            self._show_made(made)
        advantages = made[batch[ROWS]]
        if token_methods := rollout_methods(methods):
            wanted = needs(token_methods)
            tokens = Tokens(
                advantages[:, None].expand_as(mask),
                mask,
                entropy=entropy if Need.ENTROPY in wanted else None,
                old_entropy=entropy if Need.OLD_ENTROPY in wanted else None,
                logprobs=logprobs if Need.LOGPROBS in wanted else None,
                old_logprobs=logprobs if Need.OLD_LOGPROBS in wanted else None,
                groups=rollout.groups[batch[ROWS]],
                correct=rollout.correct[batch[ROWS]],
                seed=self._method_seed(),
            )
            (advantages,), totals = act_on_update(token_methods, [tokens], [batch[ROWS]], self.accelerator)
            self._count(totals)
        return advantages

    def _total_rewards(self, methods: Sequence[Method]) -> torch.Tensor:
        """`(completions of all processes,)`, weighted."""
        rewards, self._scored_rewards = self._scored_rewards, None
        if rewards is None:
            raise _not_shaped("TRL's rollout did not call `_calculate_rewards`", methods)
        unscored = rewards.isnan().all(dim=1)
        if bool(unscored.any()):
            raise InputError(
                f"No reward function gave a number for {int(unscored.sum())} of {len(rewards)} completions; the "
                f"methods {_names(methods)} need a reward for each."
            )
        total: torch.Tensor = (rewards * self.reward_weights.to(rewards.device)).nansum(dim=1)
        return total

    def _show_made(self, advantages: torch.Tensor) -> None:
        """TRL's table of completions shows the advantages that the methods made."""
        shown = self._logs["advantages"]
        values = advantages.tolist()
        for _ in range(min(len(values), len(shown))):
            shown.pop()
        shown.extend(values)

    @torch.no_grad()
    def _score(self, batch: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
        """Log-probs and entropies `(B, T)` of a batch under the current weights, as TRL computes them in its loss."""
        ids, mask = _whole(batch)
        rows = self.args.per_device_train_batch_size
        out = self._get_per_token_logps_and_entropies(
            self.model, ids, mask, batch["completion_ids"].size(1), batch_size=rows, compute_entropy=True
        )
        if out[1] is None:
            raise _not_shaped("the per-token entropies are None (as with Unsloth's patched trainer)", self.args.methods)
        return out[0], out[1]

    # -------------------------------------------------------------------------------------------------------- updates

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """TRL's training step; raises `RuntimeError` if its loss was computed without shaped advantages."""
        before = self._shaped_losses
        loss: torch.Tensor = super().training_step(*args, **kwargs)
        if self.args.methods and self._shaped_losses == before:
            raise _not_shaped(
                "the loss of this training step bypassed the mixin; a method overridden without super()?",
                self.args.methods,
            )
        return loss

    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> torch.Tensor:
        loss: torch.Tensor
        methods = self.args.methods
        if not methods or not self.model.training:
            loss = super()._compute_loss(model, inputs)
            return loss
        self._shaping_batch = batch = _GuardedBatch(inputs, methods)
        _check_rollout(inputs, methods)
        if not update_methods(methods):
            batch.shape(batch.unshaped)
        try:
            loss = super()._compute_loss(model, batch)
        except KeyError as error:
            if error.args == ("advantages",):
                raise _not_shaped("the loss read the advantages from a copy of the micro-batch", methods) from error
            raise
        finally:
            self._shaping_batch = None
        if not batch.read:
            raise _not_shaped("the loss did not read the shaped advantages", methods)
        self._shaped_losses += 1
        return loss

    def _get_per_token_logps_and_entropies(self, *args: Any, **kwargs: Any) -> Any:
        # Arguments are passed through unnamed and the result is indexed: both change between TRL releases.
        if not self._head_is_checked and len(args) > 3:  # before the log-probs of the first rollout
            self._check_head(*args[1:4], images=kwargs.get("pixel_values") is not None)
        out = super()._get_per_token_logps_and_entropies(*args, **kwargs)
        batch = self._shaping_batch
        # Within the loss, a reference policy would be scored without gradient; H is that of the policy under update.
        if batch is not None and not batch.shaped and torch.is_grad_enabled():
            if out[1] is None:
                batch.why_not = "the per-token entropies are None (as with Unsloth's patched trainer)"
            else:
                with torch.no_grad():  # since 1.15 TRL's entropies carry gradient; psi must not
                    self._shape(batch, out[0].detach(), out[1].detach())
        return out

    def _shape(self, batch: _GuardedBatch, logprobs: torch.Tensor, entropy: torch.Tensor) -> None:
        methods = update_methods(batch.methods)
        if all(method.scope is Scope.TOKEN for method in methods):
            tokens = local_tokens(batch, batch.unshaped, logprobs, entropy, needs(methods), self._method_seed())
            advantages, totals = act_on_tokens(methods, tokens)
            batch.shape(advantages)
            self._count({name: self._sum_over_processes(total) for name, total in totals.items()})
        else:
            batch.shape(self._planned(batch, logprobs, entropy))
        first = methods[0]
        if isinstance(first, EntropyAdvantage):
            tokens = local_tokens(batch, batch.unshaped, logprobs, entropy, needs([first]), self._method_seed())
            if (stats := first.stats(tokens)) is not None:
                sums = self._sum_over_processes(stats.totals)
                self._shaping_totals = sums if self._shaping_totals is None else self._shaping_totals + sums

    def _planned(self, batch: _GuardedBatch, logprobs: torch.Tensor, entropy: torch.Tensor) -> torch.Tensor:
        """The advantages `(B, T)` of this micro-batch, made together with those of the whole update."""
        step, ids = int(self.state.global_step), batch["completion_ids"]
        advantages = self._plan.take(step, ids) if self._plan is not None else None
        if advantages is None:
            methods = update_methods(batch.methods)
            parts: list[Tokens] = []
            window = self._window(ids)
            for part in window:
                scored = (logprobs, entropy) if part["completion_ids"] is ids else self._score(part)
                parts.append(local_tokens(part, part["advantages"], *scored, needs(methods), self._method_seed()))
            made, totals = act_on_update(methods, parts, [part[ROWS] for part in window], self.accelerator)
            self._count(totals)
            self._plan = Plan(step, [(part["completion_ids"], a) for part, a in zip(window, made, strict=True)], totals)
            advantages = self._plan.take(step, ids)
        assert advantages is not None
        return advantages

    def _window(self, completion_ids: torch.Tensor) -> list[dict[str, Any]]:
        """The micro-batches of the update that begins with this one, on this process."""
        buffer: list[dict[str, Any]] = self._buffered_inputs or []
        places = [i for i, part in enumerate(buffer) if part["completion_ids"] is completion_ids]
        count = self.current_gradient_accumulation_steps
        window = buffer[places[0] : places[0] + count] if places else []
        if len(window) != count:
            raise _not_shaped("the micro-batches of this update are not in TRL's buffer", self.args.methods)
        return window

    def _method_seed(self) -> int:
        return int(self.args.seed) * 2**24 + int(self.state.global_step)

    def _sum_over_processes(self, tensor: torch.Tensor) -> torch.Tensor:
        total: torch.Tensor = self.accelerator.reduce(tensor, reduction="sum")
        return total

    # -------------------------------------------------------------------------------------------------------- metrics

    def _count(self, totals: dict[str, torch.Tensor]) -> None:
        for name, total in totals.items():
            before = self._method_totals.get(name)
            self._method_totals[name] = total if before is None else before + total

    def log(self, *args: Any, **kwargs: Any) -> None:
        """TRL's log, with the metrics of the methods over the window, in training."""
        if self.model.training:
            for name, total in self._method_totals.items():
                for what, value in shares(total).items():
                    self._metrics["train"][f"method/{name}/{what}"].append(value)
            self._method_totals = {}
        if self.model.training and self._shaping_totals is not None:
            stats = ShapingStats.from_totals(self._shaping_totals).as_dict()
            self._shaping_totals = None
            for name in _LOGGED:
                self._metrics["train"][f"shaping/{name}"].append(stats[name])
            if stats["capped_frac"] > _MOSTLY_CAPPED and not self._warned_of_cap and self.is_world_process_zero():
                self._warned_of_cap = True
                warnings.warn(
                    f"{stats['capped_frac']:.0%} of the tokens are at the cap |A| / kappa, so their entropy hardly "
                    "matters. Lower alpha, or start from a policy with less entropy (after SFT).",
                    stacklevel=2,
                )
        super().log(*args, **kwargs)


class EntropyShapedGRPOTrainer(EntropyShapingMixin, GRPOTrainer):
    """`GRPOTrainer` with entropy-shaped advantages; `args` is an `EntropyShapedGRPOConfig`, the default if None.

    All else, parameters included, is TRL's; what is added is described in `EntropyShapingMixin`.
    """

    _tag_names = ["trl", "grpo", "forkwise"]  # noqa: RUF012  (TRL's attribute)
    _name = "GRPO with entropy-shaped advantages"
    _paper = {  # noqa: RUF012
        "title": "Reasoning with Exploration: An Entropy Perspective on Reinforcement Learning for LLMs",
        "id": "2506.14758",
        "citation": textwrap.dedent("""\
            @inproceedings{cheng2026reasoning,
                title     = {{Reasoning with Exploration: An Entropy Perspective on Reinforcement Learning for LLMs}},
                author    = {Cheng, Daixuan and Huang, Shaohan and Zhu, Xuekai and Dai, Bo and Zhao, Wayne Xin and
                             Zhang, Zhenliang and Wei, Furu},
                booktitle = {Proceedings of the AAAI Conference on Artificial Intelligence},
                year      = 2026,
                eprint    = {arXiv:2506.14758},
            }"""),
    }

    def __init__(
        self, model: Any, reward_funcs: Any = None, args: GRPOConfig | None = None, *more: Any, **kwargs: Any
    ) -> None:
        if args is None:
            name = model if isinstance(model, str) else model.config.name_or_path
            args = EntropyShapedGRPOConfig(f"{name.split('/')[-1]}-GRPO")
        _require_config(args, critic=self._has_critic)  # before the model is loaded
        super().__init__(model, reward_funcs, args, *more, **kwargs)


def check_rollout(args: EntropyShapedGRPOConfig, prompts: int) -> None:
    """Refuses a number of prompts that does not fill one rollout: TRL leaves the rest out, and would train 0 steps."""
    assert args.generation_batch_size is not None  # TRL fills it in
    needed = args.generation_batch_size // args.num_generations
    if prompts < needed:
        raise InputError(
            f"A rollout takes {needed} prompts ({args.generation_batch_size} completions, {args.num_generations} of "
            f"each), and there are {prompts}, so that nothing would be trained: give more prompts, or make "
            "per_device_train_batch_size or steps_per_generation smaller."
        )


def _require_config(args: object, *, critic: bool) -> None:
    if not isinstance(args, EntropyShapedGRPOConfig):
        raise TypeError(
            f"args is a {type(args).__name__}, which has no alpha and kappa; make it an EntropyShapedGRPOConfig (or a "
            "subclass of it), which takes every field of GRPOConfig."
        )
    if not args.has_groups and not critic:
        raise TypeError(
            f"args is a {type(args).__name__}, whose critic this trainer does not have: use {args.trainer_class}, or "
            "make it an EntropyShapedGRPOConfig."
        )


def _default(config: EntropyShapedGRPOConfig, name: str) -> Any:
    """What the field is if nobody says anything, in this class of config."""
    return next(f.default for f in dataclasses.fields(config) if f.name == name)


def _whole(batch: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and mask of prompts and completions, `(B, P + T)`."""
    return (
        torch.cat([batch["prompt_ids"], batch["completion_ids"]], dim=1),
        torch.cat([batch["prompt_mask"], batch["completion_mask"]], dim=1),
    )


def _sees_rollouts(methods: Sequence[Method]) -> bool:
    """Whether any of the methods is about more than one token at a time, or about how and by whom it was drawn."""
    return any(m.scope is not Scope.TOKEN or m.needs() & _OF_ROLLOUTS for m in methods)


def _check_rollout(batch: dict[str, Any], methods: Sequence[Method]) -> None:
    """Raises unless the methods of the rollout made the advantages of this micro-batch."""
    if _sees_rollouts(methods) and ROWS not in batch:
        raise _not_shaped("the rollout bypassed the mixin; a method overridden without super()?", methods)
    early = [*reward_methods(methods), *rollout_methods(methods)]
    if early and not (MADE in batch and torch.equal(batch[MADE], batch["advantages"])):
        raise _not_shaped("the advantages were replaced after the rollout", methods)


def _names(methods: Sequence[Method]) -> str:
    return ", ".join(f"'{method.name}'" for method in methods)


def _not_shaped(what: str, methods: Sequence[Method]) -> RuntimeError:
    only_shaping = all(isinstance(method, EntropyAdvantage) for method in methods)
    failure = "Advantages were not entropy-shaped" if only_shaping else f"The methods {_names(methods)} did not act"
    return RuntimeError(
        f"{failure}: {what}. trl {_TRL}; train with a TRL release that forkwise is tested "
        "with (docs/trl.md), or set alpha=0 for plain GRPO."
    )
