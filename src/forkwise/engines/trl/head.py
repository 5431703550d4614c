"""Who computes log-probs and entropies from the last hidden states: our operator, TRL, or the model's own logits.

Each is tried and held against the logits once per run, on a few tokens of the first batch, so that no head is trained
that is not the model's. `entropy_backend` says which comes first.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from packaging.version import Version
from torch import Tensor

from forkwise.core import (
    Head,
    HeadError,
    HiddenStatesError,
    Places,
    Scores,
    adapters_in_use,
    causal_model,
    compare_head,
    few_tokens,
    prove_head,
    score_by_logits,
    score_tokens,
    trained_beside_head,
)
from forkwise.engines.base import entropy_terms, needs
from forkwise.engines.trl.release import TRL
from forkwise.engines.which import refuse_beyond_trls_head
from forkwise.errors import InputError, NotFiniteError, first_line
from forkwise.methods import Need

if TYPE_CHECKING:
    from trl import GRPOTrainer as _Trainer
else:
    _Trainer = object

Scored = tuple[Tensor, Tensor | None, Tensor | None]
"""Log-probs and entropies of completion tokens, `(B, T)` each, and the load-balancing loss of experts."""

_FUSED = Version("1.15") <= TRL  # before, TRL goes by the logits
_REMEDY = "install trl==1.14.2, which goes by the logits" if _FUSED else "train another model"


@dataclass(frozen=True)
class HeadChoice:
    """How a model's tokens are scored; `why` says what stands against our head, and is empty where it is used.

    Attributes:
        scorer: `"forkwise"`, `"trl"` or `"logits"`.
        head: for our operator.
        why: the reason, to be put behind "since".
    """

    scorer: str
    head: Head = Head()  # noqa: RUF009  (frozen)
    why: str = ""


class HeadMixin(_Trainer):
    """Scores completion tokens with our operator wherever TRL asks for log-probs; see `EntropyShapingMixin`."""

    _entropy_error: float | None = None  # of our head, until it is logged
    _sum_p2_log: Tensor | None = None  # of the tokens scored last, `(B, T)`, if a method needs it
    _nucleus_entropy: Tensor | None = None  # likewise, with its gradient

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._ways: dict[tuple[int, frozenset[Any], bool], HeadChoice] = {}
        super().__init__(*args, **kwargs)

    def _get_per_token_logps_and_entropies(
        self,
        model: Any,
        input_ids: Tensor,
        attention_mask: Tensor,
        logits_to_keep: int,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        more = [name for name, value in kwargs.items() if name not in _TEXT and value is not None]
        way = self._way(model, input_ids, attention_mask, logits_to_keep, more)
        if way.scorer == "trl":
            self._check_extras(way)
            scored = super()._get_per_token_logps_and_entropies(
                model, input_ids, attention_mask, logits_to_keep, *args, **kwargs
            )
            missing = int((scored[0].isnan() & (attention_mask[:, -logits_to_keep:] != 0)).sum())
            if missing:
                raise NotFiniteError(f"Step {self.state.global_step + 1}: The log-probs of {missing} tokens are NaN")
        else:
            options = dict(zip(_TEXT, args, strict=False)) | {name: kwargs[name] for name in _TEXT if name in kwargs}
            try:
                scored = self._score_tokens(model, input_ids, attention_mask, logits_to_keep, way, **options)
            except HiddenStatesError as error:
                raise NotFiniteError(f"Step {self.state.global_step + 1}: {error}") from error
            except HeadError as error:
                raise InputError(
                    f"Step {self.state.global_step + 1}: our operator can stand in for the head of "
                    f"{type(causal_model(model)).__name__} no longer: {error}; let it be in this run what it was at "
                    "its beginning, or train another model."
                ) from error
        return scored

    def _score_tokens(
        self,
        model: Any,
        input_ids: Tensor,
        attention_mask: Tensor,
        tokens: int,
        way: HeadChoice,
        *,
        batch_size: int | None = None,
        compute_entropy: bool = False,
        compute_aux_loss: bool = False,
    ) -> Scored:
        """Scores the last `tokens` of each row where the mask says so; elsewhere the results are 0, as TRL's are."""
        parts: list[Scores] = []
        extras: dict[str, Any] = {"extras": Need.SUM_P2_LOG in needs(self.args.methods), "nucleus": self._nucleus()}
        mask = attention_mask[:, -tokens:] != 0
        for some in torch.arange(len(input_ids)).split(batch_size or len(input_ids)):
            part = slice(int(some[0]), int(some[-1]) + 1)
            rows, columns = mask[part].nonzero().unbind(1)
            places = Places(rows, columns - tokens - 1, input_ids[part, -tokens:][mask[part]])
            inputs = {"input_ids": input_ids[part], "attention_mask": attention_mask[part], "use_cache": False}
            if compute_aux_loss:
                inputs["output_router_logits"] = True
            with self.accelerator.autocast():
                if way.scorer == "logits":
                    scores = score_by_logits(model, inputs, places, temperature=self.temperature, **extras)
                else:
                    scores = score_tokens(model, inputs, places, way.head, temperature=self.temperature, **extras)
            parts.append(scores)

        def padded(name: str) -> Tensor:
            flat = torch.cat([getattr(part, name) for part in parts])
            return torch.zeros(mask.shape, dtype=flat.dtype, device=flat.device).masked_scatter(mask, flat)

        logprobs, entropies = padded("logprob"), padded("entropy")
        self._sum_p2_log = padded("sum_p2_log") if extras["extras"] else None
        self._nucleus_entropy = padded("nucleus_entropy") if extras["nucleus"] is not None else None
        losses = [part.aux_loss for part in parts if part.aux_loss is not None]
        aux_loss = torch.stack(losses).mean() if compute_aux_loss and losses else None
        return logprobs, entropies if compute_entropy else None, aux_loss

    def _nucleus(self) -> float | None:
        """Returns the share of the probability that the nucleus of a method has, if one asks for its entropy."""
        shares = [m.nucleus for m in entropy_terms(self.args.methods) if Need.NUCLEUS_ENTROPY in m.needs()]
        return shares[0] if shares else None

    def _check_extras(self, way: HeadChoice) -> None:
        """Refuses methods that need what TRL's own head cannot give; it also knows one temperature only."""
        for method in self.args.methods:
            refuse_beyond_trls_head(
                method, f", which computes log-probs and entropies since {way.why}" if way.why else ""
            )

    # ---------------------------------------------------------------------------------------------------- which way

    def _way(
        self, model: Any, ids: Tensor, mask: Tensor, completion_length: int, more_inputs: Sequence[str] = ()
    ) -> HeadChoice:
        """Returns how this model is scored: as proved before, or else as a few tokens of one completion prove now.

        `more_inputs` are those beside ids and mask, which our operator does not cut into micro-batches: images.
        """
        beyond = bool(more_inputs)
        if getattr(self, "_is_vlm", False):  # one process may have images where another has none
            beyond = self._any_process(beyond)
        key = id(causal_model(model)), adapters_in_use(model), beyond
        if key not in self._ways:
            why_not = _not_ours(self, more_inputs, beyond=beyond)
            few = _few(ids, mask, completion_length, prompt=not beyond)
            self._ways[key] = way = self._prove(model, few, why_not)
            if way.why and self.accelerator.is_main_process:
                says = "TRL's head computes" if way.scorer == "trl" else "the full logits give"
                name = type(causal_model(model)).__name__
                warnings.warn(f"For {name} {says} log-probs and entropies, since {way.why}.", stacklevel=2)
            if way.scorer == "forkwise" and self.state.global_step == 0:  # a resumed run logs what the first one did
                errors = torch.tensor([self._entropy_error or 0.0, way.head.entropy_error])
                self._entropy_error = float(self.accelerator.gather(errors.to(self.accelerator.device)).max())
        return self._ways[key]

    def _prove(self, model: Any, ids: Tensor, why_not: str) -> HeadChoice:
        """Tries the ways in their order. All processes try, since a sharded model needs them all, and all agree.

        Args:
            model: to be scored.
            ids: of a few tokens, `(1, L)`.
            why_not: what stands against our operator beforehand; "" where nothing does.

        Raises:
            InputError: TRL is asked for, and computes something else, or cannot compute it for this model.
        """
        if self.args.entropy_backend == "trl":
            self._compare_trl(model, ids, raises=True)
            return HeadChoice("trl")
        reason = why_not
        if not reason:
            head: Head | None = None
            try:
                with self.accelerator.autocast():
                    head = prove_head(model, ids, temperature=self.temperature)
            except HeadError as error:
                reason = f"our operator cannot stand in for its head ({first_line(error)})"
            if not self._any_process(head is None):
                assert head is not None
                return HeadChoice("forkwise", head)
            reason = reason or "another process finds that our operator cannot stand in for its head"
        # With images, or in the hands of another class, nobody but TRL can score.
        if self._compare_trl(model, ids, raises=bool(why_not)):
            return HeadChoice("trl", why=reason)
        return HeadChoice("logits", why=f"{reason} and TRL's is not the model's")

    def _compare_trl(self, model: Any, ids: Tensor, *, raises: bool) -> bool:
        """Tells whether TRL's log-probs and entropies are those of the model's logits, and stay so in training."""

        # TRL's head of the reference has no entropies.
        policy = causal_model(model) is causal_model(self.model)
        name = type(causal_model(model)).__name__

        def by_trl(ids: Tensor) -> list[Tensor]:
            numbers = super(HeadMixin, self)._get_per_token_logps_and_entropies(
                model, ids, torch.ones_like(ids), ids.shape[1] - 1, compute_entropy=policy
            )
            return [n for n in numbers[:2] if n is not None]  # without entropies (Unsloth) the loss will raise

        precision = _PRECISION.get(self.accelerator.mixed_precision)
        reason = None
        try:
            options = {"temperature": self.temperature, "precision": precision, "multiplies": _FUSED}
            mismatch = compare_head(model, ids, by_trl, **options)
            if mismatch is not None:
                reason = f"trl {TRL} would train on wrong numbers: {mismatch}"
            beside = trained_beside_head(model, ids) if policy and _FUSED else None
            if reason is None and beside is not None:
                reason = f"trl {TRL} would not train {beside}, which stands between hidden states and logits of {name}"
        except torch.OutOfMemoryError:
            raise
        except (AttributeError, RuntimeError, TypeError) as error:
            reason = f"trl {TRL} cannot compute the log-probs of {name} ({first_line(error)})"
        wrong = self._any_process(reason is not None)
        if wrong and raises:
            other = f"trl {TRL} would train on wrong numbers: another process found one that is not the logits'"
            remedy = f"{_BACKEND}{_REMEDY}" if self.args.entropy_backend == "trl" else _REMEDY
            raise InputError(f"{reason or other}; {remedy}.")
        return not wrong

    def _any_process(self, flag: bool) -> bool:
        raised = torch.tensor(float(flag), device=self.accelerator.device)
        return bool(self.accelerator.reduce(raised, reduction="sum") > 0)


_TEXT = ("batch_size", "compute_entropy", "compute_aux_loss")  # what TRL asks of text, in its order
IMAGES = (
    *("pixel_values", "pixel_attention_mask", "image_grid_thw", "image_sizes", "image_position_ids", "num_images"),
    *("num_tiles", "spatial_shapes", "token_type_ids", "mm_token_type_ids"),
)
"""What TRL's batches of prompts with images hold beside ids and masks."""

_PRECISION = {"bf16": torch.bfloat16, "fp16": torch.float16}
_BACKEND = "set entropy_backend to 'forkwise', or "


def _not_ours(trainer: Any, more_inputs: Sequence[str], *, beyond: bool) -> str:
    """Says why our operator is not even tried; "" where it is."""
    if more_inputs:
        return f"only TRL's takes {', '.join(more_inputs)}"
    if beyond:
        return "only TRL's takes the images that another process has"
    if getattr(trainer.args, "torch_compile", False):
        return "torch_compile fixes the head that the model has"
    mro = type(trainer).__mro__
    following = mro[mro.index(HeadMixin) + 1 :]
    owner = next(cls for cls in following if "_get_per_token_logps_and_entropies" in vars(cls))
    made_by = vars(owner)["_get_per_token_logps_and_entropies"].__module__
    if not made_by.startswith("trl."):
        return f"{made_by} computes them in its own way"
    return ""


def _few(ids: Tensor, mask: Tensor, completion_length: int, *, prompt: bool) -> Tensor:
    """Picks tokens for a proof, `(1, L)`: of the longest completion and the prompt before it.

    A prompt with images is left out: tokens stand for them, which mean nothing without.
    """
    row = int(mask[:, -completion_length:].sum(dim=1).argmax())
    real = mask[row].bool()
    before, completion = (
        ids[row, part][real[part]] for part in (slice(-completion_length), slice(-completion_length, None))
    )
    few = few_tokens(before if prompt else before[:0], completion)
    return few if few.shape[1] > 1 else ids[:1, -2:]
