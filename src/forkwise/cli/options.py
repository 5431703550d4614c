"""Each parameter of a command is named once: as a field of a dataclass of options, which the command takes whole.

A field is `name: Annotated[type, "help"] = default`; a mapping after the help goes to `typer.Option` (`{"min": 1}`). So
the rooms below declare their options and know nothing of typer, whose own parameters are those of one function. A
parameter of the command itself may be written like a field. What several commands take is in `forkwise.parameters`.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import MISSING, Field, fields, is_dataclass
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import typer


def with_options(command: Callable[..., None]) -> Callable[..., None]:
    """Replaces each parameter of the command that is a dataclass of options by one parameter per field.

    A parameter that is written like a field becomes one of typer's too.
    """
    parameters = inspect.signature(command, eval_str=True).parameters.values()
    groups: dict[str, Any] = {p.name: p.annotation for p in parameters if is_dataclass(p.annotation)}
    flat: list[inspect.Parameter] = []
    for parameter in parameters:
        if parameter.name in groups:
            hints = get_type_hints(parameter.annotation, include_extras=True)
            flat += [_of_field(field, hints[field.name]) for field in fields(parameter.annotation)]
        elif get_origin(parameter.annotation) is Annotated and isinstance(get_args(parameter.annotation)[1], str):
            flat.append(_parameter(parameter.name, parameter.annotation, parameter.default))
        else:
            flat.append(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY))

    @functools.wraps(command)
    def call(**given: Any) -> None:
        for name, group in groups.items():
            given[name] = group(**{field.name: given.pop(field.name) for field in fields(group)})
        command(**given)

    call.__signature__ = inspect.Signature(flat)  # type: ignore[attr-defined]
    call.__annotations__ = {parameter.name: parameter.annotation for parameter in flat}
    return call


def _of_field(field: Field[Any], hint: Any) -> inspect.Parameter:
    default = field.default if field.default_factory is MISSING else field.default_factory()
    return _parameter(field.name, hint, inspect.Parameter.empty if default is MISSING else default)


def _parameter(name: str, hint: Any, default: Any) -> inspect.Parameter:
    kind, text, *details = get_args(hint)
    names = [f"-{name}", f"--{name}"] if len(name) == 1 else []
    if default is False:  # without a --no- form, which nobody needs
        names = [f"--{name.replace('_', '-')}"]
    option = typer.Option(*names, help=text, **(details[0] if details else {}))
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[kind, option])
