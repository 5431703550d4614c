"""What the line of each arm looks like: one colour and one dash pattern, the same in the page and in pictures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

# Okabe and Ito's palette, darkened where a line of it would be faint on white. The page's style has the same.
COLOURS = ("#5a5a5a", "#0072b2", "#d55e00", "#00825f", "#b1558c", "#a87400", "#2f8fc4")
_DASHES = ((), (14, 4), (7, 4), (2, 3), (12, 3, 2, 3), (4, 7), (9, 3, 2, 3, 2, 3))  # pixels drawn, left out, ...


def dashes(index: int) -> tuple[int, ...]:
    """Returns the dash pattern of the arm at a place; where colours come again, it is another one."""
    return _DASHES[(index + 2 * (index // len(COLOURS))) % len(_DASHES)]


def styles(names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Returns what matplotlib is to draw the line of each of these arms with."""
    # Matplotlib multiplies the pattern by the width of the line.
    return {
        name: {
            "color": COLOURS[i % len(COLOURS)],
            "linestyle": (0, tuple(pixels / 2 for pixels in dashes(i))) if dashes(i) else "-",
            "linewidth": 2,
        }
        for i, name in enumerate(names)
    }
