"""How help looks: plain lines that fit 80 columns, commands under headings, one worked example at the end."""

from __future__ import annotations

import inspect
from dataclasses import MISSING, Field
from typing import Any

import typer
from typer.core import TyperGroup


class Headings(TyperGroup):
    """A group whose help lists the commands under the headings of their `rich_help_panel`, whole sentences each."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Writes the commands."""
        headings: dict[str, list[tuple[str, str]]] = {}
        for name in self.list_commands(ctx):
            command: Any = self.get_command(ctx, name)
            if command.hidden:
                continue
            sentence = inspect.cleandoc(command.help or "").partition("\n\n")[0]
            headings.setdefault(str(command.rich_help_panel or "Commands"), []).append((name, sentence))
        for heading, rows in headings.items():
            with formatter.section(heading):
                formatter.write_dl(rows)


def make_app(text: str, *, alone: bool = False) -> typer.Typer:
    """Makes an empty group of commands with this help; `alone` where the group's own name is a command too."""
    return typer.Typer(
        cls=Headings,
        no_args_is_help=not alone,
        invoke_without_command=alone,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,  # its boxes leave a third of 80 columns to what an option does
        help=text,
    )


def example(command: str) -> str:
    """Makes the end of a command's help; `\\b` keeps the lines as they are."""
    return "\n".join(("\b", "Example:", *(f"  {line}" for line in command.splitlines())))


_VALUES = {"dict": " <json>", "list": " <str> ...", "str": " <str>", "int": " <int>", "float": " <float>"}


def setting(field: Field[Any], default: Any = None) -> tuple[str, str]:
    """Makes the row of help for a field of a config class: its flag, what it does, and its default or `default`."""
    if default is None:
        default = field.default if field.default_factory is MISSING else field.default_factory()
    text = " ".join(str(field.metadata.get("help", "")).split())
    kind = field.type if isinstance(field.type, str) else getattr(field.type, "__name__", str(field.type))
    if "bool" in kind:
        return f"--{field.name} / --no_{field.name}" if default is True else f"--{field.name}", text
    shown = " ".join(map(str, default)) if isinstance(default, list) else getattr(default, "value", default)
    value = next((word for name, word in _VALUES.items() if name in kind), " <str>")
    return f"--{field.name}{value}", f"{text}  [default: {shown}]" if shown not in (None, "") else text
