"""Fields of JSON objects, each with the type that it must have: what is there is checked, never assumed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, TypeVar

T = TypeVar("T")

ABSENT = object()
"""What `field_at` finds where there is nothing; null is something."""

_WANTED: dict[type, str] = {
    dict: "an object",
    list: "a list",
    str: "text",
    bool: "true or false",
    int: "a whole number",
    float: "a number",
}


class WrongField(ValueError):
    """A field that is of another type than it must be, or missing.

    Attributes:
        path: the path of the field, such as `choices[0].message`.
        wanted: the type in words, such as `an object`.
        kind: the type of the value there, in words that quote nothing.
    """

    def __init__(self, path: str, wanted: str, value: Any) -> None:
        self.path, self.wanted, self.kind = path, wanted, word(value)
        shown = json.dumps(value[:40]) if isinstance(value, str) else self.kind
        if self.kind == "a number":
            shown = f"{value:.6g}" if isinstance(value, float) else f"{value}"[:40]
        super().__init__(f"'{path}' should be {wanted}, but is {shown}")


def word(value: Any) -> str:
    """Returns the type of a value in words."""
    if value is ABSENT:
        return "missing"
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    if isinstance(value, dict | list | str):
        return _WANTED[type(value)]
    return "a number" if isinstance(value, int | float) else f"{value}"[:40]


def field_at(record: Mapping[str, Any], path: str) -> Any:
    """Returns the field of that name, or the one that dots lead to; `ABSENT` where there is none."""
    if path in record:
        return record[path]
    value: Any = record
    for key in path.split("."):
        value = value.get(key, ABSENT) if isinstance(value, dict) else ABSENT
    return value


def required(owner: Any, name: str, kind: type[T], where: str = "") -> T:
    """Returns a field that must be there; `where` is the path to its owner, with a dot behind.

    Raises:
        WrongField: the field is missing, null or of another type, or its owner is no object.
    """
    if not isinstance(owner, dict):
        raise WrongField(where.rstrip(".") or "it", _WANTED[dict], owner)
    return checked(owner.get(name, ABSENT), kind, f"{where}{name}")


def optional(owner: Any, name: str, kind: type[T], where: str = "") -> T | None:
    """Returns a field that may be missing or null, which is None."""
    if isinstance(owner, dict) and owner.get(name) is None:
        return None
    return required(owner, name, kind, where)


def objects(owner: Any, name: str, where: str = "") -> list[dict[str, Any]]:
    """Returns a list of objects; the empty one where it is missing or null."""
    values = optional(owner, name, list, where) or []
    return [checked(value, dict, f"{where}{name}[{i}]") for i, value in enumerate(values)]


def checked(value: Any, kind: type[T], path: str) -> T:
    """Returns the value, if it is of this type. A whole number may be written as 3.0, and fits into 64 bits."""
    fits: bool = isinstance(value, kind)
    if kind in (int, float):
        fits = isinstance(value, int | float) and not isinstance(value, bool)
        if fits and kind is int:
            fits = abs(value) < 2**63 and (isinstance(value, int) or value.is_integer())
            value = int(value) if fits else value
    if not fits:
        raise WrongField(path, _WANTED[kind], value)
    result: T = value
    return result
