"""Entropy-shaped advantages in TRL's asynchronous GRPO, whose loss reads advantages before its forward pass.

TRL generates on a vLLM server while it trains. Its loss gets tokens one after another, `(M,)`, with an advantage each.
Since it reads them first, it is run twice: up to its forward pass, which is then made, and once more with the outputs
of that pass and the advantages that the methods made of its entropies. Everything else is TRL's.

A training step in which that did not happen raises `RuntimeError`. At `alpha = 0` the trainer is TRL's, bit for bit.
Log-probs and entropies come from TRL's head, which is compared once with the policy's own logits.
"""

from __future__ import annotations

import time
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, NoReturn

import torch
from packaging.version import Version
from torch import Tensor

from forkwise.constants import check_alpha, check_kappa
from forkwise.core import causal_model, compare_head, trained_beside_head
from forkwise.engines.base import ActionLog
from forkwise.engines.trl.guard import GuardedBatch
from forkwise.engines.trl.launched import more_asked_than_started
from forkwise.engines.trl.methods_of_config import MethodSettings, shaping
from forkwise.engines.trl.release import HOST, TRL, not_shaped
from forkwise.engines.trl.trainer import EntropyShapedGRPOTrainer
from forkwise.engines.which import why_not_async
from forkwise.errors import InputError
from forkwise.methods import Method, TokenMethod, Tokens
from forkwise.methods.chain import run_token_methods

if Version("1.16") > TRL:
    raise ImportError(f"Asynchronous GRPO with shaping needs trl>=1.16, found {TRL}: pip install 'trl>=1.16'")
try:
    from trl import AsyncGRPOConfig, AsyncGRPOTrainer  # since 1.18
except ImportError:
    from trl.experimental.async_grpo import AsyncGRPOConfig, AsyncGRPOTrainer


@dataclass
class EntropyShapedAsyncGRPOConfig(MethodSettings, AsyncGRPOConfig):
    """`AsyncGRPOConfig` with the two constants of the method; every other field is TRL's, defaults included.

    Args:
        alpha: as in `EntropyShapedGRPOConfig`.
        kappa: the same.
        method: methods as text that go token by token with the policy under update; others are refused.
        entropy_backend: `"trl"`, whose head computes log-probs and entropies here.

    Raises:
        InputError: for constants out of range, and for methods that do not exist or cannot act here.
    """

    entropy_backend: str = field(
        default="trl", metadata={"help": "Who computes log-probs and entropies: 'trl' alone, in asynchronous GRPO."}
    )
    trainer_class: ClassVar[str] = "EntropyShapedAsyncGRPOTrainer"

    def __post_init__(self) -> None:
        if self.entropy_backend != "trl":
            raise InputError(
                f"entropy_backend={self.entropy_backend!r} does not exist in asynchronous GRPO, whose head is TRL's: "
                "leave it at 'trl'."
            )
        self._resolve_methods()
        check_alpha(self.alpha)
        check_kappa(self.kappa)
        super().__post_init__()

    def _apply_settings(self) -> None:
        for method in self._methods:
            if why := why_not_async(method):
                raise InputError(
                    f"The method '{method.name}' {why}, so it does not go with asynchronous GRPO: train with "
                    "EntropyShapedGRPOTrainer, or leave it out."
                )


class EntropyShapedAsyncGRPOTrainer(AsyncGRPOTrainer):
    """`AsyncGRPOTrainer` with entropy-shaped advantages; `args` is an `EntropyShapedAsyncGRPOConfig`.

    Logged as by `EntropyShapedGRPOTrainer`.

    Raises:
        TypeError: when it is constructed, for a config without alpha and kappa.
        InputError: in the first training step, if TRL's head is not the policy's.
        RuntimeError: in the first training step in which shaped advantages did not reach the loss.
    """

    _tag_names = ["trl", "async-grpo", "forkwise"]  # noqa: RUF012  (TRL's attribute)
    _name = "Asynchronous GRPO with entropy-shaped advantages"
    _paper = EntropyShapedGRPOTrainer._paper

    def __init__(
        self, model: str, reward_funcs: Any = None, args: AsyncGRPOConfig | None = None, *more: Any, **kwargs: Any
    ) -> None:
        args = EntropyShapedAsyncGRPOConfig(f"{Path(model).name}-AsyncGRPO") if args is None else args
        if not isinstance(args, EntropyShapedAsyncGRPOConfig):
            raise TypeError(
                f"args is a {type(args).__name__}, which has no alpha and kappa for asynchronous GRPO; make it an "
                "EntropyShapedAsyncGRPOConfig, which takes every field of AsyncGRPOConfig."
            )
        self._action_log = ActionLog(HOST.alpha)
        self._shaped_losses = 0
        self._head_checked = False
        super().__init__(model, reward_funcs, args, *more, **kwargs)

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """Trains as TRL does; warns of processes that were asked for and are not there."""
        if alone := more_asked_than_started(self.accelerator.num_processes):
            warnings.warn(alone, stacklevel=2)
        with shaping():
            return super().train(*args, **kwargs)

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
        """Runs TRL's training step; raises `RuntimeError` if its loss was computed without shaped advantages."""
        before = self._shaped_losses
        loss: Tensor = super().training_step(*args, **kwargs)
        if self.args.methods and self._shaped_losses == before:
            raise not_shaped("the loss of this training step bypassed the trainer's own", self.args.methods)
        return loss

    def compute_loss(self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        """Computes TRL's loss on the advantages that the methods made; its forward pass is run once."""
        methods = self.args.methods
        if not self.model.training or (not methods and self._head_checked):
            return super().compute_loss(model, inputs, *args, **kwargs)
        progress = self.state.global_step / self.state.max_steps if self.state.max_steps > 0 else 0.0
        methods = tuple(method.at(progress, {}) for method in methods)
        batch = GuardedBatch(inputs, methods)
        try:
            super().compute_loss(_Asked(model), inputs, *args, **kwargs)
        except _ForwardPass as asked:
            forward = asked
        else:
            raise not_shaped("the loss ran no forward pass", methods)
        self._check_head(model, forward)
        if not methods:
            return super().compute_loss(model, inputs, *args, **kwargs)
        began = time.time()
        outputs = model(*forward.arguments, **forward.options)
        seconds = time.time() - began
        batch.shape(self._shaped(inputs, outputs, methods, progress))
        loss = super().compute_loss(_Answered(model, outputs), batch, *args, **kwargs)
        if not batch.read:
            raise not_shaped("the loss did not read the shaped advantages", methods)
        if hasattr(self, "_step_forward_s"):  # TRL's, which has timed the second time only
            self._step_forward_s += seconds
        self._shaped_losses += 1
        return loss

    @torch.no_grad()
    def _shaped(self, inputs: dict[str, Any], outputs: Any, methods: tuple[Method, ...], progress: float) -> Tensor:
        """Returns the advantages of the micro-batch after the methods, laid out as they came."""
        entropy = getattr(outputs, "entropy", None)
        if entropy is None or "token_index" not in inputs:
            fault = "the per-token entropies are None" if entropy is None else "its micro-batch has no 'token_index'"
            raise not_shaped(f"in this TRL {fault}", methods)
        counted = inputs["token_index"] >= 0
        places = inputs["token_index"][counted]
        needs = frozenset().union(*(method.needs() for method in methods))
        tokens = Tokens(
            inputs["advantages"][counted][None],
            torch.ones_like(places, dtype=torch.bool)[None],
            entropy=entropy.detach().flatten()[places][None],
            logprobs=outputs.log_probs.detach().flatten()[places][None],
            old_logprobs=inputs["old_log_probs"][counted][None],
            progress=progress,
            seed=int(self.args.seed) * 2**24 + int(self.state.global_step),
        ).only(needs)
        shaped, totals = run_token_methods([m for m in methods if isinstance(m, TokenMethod)], tokens)
        self._action_log.add({name: self.accelerator.reduce(total, reduction="sum") for name, total in totals.items()})
        advantages: Tensor = inputs["advantages"].clone()
        advantages[counted] = shaped[0]
        return advantages

    def log(self, *args: Any, **kwargs: Any) -> None:
        """Logs as TRL does and adds the metrics of the methods over the window."""
        metrics, warning = self._action_log.take()
        for name, value in metrics.items():
            self._metrics["train"][name].append(value)
        if warning and self.is_world_process_zero():
            warnings.warn(warning, stacklevel=2)
        super().log(*args, **kwargs)

    def _check_head(self, model: Any, forward: _ForwardPass) -> None:
        """Compares TRL's head with the policy's logits, once, on the first tokens of the first micro-batch."""
        if self._head_checked:
            return
        self._head_checked = True
        ids = forward.options["input_ids"][:1, :_FEW]
        layout = _one_chain(ids) if "tree_kv_index" in forward.options else {}

        def by_trl(ids: Tensor) -> list[Tensor]:
            labels = torch.cat([ids[:, 1:], ids.new_full((1, 1), -100)], dim=1)
            scored = model(input_ids=ids, shift_labels=labels, fused_lm_head=True)
            return [scored.log_probs[0, :-1], scored.entropy[0, :-1]]

        def with_layout(_: Any, args: Any, options: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
            return args, layout | options

        precision = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(self.accelerator.mixed_precision)
        handle = model.register_forward_pre_hook(with_layout, with_kwargs=True)
        try:
            mismatch = compare_head(model, ids, by_trl, temperature=self.temperature, precision=precision)
            beside = trained_beside_head(model, ids)
        finally:
            handle.remove()
        wrong = torch.tensor(float(mismatch is not None or beside is not None), device=self.accelerator.device)
        if bool(self.accelerator.reduce(wrong, reduction="sum") > 0):
            name = type(causal_model(model)).__name__
            problem = f"train on wrong numbers: {mismatch or 'another process found one'}"
            if mismatch is None and beside is not None:
                problem = f"not train {beside}, which stands between hidden states and logits of {name}"
            raise InputError(f"trl {TRL} would {problem}; train another model, or with EntropyShapedGRPOTrainer.")


_FEW = 32


def _one_chain(ids: Tensor) -> dict[str, Any]:
    """Returns what TRL's packed attention is told of a row that is one sequence."""
    length = ids.shape[1]
    ends = torch.tensor([0, length], dtype=torch.int32, device=ids.device)
    tensors = {"tree_kv_index": torch.arange(length, device=ids.device), "tree_cu_seqlens_q": ends}
    return {**tensors, "tree_cu_seqlens_k": ends, "tree_max_seqlen_q": length, "tree_max_seqlen_k": length}


class _ForwardPass(BaseException):  # not an Exception, which the loss might catch
    """The forward pass that a loss asked for."""

    def __init__(self, arguments: tuple[Any, ...], options: dict[str, Any]) -> None:
        super().__init__()
        self.arguments, self.options = arguments, options


class _Asked:
    """Stands in for a model until its forward pass is asked for."""

    def __init__(self, model: Any) -> None:
        self._model = model

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def __call__(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise _ForwardPass(args, kwargs)


class _Answered(_Asked):
    """Stands in for a model whose forward pass has been made."""

    def __init__(self, model: Any, outputs: Any) -> None:
        super().__init__(model)
        self._outputs = outputs

    def __call__(self, *_: Any, **__: Any) -> Any:
        return self._outputs
