"""Ends child processes with the process that started them, however the parent ends."""

from __future__ import annotations

import os
import select
import threading

PARENT_PIPE = "FORKWISE_PARENT_PIPE"
"""Environment variable: the descriptor of a pipe that the parent holds open."""


def end_with(pipe: int) -> None:
    """Ends this process, from a thread, once nobody holds the other end of `pipe`; nothing is read from the pipe.

    A pipe closes even when its holder is killed, on every system. The exit is immediate: files that count are written
    whole or not at all, and locks and children go with the process.
    """
    descriptor = os.dup(pipe)  # if this process closes `pipe`, the parent has not ended

    def watch() -> None:
        closed = select.poll()
        closed.register(descriptor, 0)  # hang-ups are reported unasked
        closed.poll()
        os._exit(1)

    threading.Thread(target=watch, name="ends with its parent", daemon=True).start()


def end_with_parent() -> None:
    """Ends this process with its parent if the parent set `PARENT_PIPE`, which its own children do not inherit."""
    pipe = os.environ.pop(PARENT_PIPE, None)
    if pipe is not None:
        end_with(int(pipe))
