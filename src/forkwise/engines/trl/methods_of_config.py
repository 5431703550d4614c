"""How a config of TRL with our settings reads its methods, and refuses trainers that would ignore them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from transformers import TrainerCallback
from transformers.trainer import DEFAULT_CALLBACKS

from forkwise.engines.settings import ShapingSettings
from forkwise.errors import InputError
from forkwise.methods import Method, SettingsMethod, parse_methods
from forkwise.methods.entropy_advantage import EntropyAdvantage

if TYPE_CHECKING:
    from transformers import TrainingArguments as _Arguments
else:
    _Arguments = object


@dataclass
class MethodSettings(ShapingSettings, _Arguments):
    """Our settings, to be put before a config class of TRL."""

    has_groups: ClassVar[bool] = True  # whether advantages come from groups, which a critic's do not
    trainer_class: ClassVar[str]  # that does what this config says
    trainer_mixin: ClassVar[str | None] = None  # that makes another trainer do it, if there is one

    def refuse_other_trainers(self) -> None:
        """Refuses a trainer that would silently train without what this config says; called when training starts.

        Raises:
            InputError: the trainer that has this config is not one of ours.
        """
        if _SHAPES.get():
            return
        drawn_again = int(getattr(self, "max_draws", 1))
        if self.methods or not self.has_groups or drawn_again > 1:
            ignored = "alpha, kappa and method" if drawn_again == 1 else "alpha, kappa, method and max_draws"
            mixin = f", or put {self.trainer_mixin} before your trainer class" if self.trainer_mixin else ""
            raise InputError(
                f"This {type(self).__name__} is in the hands of a trainer that would ignore its {ignored}: train with "
                f"forkwise's {self.trainer_class}{mixin}."
            )

    @property
    def methods(self) -> tuple[Method, ...]:
        """Returns the methods that act, in their order; `alpha > 0` alone is the entropy-shaped advantage.

        Methods that only set fields of TRL are left out.
        """
        if self.method:
            return tuple(m for m in self._methods if not isinstance(m, SettingsMethod))
        return (EntropyAdvantage(self.alpha, self.kappa),) if self.alpha != 0 else ()

    def _resolve_methods(self) -> None:
        """Reads `method`, sets the fields of TRL that it asks for, and writes it out in full. Twice is harmless."""
        self._methods: tuple[Method, ...] = ()
        if isinstance(self.method, str):
            self.method = [self.method]
        if not self.method:
            return
        defaults = {name: default(self, name) for name in ("alpha", "kappa")}
        self._methods = parse_methods(self.method, defaults)
        shaped = [method for method in self._methods if hasattr(method, "kappa")]
        for name, off in (("alpha", 0), ("kappa", None)):
            used = [getattr(method, name) for method in shaped if hasattr(method, name)]
            if getattr(self, name) not in (off, defaults[name], *used):
                raise InputError(
                    f"{name} is the shorthand of a method; beside --method write it there, as in "
                    f"entropy_advantage:{name}={getattr(self, name)}."
                )
        entropy = [method for method in shaped if isinstance(method, EntropyAdvantage)]
        self.alpha = entropy[0].alpha if entropy else 0.0
        self.kappa = shaped[0].kappa if shaped else defaults["kappa"]
        self._apply_settings()
        self.method = [str(method) for method in self._methods]

    def _apply_settings(self) -> None:
        """Sets the fields of TRL that the methods ask for, or refuses methods that do."""
        raise NotImplementedError


def default(config: Any, name: str) -> Any:
    """Returns the default that this class of config gives to the field."""
    return next(f.default for f in dataclasses.fields(config) if f.name == name)


_SHAPES: ContextVar[bool] = ContextVar("a trainer that shapes is at work", default=False)


@contextmanager
def shaping() -> Iterator[None]:
    """Marks a block of code in which a trainer that shapes reads its config, which then lets itself be read.

    A mark in the config itself would go along when it is copied, pickled, or handed to another trainer.
    """
    token = _SHAPES.set(True)
    try:
        yield
    finally:
        _SHAPES.reset(token)


class RefuseOtherTrainers(TrainerCallback):
    """Asks a config of ours, when training starts, whether the trainer that has it does what it says.

    transformers gives this callback to every `Trainer`, whatever its schedule, optimizer or dataset: no method of a
    config is called in each of them.
    """

    def on_train_begin(self, args: Any, *_: Any, **__: Any) -> None:
        """Refuses a trainer that would ignore the methods of its config."""
        if isinstance(args, MethodSettings):
            args.refuse_other_trainers()


DEFAULT_CALLBACKS.append(RefuseOtherTrainers)
