"""Bounds the time and memory of code that other people wrote and this process runs, such as chat templates."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_SECONDS = 10
_BYTES = 2**30  # more than the process has


@contextmanager
def bounded() -> Iterator[None]:
    """Ends the block that it guards after 10 seconds, or when it takes a gigabyte more of memory.

    Raises:
        TimeoutError: the block takes longer. On Windows and in threads, which have no such clock, nothing is bounded.
        MemoryError: the block wants more. Only Linux says how much a process has; elsewhere memory is not bounded.
    """
    if not hasattr(signal, "setitimer") or threading.current_thread() is not threading.main_thread():
        yield
        return
    import resource

    def ring(*_: object) -> None:
        raise TimeoutError(f"it takes more than {_SECONDS} seconds")

    memory = resource.getrlimit(resource.RLIMIT_AS)
    size = Path("/proc/self/statm")
    handler = signal.signal(signal.SIGALRM, ring)
    timer = signal.setitimer(signal.ITIMER_REAL, _SECONDS)
    try:
        if size.exists():
            most = int(size.read_text().split()[0]) * resource.getpagesize() + _BYTES
            if memory[0] == resource.RLIM_INFINITY or most < memory[0]:
                resource.setrlimit(resource.RLIMIT_AS, (most, memory[1]))
        yield
    except MemoryError as error:
        raise MemoryError("it takes more than a gigabyte of memory") from error
    finally:
        resource.setrlimit(resource.RLIMIT_AS, memory)
        signal.setitimer(signal.ITIMER_REAL, *timer)
        signal.signal(signal.SIGALRM, handler)
