"""VGPO on TRL with a vision-language model: cosines with the image of each prompt, groups that are prompts."""

from __future__ import annotations

import os
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("trl")
pytest.importorskip("PIL")

import tiny_llava as tiny
import tiny_models
import tiny_trl
import torch
from accelerate.utils import gather_object
from test_trl_methods import config, right_or_wrong
from two_processes import run_in_two

from forkwise.engines.trl import EntropyShapedGRPOTrainer
from forkwise.engines.trl.update import EARLY_ADVANTAGES
from forkwise.errors import InputError

SIZE = 4


def trained(where: Path, *specs: str, model: Any = None, data: Any = None, **options: Any) -> Any:
    cut: dict[str, Any] = {"per_device_train_batch_size": 8, "num_generations": SIZE, "max_steps": 1}
    if model is None:  # a random policy would say that there is an image
        cut["generation_kwargs"] = {"suppress_tokens": [tiny.IMAGE]}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = EntropyShapedGRPOTrainer(
            model or tiny.policy(),
            right_or_wrong,
            config(where, *specs, **{**cut, **options}),
            train_dataset=data or tiny.prompts(),
            processing_class=tiny.processor() if model is None else tiny_trl.tokenizer(),
        )
    batches: list[tuple[dict[str, Any], Any]] = []
    plain = trainer._generate_and_score_completions

    def keep(inputs: Any) -> dict[str, Any]:
        twin = tiny.policy()
        twin.load_state_dict(trainer.model.state_dict())
        batches.append((plain(inputs), twin))
        return batches[-1][0]

    trainer._generate_and_score_completions = keep
    trainer.train()
    return trainer, batches


def cosines(twin: Any, batch: dict[str, Any], row: int) -> torch.Tensor:
    """Of one completion, from the model's own hidden states, without padding."""
    prompt = batch["prompt_ids"][row][batch["prompt_mask"][row] == 1]
    completion = batch["completion_ids"][row][batch["completion_mask"][row] == 1]
    ids = torch.cat([prompt, completion])[None]
    with torch.no_grad():
        pixels = batch["pixel_values"][row : row + 1]
        states = twin(input_ids=ids, pixel_values=pixels, output_hidden_states=True).hidden_states[-1][0]
    assert int((prompt == tiny.IMAGE).sum()) == tiny.PIECES
    image = states[: len(prompt)][prompt == tiny.IMAGE].mean(dim=0)
    return torch.nn.functional.cosine_similarity(states[len(prompt) :], image[None], dim=1).double()


def factors(rows: list[torch.Tensor]) -> list[torch.Tensor]:
    """The formula on the cosines of one prompt's answers, token by token."""
    low, high = min(float(w.min()) for w in rows), max(float(w.max()) for w in rows)
    grown = []
    for w in rows:
        values = [(float(x) - low) / (high - low) for x in w]
        n = len(values)
        start = min(n // 2, n - 1)
        limit = sorted(values[start:], reverse=True)[max(1, int(0.2 * (n - start))) - 1]
        values = [
            v * (1 + 0.3 * t / (n - 1)) if n > 1 and t >= start and v >= limit else v for t, v in enumerate(values)
        ]
        least, most = min(values), max(values)
        grown.append([(v - least) / (most - least + 1e-8) for v in values])
    phi = [sum(values) for values in grown]
    scaled = [(p - min(phi)) / (max(phi) - min(phi) + 1e-8) for p in phi]
    alpha = [min(max(1 + p - sum(scaled) / len(scaled), 0.9), 2.0) for p in scaled]
    return [
        torch.tensor([a * min(max(1 + v - sum(values) / len(values), 0.1), 2.0) for v in values])
        for a, values in zip(alpha, grown, strict=True)
    ]


@pytest.mark.parametrize("rows_at_once", [8, 4])
def test_tokens_count_by_their_cosine_with_the_image(tmp_path: Path, rows_at_once: int) -> None:
    cut = {"per_device_train_batch_size": rows_at_once, "gradient_accumulation_steps": 8 // rows_at_once}
    trainer, [(batch, twin)] = trained(tmp_path, "vgpo", **cut)
    rewards = [
        right_or_wrong([ids[mask == 1].tolist()])[0]
        for ids, mask in zip(batch["completion_ids"], batch["completion_mask"], strict=True)
    ]
    moved = 0.0
    for start in (0, SIZE):
        group = torch.tensor(rewards[start : start + SIZE], dtype=torch.float64)
        advantages = (group - group.mean()) / (group.std() + 1e-4)
        want = factors([cosines(twin, batch, row) for row in range(start, start + SIZE)])
        for row, a, factor in zip(range(start, start + SIZE), advantages, want, strict=True):
            mask = batch["completion_mask"][row] == 1
            torch.testing.assert_close(
                batch[EARLY_ADVANTAGES][row][mask].double(), a * factor.double(), atol=2e-3, rtol=2e-2
            )
            moved = max(moved, float((a * (factor - 1)).abs().max()))
    assert moved > 0.1, "choose another seed: nothing is moved"
    row = next(row for row in trainer.state.log_history if "method/vgpo/changed" in row)
    assert 0 < row["method/vgpo/changed"] <= 1


def test_without_images_answers_count_alike(tmp_path: Path) -> None:
    _, [(batch, _)] = trained(tmp_path, "vgpo", data=tiny.prompts(images=False))
    mask = batch["completion_mask"] == 1
    for row in range(8):
        values = batch[EARLY_ADVANTAGES][row][mask[row]]
        assert float(values.max() - values.min()) == 0
    assert "pixel_values" not in batch


def test_it_goes_with_methods_of_single_tokens_and_no_others(tmp_path: Path) -> None:
    trained(tmp_path, "vgpo", "entropy_advantage")
    with pytest.raises(InputError, match="act on rollouts train text models only, not images"):
        trained(tmp_path, "forking_tokens")


def test_a_model_that_sees_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="'vgpo' goes by what tokens have to do with images, and this model sees none"):
        trained(tmp_path, "vgpo", model=tiny_models.policy(), data=tiny_trl.prompts())


def test_a_prompt_whose_answers_are_on_two_processes(tmp_path: Path) -> None:
    run_in_two(Path(__file__), tmp_path)


if __name__ == "__main__":  # one of two processes, with half of a prompt's eight answers each
    _, [(half, policy)] = trained(Path(sys.argv[1]), "vgpo", per_device_train_batch_size=4, num_generations=8)
    counted = half["completion_mask"] == 1
    every = gather_object([cosines(policy, half, i) for i in range(4)])
    right = [right_or_wrong([ids[mask].tolist()])[0] for ids, mask in zip(half["completion_ids"], counted, strict=True)]
    group_rewards = torch.tensor(gather_object(right), dtype=torch.float64)
    own = (group_rewards - group_rewards.mean()) / (group_rewards.std() + 1e-4)
    expected = factors(every)
    rank = int(os.environ["RANK"])
    assert len(expected) == 8
    for i in range(4):
        a, one = own[4 * rank + i], expected[4 * rank + i].double()
        torch.testing.assert_close(half[EARLY_ADVANTAGES][i][counted[i]].double(), a * one, atol=2e-3, rtol=2e-2)
    assert max(float((one - 1).abs().max()) for one in expected) > 0.1
    assert float(own.abs().max()) > 0, "choose another seed: all answers earn the same"
