"""slime, vime and miles: the entropy-shaped advantage by their own arguments.

With the entropy of the policy that the rollout's log-probs are recomputed with ("old"), not in miles, whose argument of
that name is called without the data:

    --use-rollout-entropy --rollout-data-postprocess-path forkwise.engines.hooks.slime.shape_rollout

With that of the policy under update ("current", the paper's):

    --loss-type custom_loss --custom-loss-function-path forkwise.engines.hooks.slime.shaped_policy_loss

alpha and kappa come from the environment, FORKWISE_ALPHA and FORKWISE_KAPPA.
"""

from __future__ import annotations

import importlib
import logging
import sys
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from forkwise.core import ShapingStats, shape_and_measure
from forkwise.engines.hooks.constants import constants
from forkwise.engines.hooks.levels import warn_of_sequences
from forkwise.engines.hooks.totals import TOTALS, named, ratios
from forkwise.errors import InputError

logger = logging.getLogger(__name__)

_MARK = f"shaping/total/{TOTALS[0]}"  # of a rollout that was shaped

_LOSS = "backends.megatron_utils.loss"
_MILES = "backends.training_utils.loss_hub"
MODULES = {
    "slime": (f"slime.{_LOSS}", f"slime.{_LOSS}"),
    "vime": (f"vime.{_LOSS}", f"vime.{_LOSS}"),
    "miles": (f"miles.{_MILES}.losses", f"miles.{_MILES}.logit_processors"),
}
"""For each engine, the modules with its policy loss and with its log-probs and entropies."""


def shape_rollout(args: Any, rollout_id: int | None = None, rollout_data: dict[str, Any] | None = None) -> None:
    """Shapes the advantages of a rollout, after the engine has computed and whitened them, in its own dictionary.

    Raises:
        InputError: the engine hands out no data, no entropies, or pieces of responses; or advantages are shaped
            elsewhere too.
    """
    if rollout_data is None:
        raise InputError(
            "This engine calls --rollout-data-postprocess-path without the rollout's data (miles and early slime do), "
            "so it cannot shape advantages there: use --loss-type custom_loss --custom-loss-function-path "
            "forkwise.engines.hooks.slime.shaped_policy_loss instead."
        )
    if "advantages" not in rollout_data:
        if rollout_data.get("log_probs"):
            raise InputError("This rollout has log-probs and no advantages, so there is nothing to shape.")
        return  # not the last stage of the pipeline
    alpha, kappa = constants(args)
    if alpha == 0:
        return
    _refuse_both(args)
    warn_of_sequences("--advantage-estimator gspo", per_sequence=getattr(args, "advantage_estimator", None) == "gspo")
    if _MARK in rollout_data:
        raise InputError("This rollout is shaped already, and twice would break the cap: call shape_rollout once.")
    entropy = rollout_data.get("entropy")
    if not entropy:
        raise InputError(
            "Advantages were not entropy-shaped: the rollout has no entropies. Add --use-rollout-entropy; where the "
            "log-probs of the loss are reused (one update per rollout), also --get-mismatch-metrics, or use "
            "--custom-loss-function-path forkwise.engines.hooks.slime.shaped_policy_loss."
        )
    shaped, stats = _shaped(rollout_data["advantages"], entropy, rollout_data["loss_masks"], alpha, kappa)
    totals = named(stats)
    # The engine averages each over processes and logs it as rollout/...
    rollout_data |= {"advantages": shaped, **{name: torch.tensor(total) for name, total in totals.items()}}
    logger.info("rollout %s: %s", rollout_id, ", ".join(f"{name} {x:.4g}" for name, x in ratios(totals).items()))


def shaped_policy_loss(
    args: Any, batch: dict[str, Any], logits: Tensor, sum_of_sample_mean: Callable[[Tensor], Tensor]
) -> tuple[Tensor, dict[str, Tensor]]:
    """Computes the engine's policy loss on advantages shaped with the entropy of the policy under update.

    Entropies are computed once more, without gradient. The micro-batch stays as it is.
    """
    losses, scores = _engine()
    alpha, kappa = constants(args)
    if alpha == 0:
        loss: tuple[Tensor, dict[str, Tensor]] = losses.policy_loss_function(args, batch, logits, sum_of_sample_mean)
        return loss
    _refuse_both(args)
    warn_of_sequences("--advantage-estimator gspo", per_sequence=getattr(args, "advantage_estimator", None) == "gspo")
    names = ("unconcat_tokens", "total_lengths", "response_lengths")
    with torch.no_grad():
        computed = scores.get_log_probs_and_entropy(
            logits, args=args, **{name: batch[name] for name in names}, with_entropy=True, **_lengths(batch)
        )
    entropy = (computed[1] if isinstance(computed, tuple) else computed)["entropy"]
    advantages, stats = _shaped(batch["advantages"], entropy, batch["loss_masks"], alpha, kappa)
    value, metrics = losses.policy_loss_function(args, {**batch, "advantages": advantages}, logits, sum_of_sample_mean)
    return value, metrics | {name: torch.tensor(total, device=logits.device) for name, total in named(stats).items()}


def _refuse_both(args: Any) -> None:
    """Refuses arguments that name both hooks, as far as paths tell: psi would be added twice."""
    if getattr(args, "loss_type", None) != "custom_loss":
        return
    rollout = getattr(args, "rollout_data_postprocess_path", None)
    loss = getattr(args, "custom_loss_function_path", None)
    if rollout == f"{__name__}.shape_rollout" and loss == f"{__name__}.shaped_policy_loss":
        raise InputError(
            "--rollout-data-postprocess-path and --custom-loss-function-path both shape, and twice would break the "
            "cap: keep one of the two."
        )


def _shaped(
    advantages: Sequence[Tensor], entropy: Sequence[Tensor], masks: Sequence[Tensor], alpha: float, kappa: float
) -> tuple[list[Tensor], ShapingStats]:
    """Shapes responses of different lengths; new tensors."""
    lengths = [len(row) for row in advantages]
    for name, rows in (("entropy", entropy), ("loss_masks", masks)):
        if [len(row) for row in rows] != lengths:
            raise InputError(
                f"{name} and advantages differ in length, as they do where context parallelism cuts responses into "
                "pieces: train with --context-parallel-size 1."
            )
    flat, stats = shape_and_measure(
        torch.cat(list(advantages)),
        torch.cat(list(entropy)).detach(),
        alpha=alpha,
        kappa=kappa,
        mask=torch.cat(list(masks)).to(advantages[0].device),
    )
    return list(flat.split(lengths)), stats


def _lengths(batch: dict[str, Any]) -> dict[str, Any]:
    """Returns the lengths that padded layouts need."""
    return {} if batch.get("max_seq_lens") is None else {"max_seq_lens": batch["max_seq_lens"]}


def _engine() -> tuple[Any, Any]:
    """Returns the modules with the loss and the scores of the engine that runs in this process.

    Raises:
        InputError: none does.
    """
    for package, (losses, scores) in MODULES.items():
        if package in sys.modules:
            return importlib.import_module(losses), importlib.import_module(scores)
    raise InputError(f"None of {', '.join(MODULES)} is loaded here: this is a function for their arguments.")
