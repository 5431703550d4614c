"""Time and memory of per-token log-probability and entropy from hidden states: ours, peers, bare matrix products.

    python benchmarks/entropy.py --small                   # a quick look
    python benchmarks/entropy.py --json entropy.json       # the table of docs/performance.md

Each implementation has a process of its own that imports it and forks once per measurement, so that every peak of
memory starts from nothing. Implementations take turns within each case: a machine that slows down slows all of them.
Linux only.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

Function = Callable[[Any, Any, Any, str], tuple[Any, Any]]

FLOOR, OURS, EXTRAS = "matrix products alone", "forkwise", "forkwise, with extras"
MODES = {
    "forward": "forward",
    "detached": "forward + backward, entropy detached",
    "entropy": "forward + backward through both",
}
DTYPES = ("float32", "bfloat16")
FLOOR_TILE = 1024  # vocabulary columns of one bare product


@dataclass(frozen=True)
class Case:
    """One measurement: `calls` timed calls in a fresh process."""

    tokens: int
    dim: int
    vocab: int
    dtype: str
    mode: str
    calls: int


@dataclass
class Row:
    """Medians over calls; seconds, and MB of peak memory above the inputs, outputs and gradients."""

    implementation: str
    threads: int
    dtype: str
    mode: str
    cpu_s: float | None = None
    wall_s: float | None = None
    extra_mb: float | None = None
    note: str = ""
    cpu_calls: list[float] = field(default_factory=list)  # seconds of each call, in the order of the turns


# --- implementations: (hidden, weight, targets, mode) -> (logprob, entropy) -------------------------------------------


def forkwise(*, extras: bool = False) -> Function:
    from forkwise.core import logprob_and_entropy

    return lambda h, w, y, mode: logprob_and_entropy(h, w, y, entropy_grad=mode == "entropy", extras=extras)


def naive() -> Function:
    import torch

    def function(h: Any, w: Any, y: Any, mode: str) -> tuple[Any, Any]:
        logp = (h @ w.t()).float().log_softmax(-1)
        with torch.set_grad_enabled(mode == "entropy"):
            entropy = -(logp.exp() * logp).sum(-1)
        return logp.gather(1, y[:, None]).squeeze(1), entropy

    return function


def trl_head() -> Function:
    from trl.kernels import ChunkedLogProbFunction

    def function(h: Any, w: Any, y: Any, mode: str) -> tuple[Any, Any]:
        logprob, entropy, *_ = ChunkedLogProbFunction.apply(h, w, None, y, 1.0, 32768, None, 1.0, ("entropy",))
        return logprob, entropy

    return function


def trl_logits() -> Function:
    from trl.trainer.utils import selective_log_softmax_and_entropy

    def function(h: Any, w: Any, y: Any, mode: str) -> tuple[Any, Any]:
        scores: tuple[Any, Any] = selective_log_softmax_and_entropy(
            h @ w.t(), y, entropy_requires_grad=mode == "entropy"
        )
        return scores

    return function


def verl_head() -> Function:
    from verl.utils.experimental.torch_functional import FusedLinearForPPO

    head = FusedLinearForPPO()
    return lambda h, w, y, mode: head(h, w, y)


def verl_logits() -> Function:
    import torch
    from verl.utils.torch_functional import entropy_from_logits, logprobs_from_logits

    def function(h: Any, w: Any, y: Any, mode: str) -> tuple[Any, Any]:
        logits = h @ w.t()
        with torch.set_grad_enabled(mode == "entropy"):
            entropy = entropy_from_logits(logits)
        return logprobs_from_logits(logits, y), entropy

    return function


def liger() -> Function:
    from liger_kernel.ops import LigerFusedLinearScaledCrossEntropyFunction as Head

    def function(h: Any, w: Any, y: Any, mode: str) -> tuple[Any, Any]:
        nll, entropy = Head.apply(h, w, y, return_entropy=True)
        return -nll, entropy

    return function


@dataclass(frozen=True)
class Implementation:
    """Where a row comes from. `saves_memory`: meant to avoid the full matrix of logits."""

    load: Callable[[], Function] | None
    package: str
    saves_memory: bool = False


IMPLEMENTATIONS = {
    FLOOR: Implementation(None, "torch"),
    OURS: Implementation(forkwise, "forkwise"),
    EXTRAS: Implementation(partial(forkwise, extras=True), "forkwise"),
    "logits + log_softmax": Implementation(naive, "torch"),
    "TRL logits": Implementation(trl_logits, "trl"),
    "TRL fused head": Implementation(trl_head, "trl", saves_memory=True),
    "verl logits": Implementation(verl_logits, "verl"),
    "verl FusedLinearForPPO": Implementation(verl_head, "verl", saves_memory=True),
    "Liger scaled CE": Implementation(liger, "liger-kernel", saves_memory=True),
}


# --- one measurement --------------------------------------------------------------------------------------------------


def bare_products(h: Any, w: Any, mode: str) -> int:
    """The products that any method without stored logits needs, 1 forward and 3 more backward. Bytes of gradients."""
    import torch

    tile = torch.empty(len(h), FLOOR_TILE, dtype=h.dtype)
    blocks = range(0, len(w) - FLOOR_TILE + 1, FLOOR_TILE)
    with torch.no_grad():
        for i in blocks:
            torch.mm(h, w[i : i + FLOOR_TILE].t(), out=tile)
        if mode == "forward":
            return 0
        grad_h, grad_w = torch.zeros_like(h), torch.zeros_like(w)
        for i in blocks:
            block = slice(i, i + FLOOR_TILE)
            torch.mm(h, w[block].t(), out=tile)
            grad_h.addmm_(tile, w[block])
            torch.mm(tile.t(), h, out=grad_w[block])
    return int(grad_h.nbytes + grad_w.nbytes)


def resident_kb(field: str) -> int:
    """`VmRSS` (memory now) or `VmHWM` (its peak) of this process."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1])
    raise OSError(f"/proc/self/status has no {field}: this benchmark runs on Linux only.")


def measure(function: Function | None, case: Case) -> dict[str, Any]:
    """CPU and wall seconds of each call, and MB of peak memory of the first, above inputs, outputs and gradients."""
    import torch

    dtype = getattr(torch, case.dtype)
    generator = torch.Generator().manual_seed(0)

    def inputs(tokens: int, vocab: int) -> tuple[Any, Any, Any, Any]:
        hidden = torch.randn(tokens, case.dim, dtype=dtype, generator=generator)
        # Logits of standard deviation 3, as of a language model.
        weight = torch.randn(vocab, case.dim, dtype=dtype, generator=generator).mul_(3 / case.dim**0.5)
        return hidden, weight, torch.randint(vocab, (tokens,), generator=generator), torch.randn(tokens)

    def call(hidden: Any, weight: Any, targets: Any, grad: Any) -> int:
        if function is None:
            return bare_products(hidden, weight, case.mode)
        if case.mode == "forward":
            with torch.no_grad():
                scores = function(hidden, weight, targets, case.mode)
            return sum(int(x.nbytes) for x in scores)
        hidden.grad = weight.grad = None
        hidden.requires_grad_()
        weight.requires_grad_()
        logprob, entropy = function(hidden, weight, targets, case.mode)
        loss = (logprob * grad).sum() + ((entropy * grad).sum() if case.mode == "entropy" else 0)
        loss.backward()
        return int(logprob.nbytes + entropy.nbytes + hidden.grad.nbytes + weight.grad.nbytes)

    call(*inputs(32, 4096))  # kernels are compiled and caches filled
    args = inputs(case.tokens, case.vocab)
    Path("/proc/self/clear_refs").write_text("5")  # the peak restarts from here
    before = resident_kb("VmRSS")
    cpu, wall, extra = [], [], 0.0
    for i in range(case.calls):
        start = time.process_time(), time.perf_counter()
        results = call(*args)
        cpu.append(time.process_time() - start[0])
        wall.append(time.perf_counter() - start[1])
        if i == 0:
            extra = (1024 * (resident_kb("VmHWM") - before) - results) / 1e6
    return {"cpu": cpu, "wall": wall, "extra": extra}


def worker(name: str, threads: int) -> None:
    """Answers the cases on stdin, one JSON line each, from a fork of this process."""
    stdout = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print must not mix with the answers
    try:
        import torch

        torch.set_num_threads(threads)
        implementation = IMPLEMENTATIONS[name]
        function = implementation.load() if implementation.load else None
        version = importlib.metadata.version(implementation.package)
    except ImportError as error:
        print(json.dumps({"missing": str(error)}), file=stdout, flush=True)
        return
    print(json.dumps({"version": f"{implementation.package} {version}"}), file=stdout, flush=True)
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            try:
                result = measure(function, Case(**json.loads(line)))
            except Exception as error:  # the row says so, and the others go on
                result = {"error": f"{type(error).__name__}: {error}"}
            print(json.dumps(result), file=stdout, flush=True)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if status:
            print(json.dumps({"error": f"killed (status {status}): out of memory?"}), file=stdout, flush=True)


# --- the run ----------------------------------------------------------------------------------------------------------


class Process:
    """A running `worker`."""

    def __init__(self, name: str, threads: int) -> None:
        env = {**os.environ, "OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
        command = [sys.executable, __file__, "--worker", name, "--threads", str(threads)]
        self._process = subprocess.Popen(
            command, env=env, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        self.hello = self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        answer: dict[str, Any] = json.loads(line) if line else {"missing": "its process died at import"}
        return answer

    def run(self, case: Case) -> dict[str, Any]:
        assert self._process.stdin is not None
        print(json.dumps(asdict(case)), file=self._process.stdin, flush=True)
        return self._answer()

    def close(self) -> None:
        self._process.communicate()


def run(
    threads: int, dtypes: Sequence[str], modes: Sequence[str], shape: tuple[int, int, int], calls: int, rounds: int
) -> tuple[list[Row], list[str]]:
    """All implementations side by side at one number of threads."""
    processes = {name: Process(name, threads) for name in IMPLEMENTATIONS}
    if "missing" in processes[OURS].hello:
        sys.exit(f"This Python cannot import forkwise ({processes[OURS].hello['missing']}): pip install -e . first.")
    rows = []
    for dtype in dtypes:
        for mode in modes:
            case = Case(*shape, dtype=dtype, mode=mode, calls=calls)
            # Those that the ratios are about come first and last: their medians cover the drift in between.
            order = [*IMPLEMENTATIONS, *(name for name in (EXTRAS, OURS, FLOOR) if name in IMPLEMENTATIONS)] * rounds
            answers: dict[str, list[dict[str, Any]]] = {}
            for name in order:
                process = processes[name]
                if mode == "entropy" and name == FLOOR:
                    continue  # the same products as with the entropy detached
                answers.setdefault(name, []).append(process.hello if "missing" in process.hello else process.run(case))
            print(f"{threads} thread(s), {dtype}, {MODES[mode]}: done", file=sys.stderr, flush=True)
            rows += [summary(Row(name, threads, dtype, mode), answer) for name, answer in answers.items()]
    versions = sorted({p.hello["version"] for p in processes.values() if "version" in p.hello})
    for process in processes.values():
        process.close()
    return rows, versions


def summary(row: Row, answers: list[dict[str, Any]]) -> Row:
    for answer in answers:
        if "missing" in answer:
            row.note = f"not installed ({answer['missing']})"
            return row
        if "error" in answer:
            row.note = f"failed: {answer['error']}"
            return row
    row.cpu_calls = [x for answer in answers for x in answer["cpu"]]
    row.cpu_s = float(np.median(row.cpu_calls))
    row.wall_s = float(np.median([x for answer in answers for x in answer["wall"]]))
    row.extra_mb = max(answer["extra"] for answer in answers)
    return row


@dataclass
class Target:
    """A bound on a ratio of CPU seconds, or on MB."""

    dtype: str
    threads: int
    what: str
    value: float
    limit: float

    @property
    def met(self) -> bool:
        return self.value <= self.limit


def targets(rows: list[Row]) -> list[Target]:
    """What we promise of our own rows, with what was measured."""
    lines = []
    with_extras = {(row.threads, row.dtype, row.mode): row.cpu_calls for row in rows if row.implementation == EXTRAS}
    for ours in (row for row in rows if row.implementation == OURS and row.cpu_s is not None):
        same = {
            row.implementation: row.cpu_s
            for row in rows
            if (row.threads, row.dtype, row.mode) == (ours.threads, ours.dtype, ours.mode) and row.cpu_s
        }
        floor_mode = "detached" if ours.mode == "entropy" else ours.mode
        floor = next(
            row.cpu_s
            for row in rows
            if (row.implementation, row.threads, row.dtype, row.mode) == (FLOOR, ours.threads, ours.dtype, floor_mode)
        )
        assert ours.cpu_s is not None
        assert floor is not None
        assert ours.extra_mb is not None
        forward = ours.mode == "forward"
        limits = {f"time / {FLOOR}": (ours.cpu_s / floor, 1.4 if forward else 1.2)}
        for name, seconds in same.items():
            if name in (FLOOR, OURS):
                continue
            if name == EXTRAS:
                # Neighbours in each turn: what else the machine does is the same for both.
                pairs = zip(with_extras[ours.threads, ours.dtype, ours.mode], ours.cpu_calls, strict=True)
                ratios = [more / less for more, less in pairs]
                spread = f"{len(ratios)} pairs, {min(ratios):.3f} to {max(ratios):.3f}"
                limits[f"time with extras / without ({spread})"] = float(np.median(ratios)), 1.1
                continue
            if forward:
                limits[f"time / {name}"] = ours.cpu_s / seconds, 0.75 if ours.dtype == "float32" else 0.5
            elif IMPLEMENTATIONS[name].saves_memory:
                limits[f"time / {name}"] = ours.cpu_s / seconds, 0.8
            elif name == "logits + log_softmax":
                limits[f"time / {name}"] = ours.cpu_s / seconds, 1.0
        limits["extra memory, MB"] = ours.extra_mb, 64.0
        lines += [
            Target(ours.dtype, ours.threads, f"{MODES[ours.mode]}: {what}", value, limit)
            for what, (value, limit) in limits.items()
        ]
    return lines


def show(rows: list[Row], promised: list[Target]) -> None:
    """Markdown tables on stdout."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    modes = [mode for mode in MODES if any(row.mode == mode for row in rows)]
    by_case = {(row.implementation, row.threads, row.dtype, row.mode): row for row in rows}
    console = Console(width=160, markup=False, highlight=False)
    for threads in sorted({row.threads for row in rows}):
        for dtype in dict.fromkeys(row.dtype for row in rows):
            console.print(f"\n{dtype}, {threads} thread(s): CPU s / wall s / extra MB\n")
            table = Table("implementation", *(MODES[mode] for mode in modes), box=box.MARKDOWN)
            for name in IMPLEMENTATIONS:
                cells = [cell(by_case.get((name, threads, dtype, mode))) for mode in modes]
                table.add_row(name, *cells)
            console.print(table)
    console.print("\ntargets, stated for the default size: ratios of CPU seconds, and MB\n")
    table = Table("dtype", "threads", "target", "measured", "limit", "", box=box.MARKDOWN)
    for t in promised:
        table.add_row(
            t.dtype, str(t.threads), t.what, f"{t.value:.2f}", f"<= {t.limit:g}", "met" if t.met else "NOT MET"
        )
    console.print(table)


def cell(row: Row | None) -> str:
    if row is None:
        return "as on the left"
    if row.cpu_s is None or row.wall_s is None or row.extra_mb is None:
        return row.note
    return f"{row.cpu_s:.2f} / {row.wall_s:.2f} / {row.extra_mb:.0f}"


def cpu_name() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":")[1].strip()
    return platform.processor()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--small", action="store_true", help="256 tokens and 32000 words: about a minute")
    parser.add_argument("--tokens", type=int, default=2048)
    parser.add_argument("--dim", type=int, default=896, help="width of the hidden states")
    parser.add_argument("--vocab", type=int, default=151_936)
    parser.add_argument("--dtype", nargs="+", choices=DTYPES, default=list(DTYPES))
    parser.add_argument("--forward", action="store_true", help="the forward pass alone")
    parser.add_argument("--threads", nargs="+", type=int, default=[1])
    parser.add_argument(
        "--only", nargs="*", help="beside the floor and ours only those with one of these in their names"
    )
    parser.add_argument("--calls", type=int, help="timed calls per measurement: 1, or 5 with --small")
    parser.add_argument("--rounds", type=int, default=1, help="turns of all implementations, each there and back")
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        worker(args.worker, args.threads[0])
        return
    for name in [name for name in IMPLEMENTATIONS if args.only is not None and name not in (FLOOR, OURS)]:
        if not any(part in name for part in args.only):
            del IMPLEMENTATIONS[name]
    shape = (256, 896, 32_000) if args.small else (args.tokens, args.dim, args.vocab)
    rows: list[Row] = []
    versions: list[str] = []
    for threads in args.threads:
        modes = ["forward"] if args.forward else list(MODES)
        measured, versions = run(threads, args.dtype, modes, shape, args.calls or (5 if args.small else 1), args.rounds)
        rows += measured
    promised = targets(rows)
    setting = dict(zip(("tokens", "dim", "vocab"), shape, strict=True))
    print(f"{setting}, {cpu_name()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, {', '.join(versions)}")
    show(rows, promised)
    if args.json:
        document = {
            **setting,
            "cpu": cpu_name(),
            "cores": os.cpu_count(),
            "load": os.getloadavg()[0],
            "versions": versions,
            "rows": [asdict(row) for row in rows],
            "targets": [{**asdict(t), "met": t.met} for t in promised],
        }
        args.json.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
