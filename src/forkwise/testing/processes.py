"""Runs a function in several processes of one gloo group, for checks of what an adapter adds up over them."""

from __future__ import annotations

import multiprocessing
import os
import tempfile
import time
import traceback
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch.distributed


def in_processes(function: Callable[[int], Any], number: int = 2, *, timeout: float = 60.0) -> list[Any]:
    """Runs the function in this many processes, with torch.distributed set up between them, on the CPU.

    The processes are forked from this one (Linux): the function may use all that stands here, modules that are stood
    in for among it. `RANK`, `LOCAL_RANK`, `WORLD_SIZE`, `LOCAL_WORLD_SIZE` are set as by `torchrun`.

    Args:
        function: given the rank; what it returns must be picklable.
        number: of processes.
        timeout: seconds after which they are ended.

    Returns:
        What it returned, by rank.

    Raises:
        AssertionError: a process failed, with its traceback, or did not end in time.
    """
    forked = multiprocessing.get_context("fork")
    with tempfile.TemporaryDirectory() as folder:
        pipes = [forked.Pipe(duplex=False) for _ in range(number)]
        processes = [
            forked.Process(target=_run, args=(function, rank, number, Path(folder) / "group", timeout, sender))
            for rank, (_, sender) in enumerate(pipes)
        ]
        for process in processes:
            process.start()
        for _, sender in pipes:
            sender.close()
        until = time.monotonic() + timeout
        try:
            answers = [_answer(rank, receiver, until - time.monotonic()) for rank, (receiver, _) in enumerate(pipes)]
        finally:
            for process in processes:
                process.kill()
                process.join()
    failures = [error for _, error in answers if error]
    if failures:
        raise AssertionError("\n".join(failures))
    return [value for value, _ in answers]


def _answer(rank: int, receiver: Any, seconds: float) -> tuple[Any, str]:
    """Waits for what a process returned, or for what became of it."""
    if not receiver.poll(max(seconds, 0.1)):
        return None, f"Process {rank} did not end: does each process take part in every sum over processes?"
    try:
        value, error = receiver.recv()
    except EOFError:
        return None, f"Process {rank} ended without a word."
    return value, error


def _run(function: Callable[[int], Any], rank: int, number: int, group: Path, timeout: float, sender: Any) -> None:
    """Runs in a process of its own, which ends without the exit handlers of the one that it was forked from."""
    ranks = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": number, "LOCAL_WORLD_SIZE": number}
    os.environ |= {name: str(value) for name, value in ranks.items()}
    try:
        torch.distributed.init_process_group(
            "gloo",
            init_method=group.as_uri(),
            rank=rank,
            world_size=number,
            timeout=timedelta(seconds=timeout),
        )
        sender.send((function(rank), ""))
        torch.distributed.barrier()  # nobody leaves while another still needs it
    except BaseException:
        sender.send((None, f"Process {rank} failed:\n{traceback.format_exc()}"))
    finally:
        os._exit(0)
