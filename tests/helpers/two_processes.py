"""Runs a script in two processes of one gloo group, as `torchrun` would, without loading torch twice again."""

from __future__ import annotations

import os
import socket
import tempfile
from pathlib import Path

from preloaded import TRL, Started


def run_in_two(script: Path, *arguments: object, timeout: float = 600, modules: tuple[str, ...] = TRL) -> None:
    """Runs it as rank 0 and rank 1, and fails with what either says if one fails."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    group = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": port}
    with tempfile.NamedTemporaryFile("w+") as errors:
        processes = [
            Started(
                [str(script), *map(str, arguments)],
                {**os.environ, "OMP_NUM_THREADS": "1", **group, "RANK": rank, "LOCAL_RANK": rank},
                errors=errors.name,
                modules=modules,
            )
            for rank in "01"
        ]
        try:
            codes = [process.wait(timeout) for process in processes]
        finally:
            for process in processes:
                process.kill()
        assert codes == [0, 0], errors.read()[-3000:]
