"""verl's batches as methods see them, and back: responses of different lengths, jagged or padded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad
from verl.workers.utils.padding import response_to_nested

from forkwise.core import ShapingStats
from forkwise.engines.base import needs, quoted, reward_methods, rollout_methods
from forkwise.engines.verl.settings import MethodStage, VerlSettings
from forkwise.errors import InputError
from forkwise.methods import Need, Rollout, TokenMethod, Tokens
from forkwise.methods.chain import SHAPING, run_reward_methods, run_token_methods

# Fields that the driver adds to verl's batch, one number per response, and a number of the whole batch.
GROUPS = "forkwise_groups"  # the prompt
CORRECT = "forkwise_correct"
ROWS = "forkwise_rows"  # the place of the response among all of the rollout, by its key
SEED = "forkwise_seed"
PROGRESS = "forkwise_progress"  # the share of the run's updates that is done

PREFIX = "forkwise_totals/"
"""Names of totals among verl's metrics begin with it; `max` or `min` in a name has a meaning for verl."""


def to_padded(values: Any, width: int | None = None) -> Tensor:
    """Returns `(B, T)` with zeros behind each response; `width` is at least the longest."""
    padded: Tensor = values.to_padded_tensor(0) if values.is_nested else values
    return padded if width is None or padded.shape[1] == width else pad(padded, (0, width - padded.shape[1]))


def like(values: Tensor, layout: Any) -> Tensor:
    """Returns padded values in the layout of `layout`, which is jagged or padded."""
    if not layout.is_nested:
        return values
    nested: Tensor = response_to_nested(values, layout)
    return nested


def tokens_of(
    data: Any,
    wanted: frozenset[Need],
    *,
    logprobs: Tensor | None = None,
    entropy: Tensor | None = None,
    seed: int = 0,
    progress: float = 0.0,
) -> Tokens:
    """Presents a batch of verl as methods see it, padded, with the tensors that they require.

    Args:
        data: what TransferQueue or a worker holds of the batch.
        wanted: what the methods need.
        logprobs: `(B, T)` of the policy under update; None: those of the old one.
        entropy: the same.
        seed: of random choices.
        progress: the share of the run's updates that is done.

    Raises:
        KeyError: a field of the batch that is needed is not there.
    """
    mask = to_padded(data["response_mask"]) != 0
    old: dict[str, Tensor | None] = {}
    for name, field, users in (
        ("old_logprobs", "old_log_probs", {Need.OLD_LOGPROBS} | ({Need.LOGPROBS} if logprobs is None else set())),
        ("old_entropy", "entropy", {Need.OLD_ENTROPY} | ({Need.ENTROPY} if entropy is None else set())),
    ):
        old[name] = to_padded(data[field], mask.shape[1]) if wanted & users else None
        if old[name] is not None and data[field].is_nested:
            check_lengths(data, field)
    return Tokens(
        to_padded(data["advantages"], mask.shape[1]),
        mask,
        entropy=old["old_entropy"] if entropy is None else entropy.detach(),
        old_entropy=old["old_entropy"],
        logprobs=old["old_logprobs"] if logprobs is None else logprobs.detach(),
        old_logprobs=old["old_logprobs"],
        ids=to_padded(data["responses"], mask.shape[1]) if Need.IDS in wanted else None,
        groups=data[GROUPS] if Need.GROUPS in wanted else None,
        correct=data[CORRECT] if Need.CORRECT in wanted else None,
        progress=progress,
        states={},
        seed=seed,
    ).only(wanted)


def check_lengths(data: Any, *names: str) -> None:
    """Refuses responses whose lengths differ from field to field."""
    lengths = data["response_mask"].offsets().diff()
    for name in names:
        if not torch.equal(data[name].offsets().diff(), lengths):
            raise ValueError(f"{name} has other response lengths than the mask, {lengths.tolist()}.")


@dataclass(frozen=True)
class Acted:
    """What the methods on the driver made of a rollout.

    Attributes:
        advantages: in verl's layout, padding rows and all; None where no method acted there.
        totals: of the methods, as `run_token_methods` names them.
        fields: what the workers will need besides: `GROUPS`, `CORRECT`, `ROWS`, each `(B,)`.
    """

    advantages: Tensor | None
    totals: dict[str, Tensor]
    fields: dict[str, Tensor]


def act_on_rollout(
    settings: VerlSettings, data: Any, keys: Sequence[str], real: Sequence[bool], *, seed: int, progress: float = 0.0
) -> Acted:
    """Runs the methods that act on the driver: on rewards, on whole rollouts, and with the old policy's quantities.

    Args:
        settings: the methods.
        data: the fields of the batch after verl's advantage stage.
        keys: verl's name of each row, `PROMPT_SESSION_TRAJECTORY`.
        real: False for the rows with which verl pads a batch.
        seed: of random choices.
        progress: the share of the run's updates that is done.

    Raises:
        InputError: several trajectories of one answer, for methods that count answers.
        KeyError: a field that is needed is not there.
    """
    settings = settings.at(progress)
    late = settings.late
    on_driver = [rollout_methods(settings.methods), late if settings.stage is MethodStage.DRIVER else []]
    rewarding = reward_methods(settings.methods)
    wanted = needs([*on_driver[0], *on_driver[1]])
    fields: dict[str, Tensor] = {}
    numbers = {key: i for i, key in enumerate(sorted(keys))}
    rows = torch.tensor([numbers[key] for key in keys])
    of_workers = needs(late) if settings.stage in (MethodStage.LOSS, MethodStage.UPDATE) else frozenset()
    if settings.stage is MethodStage.UPDATE:
        fields[ROWS] = rows
    extra = wanted | of_workers | (needs(rewarding) | {Need.GROUPS, Need.CORRECT} if rewarding else frozenset())
    shared: dict[str, Any] = {}
    if extra & {Need.GROUPS, Need.CORRECT} or on_driver[0]:
        _check_trajectories(settings, keys, real)
        prompts = {key.rsplit("_", 2)[0]: None for key in sorted(keys)}
        numbered = {prompt: i for i, prompt in enumerate(prompts)}
        shared[GROUPS] = torch.tensor([numbered[key.rsplit("_", 2)[0]] for key in keys])
    if Need.CORRECT in extra:
        shared["rewards"] = to_padded(data["rm_scores"]).sum(dim=1)
        shared[CORRECT] = shared["rewards"] > 0
    for need, name in ((Need.GROUPS, GROUPS), (Need.CORRECT, CORRECT)):
        if need in of_workers:
            fields[name] = shared[name]
    if not (rewarding or any(on_driver)):
        return Acted(None, {}, fields)

    order = rows.argsort()
    order = order[torch.tensor(real)[order]]  # rows of padding are no completions
    everything = _Padded(data, shared, order)
    totals: dict[str, Tensor] = {}
    advantages = everything["advantages"]
    if rewarding:
        advantages, totals = _from_rewards(settings, everything)
    for methods in on_driver:
        if methods:
            fields_now = {**_fields_for(methods, everything), "advantages": advantages}
            batch = tokens_of(fields_now, needs(methods), seed=seed, progress=progress)
            advantages, counted = run_token_methods(methods, batch)
            totals |= counted
    whole = to_padded(data["advantages"]).clone()
    whole[order] = advantages.to(whole.dtype)
    return Acted(like(whole, data["advantages"]), totals, fields)


class _Padded(dict[str, Tensor]):
    """The fields of a batch, padded to one width and in the order of `rows`, each made when it is first asked for."""

    def __init__(self, data: Any, shared: Mapping[str, Any], rows: Tensor) -> None:
        super().__init__({name: values[rows] for name, values in shared.items()})
        self._data, self._rows = data, rows

    def __missing__(self, name: str) -> Tensor:
        field = self._data[name]
        if field.is_nested:
            check_lengths(self._data, name)
        self[name] = to_padded(field, to_padded(self._data["response_mask"]).shape[1])[self._rows]
        return self[name]


def _fields_for(methods: Sequence[TokenMethod], batch: _Padded) -> dict[str, Tensor]:
    """Returns the fields of a batch that the methods need."""
    by_need = {
        "old_log_probs": {Need.LOGPROBS, Need.OLD_LOGPROBS},
        "entropy": {Need.ENTROPY, Need.OLD_ENTROPY},
        "responses": {Need.IDS},
        GROUPS: {Need.GROUPS},
        CORRECT: {Need.CORRECT},
    }
    wanted = needs(methods)
    return {name: batch[name] for name in ["response_mask", *(n for n, of in by_need.items() if wanted & of)]}


def _from_rewards(settings: VerlSettings, batch: _Padded) -> tuple[Tensor, dict[str, Tensor]]:
    """Returns the advantages `(B, T)` that the methods of the reward stage make, and their totals."""
    methods = reward_methods(settings.methods)
    mask = batch["response_mask"] != 0
    first = mask.int().argmax(dim=1)
    of_engine = batch["advantages"].gather(1, first[:, None])[:, 0]  # GRPO's: the same at each token of a response
    mean_logprobs = None
    if Need.SEQUENCE_LOGPROBS in needs(methods):
        sums = torch.where(mask, batch["old_log_probs"], 0).sum(dim=1)
        mean_logprobs = sums / mask.sum(dim=1)  # NaN without tokens
    rollout = Rollout(batch["rewards"], batch[GROUPS], batch[CORRECT], of_engine, mean_logprobs, mask.sum(dim=1))
    per_completion, totals = run_reward_methods(methods, rollout)
    return torch.where(mask, per_completion[:, None], 0), totals


def _check_trajectories(settings: VerlSettings, keys: Sequence[str], real: Sequence[bool]) -> None:
    """Refuses several trajectories of one answer (an agent's): methods count one row per answer."""
    sessions = [key.rsplit("_", 1)[0] for key, is_real in zip(keys, real, strict=True) if is_real]
    if len(set(sessions)) < len(sessions):
        counting = [m for m in settings.methods if m.needs() & {Need.GROUPS, Need.CORRECT} or m.slot == "advantages"]
        raise InputError(
            f"The methods {quoted(counting)} count completions, and here one answer has several trajectories: use an "
            "agent loop with one trajectory per answer, or other methods."
        )


# -------------------------------------------------------------------------------------------- totals in verl's metrics


def name_totals(totals: Mapping[str, Tensor], methods: Sequence[TokenMethod]) -> dict[str, float]:
    """Returns totals as numbers that verl's metrics can carry: verl knows scalars, and reads names."""
    parts = {f"{i}": totals[f"method/{method.name}"] for i, method in enumerate(methods)}
    if SHAPING in totals:
        parts["psi"] = totals[SHAPING]
    return {f"{PREFIX}{part}_{j}": x for part, values in parts.items() for j, x in enumerate(values.tolist())}


def take_totals(metrics: dict[str, Any], methods: Sequence[TokenMethod], prefix: str) -> dict[str, Tensor] | None:
    """Takes the totals out of verl's metrics; None if they are not there, because the methods did not act."""
    sizes = {f"{i}": (f"method/{method.name}", 4) for i, method in enumerate(methods)}
    sizes["psi"] = (SHAPING, len(ShapingStats(torch.empty(6)).totals))
    totals: dict[str, Tensor] = {}
    for part, (name, size) in sizes.items():
        values = [metrics.pop(f"{prefix}{PREFIX}{part}_{j}", None) for j in range(size)]
        if None not in values:
            totals[name] = torch.tensor(values, dtype=torch.float64)
        elif part != "psi":
            return None
    return totals
