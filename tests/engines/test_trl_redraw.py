"""Prompts drawn again at another temperature on TRL: what is drawn, what takes whose place, and what is refused."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("trl")

import tiny_trl as tiny
import torch
from test_trl_methods import config, right_or_wrong
from two_processes import run_in_two

from forkwise.engines.trl import EntropyShapedGRPOTrainer
from forkwise.errors import InputError

SIZE = 4


class Recorded(EntropyShapedGRPOTrainer):
    """Notes what is drawn, at which temperature, and the batch that is made of it."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.draws: list[tuple[float, list[list[int]], list[str]]] = []
        self.batches: list[dict[str, Any]] = []
        super().__init__(*args, **kwargs)

    def _generate_single_turn(self, *args: Any, **kwargs: Any) -> Any:
        drawn = super()._generate_single_turn(*args, **kwargs)
        ids = next(part for part in (drawn[1], drawn[0]) if part is not None)  # where they are, differs by release
        asked = [text(prompt) for prompt in args[0]]
        self.draws.append((self.generation_config.temperature, [list(row) for row in ids], asked))
        return drawn

    def _generate_and_score_completions(self, inputs: Any) -> dict[str, Any]:
        self.draws.clear()
        self.batches.append(super()._generate_and_score_completions(inputs))
        self.batches[-1]["draws"] = list(self.draws)
        return {key: value for key, value in self.batches[-1].items() if key != "draws"}


def trained(where: Path, spec: str, **options: Any) -> Recorded:
    cut = {"per_device_train_batch_size": 16, "num_generations": SIZE, "max_steps": 2, "learning_rate": 1e-3}
    trainer = Recorded(
        tiny.policy(),
        right_or_wrong,
        config(where, spec, **{**cut, **options}),
        train_dataset=tiny.prompts(),
        processing_class=tiny.tokenizer(),
    )
    trainer.train()
    return trainer


def text(prompt: str | list[int]) -> str:
    """A prompt without its spaces, from text or tokens."""
    return (prompt if isinstance(prompt, str) else tiny.tokenizer().decode(prompt)).replace(" ", "")


def completions(batch: dict[str, Any]) -> list[list[int]]:
    rows = zip(batch["completion_ids"], batch["completion_mask"], strict=True)
    return [ids[mask == 1].tolist() for ids, mask in rows]


def grpo(rewards: list[float]) -> list[float]:
    """GRPO's advantages, group by group."""
    made: list[float] = []
    for start in range(0, len(rewards), SIZE):
        group = torch.tensor(rewards[start : start + SIZE], dtype=torch.float64)
        made += ((group - group.mean()) / (group.std() + 1e-6)).tolist()
    return made


@pytest.mark.parametrize(("target", "temperature"), [(0.5, 0.8), (9.0, 1.2)])
def test_right_ones_of_the_second_draw_replace_the_first_ones(
    tmp_path: Path, target: float, temperature: float
) -> None:
    trainer = trained(tmp_path, f"aepo_arbitrary:target={target},share=0.5")
    first, second = trainer.batches
    assert [(round(t, 6), len(ids)) for t, ids, _ in first["draws"]] == [(tiny.TEMPERATURE, 16)]
    (usual, ours, _), (other, again, _) = second["draws"]
    assert (usual, other) == (pytest.approx(tiny.TEMPERATURE), pytest.approx(tiny.TEMPERATURE * temperature))
    assert (len(ours), len(again)) == (16, 8)
    assert trainer.generation_config.temperature == pytest.approx(tiny.TEMPERATURE)
    better = [ids for ids, a in zip(again, grpo(right_or_wrong(again)), strict=True) if a > 0.05]
    count = len(better) if target == 9.0 else len(better) // 2
    assert count > 0, "choose another seed: nothing is replaced"
    assert completions(second) == [*better[:count], *ours[count:]]
    want = [1.0] * count + grpo(right_or_wrong(ours))[count:]
    assert second["advantages"].tolist() == pytest.approx(want, abs=1e-5)
    row = next(row for row in trainer.state.log_history if "redraw/replaced" in row)
    assert row["redraw/replaced"] == pytest.approx(count / 16)
    assert row["redraw/temperature"] == pytest.approx(tiny.TEMPERATURE * temperature)
    assert list(trainer._logs["advantages"])[-16:] == pytest.approx(want, abs=1e-5)


def test_at_most_so_many_are_replaced(tmp_path: Path) -> None:
    trainer = trained(tmp_path, "aepo_arbitrary:target=9,share=1,most=2")
    assert int((trainer.batches[1]["advantages"] == 1).sum()) == 2


def test_prompts_go_with_their_completions(tmp_path: Path) -> None:
    trainer = trained(tmp_path, "aepo_arbitrary:target=9,share=1")
    batch = trainer.batches[1]
    (_, _, asked), (_, again, asked_again) = batch["draws"]
    better = [i for i, a in enumerate(grpo(right_or_wrong(again))) if a > 0.05]
    assert 0 < len(better) < 16
    want = [*(asked_again[i] for i in better), *asked[len(better) :]]
    rows = zip(batch["prompt_ids"], batch["prompt_mask"], strict=True)
    assert [text(ids[mask == 1].tolist()) for ids, mask in rows] == want
    assert [text(prompt) for prompt in trainer._logs["prompt"]][-16:] == want
    assert want != asked, "choose another seed: the prompts are the same anyway"


def test_what_cannot_be_honoured_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="'aepo_arbitrary' decides which completions are trained on, .* max_draws=3"):
        config(tmp_path, "aepo_arbitrary", max_draws=3)
    for other in ("forking_tokens", "entropy_advantage"):
        config(tmp_path, "aepo_arbitrary", other)
    with pytest.raises(InputError, match="groups are no longer those of one prompt"):
        config(tmp_path, "aepo_arbitrary", "gtpo_trajectory")


def test_two_processes_replace_completions_of_their_own(tmp_path: Path) -> None:
    run_in_two(Path(__file__), tmp_path)


if __name__ == "__main__":  # one of two processes, with two groups each
    half = trained(Path(sys.argv[1]), "aepo_arbitrary:target=9,share=1", per_device_train_batch_size=8).batches[1]
    (_, drawn_first, _), (_, drawn_again, _) = half["draws"]
    of_these = [ids for ids, a in zip(drawn_again, grpo(right_or_wrong(drawn_again)), strict=True) if a > 0.05]
    assert 0 < len(of_these) < 8
    assert completions(half) == [*of_these, *drawn_first[len(of_these) :]]
    expected = [1.0] * len(of_these) + grpo(right_or_wrong(drawn_first))[len(of_these) :]
    assert half["advantages"].tolist() == pytest.approx(expected, abs=1e-5)
