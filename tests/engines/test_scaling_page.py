"""The memory arithmetic of docs/scaling.md: parameters counted on real models, sums by hand, and the page's table."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("transformers")

import memory
import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("model", memory.MODELS, ids=lambda model: model.name)
def test_parameters_are_those_of_the_real_model(model: memory.Model) -> None:
    config = Qwen2Config(
        vocab_size=model.vocabulary,
        hidden_size=model.hidden,
        intermediate_size=model.intermediate,
        num_hidden_layers=model.layers,
        num_attention_heads=model.heads,
        num_key_value_heads=model.kv_heads,
        tie_word_embeddings=model.tied,
    )
    with torch.device("meta"):
        real = Qwen2ForCausalLM(config)
    assert model.parameters == sum(p.numel() for p in real.parameters())


def test_plan_is_the_sum_of_the_formulas() -> None:
    model = memory.Model("toy", 3, 256, 512, 2, 1, 1000, tied=False)
    # layer: q 256*256+256, k and v 2*(256*128+128), o 256*256, MLP 3*256*512, norms 2*256
    layer = 65792 + 65792 + 65536 + 393216 + 512
    outside = 2 * 1000 * 256 + 256
    assert (model.layer, model.outside) == (layer, outside)
    plan = memory.plan(model, gpus=4, tokens=100)
    assert plan.states == 16 * (3 * layer + outside) / 4
    assert plan.gathered == 4 * (outside + 2 * layer)
    assert plan.activations == 2 * 100 * (3 * 256 + 6 * 256 + 3 * 512)
    assert plan.logits == 4 * 100 * 1000
    assert plan.total == plan.states + plan.gathered + plan.activations + plan.logits
    assert memory.plan(model, 4, 100, "current").logits == 8 * 100 * 1000


def test_the_page_shows_what_the_script_prints() -> None:
    assert memory.table([1, 8, 32], 16384) in (ROOT / "docs" / "scaling.md").read_text()
