"""How many processes a launcher was asked for, which may be more than it has started."""

from __future__ import annotations

from pathlib import Path

import psutil
from accelerate.commands.config.config_args import load_config_from_file

_LAUNCHERS = ("accelerate", "accelerate-launch", "accelerate.commands.launch")


def more_asked_than_started(started: int) -> str | None:
    """Says that `accelerate launch` was asked for several processes and has started one; None where that is not so.

    On a machine without GPUs it does so in silence, unless MPI is installed.
    """
    if started > 1:
        return None
    asked = max((_asked(line) for line in _command_lines()), default=0)
    if asked <= 1:
        return None
    return (
        f"accelerate launch was asked for {asked} processes and has started one, which trains alone, with a batch that "
        f"is {asked} times smaller. On CPUs use ACCELERATE_USE_CPU=true accelerate launch --multi_gpu --num_processes "
        f"{asked} ..., or torchrun."
    )


def _command_lines() -> list[list[str]]:
    """Returns the command lines of the processes above this one that may be read."""
    try:
        return [parent.cmdline() for parent in psutil.Process().parents()[:2]]
    except psutil.Error:
        return []


def _asked(words: list[str]) -> int:
    """Returns the number of processes that a command line of `accelerate launch` asks for; 0 in any other."""
    if not any(Path(word).name in _LAUNCHERS for word in words[:3]):
        return 0
    processes = _value(words, ("--num_processes", "--num-processes", "-n"))
    if processes is not None:
        return int(processes) if processes.isdecimal() else 0
    try:
        return int(load_config_from_file(_value(words, ("--config_file", "--config-file"))).num_processes or 0)
    except Exception:  # there is none, or accelerate has said by itself what is wrong with it
        return 0


def _value(words: list[str], names: tuple[str, ...]) -> str | None:
    """Returns what a command line gives an option, as its next word or behind an equals sign."""
    for word, after in zip(words, [*words[1:], ""], strict=True):
        name, equals, value = word.partition("=")
        if name in names:
            return value if equals else after
    return None
