"""Shows how far long work is: by a bar on a terminal, and elsewhere by a sentence every ten seconds.

This is the one file outside `report` and `cli` that imports rich: code that computes does not print.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import suppress
from typing import Any, TypeVar

from rich import console as rich_console
from rich.progress import (
    BarColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.segment import Segment
from rich.text import Text

from forkwise.terminal import visible

_SAY_EVERY = 10.0  # seconds
_SHOWN_EVERY = 0.2  # seconds

Item = TypeVar("Item")

_running: list[Meter] = []  # the last one shows a phase of the one before


class Console(rich_console.Console):  # noqa: TID251
    """Rich's console, whose own control sequences are the only ones that it writes."""

    def render_str(self, text: str, **settings: Any) -> Text:
        """Makes text from a string, with hidden characters visible, so that tables measure what will be printed."""
        return super().render_str(visible(text), **settings)

    def render(
        self, renderable: rich_console.RenderableType, options: rich_console.ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        """Makes the segments of anything visible, among them `Text` that was made elsewhere."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else segment._replace(text=visible(segment.text))


class Meter:
    """Progress of long work: a bar on a terminal, and elsewhere a sentence at least every ten seconds.

    A meter that begins while another one is running shows a phase of that work.

    Args:
        total: units of work in all; None where nobody knows.
        done: units that were there before.
        phase: what is going on, such as "sampling (2 of 3)".
        unit: what is counted, in the plural.
    """

    def __init__(
        self,
        total: int | None = None,
        done: int = 0,
        console: Console | None = None,
        phase: str = "sampling",
        unit: str = "samples",
    ) -> None:
        self._outer = _running[-1] if _running and console is None else None
        self._first: Meter = self._outer._first if self._outer else self
        self._console: Console = self._outer._console if self._outer else console or Console(stderr=True)
        self._total, self._done, self._own_phase, self._unit = total, done, phase, unit
        self._before, self._tokens, self._note = done, 0, ""
        self._lines: set[str] = set()
        self._start = self._said = time.monotonic()
        self._bar: Progress = self._outer._bar if self._outer else self._new_bar()
        self._lock: Any = self._outer._lock if self._outer else threading.RLock()
        self._ended = threading.Event()
        self._speaker = threading.Thread(target=self._speak, daemon=True)

    def _new_bar(self) -> Progress:
        return Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TextColumn("{task.fields[share]}"),
            TaskProgressColumn(),
            TextColumn("{task.fields[note]}", markup=False),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=self._console,
            transient=True,
            redirect_stdout=sys.stdout.isatty(),  # else results would go where the bar goes
            disable=not self._console.is_terminal,
        )

    def __enter__(self) -> Meter:
        self._id = self._bar.add_task(
            self._own_phase, total=self._total, completed=self._done, share=self._share(), note=""
        )
        _running.append(self)
        if self._before:
            self._console.print(f"{self._before:,} of {self._total:,} {self._unit} are there already.")
        if self._outer is None:
            self._bar.start()
            if not self._console.is_terminal:
                self._speaker.start()
        return self

    def __exit__(self, *_: object) -> None:
        _running.remove(self)
        self._bar.remove_task(self._id)
        if self._outer is None:
            self._bar.stop()
            self._ended.set()
            if self._speaker.is_alive():
                self._speaker.join()

    def add(self, *, samples: int = 0, tokens: int = 0) -> None:
        """Adds units that are done and tokens that were generated."""
        with self._lock:
            self._tokens += tokens
            self.reach(self._done + samples)

    def reach(self, done: int, note: str = "") -> None:
        """Sets the number of units that are done; `note` is printed beside it."""
        with self._lock:
            self._done, self._note = done, note
            notes = "; ".join(filter(None, [self._rate(), note]))
            self._bar.update(self._id, completed=done, share=self._share(), note=notes)
            self._say_if_due()

    def say(self, line: str) -> None:
        """Prints a line for the user; the same line is printed only once."""
        if line not in self._lines:
            self._lines.add(line)
            self._console.print(line, markup=False, highlight=False, soft_wrap=True)

    def _speak(self) -> None:
        """Prints progress every ten seconds, from a thread, also while the work does not report."""
        while not self._ended.wait(max(0.1, self._said + _SAY_EVERY - time.monotonic())):
            with self._lock, suppress(OSError):
                self._say_if_due()

    def _say_if_due(self) -> None:
        now = time.monotonic()
        if not self._console.is_terminal and now - self._first._said >= _SAY_EVERY:
            self._first._said = now
            speaking = next((meter for meter in reversed(_running) if meter._first is self._first), self)
            phase = speaking._phase()
            sentence = f"{phase[:1].upper()}{phase[1:]}: {speaking._progress(now)}."
            self._console.print(sentence, markup=False, highlight=False, soft_wrap=True)

    def _phase(self) -> str:
        return f"{self._outer._phase()}, {self._own_phase}" if self._outer else self._own_phase

    def _progress(self, now: float) -> str:
        if self._total is None:
            counted = [f"{self._done:,} {self._unit} are done", self._rate()] if self._done else []
            return ", ".join([*counted, f"{duration(now - self._start)} so far"])
        share = f"{100 * self._done / max(self._total, 1):.0f} %"
        worked = self._done - self._before
        eta = f"about {duration((now - self._start) / worked * (self._total - self._done))} left" if worked else ""
        parts = filter(None, [self._rate(), eta or f"{duration(now - self._start)} so far"])
        done = f"{self._done:,} of {self._total:,} {self._unit} are done ({share}), {', '.join(parts)}"
        return "; ".join(filter(None, [done, self._note]))

    def _share(self) -> str:
        return "" if self._total is None else f"{self._done:,}/{self._total:,}"

    def _rate(self) -> str:
        amount, unit = (self._tokens, "tokens") if self._tokens else (self._done - self._before, self._unit)
        rate = amount / max(time.monotonic() - self._start, 1e-9)
        return f"{rate:,.0f} {unit}/s" if rate >= 10 else f"{rate:.2g} {unit}/s" if amount else ""


def watch(
    items: Iterable[Item], phase: str, unit: str, total: int | None = None, done: Callable[[], int] | None = None
) -> Iterator[Item]:
    """Passes the items on, and shows them as a phase of the work whose meter is running, if there is one.

    Args:
        phase, unit, total: as of `Meter`; where `items` has a length, that is the total.
        done: returns how many units are done; by default they are items.
    """
    if not _running:
        yield from items
        return
    if total is None and isinstance(items, Sized):
        total = len(items)
    with Meter(total, phase=phase, unit=unit) as meter:
        shown = time.monotonic()
        for count, item in enumerate(items, 1):
            yield item
            if time.monotonic() - shown >= _SHOWN_EVERY:
                meter.reach(done() if done else count)
                shown = time.monotonic()


def duration(seconds: float) -> str:
    """Writes a time span in words, such as `5 min`."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60:02d} min"
