"""What a config of TRL asks of a method and cannot have. Goes by what the method declares, never by its name."""

from __future__ import annotations

from collections.abc import Sequence

from trl import GRPOConfig

from forkwise.engines.trl.guard import sees_rollouts
from forkwise.engines.trl.methods_of_config import MethodSettings
from forkwise.engines.which import refuse_beyond_trls_head, why_not_ppo
from forkwise.errors import InputError
from forkwise.methods import Condition, EntropyTermMethod, LossMethod, Method, Need, ReplayMethod, Scope
from forkwise.methods.hints import HintMethod

_OWN_DRAWS = {Need.REDRAWN, Need.OTHER_LOGPROBS}
_OTHER_WEIGHTS = ("sapo", "vespo")  # losses of TRL whose weight of a token is not its ratio


class RolloutSettings(MethodSettings, GRPOConfig):
    """What a config says of how rollouts are drawn and learned from, by which methods are refused."""

    max_draws: int
    live_by: str | None

    @property
    def per_sequence(self) -> bool:
        """Tells whether the importance ratio, or the weight of a token, is one of its whole sequence."""
        return bool(self.importance_sampling_level == "sequence" or self.loss_type == "luspo")


def refuse(config: RolloutSettings, methods: Sequence[Method]) -> None:
    """Refuses settings under which a method could not act as it should.

    Raises:
        InputError: saying what stands in the way, and what to set.
    """
    if config.max_draws > 1 and not config.has_groups:
        raise InputError(
            f"max_draws is {config.max_draws}: PPO has no groups whose rewards could differ; leave it at 1."
        )
    if config.live_by is not None and config.max_draws == 1:
        raise InputError("live_by says which groups are drawn again, and max_draws=1 draws once: set it to 10.")
    _check_seeing(methods)
    older = any(isinstance(method, ReplayMethod) and method.of_older_policies for method in methods)
    for method in methods:
        method.check_installed()
        method.check_given()
        if config.entropy_backend == "trl":
            refuse_beyond_trls_head(method)
        _check_draws(config, method)
        _check_groups(config, method)
        _check_loss(config, method)
        _check_updates(config, method, older)


def _check_seeing(methods: Sequence[Method]) -> None:
    """Refuses methods that do not go with images beside one that needs them."""
    seeing = [method for method in methods if Need.IMAGE_SIMILARITY in method.needs()]
    blind = [method for method in methods if method not in seeing and sees_rollouts([method])]
    if seeing and blind:
        raise InputError(
            f"The methods '{seeing[0].name}' and '{blind[0].name}' cannot be combined: the first acts where there "
            "are images, and the second, which selects among tokens or acts on rollouts, goes with texts alone."
        )


def _check_draws(config: RolloutSettings, method: Method) -> None:
    """Refuses ways of drawing that a method could not go by, or that take away what it learns from."""
    if method.needs() & _OWN_DRAWS and (config.use_vllm or config.max_draws > 1):
        field = "use_vllm=True" if config.use_vllm else f"max_draws={config.max_draws}"
        raise InputError(
            f"The method '{method.name}' decides which completions are trained on, and draws with TRL's own "
            f"generation, which does not go with {field}: leave one of them out."
        )
    if Condition.EQUAL_GROUPS in method.holds_under() and config.max_draws > 1:
        raise InputError(
            f"The method '{method.name}' learns from groups whose answers earn all the same, which dynamic sampling "
            f"(max_draws={config.max_draws}) takes away: leave one of them out."
        )
    other_prompt = Need.OTHER_LOGPROBS in method.needs() or isinstance(method, HintMethod)
    if other_prompt and config.beta != 0:
        raise InputError(
            f"The method '{method.name}' learns completions under another prompt than that under which the "
            "reference policy of beta scores them: set beta to 0."
        )


def _check_groups(config: RolloutSettings, method: Method) -> None:
    """Refuses groups and rollouts that are too small for a method, completions too short, and PPO, which has none."""
    method.check_longest(int(config.max_completion_length))
    mine = config.per_device_train_batch_size * config.steps_per_generation
    if Need.HIDDEN in method.needs() and mine % config.num_generations:
        raise InputError(
            f"The method '{method.name}' compares the answers of a group by their hidden states, which stay on "
            f"their process: make per_device_train_batch_size x steps_per_generation ({mine}) a multiple of "
            f"num_generations ({config.num_generations})."
        )
    if config.has_groups:
        method.check_group_size(int(config.num_generations))
        assert config.generation_batch_size is not None  # TRL fills it in
        method.check_prompts(config.generation_batch_size // config.num_generations)
    if not config.has_groups and (why := why_not_ppo(method)):
        raise InputError(f"The method '{method.name}' {why}.")
    if method.slot == "advantages" and config.multi_objective_aggregation != "sum_then_normalize":
        raise InputError(
            f"The method '{method.name}' adds up the weighted rewards: leave multi_objective_aggregation at "
            "'sum_then_normalize'."
        )


def _check_loss(config: RolloutSettings, method: Method) -> None:
    """Refuses losses, and terms of TRL's in them, that a method does not go with."""
    if isinstance(method, LossMethod) and (config.per_sequence or config.loss_type in _OTHER_WEIGHTS):
        raise InputError(
            f"The method '{method.name}' adds a term whose gradient is right only where the loss weighs each "
            f"token by its own ratio, which loss_type={config.loss_type!r} with importance_sampling_level="
            f"{config.importance_sampling_level!r} does not: use 'dapo' (or another of GRPO's) and 'token'."
        )
    bonus = any(getattr(config, name, None) for name in ("entropy_coef", "use_adaptive_entropy"))
    if isinstance(method, EntropyTermMethod) and bonus:
        raise InputError(
            f"The method '{method.name}' and TRL's entropy bonus (entropy_coef, use_adaptive_entropy) both "
            "give the entropy a gradient: leave one of them out."
        )
    if isinstance(method, HintMethod) and (bonus or config.top_entropy_quantile < 1):
        raise InputError(
            f"The method '{method.name}' imitates completions by their likelihood alone, on which TRL's entropy bonus "
            "(entropy_coef, use_adaptive_entropy) and top_entropy_quantile would act, too: leave them out."
        )
    if Need.REPLAY in method.needs() and Need.REDRAWN in method.needs() and config.loss_type == "bnpo":
        raise InputError(
            f"The method '{method.name}' can learn from fewer completions than a rollout has, and loss_type='bnpo' "
            "averages over micro-batches, some of which would be empty: use 'dapo', or another of TRL's."
        )


def _check_updates(config: RolloutSettings, method: Method, older: bool) -> None:
    """Refuses updates that span rollouts, and policies compared with themselves.

    `older` says that completions of older policies are learned from, too.
    """
    steps, updates = config.gradient_accumulation_steps, config.steps_per_generation * config.num_iterations
    if Condition.OFF_POLICY in method.holds_under() and steps % updates == 0 and not older:
        raise InputError(
            f"The method '{method.name}' compares the policy with the one that drew the rollout, which in a "
            "run with one update per rollout is the same, so it would do nothing: set num_iterations to 2, or "
            "steps_per_generation to twice gradient_accumulation_steps."
        )
    if config.steps_per_generation % steps == 0:
        return
    multiple = (
        f"set steps_per_generation ({config.steps_per_generation}) to a multiple of gradient_accumulation_steps "
        f"({steps})"
    )
    if Need.REPLAY in method.needs():
        raise InputError(
            f"The method '{method.name}' learns from completions in the place of a rollout, so that no update "
            f"may span two: {multiple}."
        )
    if method.scope is Scope.UPDATE:
        raise InputError(
            f"The method '{method.name}' selects among all tokens of an update, which must come from one "
            f"rollout: {multiple}."
        )
