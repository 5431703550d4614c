"""Starts Python processes that have torch and TRL loaded already: a server loads them once, and is forked for each.

Loading and unloading them takes about 6 seconds of CPU, most of what the run of a tiny model takes. A fork has memory,
environment, signals and exit code of its own. It shares with the server its hash seed and what modules read from the
environment when they were imported; what depends on these, and that a command starts at all, is tested with processes
of their own.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import json
import os
import random
import runpy
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

TRL = ("forkwise.engines.trl", "forkwise.training.grpo", "forkwise.training.ppo", "peft")

_servers: dict[tuple[str, ...], subprocess.Popen[str]] = {}
_one_at_a_time = threading.Lock()


class Started:
    """A process that was started here: what the tests use of `subprocess.Popen`."""

    stdin = None

    def __init__(
        self,
        words: Sequence[str],
        environment: Mapping[str, str],
        *,
        output: str = os.devnull,
        errors: str | None = None,
        folder: Path | None = None,
        modules: tuple[str, ...] = TRL,
    ) -> None:
        """Runs `python *words`; what it prints is appended to the files `output` and `errors`."""
        self.returncode: int | None = None
        self._errors = tempfile.NamedTemporaryFile("r") if errors is None else None  # noqa: SIM115  (lives as long)
        self._modules = modules
        known = {"words": list(words), "environment": dict(environment), "folder": str(folder or Path.cwd())}
        files = {"output": output, "errors": errors or self._errors.name}
        self.pid = _ask(modules, **known, **files)

    def poll(self) -> int | None:
        if self.returncode is None:
            self.returncode = _ask(self._modules, ended=self.pid)
        return self.returncode

    def wait(self, timeout: float = 600) -> int:
        deadline = time.monotonic() + timeout
        while self.poll() is None:
            if time.monotonic() > deadline:
                raise subprocess.TimeoutExpired("a preloaded process", timeout)
            time.sleep(0.01)
        assert self.returncode is not None
        return self.returncode

    def communicate(self, timeout: float) -> tuple[None, str]:
        self.wait(timeout)
        assert self._errors is not None
        return None, self._errors.read()

    def send_signal(self, number: signal.Signals) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def close() -> None:
    """Ends the servers and waits for them."""
    while _servers:
        _servers.popitem()[1].communicate()


def _ask(modules: tuple[str, ...], **request: object) -> Any:
    with _one_at_a_time:
        if modules not in _servers:
            _servers[modules] = subprocess.Popen(
                [sys.executable, __file__, *modules],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
            )
        server = _servers[modules]
        assert server.stdin is not None
        assert server.stdout is not None
        print(json.dumps(request), file=server.stdin, flush=True)
        answer = server.stdout.readline()
    assert answer, f"the server that loads {modules} ended with code {server.wait()}"
    return json.loads(answer)


def _serve() -> dict[str, Any]:
    """Answers requests until there are no more; in a fork it returns the request that it was made for."""
    for line in sys.stdin:
        request: dict[str, Any] = json.loads(line)
        if "ended" in request:
            pid, status = os.waitpid(request["ended"], os.WNOHANG)
            answer = os.waitstatus_to_exitcode(status) if pid else None
        else:
            answer = os.fork()
            if not answer:
                return request
        print(json.dumps(answer), flush=True)
    os._exit(0)


def _become(request: dict[str, Any]) -> None:
    """Makes this process what `python *words` would be, and runs it."""
    os.environ.clear()
    os.environ.update(request["environment"])
    os.chdir(request["folder"])
    for descriptor, path in enumerate((os.devnull, request["output"], request["errors"])):
        opened = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT)
        os.dup2(opened, descriptor)
        os.close(opened)
    random.seed()
    sys.modules["numpy"].random.seed()
    first, *arguments = request["words"]
    folders = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    sys.path[:1] = [str(Path(first).parent), *(folder for folder in folders if folder and folder not in sys.path)]
    if first == "-m":
        sys.path[0] = request["folder"]
        sys.argv = arguments
        runpy.run_module(arguments[0], run_name="__main__", alter_sys=True)
    else:
        sys.argv = [first, *arguments]
        runpy.run_path(first, run_name="__main__")


def _end(request: dict[str, Any]) -> NoReturn:
    """Runs it and ends as Python would, but for the modules: to take these down costs a fork more than many runs."""
    code: object = 1
    try:
        _become(request)
        code = 0
    except SystemExit as end:
        code = end.code
    except BaseException:
        traceback.print_exc()
    if isinstance(code, str):
        print(code, file=sys.stderr)
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code if isinstance(code, int) else int(code is not None))


if __name__ == "__main__":
    gc.disable()
    for _module in sys.argv[1:]:
        with suppress(ImportError):  # what is not installed is left to the forks
            importlib.import_module(_module)
    gc.freeze()  # no collection in a fork looks at, and so copies, what was loaded
    gc.enable()
    _end(_serve())
