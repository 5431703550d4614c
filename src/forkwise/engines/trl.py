"""Entropy-shaped advantages in TRL's GRPO: `A + min(alpha * H.detach(), |A| / kappa)` (arXiv 2506.14758, Eq. 5-6).

Everything but the advantages is TRL's. TRL's loss first asks for the log-probabilities and entropies of the current
policy and then reads `inputs["advantages"]`; between the two, the mixin puts the shaped advantages, shape `(B, T)`,
into a copy of the micro-batch. H is the entropy that TRL itself computes: nats, at the sampling temperature.

A training step in which that did not happen raises `RuntimeError`. At `alpha = 0` the trainer is TRL's, bit for bit.
"""

from __future__ import annotations

import math
import textwrap
import warnings
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
import trl
from packaging.version import Version
from transformers import Trainer
from trl import GRPOConfig, GRPOTrainer

from forkwise.core import ShapingStats, shape_advantages, shaping_stats
from forkwise.errors import InputError

if TYPE_CHECKING:
    from trl import GRPOTrainer as _Trainer
else:
    _Trainer = object

__all__ = ["EntropyShapedGRPOConfig", "EntropyShapedGRPOTrainer", "EntropyShapingMixin"]

_TRL = Version(trl.__version__)
if Version("1.9") > _TRL:
    raise ImportError(f"forkwise.engines.trl needs trl>=1.9, found {_TRL}: pip install 'forkwise[train]'")

_LOGGED = ("psi_over_adv", "capped_frac", "psi_pos", "psi_neg")
_MOSTLY_CAPPED = 0.9  # above it psi is |A| / kappa nearly everywhere: a constant factor, not entropy, shapes the update


@dataclass
class EntropyShapedGRPOConfig(GRPOConfig):
    """`GRPOConfig` with the two constants of the method; every other field is TRL's, defaults included.

    Args:
        alpha: weight of the entropy (nats), at least 0. Larger values favour uncertain tokens more, until the cap
            binds at `H = |A| / (alpha * kappa)`; 0 turns shaping off. The paper uses 0.4 for GRPO, 0.1 for PPO.
        kappa: cap of the added term as a fraction of the advantage, `|A| / kappa`, above 1 so that no advantage
            changes its sign. Larger values mean a smaller cap. The paper uses 2.

    Raises:
        InputError: for constants outside these ranges, and for settings under which TRL cannot shape.

    Warns:
        UserWarning: for losses whose ratio is per sequence; only the mean shaped advantage reaches their gradient.
    """

    alpha: float = field(
        default=0.4, metadata={"help": "Weight of the entropy term added to the advantages; 0 turns shaping off."}
    )
    kappa: float = field(
        default=2.0, metadata={"help": "The entropy term is capped at |advantage| / kappa; must be greater than 1."}
    )

    def __post_init__(self) -> None:
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
        if self.alpha > 0 and (self.importance_sampling_level == "sequence" or self.loss_type == "luspo"):
            warnings.warn(
                f"With loss_type={self.loss_type!r} and importance_sampling_level={self.importance_sampling_level!r} "
                "the importance ratio or the weight is per sequence: the shaped advantages lose their token "
                "selectivity. Use importance_sampling_level='token' and another loss_type to keep it.",
                stacklevel=3,
            )


class _GuardedBatch(dict[str, Any]):
    """A micro-batch that holds no `"advantages"` until they are shaped, and notes whether the loss read them.

    Taking the key out, instead of hiding it, makes `dict(batch)`, `**batch` and `.items()` as safe as indexing.
    The batch it is made from is never written to: TRL reuses it for `num_iterations` updates.
    """

    def __init__(self, batch: dict[str, Any]) -> None:
        if "advantages" not in batch:
            raise _not_shaped("TRL's micro-batch has no 'advantages'")
        super().__init__(batch)
        self.unshaped: torch.Tensor = self.pop("advantages")
        self.shaped = self.read = False
        self.why_not = "no per-token entropies were computed before, by `_get_per_token_logps_and_entropies`"

    def shape(self, advantages: torch.Tensor) -> None:
        super().__setitem__("advantages", advantages)
        self.shaped = True

    def __getitem__(self, key: str) -> Any:
        if key == "advantages":
            if not self.shaped:
                raise _not_shaped(f"the loss read the advantages, but {self.why_not}")
            self.read = True
        return super().__getitem__(key)

    def get(self, key: str, default: Any = None) -> Any:
        return self[key] if key == "advantages" else super().get(key, default)

    def __setitem__(self, key: str, value: Any) -> None:
        if key == "advantages":
            raise _not_shaped("the loss replaced the advantages; change them before the loss")
        super().__setitem__(key, value)


class EntropyShapingMixin(_Trainer):
    """Shapes the advantages of any `GRPOTrainer` subclass: `class Mine(EntropyShapingMixin, MyGRPOTrainer)`.

    The trainer's `args` must be an `EntropyShapedGRPOConfig` (or a subclass of it). Advantages `(B,)` or `(B, T)`
    are shaped with the entropy of the policy that is being updated, in every training loss; evaluation is TRL's.
    Logged with TRL's metrics, over all tokens of all processes since the last log: `shaping/psi_over_adv`,
    `shaping/capped_frac`, `shaping/psi_pos`, `shaping/psi_neg` (see `forkwise.core.ShapingStats`).

    Raises:
        TypeError: when the class is defined, for trainers whose loss cannot use per-token advantages, and when the
            mixin stands after the trainer; when it is constructed, for a config without `alpha` and `kappa`.
        RuntimeError: in the first training step in which shaped advantages did not reach the loss.

    Warns:
        UserWarning: once, when more than 90 % of the tokens of a logging window are at the cap.
    """

    _shaping_batch: _GuardedBatch | None = None  # set only while a training loss is being computed
    _shaped_losses = 0
    _shaping_totals: torch.Tensor | None = None  # sufficient statistics since the last log, summed over processes
    _warned_of_cap = False

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
        super().__init__(*args, **kwargs)
        _require_config(self.args)

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """TRL's training step; raises `RuntimeError` if its loss was computed without shaped advantages."""
        before = self._shaped_losses
        loss: torch.Tensor = super().training_step(*args, **kwargs)
        if self.args.alpha != 0 and self._shaped_losses == before:
            raise _not_shaped("the loss of this training step bypassed the mixin; a method overridden without super()?")
        return loss

    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> torch.Tensor:
        loss: torch.Tensor
        if self.args.alpha == 0 or not self.model.training:
            loss = super()._compute_loss(model, inputs)
            return loss
        self._shaping_batch = batch = _GuardedBatch(inputs)
        try:
            loss = super()._compute_loss(model, batch)
        except KeyError as error:
            if error.args == ("advantages",):
                raise _not_shaped("the loss read the advantages from a copy of the micro-batch") from error
            raise
        finally:
            self._shaping_batch = None
        if not batch.read:
            raise _not_shaped("the loss did not read the shaped advantages")
        self._shaped_losses += 1
        return loss

    def _get_per_token_logps_and_entropies(self, *args: Any, **kwargs: Any) -> Any:
        # Arguments are passed through unnamed and the result is indexed: both change between TRL releases.
        out = super()._get_per_token_logps_and_entropies(*args, **kwargs)
        batch = self._shaping_batch
        # Within the loss, a reference policy would be scored without gradient; H is that of the policy under update.
        if batch is not None and not batch.shaped and torch.is_grad_enabled():
            if out[1] is None:
                batch.why_not = "the per-token entropies are None (as with Unsloth's patched trainer)"
            else:
                self._shape(batch, out[1].detach())  # since 1.15 TRL's entropies carry gradient; psi must not
        return out

    def _shape(self, batch: _GuardedBatch, entropy: torch.Tensor) -> None:
        mask = batch["completion_mask"] * batch.get("tool_mask", 1)  # the tokens that TRL's loss counts
        constants = {"alpha": self.args.alpha, "kappa": self.args.kappa}
        batch.shape(shape_advantages(batch.unshaped, entropy, **constants, mask=mask))
        totals = shaping_stats(batch.unshaped, entropy, **constants, mask=mask).totals
        totals = self.accelerator.reduce(totals, reduction="sum")
        self._shaping_totals = totals if self._shaping_totals is None else self._shaping_totals + totals

    def log(self, *args: Any, **kwargs: Any) -> None:
        """TRL's log, with the shaping metrics of the window in training."""
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
        _require_config(args)  # before the model is loaded
        super().__init__(model, reward_funcs, args, *more, **kwargs)


def _require_config(args: object) -> None:
    if not isinstance(args, EntropyShapedGRPOConfig):
        raise TypeError(
            f"args is a {type(args).__name__}, which has no alpha and kappa; make it an EntropyShapedGRPOConfig (or a "
            "subclass of it), which takes every field of GRPOConfig."
        )


def _not_shaped(what: str) -> RuntimeError:
    return RuntimeError(
        f"Advantages were not entropy-shaped: {what}. trl {_TRL}; train with a TRL release that forkwise is tested "
        "with (docs/trl.md), or set alpha=0 for plain GRPO."
    )
