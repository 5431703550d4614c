"""Run by `test_trl_heads.py` on two processes: heads that FSDP2 shards over both, and heads that only one has.

A process that left the proof early would leave the other one waiting for its part of the weights.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import tiny_trl as tiny
import torch
from torch import Tensor, nn
from torch.distributed import all_gather_object, init_device_mesh
from torch.distributed.fsdp import fully_shard

from forkwise.core import Places, compare_head, prove_head, score_tokens
from forkwise.engines.trl import EntropyShapedGRPOConfig, EntropyShapedGRPOTrainer

IDS = torch.tensor([[3, 4, 5, 6, 7, 8, 9], [9, 8, 3, 3, 11, 5, 4]])


def sharded(*, apart: bool) -> Any:
    model = tiny.policy().eval()
    mesh = init_device_mesh("cpu", (2,))
    for unit in (*model.model.layers, *([model.lm_head] if apart else []), model):
        fully_shard(unit, mesh=mesh)
    return model


def check_values_and_gradients(rank: int, *, apart: bool) -> None:
    """Each process scores a row of its own; the gradient is the mean of both."""
    plain, model = tiny.policy().eval(), sharded(apart=apart)
    logp = plain(input_ids=IDS).logits[:, :-1].double().log_softmax(-1)
    chosen = logp.gather(2, IDS[:, 1:, None])[..., 0]
    entropy = -(logp.exp() * logp).sum(-1)
    (chosen.sum() + 0.3 * entropy.sum()).div(2).backward()

    mine = IDS[rank : rank + 1]
    inputs = {"input_ids": mine, "attention_mask": torch.ones_like(mine), "use_cache": False}
    columns = torch.arange(-IDS.shape[1], -1)
    places = Places(torch.zeros_like(columns), columns, mine[0, 1:])
    scores = score_tokens(model, inputs, places, prove_head(model, mine))
    torch.testing.assert_close(scores.logprob.double(), chosen[rank].detach(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(scores.entropy.double(), entropy[rank].detach(), rtol=1e-5, atol=1e-5)
    (scores.logprob.sum() + 0.3 * scores.entropy.sum()).backward()
    for (name, parameter), right in zip(model.named_parameters(), plain.parameters(), strict=True):
        assert parameter.to_local().shape != parameter.shape, f"{name} is whole"
        torch.testing.assert_close(parameter.grad.full_tensor(), right.grad, rtol=1e-4, atol=1e-5)


class Doubled(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


def another_layer(model: Any) -> None:
    model.lm_head.__class__ = Doubled


def another_curve(model: Any) -> None:
    forward = type(model).forward

    def bent(self: Any, *args: Any, **kwargs: Any) -> Any:
        output = forward(self, *args, **kwargs)
        output.logits = 3 * torch.atan(output.logits)
        return output

    model.__class__ = type("Bent", (type(model),), {"forward": bent})


def no_numbers(model: Any) -> None:
    model.model.norm.register_forward_hook(lambda _module, _inputs, output: output * torch.nan)


def large_logits(model: Any) -> None:
    """So large that nothing is scaled up to show a cap."""
    model.model.norm.register_forward_hook(lambda _module, _inputs, output: output * 1e4)


def check_one_broken(rank: int, out: Path, break_it: Callable[[Any], None], *, apart: bool) -> list[tuple[str, str]]:
    """Both processes agree how to score, and go on together; what each found."""
    args = EntropyShapedGRPOConfig(str(out), **{**tiny.QUIET, "ddp_backend": "gloo", "log_level": "error"})
    trainer = EntropyShapedGRPOTrainer(
        tiny.policy(), tiny.reward, args, train_dataset=tiny.prompts(), processing_class=tiny.tokenizer()
    )
    model = sharded(apart=apart)
    if rank == 1:
        break_it(model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        way = trainer._way(model, IDS[rank : rank + 1], torch.ones(1, 7, dtype=torch.int64), 3)
    model(input_ids=IDS)  # would wait for ever, or get the weights of something else
    ways: list[Any] = [None, None]
    all_gather_object(ways, (way.scorer, way.why))
    return ways


def check_comparison(rank: int, *, apart: bool) -> None:
    """The comparison with another's shortcut runs as often on the process where it has nothing to compare."""
    model = sharded(apart=apart)
    if rank == 1:
        large_logits(model)

    def right(ids: Tensor) -> list[Tensor]:
        logp = model(input_ids=ids).logits[0, :-1].log_softmax(-1)
        return [logp.gather(1, ids[0, 1:, None])[:, 0]]

    assert compare_head(model, IDS[rank : rank + 1], right) is None
    model(input_ids=IDS)


def main(out: Path) -> None:
    rank = int(os.environ["RANK"])
    torch.distributed.init_process_group("gloo")
    for apart in (False, True):
        check_values_and_gradients(rank, apart=apart)
        check_comparison(rank, apart=apart)
        for break_it, scorer, why in (
            (another_curve, "logits", "neither scaled nor softly capped"),
            (no_numbers, "forkwise", ""),  # whoever trains says so
            *([] if apart else [(another_layer, "logits", "its head is a Doubled")]),  # FSDP2 makes classes of its own
        ):
            first, second = check_one_broken(rank, out, break_it, apart=apart)
            assert first[0] == second[0] == scorer, (break_it.__name__, first, second)
            assert why in second[1]
            assert ("another process" in first[1]) == bool(why)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
