"""On which engines a method runs, by what it declares: the rules that engines refuse by, without loading an engine."""

from __future__ import annotations

from forkwise.errors import InputError
from forkwise.methods import (
    EntropyTermMethod,
    LossMethod,
    Method,
    Need,
    Scope,
    SettingsMethod,
    TokenMethod,
    settings_of,
)
from forkwise.methods.clips import CLIP

GIVEN_ASYNC = frozenset({Need.ENTROPY, Need.LOGPROBS, Need.OLD_LOGPROBS, Need.PROGRESS})
"""What methods are given in TRL's asynchronous GRPO."""


_NOT_OF_TRLS_HEAD = frozenset({Need.SUM_P2_LOG, Need.TEMPERED_LOGPROBS, Need.NUCLEUS_ENTROPY})


def refuse_beyond_trls_head(method: Method, since: str = "") -> None:
    """Refuses a method that needs what TRL's own head does not give; `since` says why it is that one."""
    beyond = ", ".join(sorted(need.value for need in method.needs() & _NOT_OF_TRLS_HEAD))
    if beyond:
        raise InputError(
            f"The method '{method.name}' needs the {beyond}, which TRL's own head does not give{since}: set "
            "entropy_backend to 'forkwise', or take an option of the method that does without (docs/papers.md)."
        )


def why_not_ppo(method: Method) -> str:
    """Says why a method cannot act where a critic makes the advantages; "" if it can."""
    if method.slot == "advantages" or not {"scale_rewards", "max_draws"}.isdisjoint(settings_of([method])):
        return "compares the answers of a group; PPO has a critic"
    if method.scope is Scope.ROLLOUT:
        return "changes the advantages of a rollout, before PPO's critic makes its own"
    return ""


def why_not_async(method: Method) -> str:
    """Says why a method cannot act on tokens that come one after another; "" if it can."""
    missing = sorted(need.value for need in method.needs() - GIVEN_ASYNC)
    if not isinstance(method, TokenMethod) or method.scope is not Scope.TOKEN:
        return "sees more than one token at a time, or is settings of synchronous GRPO"
    if isinstance(method, LossMethod) or method.slot == CLIP:
        return "takes the place of the clip or of a term of the loss"
    if method.first_state():
        return "remembers something from rollout to rollout"
    return f"needs {', '.join(missing)}" if missing else ""


def engines_of(kind: type[Method]) -> list[str]:
    """Lists the engines that a method with its default options runs on."""
    from forkwise.engines.verl.refusals import GIVEN_ON_VERL, keys_of_preset

    method = kind()
    names = ["TRL"]
    if not why_not_ppo(method) and settings_of([method]).get("importance_sampling_level") != "sequence":
        names.append("TRL's PPO")
    if not why_not_async(method):
        names.append("TRL async")
    on_verl = not method.needs() - GIVEN_ON_VERL and not method.first_state()
    on_verl = on_verl and not isinstance(method, EntropyTermMethod)
    if isinstance(method, SettingsMethod):
        try:
            keys_of_preset(method, longest=1)
        except InputError:
            on_verl = False
    return [*names, "verl"] if on_verl else names
