"""Loads what other packages add to forkwise by entry points: methods and importers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import Any, TypeVar

from forkwise.errors import InputError

T = TypeVar("T")


def with_plugins(
    built_in: Mapping[str, T],
    group: str,
    kind: str,
    wrong: Callable[[Any], str | None],
    name_of: Callable[[EntryPoint, T], str],
) -> dict[str, T]:
    """Returns ours and what other packages add as entry points of the group, by name.

    Args:
        kind: what is added, as in "a second {kind}".
        wrong: says what is wrong with what an entry point names, as in "The entry point {wrong}."

    Raises:
        InputError: an entry point cannot be loaded, what it names is wrong, or its name is taken.
    """
    known = dict(built_in)
    for point in entry_points(group=group):
        try:
            loaded = point.load()
        except Exception as error:  # whatever a module of somebody else does
            reason = (str(error).splitlines() or [""])[0]
            raise InputError(
                f"The entry point '{point.name} = {point.value}' of the group {group} cannot be loaded "
                f"({type(error).__name__}: {reason}): repair or uninstall the package that brings it."
            ) from error
        if why := wrong(loaded):
            raise InputError(f"The entry point '{point.value}' {why}.")
        name = name_of(point, loaded)
        if name in known:
            raise InputError(f"The entry point '{point.value}' brings a second {kind} named '{name}'.")
        known[name] = loaded
    return known
