"""Parts that the commands share, such as how they end when interrupted or when a package is missing."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import typer

from forkwise.errors import InputError
from forkwise.terminal import echo

_EXTRAS = dict.fromkeys(("torch", "transformers", "trl", "accelerate", "datasets", "peft"), "train")
_EXTRAS |= {"math_verify": "math", "reasoning_gym": "tasks", "vllm": "vllm", "verl": "verl"}

CONTINUES = "what was written stays, and the same command continues"


@contextmanager
def long_command(again: str = "the same command with --resume continues") -> Iterator[None]:
    """Turns a missing extra into a sentence, and Ctrl-C into exit code 130 with a word on how to go on."""
    try:
        yield
    except ImportError as error:
        if (error.name or "").startswith("forkwise"):
            raise
        extra = _EXTRAS.get((error.name or "").partition(".")[0])
        if extra is None:  # a library lacks a package that no extra of forkwise has, and names it
            raise InputError(f"A package is missing: {str(error).strip().splitlines()[0]}") from error
        raise InputError(
            f'This command needs packages that are not installed ({error}): pip install "forkwise[{extra}]".'
        ) from error
    except KeyboardInterrupt:
        echo(f"\nforkwise: interrupted; {again}.", error=True)
        raise typer.Exit(130) from None


def cores() -> int:
    """Counts the cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
