"""The resident memory of this process, MiB; 0 on other systems than Linux.

`getrusage` counts for a new process what whoever started it had, so beside a large one nothing seems to grow.
"""

from __future__ import annotations

import sys
from pathlib import Path


def peak() -> float:
    """The most since the process began, or since `forget_peak`."""
    return _status("VmHWM")


def resident() -> float:
    """What there is now."""
    return _status("VmRSS")


def forget_peak() -> None:
    """Lets `peak` begin anew from what there is now."""
    if sys.platform == "linux":
        Path("/proc/self/clear_refs").write_text("5")


def _status(name: str) -> float:
    if sys.platform != "linux":
        return 0.0
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:")) / 1024
