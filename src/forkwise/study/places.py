"""Where runs go: processes on this machine, each on its cores or GPUs, or the nodes of a Ray cluster."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any, Protocol

from forkwise.errors import InputError, RunError, first_line
from forkwise.study.spec import Device
from forkwise.study.work import Work, perform


class RunPlace(Protocol):
    """What takes runs and brings each to its end, as many at a time as there is room for."""

    device: Device
    """What the runs compute on."""
    threads: int
    """Cores of each run."""

    def submit(self, work: Work) -> Future[None]:
        """Starts the run as soon as there is room; the future ends as `perform` does, or with the place's own error."""
        ...

    def close(self) -> None:
        """Ends all runs that are at work."""
        ...


def gpus() -> list[str]:
    """Returns the GPUs that this process may use, each as CUDA_VISIBLE_DEVICES names it."""
    import torch

    count = torch.cuda.device_count()
    named = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
    return named[:count] if named[0] else [str(i) for i in range(count)]


def shares(devices: Sequence[str], each: int, jobs: int) -> list[str | None]:
    """Returns the GPUs of each of `jobs` processes that need `each` of them, as evenly as they go; None for the CPU.

    Raises:
        InputError: a run needs more GPUs than there are.
    """
    if not devices:
        return [None] * jobs
    groups = [",".join(devices[i : i + each]) for i in range(0, len(devices) - each + 1, each)]
    if not groups:
        raise InputError(f"A run takes {each} GPUs (processes), and there are {len(devices)}: ask for fewer.")
    return [groups[i % len(groups)] for i in range(jobs)]


class LocalPlace:
    """Processes on this machine, `jobs` at a time.

    Args:
        jobs: runs side by side.
        device: `cpu`, `cuda`, or `auto`: the GPUs if there are any.
        processes: processes of each run, and on GPUs the GPUs.

    Raises:
        InputError: there is no GPU, or too few for one run.
    """

    def __init__(self, jobs: int, device: str = "auto", processes: int = 1) -> None:
        if device not in ("auto", "cpu", "cuda"):
            raise InputError(f"device is '{device}': it must be cpu, cuda or auto.")
        devices = gpus() if device != "cpu" else []
        if device == "cuda" and not devices:
            raise InputError("There is no GPU that CUDA can use: give --device cpu.")
        self.device: Device = "cuda" if devices else "cpu"
        self.threads = processes
        self._places: SimpleQueue[str | None] = SimpleQueue()
        for share in shares(devices, processes, jobs):
            self._places.put(share)
        self._ending = threading.Event()
        self._pool = ThreadPoolExecutor(jobs, thread_name_prefix="run")

    def submit(self, work: Work) -> Future[None]:
        """Starts the run when one of the processes is free."""
        return self._pool.submit(self._perform, work)

    def _perform(self, work: Work) -> None:
        share = self._places.get()
        try:
            perform(work, share, self._ending.is_set)
        finally:
            self._places.put(share)

    def close(self) -> None:
        """Ends the processes."""
        self._ending.set()
        self._pool.shutdown(wait=True, cancel_futures=True)


class NodeError(RunError):
    """A run failed on a node of the cluster; another node may have what this one lacks, such as room on its disk."""

    def __init__(self, message: str, node: str) -> None:
        super().__init__(message)
        self.node = node

    def __reduce__(self) -> tuple[type[NodeError], tuple[str, str]]:
        return NodeError, (str(self), self.node)


def _perform_on_node(work: Work) -> None:
    """Brings a run to its receipt within a task of Ray."""
    import ray

    try:
        perform(work)
    except RunError as error:
        raise NodeError(str(error), ray.get_runtime_context().get_node_id()) from error


@dataclass(frozen=True)
class Resources:
    """What one run takes of a node: cores and GPUs."""

    cpus: float = 1
    gpus: float = 0


def _must_listen(address: str) -> None:
    """Raises an OSError where nobody listens at a cluster's address: `ray.init` itself would try for many minutes."""
    try:
        from ray._private.services import canonicalize_bootstrap_address
    except ImportError:  # a private place, which Ray 2.60 has: without it Ray tries for as long as it likes
        return
    # What Ray makes of `auto`, or of a port without a host, also where a cluster that has ended left its address.
    known = canonicalize_bootstrap_address(address.removeprefix("ray://")) or ""
    host, separator, port = known.removeprefix("ray://").rpartition(":")
    if separator and port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()


class RayPlace:
    """A Ray cluster: Ray decides which node has room, and says when a worker or node has died.

    Every node needs forkwise, and sees the study's folders under the same path.

    Args:
        address: as `ray.init` takes it: `auto`, `HOST:PORT`, or `ray://HOST:PORT`.
        resources: of each run.

    Raises:
        InputError: Ray is not installed, there is no such cluster, or no node has the resources.
    """

    def __init__(self, address: str, resources: Resources) -> None:
        try:
            import ray
        except ImportError as error:
            raise InputError('--ray needs the package ray: pip install "forkwise[ray]".') from error
        self._ray = ray
        try:
            _must_listen(address)
            ray.init(address=address, log_to_driver=False, configure_logging=False)
        except (OSError, RuntimeError, ValueError) as error:
            raise InputError(f"There is no Ray cluster at '{address}' ({first_line(error)}): start one.") from error
        self.device: Device = "cuda" if resources.gpus else "cpu"
        self.threads = max(1, int(resources.cpus))
        self._resources = resources
        if not self._nodes():
            ray.shutdown()
            raise InputError(
                f"No node of the cluster has {resources.cpus:g} CPUs and {resources.gpus:g} GPUs for a run: ask for "
                "less."
            )
        # A killed worker or node is seen by the study, which starts the run again: Ray itself does not.
        remote: Any = ray.remote(num_cpus=resources.cpus, num_gpus=resources.gpus, max_retries=0)
        self._perform: Any = remote(_perform_on_node)
        self._open: list[Any] = []
        self._last: dict[str, Future[None]] = {}  # of each run

    def _nodes(self) -> list[str]:
        """Returns the nodes that live and are large enough for a run."""
        least = {"CPU": self._resources.cpus, "GPU": self._resources.gpus}
        return [
            node["NodeID"]
            for node in self._ray.nodes()
            if node["Alive"] and all(node["Resources"].get(kind, 0) >= amount for kind, amount in least.items())
        ]

    def submit(self, work: Work) -> Future[None]:
        """Hands the run to Ray; one that failed on a node goes to another, if there is any."""
        failed_on = self._failed_on(work.run)
        healthy = [node for node in self._nodes() if node != failed_on] if failed_on else []
        strategy: Any = "DEFAULT"
        if healthy:
            from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

            strategy = NodeAffinitySchedulingStrategy(healthy[len(self._open) % len(healthy)], soft=True)
        reference = self._perform.options(scheduling_strategy=strategy).remote(work)
        self._open.append(reference)
        future: Future[None] = reference.future()
        self._last[work.run] = future
        return future

    def _failed_on(self, run: str) -> str | None:
        """Returns the node on which a run that has ended failed."""
        last = self._last.get(run)
        cause = getattr(last.exception(), "cause", None) if last is not None and last.done() else None
        return cause.node if isinstance(cause, NodeError) else None

    def close(self) -> None:
        """Ends the runs on all nodes, and leaves the cluster."""
        for reference in self._open:
            self._ray.cancel(reference, force=True)
        self._ray.shutdown()
