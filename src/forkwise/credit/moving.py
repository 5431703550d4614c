"""A policy several updates after it drew its groups, and what it then draws itself.

In training the later updates of a rollout see completions that an earlier policy drew. So here: GRPO learns from the
groups of some problems in several updates, by TRL's own loop, and the groups of *other* problems are what the methods
are then given. These have nothing to do with what the policy learned, as the later parts of a rollout have nothing to
do with its earlier ones.

The true gradient is now that of the moved policy, so it needs completions of the moved policy: they are drawn anew.
(Old completions weighed by the ratio of their whole probability would do as well, without bias, but a few of them would
outweigh all others. The ratio of a token by itself, which trainers use, leaves out how likely its prefix has become: it
is a bias, and one of the things that are measured here.)

Suffixes: S completions, T tokens of one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from forkwise.core import group_advantages
from forkwise.credit.bank import Groups
from forkwise.credit.packing import make_groups, problem_of
from forkwise.credit.policy import Policy
from forkwise.engines.trl.stored import train_on
from forkwise.errors import InputError
from forkwise.forks.stored import refuse_random
from forkwise.progress import Meter
from forkwise.sampling.decoding import Decoder
from forkwise.sampling.engine import sample_seed
from forkwise.sampling.generate import Vocabulary, end_tokens
from forkwise.sampling.manifest import MANIFEST
from forkwise.sampling.options import JudgeOptions
from forkwise.sampling.recipe import Sampling
from forkwise.sampling.verify import find_judge


def move(
    policy: Policy,
    groups: Groups,
    prompts: Mapping[str, Sequence[int]],
    *,
    updates: int,
    size: int,
    learning_rate: float,
    seed: int,
) -> int:
    """Makes updates of GRPO on groups; returns how many completions each of them saw.

    Args:
        policy: which drew them; changed in place.
        groups: each seen once; what cannot be dealt to the updates evenly is left out.
        prompts: token ids of each problem's.

    Raises:
        InputError: too few groups, or none with contrast.
    """
    number = next((n for n in range(len(groups.problems), 0, -1) if n * size % updates == 0), 0)
    kept, _ = groups.of(np.arange(number))
    of = number * size // updates
    if of < 2 or not kept.with_contrast():
        raise InputError(
            f"{len(groups.problems)} groups of {size}, {groups.with_contrast()} of them with right and wrong samples, "
            f"are too few for {updates} updates: draw more problems, or give fewer --updates."
        )
    with Meter(phase=f"moving the policy by {updates} updates"):
        train_on(
            policy.model,
            policy.tokenizer,
            _rollout(kept, prompts, policy),
            updates=updates,
            size=size,
            learning_rate=learning_rate,
            temperature=policy.temperature,
            seed=seed,
        )
    return of


def _rollout(groups: Groups, prompts: Mapping[str, Sequence[int]], policy: Policy) -> dict[str, torch.Tensor]:
    """Lays groups out as TRL does: prompts padded on the left, completions on the right."""
    lengths_S = torch.from_numpy(groups.length_S)
    mask_ST = torch.arange(int(lengths_S.max())) < lengths_S[:, None]
    of = [list(prompts[groups.problems[q]]) for q in groups.problem_S]
    width = max(map(len, of))
    pad = policy.tokenizer.pad_token_id or 0

    def padded(values_N: Any, fill: float) -> torch.Tensor:
        values = torch.from_numpy(values_N)
        return torch.full(mask_ST.shape, fill, dtype=values.dtype).masked_scatter(mask_ST, values)

    rollout = {
        "prompt_ids": torch.tensor([[pad] * (width - len(ids)) + ids for ids in of]),
        "prompt_mask": torch.tensor([[0] * (width - len(ids)) + [1] * len(ids) for ids in of]),
        "completion_ids": padded(groups.ids_N, pad),
        "completion_mask": mask_ST.long(),
        "advantages": group_advantages(
            torch.from_numpy(groups.correct_S).float(), group_ids=torch.from_numpy(groups.problem_S)
        ).float(),
        "old_per_token_logps": padded(groups.logprob_N, 0.0).float(),
    }
    return {name: tensor.to(policy.model.device) for name, tensor in rollout.items()}


def draw_anew(
    policy: Policy,
    groups: Groups,
    prompts: Mapping[str, Sequence[int]],
    rows: Sequence[Mapping[str, Any]],
    table: Path,
    seed: int,
) -> Groups:
    """Draws and verifies as many completions to each problem of the groups as they have, with the policy as it is.

    Args:
        rows: of the samples table, of the problems; they say how the samples were drawn, and what is right.
        table: that they are from, whose task or gold answers judge.

    Raises:
        InputError: nobody can judge, or the verifier is random.
    """
    judge = find_judge(table, JudgeOptions(gold_column=None if (table / MANIFEST).exists() else "gold"))
    first = {str(row["problem_id"]): row for row in rows}
    recipe = rows[0]["sampling"] or {}
    longest = recipe.get("max_tokens") or int(groups.length_S.max())
    sampling = Sampling(policy.temperature, 1.0, int(longest))
    ends = end_tokens(policy.model, policy.tokenizer)
    vocabulary = Vocabulary(policy.tokenizer, policy.model)
    size_Q = np.bincount(groups.problem_S)
    drawn_rows: list[dict[str, Any]] = []
    with Meter(len(groups.problems), 0, phase="drawing anew", unit="groups") as meter:
        decoder = Decoder(policy.model, ends, meter.say)
        decoder.probe(policy.tokenizer)
        for name, size in zip(groups.problems, size_Q.tolist(), strict=True):
            problem_id = problem_of(name)
            problem = judge.problem(problem_id, first[name].get("gold"))
            if problem is None:
                raise InputError(
                    f"The problem '{problem_id}' of '{table}' is not among those with gold answers, so what the moved "
                    "policy draws cannot be judged: keep the table's sampling.json beside it."
                )
            seeds = [sample_seed(seed, f"{name}/moved", i) for i in range(size)]
            prompt = torch.tensor([list(prompts[name])], device=policy.model.device)
            drawn = decoder.draw(prompt, seeds, sampling)
            lengths, stopped = drawn.lengths.tolist(), drawn.stopped.tolist()
            ids = [drawn.ids[i, :length].tolist() for i, length in enumerate(lengths)]
            texts = [
                vocabulary.decode(row[: len(row) - stop], skip_special_tokens=True)
                for row, stop in zip(ids, stopped, strict=True)
            ]
            verdicts = judge.verify(texts, [problem] * size)
            refuse_random(texts, verdicts, f"an answer to '{problem_id}'")
            drawn_rows += [
                {
                    "problem": problem_id,
                    "problem_id": name,
                    "sample_id": i,
                    "prompt": first[name]["prompt"],
                    "token_ids": row,
                    "correct": verdict.correct,
                    "finish_reason": "stop" if stop else "length",
                    "entropies": drawn.entropies[i, : len(row)].tolist(),
                }
                for i, (row, stop, verdict) in enumerate(zip(ids, stopped, verdicts, strict=True))
            ]
            meter.add(samples=1)
    return make_groups(drawn_rows, policy, "what the moved policy drew")
