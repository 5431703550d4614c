"""Log-probs and entropies on a GPU: right or wrong, time and memory beside others, a whole update, a short training.

    python benchmarks/gpu.py                      # one NVIDIA GPU, under 8 minutes, no network
    python benchmarks/gpu.py --device cpu --tiny  # tries the code of this file on any machine

Each line says met or NOT MET. Right means: equal to float64 from the same hidden states and weights, on the device, in
values and in the gradients of both. Time is the median of calls after two that are not timed; memory is the peak above
inputs, outputs and gradients. "Bare products" is the floor: one product forward, three more backward, nothing else.
Libraries that are not installed are named and left out (docs/performance.md has the commands). What would not fit into
the time of `--minutes` is left out, and counts as not met.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from entropy import IMPLEMENTATIONS
from gpu_correctness import Bench, correctness, inputs
from torch import Tensor

from forkwise.core import logprob_and_entropy
from forkwise.core.backends import triton_trouble

# The other scripts here have names that libraries may import.
sys.path = [entry for entry in sys.path if Path(entry or ".").resolve() != Path(__file__).resolve().parent]

Head = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
"""From hidden states `(N, d)`, the head `(V, d)` and targets `(N,)` to log-probs and entropies."""


def ours(**options: Any) -> Callable[[], Head]:
    return lambda: lambda h, w, y: tuple(logprob_and_entropy(h, w, y, **options))  # type: ignore[return-value]


def as_on_cpus(name: str) -> Callable[[], Head]:
    """A peer of `entropy.py`, with the entropy detached."""

    def load() -> Head:
        implementation = IMPLEMENTATIONS[name].load
        assert implementation is not None
        function = implementation()
        return lambda h, w, y: function(h, w, y, "detached")

    return load


def verl_triton() -> Head:
    from verl.utils.kernel.linear_cross_entropy import linear_cross_entropy

    return lambda h, w, y: linear_cross_entropy(h, w, y, 1.0, "none")


FLOOR, OURS, EXTRAS, TRL, LOGITS = (
    "bare products",
    "forkwise",
    "forkwise, with extras",
    "TRL's Triton head",
    "logits + log_softmax",
)
PEERS: dict[str, Callable[[], Head]] = {
    TRL: as_on_cpus("TRL fused head"),
    "verl, torch": as_on_cpus("verl FusedLinearForPPO"),
    "verl, Triton": verl_triton,
    "Liger": as_on_cpus("Liger scaled CE"),
    LOGITS: as_on_cpus(LOGITS),
}
HEADS = {OURS: ours(), EXTRAS: ours(extras=True), "forkwise, passes of PyTorch": ours(backend="torch"), **PEERS}


# --- time and memory --------------------------------------------------------------------------------------------------


def floor_call(h: Tensor, w: Tensor) -> Callable[[bool], None]:
    """The products alone, in tiles of our size."""
    words = min(len(w), (1 << 26) // len(h))
    tile = torch.empty(len(h), words, dtype=h.dtype, device=h.device)
    blocks = [w[lo : lo + words] for lo in range(0, len(w) - words + 1, words)]
    grad_h = torch.zeros_like(h)

    def call(backward: bool) -> None:
        with torch.no_grad():
            for block in blocks:
                torch.mm(h, block.t(), out=tile)
                if backward:
                    torch.mm(h, block.t(), out=tile)
                    grad_h.addmm_(tile, block)
                    torch.mm(tile.t(), h)

    return call


def head_call(head: Head, h: Tensor, w: Tensor, y: Tensor) -> Callable[[bool], None]:
    """A forward pass, and a backward pass through the log-probs if asked for."""

    def call(backward: bool) -> None:
        h.grad = w.grad = None
        with torch.set_grad_enabled(backward):
            logprob, _ = head(h, w, y)
        if backward:
            logprob.sum().backward()

    return call


def timed(bench: Bench, call: Callable[[], None]) -> float:
    """Median milliseconds of calls, after two that fill caches and compile."""
    seconds = []
    for i in range(3 if bench.tiny else 9):
        bench.sync()
        start = time.perf_counter()
        call()
        bench.sync()
        if i >= 2:
            seconds.append(time.perf_counter() - start)
    return 1e3 * statistics.median(seconds)


def both(bench: Bench, call: Callable[[bool], None]) -> list[float]:
    """Milliseconds forward, and forward + backward."""
    return [timed(bench, partial(call, backward)) for backward in (False, True)]


def cost(bench: Bench, load: Callable[[], Head], h: Tensor, w: Tensor, y: Tensor) -> list[float]:
    """Milliseconds forward, forward + backward, and MB of peak memory above inputs and results."""
    call = head_call(load(), h, w, y)
    call(True)  # compiles
    h.grad = w.grad = None
    bench.clean()
    before = bench.used()
    call(True)
    extra = bench.peak() - before - sum(x.grad.nbytes for x in (h, w) if x.grad is not None)
    return [*both(bench, call), extra / 1e6]


def speed(bench: Bench) -> None:
    """Time and memory of one head after the other."""
    shapes = [(16, 32, 500)] if bench.tiny else [(2_048, 896, 151_936), (8_192, 4_096, 151_936)]
    for tokens, dim, vocab in shapes:
        for dtype in (torch.bfloat16, torch.float32) if tokens < 4096 else (torch.bfloat16,):
            title = f"{str(dtype)[6:]}, {tokens} x {dim} x {vocab}"
            print(f"\nTime and memory, {title}: forward ms, forward + backward ms, MB above inputs and results")
            h, w, y = inputs(tokens, dim, vocab, dtype, bench.device)
            results = {FLOOR: both(bench, floor_call(h, w))}
            bench.say(FLOOR, note="{:.2f}, {:.2f}".format(*results[FLOOR]))
            for name, load in HEADS.items():
                if bench.late(f"{name}, {title}", 20):
                    continue
                spent = bench.attempt(name, partial(cost, bench, load, h, w, y))
                if spent is not None:
                    results[name] = spent
                    bench.say(name, note="{:.2f}, {:.2f}, {:.0f} MB".format(*spent))
            judge(bench, title, results, large=tokens >= 4096)
            h.grad = w.grad = None


def judge(bench: Bench, title: str, results: dict[str, list[float]], *, large: bool) -> None:
    """What we promise of our head."""
    if OURS not in results:
        bench.say(f"{OURS}, {title}", None, 0, "did not run")
        return
    if bench.tiny:
        return
    (forward, total, extra), floor = results[OURS], results[FLOOR]
    limit = 1.2 if large else 1.7  # at a width of 896 moving the tiles takes half as long as the products
    bench.say("forward / bare products", forward / floor[0], limit)
    bench.say("forward + backward / bare products", total / floor[1], limit)
    for name in PEERS:
        if name in results:
            bench.say(f"forward + backward / {name}", total / results[name][1], 1.05)
    if EXTRAS in results:
        bench.say("forward + backward with extras / without", results[EXTRAS][1] / total, 1.1)
    # A tile of 2^26 numbers in float32, another one for the passes of PyTorch, one rounded; hidden states' gradient.
    bench.say("extra memory, MB", extra, 1_000)


# --- a whole update, and a training -----------------------------------------------------------------------------------


def update(bench: Bench) -> None:
    """One update by TRL's trainer: forward, loss of shaped advantages, backward; by three heads, in a run each."""
    rows, prompt, completion = (2, 16, 8) if bench.tiny else (8, 256, 768)
    sizes = (500, 2, 32, 64, 2) if bench.tiny else (151_936, 4, 896, 4864, 14)
    print(
        f"\nA GRPO update, bfloat16, {sizes[1]} layers, {rows} x ({prompt} + {completion}) tokens, {sizes[0]} words: "
        "ms, MB"
    )
    sys.path.insert(0, str(Path(__file__).resolve().parent))  # it takes it off again

    def timed_update(name: str) -> list[float]:
        import training_step

        from forkwise.engines.trl.head import HeadChoice

        with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = training_step.random_model(torch.bfloat16, *sizes).to(bench.device)
            batch = training_step.micro_batch(sizes[0], prompt, completion, rows)
            batch = {key: value.to(bench.device) for key, value in batch.items()}
            backend = "trl" if name == TRL else "forkwise"
            options = {"use_cpu": bench.device.type == "cpu", "bf16": bench.device.type != "cpu"}
            trainer: Any = training_step.trainer_of(model, backend, folder, batch, **options)
            if name == LOGITS:
                trainer._way = lambda *_: HeadChoice("logits")
            if trainer._way(model, *_text(batch)).scorer != ("logits" if name == LOGITS else backend):
                raise RuntimeError("another head than this one scored")
            bench.clean()

            def step() -> None:
                model.zero_grad()
                trainer._compute_loss(trainer.model, batch).backward()

            return [timed(bench, step), bench.peak() / 1e6]

    times: dict[str, float] = {}
    for name in (OURS, TRL, LOGITS):
        if bench.late(f"the update by {name}", 20):
            continue
        bench.clean()
        spent = bench.attempt(name, partial(timed_update, name))
        if spent is not None:
            times[name] = spent[0]
            bench.say(name, note="{:.1f}, {:.0f} MB".format(*spent))
    if OURS not in times:
        bench.say(f"the update by {OURS}", None, 0, "did not run")
    elif TRL in times and not bench.tiny:
        bench.say(f"update / by {TRL}", times[OURS] / times[TRL], 1.0)


def _text(batch: dict[str, Tensor]) -> tuple[Tensor, Tensor, int]:
    """Returns ids and mask of a micro-batch, and the length of its completions."""
    parts = ("prompt", "completion")
    ids, mask = (torch.cat([batch[f"{part}_{what}"] for part in parts], dim=1) for what in ("ids", "mask"))
    return ids, mask, batch["completion_ids"].shape[1]


def training(bench: Bench) -> None:
    """Steps of the embedded model by `forkwise grpo`, as a user runs it."""
    steps = 2 if bench.tiny else 20
    if bench.late("training", 60):
        return
    print(f"\n{steps} steps of the embedded model")
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "forkwise", "grpo", "--model", "embedded", "--task", "countdown"]
        command += ["--max_steps", str(steps), "--output_dir", f"{folder}/run", "--logging_steps", "1"]
        start = time.monotonic()
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=bench.end - start, check=False)
        except subprocess.TimeoutExpired:
            bench.say("training", None, 0, "not done in time")
            return
        if done.returncode != 0:
            bench.say("training", None, 0, f"failed: {' '.join((done.stderr or done.stdout).split())[-300:]}")
            return
        rows = [json.loads(line) for line in (Path(folder) / "run" / "metrics.jsonl").read_text().splitlines()]
    entropies = [row["entropy"] for row in rows if "entropy" in row]
    bench.say("seconds of all steps, start included", time.monotonic() - start)
    bench.say("steps without an entropy > 0", steps - sum(0 < value < float("inf") for value in entropies), 0)


# --- the run ----------------------------------------------------------------------------------------------------------


def versions() -> str:
    lines = []
    for name in ("torch", "triton", "trl", "verl", "liger-kernel", "forkwise"):
        try:
            lines.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            lines.append(f"no {name}")
    return ", ".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true", help="tiny shapes: tries this file's code, measures nothing")
    parser.add_argument("--minutes", type=float, default=7.5, help="what would end later is left out")
    parser.add_argument("--json", type=Path, help="write what was found here")
    args = parser.parse_args()
    device = torch.device(args.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        sys.exit("torch sees no GPU here: run on a machine with one, or try the code with --device cpu --tiny.")
    start = time.monotonic()
    bench = Bench(device, args.tiny, start + 60 * args.minutes)
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    print(f"{where}; {versions()}")
    if device.type == "cuda":
        trouble = triton_trouble(device)
        bench.say("Triton's kernels give what PyTorch's passes give", float(trouble is not None), 0, trouble or "")
    for part in (correctness, speed, update, training):
        bench.clean()
        part(bench)
    promised = [line for line in bench.lines if line.limit is not None]
    print(f"\n{sum(x.met for x in promised)} of {len(promised)} met, in {(time.monotonic() - start) / 60:.1f} minutes")
    if args.tiny:
        print("Tiny shapes try the code; their times mean nothing.")
    if args.json:
        document = {"device": where, "versions": versions(), "lines": [asdict(x) | {"met": x.met} for x in bench.lines]}
        args.json.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
