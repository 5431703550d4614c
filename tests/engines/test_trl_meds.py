"""MEDS on TRL: the logits of each answer's first token after each layer, and a memory that lasts over rollouts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("trl")
pytest.importorskip("sklearn")

import tiny_trl as tiny
import torch
from test_trl_methods import config, right_or_wrong, twin_of

from forkwise.engines.states import MethodStates
from forkwise.engines.trl import EntropyShapedGRPOTrainer
from forkwise.engines.trl.answers import _behind, answer_logits, prompt_keys
from forkwise.errors import InputError

SPEC = "meds:marker=3,layers=2"


def trained(where: Path, steps: int, prompts: int) -> Any:
    trainer = EntropyShapedGRPOTrainer(
        tiny.policy(),
        right_or_wrong,
        config(where, SPEC, per_device_train_batch_size=8, max_steps=steps, learning_rate=1e-3),
        train_dataset=tiny.prompts(prompts),
        processing_class=tiny.tokenizer(),
    )
    batches: list[tuple[dict[str, Any], Any]] = []
    plain = trainer._generate_and_score_completions

    def keep(inputs: Any) -> dict[str, Any]:
        twin = twin_of(trainer)
        batches.append((plain(inputs), twin))
        return batches[-1][0]

    trainer._generate_and_score_completions = keep
    trainer.train()
    return trainer, batches


def test_a_memory_grows_over_rollouts_and_is_kept_in_snapshots(tmp_path: Path) -> None:
    trainer, batches = trained(tmp_path, 3, 2)
    known = sum(
        int((~answer_logits(twin, batch, trainer.processing_class, "3", 4).isnan().any(dim=1)).sum())
        for batch, twin in batches
    )
    memory = trainer._method_states.memories["meds"]
    assert 0 < known < 24
    assert sum(len(vectors) for vectors, _ in memory.values()) == known
    assert all(vectors.shape[1] == 2 and len(labels) == len(vectors) for vectors, labels in memory.values())
    keys = {f"{key}:{right}" for batch, _ in batches for key in prompt_keys(batch).tolist() for right in (0, 1)}
    assert set(memory) <= keys
    assert len({key.split(":")[0] for key in keys}) == 2
    assert [row["method/meds/changed"] for row in trainer.state.log_history if "method/meds/changed" in row]
    restored = MethodStates()
    torch.save(trainer._method_states.snapshot(), tmp_path / "states.pt")
    restored.restore(torch.load(tmp_path / "states.pt", weights_only=True))
    assert all(torch.equal(restored.memories["meds"][name][0], vectors) for name, (vectors, _) in memory.items())


def test_the_logits_are_those_of_the_head_after_each_layer(tmp_path: Path) -> None:
    """Behind the last 3 of each completion; from the model's own hidden states, position by position."""
    _, [(batch, twin), *_] = trained(tmp_path, 3, 2)
    made = answer_logits(twin, batch, tiny.tokenizer(), "3", 4)
    three = tiny.WORDS.index("3")
    ids, mask = (torch.cat([batch[f"prompt_{k}"], batch[f"completion_{k}"]], dim=1) for k in ("ids", "mask"))
    with torch.no_grad():
        layers = twin(input_ids=ids, attention_mask=mask, output_hidden_states=True).hidden_states[1:]
        width, seen = batch["prompt_ids"].shape[1], 0
        for row, (own, counted) in enumerate(zip(batch["completion_ids"], batch["completion_mask"], strict=True)):
            places = [i for i in range(int(counted.sum())) if int(own[i]) == three]
            if not places or places[-1] + 1 >= int(counted.sum()):
                assert bool(made[row].isnan().all())
                continue
            at, token = width + places[-1], int(own[places[-1] + 1])
            want = [float(twin.get_output_embeddings()(layer[row, at])[token]) for layer in layers]
            assert made[row].tolist() == pytest.approx(want, abs=1e-4)
            seen += 1
    assert 0 < seen < 8


def test_the_answer_begins_behind_the_token_in_which_the_last_marker_ends() -> None:
    assert _behind("\\boxed{", ["a \\box", "ed{", "4", "}", " \\boxed", "{", "7", "}"]) == 6
    assert _behind("\\boxed{", ["x\\boxed{4", "2", "}"]) == 1
    assert _behind("\\boxed{", ["no ", "answer"]) is None
    assert _behind("\\boxed{", ["\\boxed", "{"]) is None


def test_prompts_that_come_once_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="in this run each of the 16 comes once at most: train longer, or on fewer"):
        trained(tmp_path, 3, 16)
