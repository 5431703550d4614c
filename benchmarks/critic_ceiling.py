"""How much of the outcome can a critic foresee? A critic trained by plain regression on a fixed policy's completions.

    python benchmarks/critic_ceiling.py --model embedded --problems 500

Completions of training problems at temperature 1, four fifths of the problems to learn from, one fifth to test; the
critic starts as PPO's does, from the policy's weights with a head of zeros. Printed after each pass: the explained
variance of the outcome over all tokens, and by fifth of the completion.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from base_model import MAX_NEW_TOKENS
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from forkwise.core import explained_variance
from forkwise.embedded import EMBEDDED_MODEL
from forkwise.sampling.generate import Sampling, sample_problem
from forkwise.tasks import load_task
from forkwise.training.critic import make_critic, token_values

Example = tuple[list[int], list[int], float]  # prompt, completion, outcome


def draw(policy: Any, tokenizer: Any, task_name: str, problems: int, group: int) -> list[list[Example]]:
    """Completions with their outcome, one list per problem."""
    task = load_task(task_name)
    sampling = Sampling(max_tokens=MAX_NEW_TOKENS, batch_size=group)
    options: dict[str, Any] = {"run": "", "seed": 0, "sampling": sampling, "traces": group}
    return [
        [
            (tokenizer(row["prompt"])["input_ids"], row["token_ids"], float(row["correct"]))
            for row in sample_problem(policy, tokenizer, problem, task, group, **options)
        ]
        for problem in task.problems("train", problems)
    ]


def batch(examples: Sequence[Example], pad: int) -> tuple[dict[str, Tensor], Tensor]:
    """The inputs of `token_values`, and the outcomes `(B, T)`."""
    p, t = max(len(x[0]) for x in examples), max(len(x[1]) for x in examples)
    prompts, completions = torch.full((len(examples), p), pad), torch.full((len(examples), t), pad)
    prompt_mask, mask = torch.zeros_like(prompts), torch.zeros_like(completions)
    for i, (prompt, completion, _) in enumerate(examples):
        prompts[i, p - len(prompt) :], prompt_mask[i, p - len(prompt) :] = torch.tensor(prompt), 1
        completions[i, : len(completion)], mask[i, : len(completion)] = torch.tensor(completion), 1
    inputs = {"prompt_ids": prompts, "prompt_mask": prompt_mask, "completion_ids": completions, "completion_mask": mask}
    return inputs, torch.tensor([x[2] for x in examples])[:, None].expand(-1, t)


@torch.no_grad()
def foreseen(critic: Any, examples: Sequence[Example], pad: int) -> list[float]:
    """Explained variance over all tokens, then by fifth of the completion."""
    critic.eval()
    values: list[Tensor] = []
    outcomes: list[Tensor] = []
    places: list[Tensor] = []
    for first in range(0, len(examples), 128):
        inputs, outcome = batch(examples[first : first + 128], pad)
        mask = inputs["completion_mask"]
        place = mask.cumsum(dim=1) / mask.sum(dim=1, keepdim=True)
        for store, x in zip(
            (values, outcomes, places), (token_values(critic, inputs)[:, :-1], outcome, place), strict=True
        ):
            store.append(x[mask > 0])
    v, r, place = torch.cat(values), torch.cat(outcomes), torch.cat(places)
    fifths = [(place > k / 5) & (place <= (k + 1) / 5) for k in range(5)]
    return [explained_variance(v[None], r[None], part[None].long()) for part in (torch.ones_like(place) > 0, *fifths)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--task", default="countdown:4")
    parser.add_argument("--problems", type=int, default=500)
    parser.add_argument("--group", type=int, default=8)
    parser.add_argument("--passes", type=int, default=4)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    path = str(EMBEDDED_MODEL) if args.model == "embedded" else args.model
    tokenizer = AutoTokenizer.from_pretrained(path)
    policy = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32, attn_implementation="eager").eval()
    groups = draw(policy, tokenizer, args.task, args.problems, args.group)
    rate = np.array([[x[2] for x in group] for group in groups]).mean(axis=1)
    between = rate.var(ddof=1) - (rate * (1 - rate)).mean() / (args.group - 1)
    share = between / (rate.mean() * (1 - rate.mean()))
    print(f"Pass@1 {rate.mean():.3f}; between problems {share:.2f} of the variance")
    critic = make_critic(policy, tokenizer, value_model=None, shares_base=False)
    optimizer = torch.optim.AdamW(critic.parameters(), lr=args.learning_rate, betas=(0.9, 0.95), weight_decay=0.0)
    cut = args.problems * 4 // 5
    seen, unseen = ([x for group in part for x in group] for part in (groups[:cut], groups[cut:]))
    print("explained variance: all tokens, then by fifth of the completion")
    for number in range(1, args.passes + 1):
        critic.train()
        for rows in torch.randperm(len(seen)).split(64):
            inputs, outcome = batch([seen[i] for i in rows], tokenizer.pad_token_id)
            mask = inputs["completion_mask"]
            loss = ((token_values(critic, inputs)[:, :-1] - outcome).square() * mask).sum() / mask.sum()
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(critic.parameters(), 1.0)
            optimizer.step()
        for name, part in (("learned from", seen), ("others", unseen)):
            numbers = "  ".join(f"{x:+.2f}" for x in foreseen(critic, part, tokenizer.pad_token_id))
            print(f"pass {number}, {name:12s} {numbers}", flush=True)


if __name__ == "__main__":
    main()
