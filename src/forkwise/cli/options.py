"""Each parameter of a command is named once: as a field of a dataclass of options, which the command takes whole.

A field is `name: Annotated[type, "help"] = default`; a mapping after the help goes to `typer.Option` (`{"min": 1}`). So
the rooms below declare their options and know nothing of typer, whose own parameters are those of one function.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import MISSING, Field, fields, is_dataclass
from typing import Annotated, Any, get_args, get_type_hints

import typer


def with_options(command: Callable[..., None]) -> Callable[..., None]:
    """Replaces each parameter of the command that is a dataclass of options by one parameter per field."""
    parameters = inspect.signature(command, eval_str=True).parameters.values()
    groups: dict[str, Any] = {p.name: p.annotation for p in parameters if is_dataclass(p.annotation)}
    flat: list[inspect.Parameter] = []
    for parameter in parameters:
        if parameter.name in groups:
            hints = get_type_hints(parameter.annotation, include_extras=True)
            flat += [_parameter(field, hints[field.name]) for field in fields(parameter.annotation)]
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


def _parameter(field: Field[Any], hint: Any) -> inspect.Parameter:
    kind, text, *details = get_args(hint)
    default = field.default if field.default_factory is MISSING else field.default_factory()
    names = [f"-{field.name}", f"--{field.name}"] if len(field.name) == 1 else []
    if default is False:  # without a --no- form, which nobody needs
        names = [f"--{field.name.replace('_', '-')}"]
    option = typer.Option(*names, help=text, **(details[0] if details else {}))
    return inspect.Parameter(
        field.name,
        inspect.Parameter.KEYWORD_ONLY,
        default=inspect.Parameter.empty if default is MISSING else default,
        annotation=Annotated[kind, option],
    )
