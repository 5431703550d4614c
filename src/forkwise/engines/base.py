"""The contract between methods and engines: what an adapter gives, what it gets back, and what all adapters log.

An adapter puts methods into the training loop of an engine (TRL, verl). It goes by what a method declares (stage,
scope, needs, conditions), never by its name:

- A **rollout** is all completions, over all processes, that one policy drew for one round of learning. Methods of
  `reward_methods` get it as a `Rollout` (`(N,)` tensors, the completions of a prompt with one group number) and give
  advantages `(N,)`; those of `rollout_methods` then get it as `Tokens` and give advantages `(B, T)`.
- An **update** is all tokens, over all micro-batches and processes, between two steps of the optimizer.
  `update_methods` act on it, in their order, just before the loss. If all of them have `Scope.TOKEN`, each micro-batch
  may be given by itself; else the whole update, its rows in an order that does not depend on how it was cut.
- `Tokens` are `(B, T)`: a row per completion, a column per token of it, starting at its first. `mask` is True at the
  tokens that the loss counts: not the prompt, not padding, not what a tool said. H and log-probs are nats at the
  sampling temperature, the log-prob at a column that of the token there. "Old" is the policy that drew the rollout (or
  that the engine recomputes as such), the others the policy under update. Nothing carries a gradient.
- Methods of `entropy_terms` get the whole update too, and give slopes `(B, T)` by `run_entropy_terms`. The engine adds
  `sum slope H` to the loss of each micro-batch, H its own entropies with their gradient, so that an update's
  micro-batches and processes add up to one sum.
- What comes back takes the place of the engine's advantages in the engine's own loss, and is not whitened, clipped or
  normalised again.

An adapter checks alpha and kappa with `forkwise.constants`, adds the totals of each call to an `ActionLog`, logs its
metrics, and raises `Host.not_shaped` in a step that no method reached. Without methods (alpha 0) the engine is itself,
bit for bit, with the engine's own head (on TRL `entropy_backend=trl`; our head rounds otherwise).
`forkwise.testing.engines` holds any adapter to what one process and given advantages show of this.

Nothing here imports torch when the module is loaded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from forkwise.methods import EntropyTermMethod, Method, Need, RewardMethod, Scope, TokenMethod

if TYPE_CHECKING:
    from torch import Tensor

LOGGED = ("psi_over_adv", "capped_frac", "psi_pos", "psi_neg")
"""The numbers of `forkwise.core.ShapingStats` that are logged, as `shaping/NAME`."""

_MOSTLY_CAPPED = 0.9  # above it psi is |A| / kappa nearly everywhere: a constant factor, not entropy, shapes the update


@dataclass(frozen=True)
class Host:
    """The engine that an adapter works in, as its messages name it.

    Attributes:
        name: the engine's name.
        release: the installed package and its version.
        page: the page of the documentation that lists the releases that forkwise is tested with.
        alpha: the name that the engine gives to the setting alpha.
        without: the advice on how to train without shaping.
    """

    name: str
    release: str
    page: str
    alpha: str
    without: str

    def not_shaped(self, fault: str, methods: Sequence[Method] = ()) -> RuntimeError:
        """Returns the error of a step whose loss lacked the methods' advantages; `fault` says where they were lost."""
        only_shaping = all(method.name == "entropy_advantage" for method in methods)
        failure = "Advantages were not entropy-shaped" if only_shaping else f"The methods {quoted(methods)} did not act"
        return RuntimeError(f"{failure}: {fault}. {self.remedy}")

    @property
    def remedy(self) -> str:
        """Says what the user can do about an engine that has changed."""
        return (
            f"{self.release}; train with a {self.name} release that forkwise is tested with ({self.page}), or "
            f"{self.without}."
        )


def reward_methods(methods: Sequence[Method]) -> list[RewardMethod]:
    """Picks the methods that make advantages from the rewards of a rollout."""
    return [m for m in methods if isinstance(m, RewardMethod)]


def rollout_methods(methods: Sequence[Method]) -> list[TokenMethod]:
    """Picks the methods that make advantages per token as soon as a rollout is scored."""
    return [m for m in methods if isinstance(m, TokenMethod) and m.scope is Scope.ROLLOUT]


def update_methods(methods: Sequence[Method]) -> list[TokenMethod]:
    """Picks the methods that act just before the loss, or within it."""
    return [m for m in methods if isinstance(m, TokenMethod) and m.scope is not Scope.ROLLOUT]


def entropy_terms(methods: Sequence[Method]) -> list[EntropyTermMethod]:
    """Picks the methods that add a term in the entropies of an update to the loss."""
    return [m for m in methods if isinstance(m, EntropyTermMethod)]


def needs(methods: Sequence[Method]) -> frozenset[Need]:
    """Collects everything that at least one of the methods requires."""
    return frozenset().union(*(method.needs() for method in methods))


def quoted(methods: Sequence[Method]) -> str:
    """Lists the names of the methods in quotes, for messages."""
    return ", ".join(f"'{method.name}'" for method in methods)


class ActionLog:
    """Keeps the totals of what the methods did to advantages since the last log; all processes add them up in step."""

    def __init__(self, alpha: str) -> None:
        """Starts with empty totals; `alpha` is the name that the engine gives to the setting alpha."""
        self.totals: dict[str, Tensor] = {}
        self._alpha = alpha
        self._warned = False

    def add(self, totals: Mapping[str, Tensor]) -> None:
        """Adds totals over all processes, named as `forkwise.methods.chain.run_token_methods` names them."""
        for name, total in totals.items():
            before = self.totals.get(name)
            self.totals[name] = total if before is None else before + total

    def take(self) -> tuple[dict[str, float], str | None]:
        """Returns the metrics since the last call, and once per run a warning that nearly all tokens are at the cap."""
        from forkwise.core import ShapingStats
        from forkwise.methods.chain import SHAPING, shares

        metrics: dict[str, float] = {}
        warning = None
        totals, self.totals = self.totals, {}
        for name, total in totals.items():
            numbers = ShapingStats.from_totals(total).as_dict() if name == SHAPING else shares(total)
            metrics |= {f"{name}/{key}": value for key, value in numbers.items() if name != SHAPING or key in LOGGED}
        capped = metrics.get("shaping/capped_frac", 0.0)
        if capped > _MOSTLY_CAPPED and not self._warned:
            self._warned = True
            warning = (
                f"{capped:.0%} of the tokens are at the cap |A| / kappa, so their entropy hardly matters. Lower "
                f"{self._alpha}, or start from a policy with less entropy (after SFT)."
            )
        return metrics, warning
