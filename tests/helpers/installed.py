"""Methods by name for parametrised tests; those whose packages are not installed here are skipped."""

from __future__ import annotations

from collections.abc import Iterable
from importlib.util import find_spec
from typing import Any

import pytest

from forkwise.methods import all_methods


def runnable(names: Iterable[str]) -> list[Any]:
    """The names, some marked to be skipped."""
    made = []
    for name in names:
        missing = [package for package in all_methods()[name].packages if find_spec(package) is None]
        made.append(pytest.param(name, marks=pytest.mark.skipif(bool(missing), reason=f"needs {missing}")))
    return made
