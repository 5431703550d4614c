"""Trainers whose loss gets the advantages that methods make: a mixin for any `GRPOTrainer`, and TRL's own with it."""

from __future__ import annotations

import textwrap
import warnings
from collections.abc import Sequence, Sized
from typing import Any

import torch
from transformers import Trainer
from trl import GRPOConfig, GRPOTrainer

from forkwise.engines.base import entropy_terms, needs, update_methods
from forkwise.engines.trl.config import EntropyShapedGRPOConfig, check_rollout, require_config
from forkwise.engines.trl.guard import GuardedBatch, check_rollout_acted
from forkwise.engines.trl.launched import more_asked_than_started
from forkwise.engines.trl.methods_of_config import shaping
from forkwise.engines.trl.release import TRL, not_shaped
from forkwise.engines.trl.replay import ReplayMixin
from forkwise.engines.trl.rollout import check_column, column_of
from forkwise.engines.trl.update import IMITATED, POSITIONS, UpdateAdvantages, local_tokens, token_mask
from forkwise.engines.whole_update import gather_update
from forkwise.errors import InputError
from forkwise.methods import Method, Need, Scope, Tokens
from forkwise.methods.chain import run_entropy_terms, run_token_methods
from forkwise.methods.hints import HintMethod


class EntropyShapingMixin(ReplayMixin):
    """Shapes the advantages of any `GRPOTrainer` subclass: `class Mine(EntropyShapingMixin, MyGRPOTrainer)`.

    The trainer's `args` must be an `EntropyShapedGRPOConfig` (or a subclass of it). Advantages `(B,)` or `(B, T)`
    are shaped with the entropy of the policy that is being updated, in every training loss; evaluation is TRL's.
    Logged with TRL's metrics, over all tokens of all processes since the last log: `shaping/psi_over_adv`,
    `shaping/capped_frac`, `shaping/psi_pos`, `shaping/psi_neg` (see `forkwise.core.ShapingStats`), and for each method
    `method/NAME/changed` and `method/NAME/shift` (see `forkwise.methods.chain.shares`). Once: `shaping/entropy_error`,
    the largest difference of an entropy of our head from float64, in nats, in its proof.

    Raises:
        TypeError: when the class is defined, for trainers whose loss cannot use per-token advantages, and when the
            mixin stands after the trainer; when it is constructed, for a config without `alpha` and `kappa`.
        RuntimeError: in the first training step in which shaped advantages did not reach the loss.
        InputError: in the first rollout, if TRL's head is asked for, and its log-probs or entropies are not those of
            the policy's own logits; completions without a reward, or with images, for methods that cannot do without
            or with.
        NotFiniteError: the last hidden states of a micro-batch hold NaN or infinity.

    Warns:
        UserWarning: once, when more than 90 % of the tokens of a logging window are at the cap; and when our operator
            cannot compute the policy's head, so that TRL or the full logits do.
    """

    _shaping_batch: GuardedBatch | None = None  # set only while a training loss is being computed
    _acting: Sequence[Method] = ()  # the methods of the newest loss, with the options of its step
    _shaped_losses = 0
    _update_advantages: UpdateAdvantages | None = None
    _entropy_term: torch.Tensor | None = None  # of the loss that is being computed
    _has_critic = False  # else a PPO config would train GRPO

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if not issubclass(cls, Trainer):
            return  # still a mixin
        if not issubclass(cls, GRPOTrainer) or any(base.__name__ == "GMPOTrainer" for base in cls.__mro__):
            raise TypeError(
                f"{cls.__name__}: entropy-shaped advantages need TRL's GRPOTrainer or a subclass with its token-level "
                "loss; RLOO and GMPO have one advantage per sequence. AsyncGRPO has EntropyShapedAsyncGRPOTrainer."
            )
        if cls.__mro__.index(EntropyShapingMixin) > cls.__mro__.index(GRPOTrainer):
            raise TypeError(f"{cls.__name__}: name EntropyShapingMixin before the trainer, or it would do nothing.")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        require_config(self.args, critic=self._has_critic)

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """Trains as the trainer does; a dataset of which it would not train a single step is refused."""
        if isinstance(self.train_dataset, Sized):
            check_rollout(self.args, len(self.train_dataset))
        self._check_labels()
        blind = [m.name for m in self.args.methods if Need.IMAGE_SIMILARITY in m.needs()]
        if blind and not getattr(self, "_is_vlm", False):
            raise InputError(
                f"The method '{blind[0]}' goes by what tokens have to do with images, and this model sees none: leave "
                "it out, or train a vision-language model with its processor."
            )
        if alone := more_asked_than_started(self.accelerator.num_processes):
            warnings.warn(alone, stacklevel=2)
        self._check_recurring()
        with shaping():
            return super().train(*args, **kwargs)

    def _check_recurring(self) -> None:
        """Refuses a run in which no prompt comes twice, for methods that remember prompts."""
        asking = [method for method in self.args.methods if Need.PROMPT_KEYS in method.needs()]
        if not asking or not isinstance(self.train_dataset, Sized):
            return
        args = self.args
        updates = args.steps_per_generation * args.num_iterations / args.gradient_accumulation_steps
        prompts = args.generation_batch_size // args.num_generations
        drawn = (
            args.max_steps / updates * prompts
            if args.max_steps > 0
            else args.num_train_epochs * len(self.train_dataset)
        )
        if drawn <= len(self.train_dataset):
            raise InputError(
                f"The method '{asking[0].name}' acts on prompts that come again, and in this run each of the "
                f"{len(self.train_dataset)} comes once at most: train longer, or on fewer."
            )

    def _check_labels(self) -> None:
        """Refuses a data set without the column that a method asks for, or of whose values it makes no difference."""
        known = getattr(self.train_dataset, "column_names", None) or []
        for method in self.args.methods if known else ():
            for column in method.columns():
                check_column(method, column, known)
            if isinstance(method, HintMethod) and None in self.train_dataset.unique(method.column):
                raise InputError(
                    f"The method '{method.name}' shows answers, and the column '{method.column}' has none for some "
                    "problems: name another column, or leave those problems out."
                )
            if Need.LABELS not in method.needs():
                continue
            column = column_of(method, known)
            if len({method.label(value) for value in self.train_dataset.unique(column)}) < 2:
                raise InputError(
                    f"To the method '{method.name}' the column '{column}' says the same of all problems, so that it "
                    f"could not act: look at its options ({method})."
                )

    # -------------------------------------------------------------------------------------------------------- updates

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Runs TRL's training step; raises `RuntimeError` if its loss was computed without shaped advantages."""
        before = self._shaped_losses
        loss: torch.Tensor = super().training_step(*args, **kwargs)
        if self.args.methods and self._shaped_losses == before:
            raise not_shaped(
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
        methods = self._acting = self._methods_now()
        self._shaping_batch = batch = GuardedBatch(inputs, methods)
        check_rollout_acted(inputs, methods)
        if IMITATED in inputs or not (update_methods(methods) or entropy_terms(methods)):
            batch.shape(batch.unshaped)
        try:
            loss = super()._compute_loss(model, batch)
        except KeyError as error:
            if error.args == ("advantages",):
                raise not_shaped("the loss read the advantages from a copy of the micro-batch", methods) from error
            raise
        finally:
            self._shaping_batch = None
        if not batch.read:
            raise not_shaped("the loss did not read the shaped advantages", methods)
        self._shaped_losses += 1
        term, self._entropy_term = self._entropy_term, None
        return loss if term is None else loss + term

    def _get_per_token_logps_and_entropies(self, *args: Any, **kwargs: Any) -> Any:
        # Arguments are passed through unnamed and the result is indexed: both change between TRL releases.
        scored = super()._get_per_token_logps_and_entropies(*args, **kwargs)
        batch = self._shaping_batch
        # Within the loss, a reference policy would be scored without gradient; H is that of the policy under update.
        if batch is not None and torch.is_grad_enabled():
            if scored[1] is None:
                batch.why_not = "the per-token entropies are None (as with Unsloth's patched trainer)"
                return scored
            if IMITATED not in batch:
                self._method_states.watch(scored[1], token_mask(batch))
            if not batch.shaped:
                entropies = scored[1] if self._nucleus() is None else self._nucleus_entropy
                with torch.no_grad():  # since 1.15 TRL's entropies carry gradient; psi must not
                    slopes = self._shape(batch, scored[0].detach(), scored[1].detach())
                if slopes is not None:
                    self._entropy_term = self._term(slopes, entropies)
        return scored

    def _shape(self, batch: GuardedBatch, logprobs: torch.Tensor, entropy: torch.Tensor) -> torch.Tensor | None:
        """Gives the batch its advantages; returns the slopes of terms in its entropies `(B, T)`, if there are terms."""
        methods, terms = update_methods(batch.methods), entropy_terms(batch.methods)
        if not terms and all(method.scope is not Scope.UPDATE for method in methods):
            tokens = self._local_tokens(batch, batch.unshaped, logprobs, entropy)
            advantages, totals = run_token_methods(methods, tokens)
            batch.shape(advantages)
            self._action_log.add({name: self._sum_over_processes(total) for name, total in totals.items()})
            return None
        advantages, slopes = self._share_of_update(batch, logprobs, entropy)
        batch.shape(advantages)
        return slopes if terms else None

    def _term(self, slopes: torch.Tensor, entropies: torch.Tensor | None) -> torch.Tensor:
        """Returns what this micro-batch adds to the loss: its part of the term's gradient, and of its value."""
        if entropies is None or not entropies.requires_grad:
            raise InputError(
                f"The method '{entropy_terms(self._acting)[0].name}' needs the gradient of the entropies, which the "
                f"head of trl {TRL} does not give: set entropy_backend to 'forkwise'."
            )
        assert self._update_advantages is not None
        # Gradients of processes are averaged, and those of micro-batches added up.
        part = (slopes.to(entropies.dtype) * (entropies - entropies.detach())).sum()
        value = self._update_advantages.terms / self.current_gradient_accumulation_steps
        added: torch.Tensor = part * self.accelerator.num_processes + value.to(part)
        return added

    def _share_of_update(
        self, batch: GuardedBatch, logprobs: torch.Tensor, entropy: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns what was made for the whole update: this micro-batch's advantages and slopes, `(B, T)` each."""
        step, ids = int(self.state.global_step), batch["completion_ids"]
        share = self._update_advantages.take_share(step, ids) if self._update_advantages is not None else None
        if share is None:
            methods = update_methods(batch.methods)
            parts: list[Tokens] = []
            window = self._window(ids)
            for part in window:
                # The newest scores are those of this micro-batch, which is the first of its window.
                scored = (logprobs, entropy) if part["completion_ids"] is ids else self._score(part)
                parts.append(self._local_tokens(part, part["advantages"], *scored))
            whole = gather_update(parts, [part[POSITIONS] for part in window], self.accelerator)
            advantages, totals = run_token_methods(methods, whole.tokens)
            value, slopes, of_terms = run_entropy_terms(entropy_terms(batch.methods), whole.tokens)
            self._action_log.add(totals | of_terms)
            answers = zip(window, whole.shares(advantages), whole.shares(slopes), strict=True)
            self._update_advantages = UpdateAdvantages(
                step, [(p["completion_ids"], a, s) for p, a, s in answers], value
            )
            share = self._update_advantages.take_share(step, ids)
        assert share is not None
        return share

    def _local_tokens(
        self, batch: dict[str, Any], advantages: torch.Tensor, logprobs: torch.Tensor, entropy: torch.Tensor
    ) -> Tokens:
        """Presents the micro-batch that was scored last to the methods of the update."""
        wanted = needs([*update_methods(self._acting), *entropy_terms(self._acting)])
        more = (self._sum_p2_log, self._nucleus_entropy)
        return local_tokens(batch, advantages, logprobs, entropy, wanted, self._moment(), *more)

    def _window(self, completion_ids: torch.Tensor) -> list[dict[str, Any]]:
        """Returns the micro-batches of the update that begins with this one, on this process."""
        buffer: list[dict[str, Any]] = self._buffered_inputs or []
        places = [i for i, part in enumerate(buffer) if part["completion_ids"] is completion_ids]
        count = self.current_gradient_accumulation_steps
        window = buffer[places[0] : places[0] + count] if places else []
        if len(window) != count:
            raise not_shaped("the micro-batches of this update are not in TRL's buffer", self.args.methods)
        return window

    # -------------------------------------------------------------------------------------------------------- metrics

    def log(self, *args: Any, **kwargs: Any) -> None:
        """Logs as TRL does and adds, in training, the metrics of the methods over the window."""
        if self.model.training:
            metrics, warning = self._action_log.take()
            if metrics:  # else nothing was learned since the last log
                metrics |= self._method_states.metrics(self.args.methods, self._acting)
            for name, value in metrics.items():
                self._metrics["train"][name].append(value)
            if self._entropy_error is not None:
                self._metrics["train"]["shaping/entropy_error"].append(self._entropy_error)
                self._entropy_error = None
            if warning and self.is_world_process_zero():
                warnings.warn(warning, stacklevel=2)
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
        require_config(args, critic=self._has_critic)  # before the model is loaded
        super().__init__(model, reward_funcs, args, *more, **kwargs)
