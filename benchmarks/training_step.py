"""A whole GRPO update on a CPU, by who computes log-probs and entropies: TRL, forkwise, verl, Liger. Linux only.

    python benchmarks/training_step.py                            # 4 layers, 896 wide, 151,936 words: about 10 minutes
    python benchmarks/training_step.py --small                    # shorter texts: 3 minutes
    python benchmarks/training_step.py --model FOLDER             # any model, e.g. SmolLM2-135M

An update is forward pass, loss and backward pass of TRL's trainer on one micro-batch with advantages that are shaped.
The heads of others take the place of TRL's function at every position, which is where TRL and verl use them off GPUs.
Heads take turns, each time in a fork of the process that holds the model, so that every peak of memory starts alike.
Time is CPU seconds, the median over the rounds. "no head" is the rest of the update.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

sys.path = [entry for entry in sys.path if Path(entry or ".").resolve() != Path(__file__).resolve().parent]
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "helpers"))

import tiny_trl as tiny  # noqa: E402
import torch  # noqa: E402
import transformers  # noqa: E402
import trl.trainer.utils as trl_utils  # noqa: E402
from transformers import AutoModelForCausalLM, Qwen2Config, Qwen2ForCausalLM  # noqa: E402

from forkwise import EntropyShapedGRPOConfig, EntropyShapedGRPOTrainer, logprob_and_entropy  # noqa: E402

NOTHING, TRL, OURS = "no head", "TRL's head", "forkwise"
TARGETS = {"float32": 0.6, "bfloat16": 0.4}  # of TRL's CPU seconds
HEAD_MB, ENTROPY_ERROR = 64, 2e-6

Head = Callable[[Any, Any, Any, Any, float], tuple[Any, Any]]
"""From hidden states, weight, bias, labels and temperature to log-probs and entropies."""


def nothing(hidden: Any, weight: Any, bias: Any, labels: Any, temperature: float) -> tuple[Any, Any]:
    return hidden.float().mean(-1), hidden.detach().float().abs().mean(-1)


def everywhere(hidden: Any, weight: Any, bias: Any, labels: Any, temperature: float) -> tuple[Any, Any]:
    scores = logprob_and_entropy(hidden, weight, labels, bias=bias, temperature=temperature)
    return scores.logprob, scores.entropy


def verl(hidden: Any, weight: Any, bias: Any, labels: Any, temperature: float) -> tuple[Any, Any]:
    from verl.utils.experimental.torch_functional import FusedLinearForPPO

    logprob, entropy = FusedLinearForPPO()(hidden, weight, labels, temperature)
    return logprob.float(), entropy.float()


def liger(hidden: Any, weight: Any, bias: Any, labels: Any, temperature: float) -> tuple[Any, Any]:
    from liger_kernel.ops import LigerFusedLinearScaledCrossEntropyFunction

    nll, entropy = LigerFusedLinearScaledCrossEntropyFunction.apply(
        hidden, weight, labels, temperature=temperature, return_entropy=True
    )
    return -nll.float(), entropy.float()


HEADS: dict[str, tuple[str, Head | None]] = {
    NOTHING: ("trl", nothing),
    TRL: ("trl", None),
    f"{OURS}, every position": ("trl", everywhere),
    OURS: ("forkwise", None),
    "verl's head": ("trl", verl),
    "Liger's head": ("trl", liger),
}


@contextmanager
def in_trls_place(head: Head | None) -> Iterator[None]:
    """Puts a head where TRL looks up its own at every call."""
    own = trl_utils._ChunkedLogProbFunction

    class Function:
        @staticmethod
        def apply(hidden: Any, weight: Any, bias: Any, labels: Any, temperature: float, *_: Any) -> tuple[Any, ...]:
            assert head is not None
            return (*head(hidden, weight, bias, labels, temperature), None, None, None)

    trl_utils._ChunkedLogProbFunction = Function if head else own
    try:
        yield
    finally:
        trl_utils._ChunkedLogProbFunction = own


def random_model(
    dtype: torch.dtype, words: int = 151_936, layers: int = 4, dim: int = 896, inner: int = 4864, heads: int = 14
) -> Any:
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=words, hidden_size=dim, intermediate_size=inner, num_hidden_layers=layers, num_attention_heads=heads,
        num_key_value_heads=2, tie_word_embeddings=True,
    )  # fmt: skip
    return Qwen2ForCausalLM(config).to(dtype)


def micro_batch(vocabulary: int, prompt: int, completion: int, rows: int = 2) -> dict[str, Any]:
    draw = torch.Generator().manual_seed(0)
    ids = torch.randint(25, vocabulary, (rows, prompt + completion), generator=draw)
    ones = torch.ones_like(ids)
    return {
        "prompt_ids": ids[:, :prompt],
        "prompt_mask": ones[:, :prompt],
        "completion_ids": ids[:, prompt:],
        "completion_mask": ones[:, prompt:],
        "advantages": torch.tensor([1.0, -0.5]).repeat(rows // 2),
        "num_items_in_batch": torch.tensor(rows * completion),
    }


def trainer_of(
    model: Any, backend: str, folder: str, batch: dict[str, Any], **options: Any
) -> EntropyShapedGRPOTrainer:
    """Makes a trainer that is ready for updates by `batch`: its head is proved."""
    quiet = {**tiny.QUIET, "gradient_checkpointing": False, "log_level": "error", "num_generations": 2}
    args = EntropyShapedGRPOConfig(folder, entropy_backend=backend, **{**quiet, **options})
    trainer = EntropyShapedGRPOTrainer(
        model, tiny.reward, args, train_dataset=tiny.prompts(), processing_class=tiny.tokenizer()
    )
    trainer.model.train()
    trainer.current_gradient_accumulation_steps = 1
    ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], dim=1)
    trainer._way(trainer.model, ids, torch.ones_like(ids), batch["completion_ids"].shape[1])
    return trainer


def resident_mb(field: str) -> float:
    """Returns `VmRSS` (memory now) or `VmHWM` (its peak) of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) * 1024 / 1e6


def in_a_fork(trainer: Any, head: Head | None, batch: dict[str, Any]) -> dict[str, Any]:
    """Measures one update: CPU seconds, MB of peak memory above the model, loss and entropy."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        answer: dict[str, Any]
        try:
            Path("/proc/self/clear_refs").write_text("5")  # the peak restarts from here
            before, start = resident_mb("VmRSS"), time.process_time()
            with in_trls_place(head):
                loss = trainer._compute_loss(trainer.model, batch)
                loss.backward()
            answer = {"cpu": time.process_time() - start, "peak": resident_mb("VmHWM") - before}
            answer["entropy"] = trainer._metrics["train"]["entropy"][-1]
        except Exception as error:  # the row says so, and the others go on
            answer = {"error": f"{type(error).__name__}: {str(error).splitlines()[:1]}"}
        os.write(write, json.dumps(answer).encode())
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as pipe:
        text = pipe.read()
    os.waitpid(child, 0)
    answered: dict[str, Any] = json.loads(text) if text else {"error": "killed: out of memory?"}
    return answered


@torch.no_grad()
def entropy_errors(model: Any, batch: dict[str, Any]) -> tuple[float, float]:
    """Computes how far entropies are from float64 of the same hidden states and weight at most, in nats.

    The first are ours. The second come from products in the model's dtype, with all that follows in float64: no head
    that multiplies in this dtype can be expected to be nearer.
    """
    hidden = model.base_model(input_ids=batch["completion_ids"][:, :16]).last_hidden_state.reshape(
        -1, model.config.hidden_size
    )
    weight = model.get_output_embeddings().weight
    logits = torch.cat([hidden.double() @ rows.double().t() for rows in weight.split(8192)], dim=1)
    logp = logits.log_softmax(-1)
    exact = torch.special.entr(logp.exp()).sum(-1)
    ours = logprob_and_entropy(hidden, weight, logp.argmax(-1)).entropy
    logp = torch.cat([(hidden @ rows.t()).double() for rows in weight.split(8192)], dim=1).log_softmax(-1)
    rounded = torch.special.entr(logp.exp()).sum(-1)
    return float((ours - exact).abs().max()), float((rounded - exact).abs().max())


def measure(model: Any, batch: dict[str, Any], rounds: int) -> dict[str, list[dict[str, Any]]]:
    trainers = {}
    with tempfile.TemporaryDirectory() as folder:
        for backend in ("trl", "forkwise"):
            trainers[backend] = trainer_of(model, backend, folder, batch)
        by_head: dict[str, list[dict[str, Any]]] = {name: [] for name in HEADS}
        for _ in range(rounds):
            for name, (backend, head) in HEADS.items():
                by_head[name].append(in_a_fork(trainers[backend], head, batch))
                print(f"{name}: {by_head[name][-1]}", file=sys.stderr, flush=True)
    return by_head


def show(dtype: str, found: dict[str, list[dict[str, Any]]], errors: tuple[float, float], gradient_mb: float) -> None:
    """Prints a table and the targets; any head holds the gradient of its weight, `gradient_mb`, at the end."""
    seconds, peaks = {}, {}
    print(
        f"\n{dtype}\n\n| head | update, CPU s | of TRL's | peak above the model, MB | entropy, nats |\n"
        "|---|---|---|---|---|"
    )
    for name, answers in found.items():
        if any("error" in answer for answer in answers):
            print(f"| {name} | {next(a['error'] for a in answers if 'error' in a)} | | | |")
            continue
        seconds[name] = statistics.median(answer["cpu"] for answer in answers)
        peaks[name] = max(answer["peak"] for answer in answers)
        pairs = zip(answers, found[TRL], strict=True)
        ratio = statistics.median(answer["cpu"] / trls["cpu"] for answer, trls in pairs if "cpu" in trls)
        entropy = f"{answers[0]['entropy']:.6f}" if name != NOTHING else ""
        print(f"| {name} | {seconds[name]:.2f} | {ratio:.2f} | {peaks[name]:.0f} | {entropy} |")
        if name == OURS:
            ours = ratio
    extra = peaks[OURS] - peaks[NOTHING] - gradient_mb
    print("\n| target | measured | |\n|---|---|---|")
    targets = [
        (f"{OURS} <= {TARGETS[dtype]} of TRL's update", ours, ours <= TARGETS[dtype]),
        (f"memory of the head beside the gradient of its weight <= {HEAD_MB} MB", extra, extra <= HEAD_MB),
    ]
    error, of_products = errors
    if dtype == "float32":
        targets.append((f"entropies within {ENTROPY_ERROR:g} nats of float64", error, error <= ENTROPY_ERROR))
    for what, value, met in targets:
        print(f"| {what} | {value:.3g} | {'met' if met else 'NOT MET'} |")
    print(f"\nEntropies: ours are off by {error:.2g} nats, the products alone by {of_products:.2g}.")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--small", action="store_true", help="2 x (32 + 64) tokens instead of 2 x (96 + 160)")
    parser.add_argument("--model", help="folder of a model (default: random weights)")
    parser.add_argument("--dtype", nargs="+", choices=list(TARGETS), default=list(TARGETS))
    parser.add_argument("--rounds", type=int, default=3, help="updates of each head")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()
    torch.set_num_threads(1)
    prompt, completion = (32, 64) if args.small else (96, 160)
    print(
        f"trl {version('trl')}, torch {torch.__version__}, 2 x ({prompt} + {completion}) tokens, "
        f"{args.model or '4 layers, d 896, V 151,936'}, {args.rounds} rounds, load {os.getloadavg()[0]:.1f}"
    )
    for dtype in args.dtype:
        kind = getattr(torch, dtype)
        model = AutoModelForCausalLM.from_pretrained(args.model, dtype=kind) if args.model else random_model(kind)
        batch = micro_batch(model.config.vocab_size, prompt, completion)
        gradient_mb = model.get_output_embeddings().weight.nbytes / 1e6
        show(dtype, measure(model, batch, args.rounds), entropy_errors(model, batch), gradient_mb)


if __name__ == "__main__":
    main()
