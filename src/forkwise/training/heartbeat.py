"""Says what a training run is doing, wherever nothing else was printed for ten seconds.

It loads neither torch nor TRL, so that it can speak while they are loaded.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from forkwise.progress import duration
from forkwise.terminal import echo

SILENCE = 10.0  # seconds


class Heartbeat:
    """Prints a sentence from a thread when a run was silent for long; it prints nothing outside `beating`."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._work = self._part = self._left = ""
        self._began = self._said = time.monotonic()

    @contextmanager
    def beating(self, work: str) -> Iterator[None]:
        """Speaks for the main process until the work that this encloses has ended."""
        self.begin(work)
        self._said = time.monotonic()
        ended = threading.Event()
        speaker = threading.Thread(target=self._speak, args=(ended,), daemon=True)
        if os.environ.get("RANK", "0") == "0":
            speaker.start()
        try:
            yield
        finally:
            ended.set()
            if speaker.is_alive():
                speaker.join()

    def begin(self, work: str, remaining: str = "") -> None:
        """Names the work that begins now, such as `Step 3 of 100`, and how much time is left after it."""
        with self._lock:
            self._work, self._part, self._left, self._began = work, "", remaining, time.monotonic()

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Names a part of the work, such as `drawing completions`, while it goes on."""
        before, self._part = self._part, name
        try:
            yield
        finally:
            self._part = before

    def say(self, line: str) -> None:
        """Prints a line of the run, after which there is silence again."""
        with self._lock:
            self._said = time.monotonic()
            echo(line)

    def _speak(self, ended: threading.Event) -> None:
        while not ended.wait(max(0.05, self._said + SILENCE - time.monotonic())):
            with self._lock, suppress(OSError, ValueError):  # whoever read the lines may have gone
                if time.monotonic() - self._said >= SILENCE:
                    self.say(self._sentence())

    def _sentence(self) -> str:
        doing = ", ".join(filter(None, [self._work, self._part]))
        spent = f"{duration(time.monotonic() - self._began)} so far"
        return f"{doing}: {', '.join(filter(None, [spent, self._left]))}."


HEARTBEAT = Heartbeat()
"""The one of this process."""
