"""What a verl configuration asks of methods and cannot have. Goes by what a method declares, never by its name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from forkwise.engines.base import needs, quoted, reward_methods, rollout_methods
from forkwise.engines.verl.settings import MethodStage, VerlSettings
from forkwise.errors import InputError
from forkwise.methods import Condition, EntropyTermMethod, LossMethod, Method, Need, Scope, SettingsMethod, TokenMethod
from forkwise.methods.clips import CLIP

GIVEN_ON_VERL = frozenset(
    {
        Need.ENTROPY,
        Need.OLD_ENTROPY,
        Need.LOGPROBS,
        Need.OLD_LOGPROBS,
        Need.SEQUENCE_LOGPROBS,
        Need.IDS,
        Need.GROUPS,
        Need.CORRECT,
        Need.LENGTHS,
        Need.PROGRESS,
        Need.ADVANTAGES,
    }
)
"""What methods are given on verl."""

_ENTROPIES = {Need.ENTROPY, Need.OLD_ENTROPY}
_OF_CURRENT = {Need.ENTROPY, Need.LOGPROBS}
_ACTOR = "actor_rollout_ref.actor"
OF_GROUPS = (
    *("grpo", "grpo_vectorized", "grpo_passk", "gdpo", "gpg", "opo", "rloo", "rloo_vectorized"),
    *("reinforce_plus_plus_baseline", "optimal_token_baseline", "tir_optimal_token_baseline"),
)
"""These estimators of verl take a baseline that is made from the other responses of a prompt."""
_OPEN = {
    f"{_ACTOR}.policy_loss.loss_mode": "vanilla",
    f"{_ACTOR}.clip_ratio_low": 1.0,
    f"{_ACTOR}.clip_ratio_high": 1e9,
    f"{_ACTOR}.clip_ratio_c": 1e9,
}
"""verl's keys of a loss without a clip: ratios from 0 to a billion, for advantages of either sign."""


def refuse(config: Any, settings: VerlSettings, methods: Sequence[Method]) -> None:
    """Refuses what cannot be honoured; `methods` are all that were named.

    Raises:
        InputError: saying what stands in the way, and what to set.
    """
    _check_presets(config, [method for method in methods if isinstance(method, SettingsMethod)])
    if not settings.methods:
        return
    for method in settings.methods:
        if missing := sorted(need.value for need in method.needs() - GIVEN_ON_VERL):
            raise InputError(
                f"The method '{method.name}' needs {', '.join(missing)}, which forkwise has under TRL only: train with "
                "forkwise grpo --method."
            )
        if isinstance(method, EntropyTermMethod):
            raise InputError(
                f"The method '{method.name}' adds a term to the loss with the gradient of the entropies, which "
                "forkwise has under TRL only: train with forkwise grpo --method."
            )
        if method.first_state():
            raise InputError(
                f"The method '{method.name}' remembers something from rollout to rollout, which forkwise has under TRL "
                "only: train with forkwise grpo --method, or leave out options that follow the entropy (@target)."
            )
        method.check_group_size(int(config.actor_rollout_ref.rollout.n))
        method.check_prompts(int(config.data.train_batch_size))
        method.check_longest(int(config.data.max_response_length))
    distillation = config.get("distillation")
    if distillation is not None and distillation.get("enabled", False):
        raise InputError(
            "distillation.enabled=True replaces the loss that advantages enter, so methods would do nothing: set it to "
            "False, or use verl's own trainer mode."
        )
    _check_estimator(config, settings)
    _check_quantities(config, settings)
    _check_loss(config, settings)


def _check_estimator(config: Any, settings: VerlSettings) -> None:
    """Refuses estimators and rewards that are not those of groups, for methods that work on them."""
    algorithm = config.algorithm
    scored = [m for m in settings.methods if m in reward_methods(settings.methods) or Need.CORRECT in m.needs()]
    if scored and algorithm.use_kl_in_reward:
        raise InputError(
            f"The methods {quoted(scored)} go by the rewards, from which algorithm.use_kl_in_reward=True subtracts a "
            "penalty: set it to False."
        )
    if algorithm.adv_estimator in OF_GROUPS and int(config.actor_rollout_ref.rollout.n) < 2:
        raise InputError(
            f"algorithm.adv_estimator={algorithm.adv_estimator} compares the responses of a prompt, and "
            "actor_rollout_ref.rollout.n=1 (verl's default) draws one of each, so advantages would be bare rewards, or "
            "0: set actor_rollout_ref.rollout.n=8."
        )
    makers = [method for method in settings.methods if method.slot == "advantages"]
    if makers and algorithm.adv_estimator != "grpo":
        raise InputError(
            f"The method '{makers[0].name}' makes the advantages of groups itself, from those of GRPO or in their "
            f"place: set algorithm.adv_estimator=grpo, not {algorithm.adv_estimator}."
        )


def _check_quantities(config: Any, settings: VerlSettings) -> None:
    """Refuses entropies that nobody computes, and policies compared with themselves."""
    late, stage = settings.late, settings.stage
    correction = config.algorithm.get("rollout_correction")
    early = [*reward_methods(settings.methods), *rollout_methods(settings.methods)]
    old = needs(early) & _ENTROPIES | needs(late) & (_ENTROPIES if settings.policy == "old" else {Need.OLD_ENTROPY})
    if old and correction is not None and correction.get("bypass_mode", False):
        raise InputError(
            "algorithm.rollout_correction.bypass_mode=True skips the forward pass that the old policy's entropy comes "
            f"from: set it to False{_or_current(settings)}."
        )
    actor = config.actor_rollout_ref.actor
    computed = actor.get("calculate_entropy", False) or actor.get("entropy_coeff")
    if stage is MethodStage.LOSS and Need.ENTROPY in needs(late) and not computed:
        raise InputError(
            f"The entropy of the policy under update is needed: set {_ACTOR}.calculate_entropy=True, or the "
            "policy (algorithm.forkwise.policy, algorithm.entropy_shaping.entropy) to old."
        )
    if stage is MethodStage.UPDATE and settings.policy == "current" and actor.strategy not in ("fsdp", "fsdp2"):
        raise InputError(
            f"The methods {quoted(late)} select among the tokens of an update, which with policy=current is scored "
            f"beforehand; that is for {_ACTOR}.strategy=fsdp or fsdp2, not {actor.strategy}: "
            "+algorithm.forkwise.policy=old."
        )
    updates = _updates(config)
    for method in late:
        if Condition.OFF_POLICY not in method.holds_under():
            continue
        if settings.policy == "old" and method.needs() & _OF_CURRENT:
            raise InputError(
                f"The method '{method.name}' compares the policy under update with the one that drew the rollout, so "
                "with the quantities of the old policy it would do nothing: +algorithm.forkwise.policy=current."
            )
        if settings.policy == "current" and updates <= 1:
            raise _of_one_update(method)


def _updates(config: Any) -> float:
    """Returns how many updates there are per rollout."""
    actor = config.actor_rollout_ref.actor
    return float(config.data.train_batch_size / actor.ppo_mini_batch_size * actor.ppo_epochs)


def _of_one_update(method: Method) -> InputError:
    return InputError(
        f"The method '{method.name}' compares the policy with the one that drew the rollout, which in a run with one "
        f"update per rollout is the same, so it would do nothing: set {_ACTOR}.ppo_epochs=2, or "
        f"{_ACTOR}.ppo_mini_batch_size below data.train_batch_size."
    )


def _or_current(settings: VerlSettings) -> str:
    """Offers the policy under update where that would do."""
    only_late = needs(settings.late) & _ENTROPIES == {Need.ENTROPY}
    early = [m for m in settings.methods if m.scope is Scope.ROLLOUT and m.needs() & _ENTROPIES]
    return ", or the policy (algorithm.forkwise.policy, algorithm.entropy_shaping.entropy) to current" * (
        only_late and not early
    )


def _check_loss(config: Any, settings: VerlSettings) -> None:
    """Refuses losses that do not tell tokens apart."""
    loss = config.actor_rollout_ref.actor.policy_loss.get("loss_mode") or "vanilla"
    per_token = [method for method in settings.methods if isinstance(method, TokenMethod)]
    if per_token and loss == "geo_mean":
        raise InputError(
            f"{_ACTOR}.policy_loss.loss_mode=geo_mean averages the advantages of a response, so {quoted(per_token)} "
            "would not tell its tokens apart: use another loss, such as vanilla or gspo."
        )
    for method in per_token:
        if method.slot == CLIP:
            _check_open(config, method)
        if isinstance(method, LossMethod) and loss != "vanilla":
            raise InputError(
                f"The method '{method.name}' adds a term whose gradient is right only where the loss weighs each token "
                f"by its own ratio: set {_ACTOR}.policy_loss.loss_mode=vanilla, not {loss}."
            )


def _check_open(config: Any, method: TokenMethod) -> None:
    """Refuses a clip of verl's beside that of a method which takes its place."""
    wrong = {key: value for key, value in _OPEN.items() if _select(config, key) != value}
    if wrong:
        wanted = " ".join(f"{key}={value}" for key, value in wrong.items())
        raise InputError(
            f"The method '{method.name}' takes the place of verl's clip, which must be opened: set {wanted}."
        )


def _check_presets(config: Any, presets: Sequence[SettingsMethod]) -> None:
    """Refuses presets whose keys verl has and which are set otherwise: forkwise sets none of them behind one's back."""
    for preset in presets:
        keys = keys_of_preset(preset, int(config.data.max_response_length))
        wrong = {key: value for key, value in keys.items() if _select(config, key) != value}
        if wrong:
            wanted = " ".join(f"{key}={value}" for key, value in wrong.items())
            raise InputError(f"The method '{preset.name}' is, on verl, keys of verl's own: set {wanted}.")
        if Condition.OFF_POLICY in preset.holds_under() and _updates(config) <= 1:
            raise _of_one_update(preset)


def keys_of_preset(preset: SettingsMethod, longest: int) -> Mapping[str, Any]:
    """Translates the fields of TRL that a preset sets into verl's keys.

    Raises:
        InputError: verl has nothing of the kind.
    """
    fields = dict(preset.settings())
    keys: dict[str, Any] = {}
    aggregation = {"grpo": "seq-mean-token-mean", "dapo": "token-mean", "cispo": "token-mean"}
    aggregation |= {"bnpo": "token-mean", "dr_grpo": "seq-mean-token-sum-norm"}
    for field, value in fields.items():
        if field == "scale_rewards" and value in ("group", "none"):
            keys |= {"algorithm.adv_estimator": "grpo", "algorithm.norm_adv_by_std_in_grpo": value == "group"}
        elif field == "importance_sampling_level":
            keys[f"{_ACTOR}.policy_loss.loss_mode"] = "gspo" if value == "sequence" else "vanilla"
        elif field == "loss_type" and value in aggregation:
            keys[f"{_ACTOR}.loss_agg_mode"] = aggregation[value]
            if value == "dr_grpo":
                keys[f"{_ACTOR}.loss_scale_factor"] = longest
            if value == "cispo":  # TRL bounds the ratio from above only, at epsilon_high itself
                keys |= {f"{_ACTOR}.policy_loss.loss_mode": "cispo", f"{_ACTOR}.clip_ratio_low": 1.0}
        elif field == "epsilon":
            keys[f"{_ACTOR}.clip_ratio_low"] = value
        elif field == "epsilon_high":
            keys[f"{_ACTOR}.clip_ratio_high"] = value - 1 if fields.get("loss_type") == "cispo" else value
        elif field == "entropy_coef":
            keys[f"{_ACTOR}.entropy_coeff"] = value
        else:
            raise InputError(
                f"The method '{preset.name}' sets {field} of TRL to {value}, which verl does not have: train with "
                "forkwise grpo --method."
            )
    return keys


def _select(config: Any, key: str) -> Any:
    for part in key.split("."):
        config = config.get(part) if hasattr(config, "get") else None
    return config
