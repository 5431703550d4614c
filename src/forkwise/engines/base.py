"""The base of all engine adapters: what they log about the shaping of advantages, and their messages.

An adapter puts methods into the training loop of an engine (TRL, verl). It checks alpha and kappa with
`forkwise.constants`, adds the totals of each loss to an `ActionLog`, logs its metrics, and raises `Host.not_shaped` in
a step that no method reached. `forkwise.testing.engines` holds the checks that every adapter must pass.

Nothing here imports torch when the module is loaded: verl loads it in every process.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from forkwise.methods import Method

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

    def not_shaped(self, what: str, methods: Sequence[Method] = ()) -> RuntimeError:
        """Returns the error of a step whose loss lacked the methods' advantages; `what` says where they were lost."""
        only_shaping = all(method.name == "entropy_advantage" for method in methods)
        failure = "Advantages were not entropy-shaped" if only_shaping else f"The methods {quoted(methods)} did not act"
        return RuntimeError(f"{failure}: {what}. {self.remedy}")

    @property
    def remedy(self) -> str:
        """Says what the user can do about an engine that has changed."""
        return (
            f"{self.release}; train with a {self.name} release that forkwise is tested with ({self.page}), or "
            f"{self.without}."
        )


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
