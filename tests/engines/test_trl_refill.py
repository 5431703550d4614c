"""DAPO's dynamic sampling on TRL: which groups are trained, what stands beside them, and what is refused."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("trl")

import tiny_trl as tiny
import torch
from test_trl_methods import config
from two_processes import run_in_two

from forkwise.engines.trl import EntropyShapedGRPOTrainer
from forkwise.engines.trl.refill import _places
from forkwise.errors import InputError
from forkwise.training.ppo_config import EntropyShapedPPOConfig

SIZE = 4  # answers of a prompt


def half_flat(prompts: list[str], completion_ids: list[list[int]], log_extra: Any = None, **_: Any) -> list[float]:
    """Answers to every second prompt, by its first number, earn the same; those to the others differ."""
    if log_extra is not None:
        log_extra("first number", [prompt.split()[0] for prompt in prompts])
    varied = tiny.reward(completion_ids)
    return [0.5 if int(prompt.split()[0]) % 2 else value for prompt, value in zip(prompts, varied, strict=True)]


def flat(completion_ids: list[list[int]], **_: Any) -> list[float]:
    return [0.0] * len(completion_ids)


def trained(where: Path, reward: Any, draws: int, **options: Any) -> tuple[Any, list[dict[str, Any]]]:
    """A trainer after one rollout of 4 groups, and the batch that it made of it."""
    cut = {"per_device_train_batch_size": 16, "num_generations": SIZE, "max_steps": 1, "log_completions": False}
    trainer = EntropyShapedGRPOTrainer(
        tiny.policy(),
        reward,
        config(where, max_draws=draws, **{**cut, **options}),
        train_dataset=tiny.prompts(),
        processing_class=tiny.tokenizer(),
    )
    batches: list[dict[str, Any]] = []
    original = trainer._generate_and_score_completions

    def keep(inputs: list[dict[str, Any]]) -> dict[str, Any]:
        batches.append(original(inputs))
        return batches[-1]

    trainer._generate_and_score_completions = keep
    trainer.train()
    return trainer, batches


def answers(batch: dict[str, Any]) -> list[list[int]]:
    rows = zip(batch["completion_ids"], batch["completion_mask"], strict=True)
    return [ids[mask.bool()].tolist() for ids, mask in rows]


def spreads(batch: dict[str, Any]) -> list[bool]:
    return [bool(group.abs().max() > 0) for group in batch["advantages"].view(-1, SIZE)]


def test_every_group_that_is_trained_has_a_spread_of_rewards(tmp_path: Path) -> None:
    _, [once] = trained(tmp_path, half_flat, 1)
    assert 0 < sum(spreads(once)) < 4  # else the test shows nothing
    trainer, [batch] = trained(tmp_path, half_flat, 10)
    assert spreads(batch) == [True] * 4
    table = trainer._logs
    assert len(table["prompt"]) == len(table["completion"]) == 16
    assert list(table["extra"]["first number"]) == [prompt.split()[0] for prompt in table["prompt"]]
    assert all(int(prompt.split()[0]) % 2 == 0 for prompt in table["prompt"])
    row = next(row for row in trainer.state.log_history if "dynamic_sampling/draws" in row)
    assert row["dynamic_sampling/live_trained"] == 1
    assert row["frac_reward_zero_std"] == 0
    # Of 4 + ... groups, all that lived were needed: 4 in all.
    drawn = 4 / row["dynamic_sampling/live_drawn"]
    assert drawn == pytest.approx(4 + trainer.extra_prompts)
    assert 2 <= row["dynamic_sampling/draws"] <= 10


def test_what_is_scored_is_what_was_drawn(tmp_path: Path) -> None:
    """The advantages are GRPO's of the rewards of the very completions in the batch."""
    trainer, [batch] = trained(tmp_path, half_flat, 10)
    rewards = torch.tensor(half_flat(list(trainer._logs["prompt"]), answers(batch)), dtype=torch.float64).view(-1, SIZE)
    expected = (rewards - rewards.mean(1, keepdim=True)) / (rewards.std(1, keepdim=True) + 1e-4)
    torch.testing.assert_close(batch["advantages"].double(), expected.view(-1), atol=1e-5, rtol=0)


def test_where_draws_run_out_the_rollout_is_filled_with_what_there_is(tmp_path: Path) -> None:
    trainer, [batch] = trained(tmp_path, flat, 3)
    assert len(batch["advantages"]) == 16
    assert spreads(batch) == [False] * 4
    assert trainer.extra_prompts == 8  # 4 missing, twice
    row = next(row for row in trainer.state.log_history if "dynamic_sampling/draws" in row)
    assert (row["dynamic_sampling/draws"], row["dynamic_sampling/live_trained"]) == (3, 0)


def test_a_rollout_that_is_full_at_once_is_trl_s(tmp_path: Path) -> None:
    """Nothing is drawn again, so parameters are those of a single draw bit for bit."""
    (one, _), (ten, _) = (trained(tmp_path, tiny.reward, draws) for draws in (1, 10))
    assert ten.extra_prompts == 0
    for a, b in zip(one.model.parameters(), ten.model.parameters(), strict=True):
        assert torch.equal(a, b)


def test_groups_live_by_the_reward_that_is_named(tmp_path: Path) -> None:
    """The lengths differ in every group: by the sum all are alive, by the verdict only those with even numbers."""

    def length(completion_ids: list[list[int]], **_: Any) -> list[float]:
        return [0.01 * i for i in range(len(completion_ids))]

    _, [batch] = trained(tmp_path, [half_flat, length], 10)
    flat_groups = sum(len({*group}) == 1 for group in _values(batch, half_flat))
    assert flat_groups > 0
    _, [batch] = trained(tmp_path, [half_flat, length], 10, live_by="half_flat")
    assert sum(len({*group}) == 1 for group in _values(batch, half_flat)) == 0
    with pytest.raises(InputError, match="live_by is 'width', and the reward functions are half_flat, length"):
        trained(tmp_path, [half_flat, length], 10, live_by="width")


def _values(batch: dict[str, Any], reward: Any) -> list[list[float]]:
    words = [" ".join(tiny.WORDS[i] for i in row.tolist() if i != tiny.PAD) for row in batch["prompt_ids"]]
    values = reward(words, answers(batch))
    return [values[i : i + SIZE] for i in range(0, len(values), SIZE)]


def test_further_prompts_go_through_the_data_set_in_shuffled_epochs() -> None:
    seen = [place for place, _ in zip(_places(5, 7, 0), range(15), strict=False)]
    assert [sorted(seen[i : i + 5]) for i in (0, 5, 10)] == [[0, 1, 2, 3, 4]] * 3
    assert seen[:5] != seen[5:10] or seen[5:10] != seen[10:]
    later = [place for place, _ in zip(_places(5, 7, 8), range(7), strict=False)]
    assert later == seen[8:]


def test_what_cannot_be_honoured_is_refused(tmp_path: Path) -> None:
    assert config(tmp_path, "dynamic_sampling:draws=4").max_draws == 4
    with pytest.raises(InputError, match="must be at least 2"):
        config(tmp_path, "dynamic_sampling:draws=1")
    with pytest.raises(InputError, match="sets max_draws to 10, but it is given as 3"):
        config(tmp_path, "dynamic_sampling", max_draws=3)
    with pytest.raises(InputError, match="max_draws must be at least 1"):
        config(tmp_path, max_draws=0)
    with pytest.raises(InputError, match="max_draws=1 draws once"):
        config(tmp_path, live_by="half_flat")
    with pytest.raises(InputError, match="PPO has no groups"):
        config(tmp_path, cls=EntropyShapedPPOConfig, max_draws=2)


def test_two_processes_draw_equally_many_and_train_live_groups(tmp_path: Path) -> None:
    run_in_two(Path(__file__), tmp_path)


if __name__ == "__main__":  # one of two processes
    _, [half] = trained(Path(sys.argv[1]), half_flat, 10, per_device_train_batch_size=8)
    assert spreads(half) == [True] * 2, half["advantages"]
