"""Refuses verl configurations that ask for shaping where nothing would shape. Imports neither verl nor torch.

Three nets, the earliest first: verl's own check of a configuration (in the driver, before Ray starts); the construction
of any trainer derived from one of verl's; and the function that verl's trainers compute advantages with, for trainers
that derive from nothing.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from types import ModuleType
from typing import Any

from forkwise.engines.verl.settings import MODES, asked_section, check_head, check_temperature
from forkwise.errors import InputError, NotFiniteError

_shaping_now: ContextVar[bool] = ContextVar("forkwise_shapes_these_advantages", default=False)


def _ignored(section: str, who: str) -> InputError:
    return InputError(
        f"algorithm.{section} is set, but {who} does not shape advantages: start python -m "
        f"verl.trainer.main_ppo with trainer.v1.trainer_mode set to one of {', '.join(MODES)} (and "
        "trainer.use_v1=True), or remove the keys."
    )


def guard_config(*modules: ModuleType) -> None:
    """Makes `validate_config` of these modules refuse what trainers and workers would refuse later, in a Ray process.

    A mode that is neither verl's nor ours is left to its trainer, which may be an `EntropyShapingMixin`.
    """
    validate = modules[0].validate_config

    @functools.wraps(validate)
    def checked(config: Any, *args: Any, **kwargs: Any) -> Any:
        check_head(config)
        trainer = getattr(config, "trainer", None) or {}
        mode = (trainer.get("v1") or {}).get("trainer_mode") if trainer.get("use_v1", True) else None
        if mode in MODES:
            check_temperature(config)
            from forkwise.engines.verl.reading import read_settings

            read_settings(config)
        elif (section := asked_section(getattr(config, "algorithm", None))) and (
            mode is None or mode in MODES.values()
        ):
            raise _ignored(section, "trainer.use_v1=False" if mode is None else f"trainer.v1.trainer_mode={mode}")
        return validate(config, *args, **kwargs)

    for module in modules:
        module.validate_config = checked  # type: ignore[attr-defined]


def guard_trainer(trainer: Any, shaping: type | tuple[()] = ()) -> None:
    """Makes `trainer`, and every class derived from it later, raise for such a configuration, unless it is `shaping`.

    Derived classes are guarded themselves, since verl's experimental trainers do not call the constructor they inherit.
    All of them name the step in which a worker has found numbers that are not finite.
    """
    trainer.__init__ = _guarded(trainer.__init__, shaping)
    trainer.fit = _naming_the_step(trainer.fit)
    inherited = vars(trainer).get("__init_subclass__")

    def guard_derived(cls: Any, /, **kwargs: Any) -> None:
        if inherited is not None:
            inherited.__func__(cls, **kwargs)
        else:
            super(trainer, cls).__init_subclass__(**kwargs)
        if "__init__" in vars(cls):
            cls.__init__ = _guarded(cls.__init__, shaping)
        if "fit" in vars(cls):
            cls.fit = _naming_the_step(cls.fit)

    trainer.__init_subclass__ = classmethod(guard_derived)


def _guarded(construct: Callable[..., None], shaping: type | tuple[()]) -> Callable[..., None]:
    @functools.wraps(construct)
    def checked(self: Any, *args: Any, **kwargs: Any) -> None:
        config = kwargs.get("config", args[0] if args else None)
        section = asked_section(getattr(config, "algorithm", None))
        if section and not isinstance(self, shaping):
            raise _ignored(section, type(self).__name__)
        construct(self, *args, **kwargs)

    return checked


def _naming_the_step(fit: Callable[..., Any]) -> Callable[..., Any]:
    """Makes the loop of a trainer, which alone knows the step, say in which one a worker came to NaN or infinity."""

    def named(self: Any, error: NotFiniteError) -> NotFiniteError:
        message = str(getattr(error, "cause", error))  # the text of Ray's form of an error is a traceback
        step = getattr(self, "global_steps", 0)
        return NotFiniteError(message if message.startswith("Step ") else f"Step {step}: {message}")

    if inspect.iscoroutinefunction(fit):

        @functools.wraps(fit)
        async def later(self: Any, *args: Any, **kwargs: Any) -> Any:
            try:
                return await fit(self, *args, **kwargs)
            except NotFiniteError as error:
                raise named(self, error) from error

        return later

    @functools.wraps(fit)
    def now(self: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            return fit(self, *args, **kwargs)
        except NotFiniteError as error:
            raise named(self, error) from error

    return now


def guard_advantages(module: ModuleType) -> None:
    """Makes `module.compute_advantage` raise for such a configuration outside `advantages_are_shaped`."""
    compute = module.compute_advantage
    signature = inspect.signature(compute)

    @functools.wraps(compute)
    def checked(*args: Any, **kwargs: Any) -> Any:
        algorithm = signature.bind_partial(*args, **kwargs).arguments.get("config")
        section = asked_section(algorithm)
        if section and not _shaping_now.get():
            raise _ignored(section, "the trainer that computes these advantages")
        return compute(*args, **kwargs)

    module.compute_advantage = checked  # type: ignore[attr-defined]


@contextmanager
def advantages_are_shaped() -> Iterator[None]:
    """Marks a block of code in which advantages are shaped, either at once or later in the loss."""
    before = _shaping_now.set(True)
    try:
        yield
    finally:
        _shaping_now.reset(before)
