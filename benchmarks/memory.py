"""What training takes of a GPU's memory, and what shaping adds: the arithmetic of docs/scaling.md.

    python benchmarks/memory.py                            # the table of docs/scaling.md
    python benchmarks/memory.py --gpus 4 --tokens 10240    # any part of it

An estimate from shapes alone, for full fine-tuning with FSDP (weights, gradients and Adam's moments in float32, sharded
over all GPUs; layers gathered in bfloat16; activations recomputed). Allocators, buffers and fragmentation come on top:
leave a tenth free.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass

GB = 1e9
HEAD_DIM = 128
# Multiples of tokens x vocabulary in bfloat16. The log-probability alone: the logits, and their gradient in place of
# them; with the entropy in the update, verl keeps the logits, and the graph of the entropy.
LOGITS = {"old": 2, "current": 4}


@dataclass(frozen=True)
class Model:
    """A Qwen2.5 model, from its config.json."""

    name: str
    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    vocabulary: int
    tied: bool

    @property
    def layer(self) -> int:
        """Parameters of a layer: q, k, v with biases, o, three of the MLP, two norms."""
        h, q, kv = self.hidden, self.heads * HEAD_DIM, self.kv_heads * HEAD_DIM
        return (h + 1) * (q + 2 * kv) + q * h + 3 * h * self.intermediate + 2 * h

    @property
    def outside(self) -> int:
        """Parameters of embedding, head and last norm."""
        return (1 if self.tied else 2) * self.vocabulary * self.hidden + self.hidden

    @property
    def parameters(self) -> int:
        """All parameters."""
        return self.layers * self.layer + self.outside


MODELS = (
    Model("Qwen2.5-1.5B", 28, 1536, 8960, 12, 2, 151936, True),
    Model("Qwen2.5-7B", 28, 3584, 18944, 28, 4, 152064, False),
    Model("Qwen2.5-32B", 64, 5120, 27648, 40, 8, 152064, False),
)


@dataclass(frozen=True)
class Plan:
    """Bytes on each GPU while the policy is updated.

    Attributes:
        states: weights, gradients and two moments in float32, over the GPUs: `16 P / n`.
        gathered: embedding, head and two layers in bfloat16, whole, with their gradients: `4 (P_out + 2 P_layer)`.
        activations: the input of each layer and the inside of one, bfloat16: `2 tokens (L h + 6 h + 3 i)`.
        logits: `2 tokens V` times 2, or 4 with the entropy of the policy under update.
    """

    states: float
    gathered: float
    activations: float
    logits: float

    @property
    def total(self) -> float:
        """Their sum."""
        return self.states + self.gathered + self.activations + self.logits


def plan(model: Model, gpus: int, tokens: int, route: str = "old") -> Plan:
    """The plan for micro-batches of so many tokens per GPU."""
    return Plan(
        states=16 * model.parameters / gpus,
        gathered=4 * (model.outside + 2 * model.layer),
        activations=2 * tokens * (model.layers * model.hidden + 6 * model.hidden + 3 * model.intermediate),
        logits=2 * tokens * model.vocabulary * LOGITS[route],
    )


def cache_per_token(model: Model) -> int:
    """Bytes of a generated token in vLLM's cache, bfloat16: keys and values of each layer."""
    return 2 * 2 * model.layers * model.kv_heads * HEAD_DIM


def table(gpus: list[int], tokens: int) -> str:
    """Markdown, GB."""
    lines = [
        "| model | parameters | GPUs | states | gathered | activations | logits | sum | sum with `current` | "
        "vLLM: weights, cache of 256 x 10K tokens |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for model in MODELS:
        for n in gpus:
            p = plan(model, n, tokens)
            cells = [p.states, p.gathered, p.activations, p.logits, p.total, plan(model, n, tokens, "current").total]
            rollout = f"{2 * model.parameters / GB:.0f}, {256 * 10240 * cache_per_token(model) / GB:.0f}"
            numbers = " | ".join(f"{cell / GB:.1f}" for cell in cells)
            lines.append(f"| {model.name} | {model.parameters / GB:.2f} B | {n} | {numbers} | {rollout} |")
    return "\n".join(lines)


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gpus", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--tokens", type=int, default=16384, help="of a micro-batch on each GPU")
    args = parser.parse_args()
    print(table(args.gpus, args.tokens))


if __name__ == "__main__":
    main()
