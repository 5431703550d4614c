"""How far long work is: a bar on a terminal, and elsewhere a line every half minute.

This is the one file outside `report` and `cli` that imports rich: what computes does not print.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any

from rich import console as rich_console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.segment import Segment
from rich.text import Text

from forkwise.terminal import visible

_SAY_EVERY = 30.0  # seconds


class Console(rich_console.Console):  # noqa: TID251
    """Rich's console, whose own control sequences are the only ones that it writes."""

    def render_str(self, text: str, **settings: Any) -> Text:
        """Text from a string; made visible here, so that tables measure what will be printed."""
        return super().render_str(visible(text), **settings)

    def render(
        self, renderable: rich_console.RenderableType, options: rich_console.ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        """Segments of anything, among them `Text` that was made elsewhere."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else segment._replace(text=visible(segment.text))


class Meter:
    """Progress with rate and time left: a bar on a terminal, elsewhere a line every half minute."""

    def __init__(self, total: int, done: int, console: Console, what: str = "sampling") -> None:
        self._total, self._done, self._console = total, done, console
        self._before = done
        self._tokens = 0
        self._lines: set[str] = set()
        self._start = self._said = time.monotonic()
        self._bar = Progress(
            TextColumn(what),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._id = self._bar.add_task(what, total=total, completed=done, rate="")

    def __enter__(self) -> Meter:
        self._bar.start()
        if self._before:
            self._console.print(f"{self._before:,} of {self._total:,} samples are there already.")
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def add(self, *, samples: int = 0, tokens: int = 0) -> None:
        """So many more samples are finished, so many more tokens generated."""
        self._done += samples
        self._tokens += tokens
        now = time.monotonic()
        amount, unit = (self._tokens, "tokens") if self._tokens else (self._done - self._before, "samples")
        rate = f"{amount / max(now - self._start, 1e-9):,.0f} {unit}/s"
        self._bar.update(self._id, completed=self._done, rate=rate)
        if not self._console.is_terminal and now - self._said >= _SAY_EVERY:
            self._said = now
            self._console.print(f"{self._done:,} of {self._total:,} samples, {rate}{self._left(now)}")

    def say(self, line: str) -> None:
        """Prints a line for the user, the same one only once."""
        if line not in self._lines:
            self._lines.add(line)
            self._console.print(line, markup=False, highlight=False, soft_wrap=True)

    def _left(self, now: float) -> str:
        made = self._done - self._before
        if not made:
            return ""
        return f", about {duration((now - self._start) / made * (self._total - self._done))} left"


def duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60:02d} min"
