"""Loads what other packages add to forkwise by entry points: methods and importers."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from forkwise.errors import InputError


def plugins(group: str) -> Iterator[tuple[EntryPoint, Any]]:
    """Yields each entry point of the group with the object that it names.

    Raises:
        InputError: an entry point cannot be loaded.
    """
    for point in entry_points(group=group):
        try:
            loaded = point.load()
        except Exception as error:  # whatever a module of somebody else does
            reason = (str(error).splitlines() or [""])[0]
            raise InputError(
                f"The entry point '{point.name} = {point.value}' of the group {group} cannot be loaded "
                f"({type(error).__name__}: {reason}): repair or uninstall the package that brings it."
            ) from error
        yield point, loaded
