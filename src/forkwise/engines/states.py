"""What methods remember from one rollout to the next, for any engine: equal on all processes, kept in checkpoints."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from forkwise.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

    from forkwise.methods import Method
    from forkwise.methods.base import State


class MethodStates:
    """Keeps the methods' states, and the entropies of the updates since the last rollout that decide the next ones.

    Attributes:
        states: the state of each method that has one, by the method's name.
    """

    def __init__(self) -> None:
        """Starts without states: methods get their first ones with the first rollout."""
        self.states: dict[str, State] = {}
        self.memories: dict[str, dict[str, Any]] = {}  # of methods that remember more than numbers, by their names
        self._outside: dict[str, str] = {}  # digests of what methods take from outside their options
        self._seen: Tensor | None = None  # (2,) float64: sum of the entropies, tokens; of this process

    def watch(self, entropy: Tensor, mask: Tensor) -> None:
        """Counts the entropies in nats of a micro-batch's tokens in."""
        import torch

        if not self.states:
            return
        total = torch.where(mask, entropy.detach(), 0).sum().double()
        sums = torch.stack([total, mask.sum().double()])
        self._seen = sums if self._seen is None else self._seen + sums

    def check_outside(self, methods: Sequence[Method]) -> None:
        """Refuses to go on where what a method takes from outside its options is not what the run began with.

        Raises:
            InputError: naming the method.
        """
        for method in methods:
            if not (text := method.outside()):
                continue
            digest = hashlib.sha256(text.encode()).hexdigest()
            if self._outside.setdefault(method.name, digest) != digest:
                raise InputError(
                    f"A file of the method '{method.name}' has changed since this run began ({method}): put it back, "
                    "or begin a new run."
                )

    def advance(self, methods: Sequence[Method], progress: float, over_processes: Callable[[Tensor], Tensor]) -> None:
        """Makes the states of the next rollout; all processes call this together.

        Args:
            methods: the run's methods, as they were configured.
            progress: the share of the run's updates that is done.
            over_processes: sums a tensor over all processes.
        """
        firsts = {method.name: first for method in methods if (first := method.first_state())}
        if not firsts:
            return
        sums, self._seen = self._seen, None
        total, count = (0.0, 0.0) if sums is None else over_processes(sums).tolist()
        if self.states and count:
            entropy = total / count
            by_name = {method.name: method for method in methods}
            firsts = {name: by_name[name].next_state(self.states[name], entropy, progress) for name in firsts}
        elif self.states:
            return  # nothing has been learned since
        self.states = firsts

    def know(self, name: str, values: State) -> None:
        """Puts numbers into a method's state that it had to see a rollout for."""
        self.states = {**self.states, name: {**self.states[name], **values}}

    def metrics(self, methods: Sequence[Method], acting: Sequence[Method]) -> dict[str, float]:
        """Returns what changes in the course of the run: states and planned options, as `method/NAME/OPTION`.

        Args:
            methods: the run's methods, as they were configured.
            acting: the same with the options of the step, or none if none has acted.
        """
        changing = {
            f"method/{name}/{key}": value for name, state in self.states.items() for key, value in state.items()
        }
        for method, now in zip(methods, acting, strict=bool(acting)):
            changing |= {f"method/{method.name}/{key}": getattr(now, key) for key in method.plans}
        return changing

    def snapshot(self) -> dict[str, Any]:
        """Returns what a checkpoint of this process must hold."""
        return {
            "states": {name: dict(state) for name, state in self.states.items()},
            "seen": self._seen,
            "memories": self.memories,
            "outside": dict(self._outside),
        }

    def restore(self, snapshot: dict[str, Any]) -> None:
        """Takes up what `snapshot` returned."""
        self.states, self._seen = dict(snapshot["states"]), snapshot["seen"]
        self._outside = dict(snapshot.get("outside", {}))
        memories = snapshot.get("memories", {})
        self.memories = {
            name: {entry: tuple(tensor.cpu() for tensor in tensors) for entry, tensors in memory.items()}
            for name, memory in memories.items()
        }
