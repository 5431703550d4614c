"""Trainer modes for verl that shape advantages by entropy (arXiv 2506.14758, Eq. 5-7), for verl 0.9.

verl imports this package at the end of `import verl`, in every process (entry point group `verl.plugins`). Trainers are
registered later, when verl imports its own: in most processes that is never, and it would take seconds. So is our head
(see `engines.verl.head`), beside verl's fused kernels.

A configuration with `algorithm.entropy_shaping` under a trainer that does not shape raises `InputError` (see
`engines.verl.guard`). `forkwise doctor verl` says whether all this works in an installation, since verl keeps errors of
plugins to itself.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import logging
import sys
from collections.abc import Callable, Sequence
from types import ModuleType

from forkwise.engines.verl.guard import guard_advantages, guard_config, guard_trainer
from forkwise.engines.verl.settings import MODES

__all__ = ["MODES", "registration_errors"]

_CHECKS = "verl.utils"
_TRAINERS = "verl.trainer.ppo.v1"
_HEADS = "verl.models.transformers.monkey_patch"
_ADVANTAGES = "verl.trainer.ppo.ray_trainer"  # of all trainers; and the old trainer itself

registration_errors: list[Exception] = []
"""Errors of the trainers that could not be registered or guarded."""


def _noted(action: Callable[[], object]) -> None:
    """Runs one step of the registration; a failure leaves verl as it is, and is kept for the doctor to report."""
    try:
        action()
    except Exception as error:
        registration_errors.append(error)
        logging.getLogger(__name__).exception("forkwise does not fit this verl")


def _register() -> None:
    _noted(lambda: importlib.import_module("forkwise.engines.verl.trainer"))


def _guard_checks() -> None:
    package = sys.modules[_CHECKS]
    _noted(lambda: guard_config(package.config, package))


def _guard_trainers() -> None:
    module = sys.modules[_ADVANTAGES]
    _noted(lambda: guard_advantages(module))
    _noted(lambda: guard_trainer(module.RayPPOTrainer))


def _offer_head() -> None:
    # Loaded only here: it imports torch.
    _noted(lambda: importlib.import_module("forkwise.engines.verl.head").offer_head(sys.modules[_HEADS]))


class _AfterImport(importlib.abc.MetaPathFinder):
    """Calls `then` right after the module `name` has been imported; finds nothing itself."""

    def __init__(self, name: str, then: Callable[[], None]) -> None:
        self.name, self.then = name, then

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname != self.name:
            return None
        for finder in sys.meta_path:
            spec = None if finder is self else finder.find_spec(fullname, path, target)
            if spec is not None:
                if spec.loader is not None:
                    spec.loader = _Loader(spec.loader, self.then)
                return spec
        return None


class _Loader(importlib.abc.Loader):
    def __init__(self, loader: importlib.abc.Loader, then: Callable[[], None]) -> None:
        self.loader, self.then = loader, then

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        return self.loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        module.__loader__ = self.loader  # what inspect and pickle look at
        if module.__spec__ is not None:
            module.__spec__.loader = self.loader
        self.loader.exec_module(module)
        self.then()


for _name, _then in (
    (_CHECKS, _guard_checks),
    (_TRAINERS, _register),
    (_ADVANTAGES, _guard_trainers),
    (_HEADS, _offer_head),
):
    if _name in sys.modules:
        _then()
    else:
        sys.meta_path.insert(0, _AfterImport(_name, _then))
