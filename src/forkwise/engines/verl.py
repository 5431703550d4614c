"""verl's plugin: trainer modes that shape advantages by entropy (arXiv 2506.14758, Eq. 5-7), for verl 0.9 and 0.10.

verl imports this module at the end of `import verl`, in every process (entry point group `verl.plugins`). Trainers
are registered later, when verl imports its own: in most processes that is never, and it would take seconds.

A configuration with `algorithm.entropy_shaping` under a trainer that does not shape raises `InputError`.
`forkwise doctor verl` says whether all this works in an installation, since verl keeps errors of plugins to itself.
"""

from __future__ import annotations

import functools
import importlib
import importlib.abc
import importlib.machinery
import logging
import sys
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

from forkwise.errors import InputError

MODES = {
    "entropy_sync": "sync",
    "entropy_colocate_async": "colocate_async",
    "entropy_separate_async": "separate_async",
}
"""Our trainer modes, and the mode of verl that each extends."""

_TRAINERS = "verl.trainer.ppo.v1"
_OLD_TRAINER = "verl.trainer.ppo.ray_trainer"

registration_errors: list[Exception] = []
"""Why our trainers could not be registered."""


def _register() -> None:
    """Registers the trainers; failing, it leaves verl's own as they are."""
    try:
        importlib.import_module("forkwise.engines.verl_trainer")
    except Exception as error:
        registration_errors.append(error)
        logging.getLogger(__name__).exception("forkwise has no entropy-shaped trainers for this verl")


def _guard_old_trainer() -> None:
    refuse_to_ignore_us(sys.modules[_OLD_TRAINER].RayPPOTrainer, ())


def refuse_to_ignore_us(trainer: Any, shaping: type | tuple[type, ...]) -> None:
    """Makes `trainer` raise for a configuration that asks for shaping, unless it is a `shaping` trainer."""
    construct = trainer.__init__

    @functools.wraps(construct)
    def checked(self: Any, config: Any, *args: Any, **kwargs: Any) -> None:
        if not isinstance(self, shaping) and config.algorithm.get("entropy_shaping") is not None:
            raise InputError(
                f"algorithm.entropy_shaping is set, but {type(self).__name__} does not shape advantages: set "
                f"trainer.v1.trainer_mode to one of {', '.join(MODES)} (with trainer.use_v1=True), or remove the keys."
            )
        construct(self, config, *args, **kwargs)

    trainer.__init__ = checked


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


for _name, _then in ((_TRAINERS, _register), (_OLD_TRAINER, _guard_old_trainer)):
    if _name in sys.modules:
        _then()
    else:
        sys.meta_path.insert(0, _AfterImport(_name, _then))
