"""Killable worker processes for everything that parses model output: a limit on time and memory per request.

A worker is a fresh interpreter that speaks JSON lines over its pipes (see `verify_worker.py`). It never imports the
caller's `__main__`, shares no memory, thread or signal handler with the caller, and is not forked from it:
pools over multiprocessing, such as pebble's, do the one or the other.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import subprocess
import sys
import threading
import time
import weakref
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Literal

from forkwise.errors import InputError, RunError

Reply = dict[str, Any]

_START_LIMIT = 120.0  # seconds; importing sympy takes one, on a machine that swaps it takes many
_PATIENCE = (
    10  # a worker on a busy machine may take so many times its limit of wall time, if it had less processor time
)
_LONGEST = 1_000_000  # seconds per request
_START_TRIES = 5  # for each worker of a pool; one that says that it cannot start has only one
_TRIES = 2  # a worker may die for reasons that are not the request's (the machine's memory killer)
_CHILD = (
    "import json, sys; settings = json.loads(sys.argv[1]); sys.path[:] = settings['path'];"
    " from forkwise.tasks.verify_worker import main; main(settings)"
)


@dataclass
class WorkerStats:
    """A pool's counts so far: `requests` answered or given up, workers `started`, workers `killed` for overrunning."""

    requests: int = 0
    started: int = 0
    killed: int = 0


@dataclass
class _Worker:
    process: subprocess.Popen[bytes]
    deadline: float
    last_deadline: float = 0.0
    cpu_limit: float = 0.0
    request: int | None = None
    ready: bool = False
    inbox: bytearray = field(default_factory=bytearray)
    outbox: bytes = b""

    @property
    def busy(self) -> bool:
        return self.request is not None or not self.ready

    def begin(self, request: int, line: bytes, timeout: float) -> None:
        self.request, self.outbox = request, line
        now = time.monotonic()
        self.deadline, self.last_deadline = now + timeout, now + _PATIENCE * timeout
        self.cpu_limit = (_cpu_seconds(self.process.pid) or 0.0) + timeout

    def has_overrun(self) -> bool:
        """Tells whether the time is over: processor time on a busy machine, or verdicts would depend on the load."""
        now = time.monotonic()
        if now < self.deadline:
            return False
        spent = _cpu_seconds(self.process.pid)
        if not self.ready or spent is None or now >= self.last_deadline:
            return True
        remaining = self.cpu_limit - spent
        if remaining <= 0:
            return True
        self.deadline = min(now + max(remaining, 0.01), self.last_deadline)
        return False

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()


def _exit(code: int) -> str:
    return f"signal {-code}" if code < 0 else f"exit code {code}"


def _cpu_seconds(pid: int) -> float | None:
    """Returns the processor time that a process has used; None where the system does not tell, as outside Linux."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError):
        return None


def _kill_all(workers: list[_Worker]) -> None:
    # In a forked child, Popen notices that these are not its children and leaves them alone.
    while workers:
        workers.pop().kill()


class WorkerPool:
    """Answers requests in worker processes that start when first needed and end with this process at the latest.

    Args:
        kind: what the workers do, see `verify_worker.py`.
        workers: how many at most. One by default: during training the cores have other work.
        timeout: seconds per request; a worker that takes longer is killed and replaced. Where the machine is so busy
            that the worker had less processor time than that, it is given up to ten times as much wall time.
        memory_mb: address space of one worker in MiB.
        hash_seed: `PYTHONHASHSEED` of the workers.
    """

    def __init__(
        self,
        kind: Literal["math", "reasoning-gym"],
        *,
        workers: int = 1,
        timeout: float = 5.0,
        memory_mb: int = 1024,
        hash_seed: str = "0",
    ) -> None:
        if workers < 1:
            raise InputError(f"workers must be at least 1, not {workers}.")
        if not 0 < timeout <= _LONGEST:
            raise InputError(f"timeout must be a positive number of seconds, at most {_LONGEST:,}, not {timeout}.")
        if not 1 <= memory_mb < 1 << 30:
            raise InputError(f"memory_mb must be a number of MiB, at least 1, not {memory_mb}.")
        self.kind, self.size, self.timeout, self.memory_mb, self.hash_seed = (
            kind,
            workers,
            timeout,
            memory_mb,
            hash_seed,
        )
        self.stats = WorkerStats()
        self._adopt()

    def _adopt(self) -> None:
        self._owner = os.getpid()
        self._lock = threading.Lock()
        self._workers: list[_Worker] = []
        # Runs when the pool is collected and, at the latest, when the interpreter exits.
        weakref.finalize(self, _kill_all, self._workers)

    def pids(self) -> list[int]:
        """Returns the process ids of the workers that are alive now."""
        return [worker.process.pid for worker in self._workers]

    def close(self) -> None:
        """Ends all workers. The pool can be used again; it starts new ones."""
        _kill_all(self._workers)

    def __enter__(self) -> WorkerPool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def map(self, requests: Sequence[Reply], *, timeout: float | None = None) -> list[Reply]:
        """Returns a reply per request, in order; `{"failure": "timeout"}` and `{"failure": "error", ...}` are none.

        Raises:
            InputError: a worker cannot start, for example because the package it needs does not import.
            RunError: workers die while they start, again and again.
        """
        if os.getpid() != self._owner:
            self._adopt()  # after a fork: two processes must not talk to one worker
        with self._lock:
            try:
                return self._map(requests, self.timeout if timeout is None else timeout)
            except BaseException:
                # Interrupted (Ctrl-C, an alarm of the caller): a busy worker would answer the wrong request next time.
                for worker in [worker for worker in self._workers if worker.busy]:
                    self._workers.remove(worker)
                    worker.kill()
                raise

    def _map(self, requests: Sequence[Reply], timeout: float) -> list[Reply]:
        replies: dict[int, Reply] = {}
        waiting = deque(range(len(requests)))
        deaths: Counter[int] = Counter()
        failed_starts = 0
        while len(replies) < len(requests):
            while len(self._workers) < min(self.size, len(requests) - len(replies)):
                self._start()
            for worker in self._workers:
                if waiting and not worker.busy:
                    index = waiting.popleft()
                    worker.begin(index, json.dumps(requests[index]).encode() + b"\n", timeout)
            for worker in self._wait():
                asked, reply = worker.request, self._pump(worker)
                if reply is None and not worker.has_overrun():
                    continue
                if reply is None:
                    reply = {"failure": "timeout"}
                    self.stats.killed += 1
                if reply.get("failure") in ("timeout", "death"):
                    self._workers.remove(worker)
                    worker.kill()
                if not worker.ready:
                    failed_starts = self._started(worker, reply, failed_starts)
                    continue
                assert asked is not None  # a ready worker speaks only when asked
                worker.request = None
                if reply.get("failure") == "death":
                    deaths[asked] += 1
                    if deaths[asked] < _TRIES:
                        waiting.appendleft(asked)
                        continue
                    reply = {"failure": "error", "detail": "the worker process died"}
                replies[asked] = reply
                self.stats.requests += 1
        return [replies[i] for i in range(len(requests))]

    def _started(self, worker: _Worker, reply: Reply, failed: int) -> int:
        """Takes a worker's first reply; returns the number of starts that have failed since one went well.

        Raises:
            InputError: the worker says that it cannot start.
            RunError: too many were killed, or said nothing, while they started.
        """
        if reply.get("ready"):
            worker.ready = True
            return 0
        if "failure" not in reply:
            self._workers.remove(worker)
            worker.kill()
            raise InputError(f"The {self.kind} worker did not start: {reply.get('detail', reply)}.")
        if failed + 1 >= _START_TRIES * self.size:
            code = worker.process.returncode
            how = "took too long" if reply["failure"] == "timeout" else f"died ({_exit(code)})"
            raise RunError(
                f"The {self.kind} worker did not start: {failed + 1} times a process {how} before it was ready; see "
                "whether the machine is short of memory, and run the same command again."
            )
        return failed + 1

    def _start(self) -> None:
        settings = {"kind": self.kind, "path": sys.path, "memory_mb": self.memory_mb, "timeout": self.timeout}
        one_thread = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
        try:
            process = subprocess.Popen(
                [sys.executable, "-c", _CHILD, json.dumps(settings)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                bufsize=0,
                start_new_session=True,  # Ctrl-C in the terminal is for the caller
                env={**os.environ, **one_thread, "PYTHONHASHSEED": self.hash_seed},
            )
        except OSError as error:
            raise RunError(f"No {self.kind} worker can be started: {error.strerror}.") from error
        assert process.stdin is not None
        assert process.stdout is not None
        os.set_blocking(process.stdin.fileno(), False)
        os.set_blocking(process.stdout.fileno(), False)
        self._workers.append(_Worker(process, time.monotonic() + _START_LIMIT))
        self.stats.started += 1

    def _wait(self) -> list[_Worker]:
        """Returns the busy workers that can read, have written or have overrun."""
        busy = [worker for worker in self._workers if worker.busy]
        with selectors.DefaultSelector() as selector:
            for worker in busy:
                assert worker.process.stdout is not None
                selector.register(worker.process.stdout, selectors.EVENT_READ, worker)
                if worker.outbox:
                    assert worker.process.stdin is not None
                    selector.register(worker.process.stdin, selectors.EVENT_WRITE, worker)
            now = time.monotonic()
            events = selector.select(max(0.0, min(worker.deadline for worker in busy) - now))
        active = {id(key.data) for key, _ in events}
        now = time.monotonic()
        return [worker for worker in busy if id(worker) in active or worker.deadline <= now]

    @staticmethod
    def _pump(worker: _Worker) -> Reply | None:
        """Moves bytes in both directions as far as they go; returns the reply once it is complete."""
        assert worker.process.stdin is not None
        assert worker.process.stdout is not None
        try:
            if worker.outbox:
                with contextlib.suppress(BlockingIOError):
                    written = os.write(worker.process.stdin.fileno(), worker.outbox)
                    worker.outbox = worker.outbox[written:]
            while not worker.inbox.endswith(b"\n"):
                chunk = os.read(worker.process.stdout.fileno(), 1 << 16)
                if not chunk:
                    return {"failure": "death"}
                worker.inbox += chunk
        except BlockingIOError:
            return None
        except OSError:
            return {"failure": "death"}
        reply: Reply = json.loads(worker.inbox)
        worker.inbox.clear()
        return reply
