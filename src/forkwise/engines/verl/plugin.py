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
import logging
import sys
from collections.abc import Callable

from forkwise.engines.on_import import after_import
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


for _name, _then in (
    (_CHECKS, _guard_checks),
    (_TRAINERS, _register),
    (_ADVANTAGES, _guard_trainers),
    (_HEADS, _offer_head),
):
    after_import(_name, _then)
