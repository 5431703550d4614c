"""A tiny random LLaVA that reads the words of the tiny tokenizer, with its processor. Needs Pillow alone."""

from __future__ import annotations

from typing import Any

import tiny_models
import torch
from datasets import Dataset
from PIL import Image
from tiny_models import EOS, PAD, WORDS
from transformers import CLIPVisionConfig, LlavaConfig, LlavaForConditionalGeneration, LlavaProcessor
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

IMAGE = len(WORDS)
PIECES = 4
"""Tokens that stand for an image: 8 x 8 pixels in patches of 4 x 4."""
_TEMPLATE = (
    "{% for m in messages %}{% if m.content is string %}{{ m.content + ' ' }}{% else %}"
    "{% for part in m.content %}{{ '<image> ' if part.type == 'image' else part.text + ' ' }}{% endfor %}"
    "{% endif %}{% endfor %}"
)


def policy(seed: int = 0) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        config = LlavaConfig(
            vision_config=CLIPVisionConfig(
                hidden_size=16,
                intermediate_size=32,
                num_hidden_layers=2,
                num_attention_heads=2,
                image_size=8,
                patch_size=4,
                projection_dim=16,
            ),
            text_config=tiny_models.qwen2(vocab_size=len(WORDS) + 1),
            image_token_id=IMAGE,
            vision_feature_layer=-1,
            tie_word_embeddings=False,
        )
        model = LlavaForConditionalGeneration(config).float()
    model.generation_config.eos_token_id = EOS
    model.generation_config.pad_token_id = PAD
    return model


def processor() -> LlavaProcessor:
    tokenizer = tiny_models.tokenizer("<image>", extra_special_tokens={"image_token": "<image>"})
    images = CLIPImageProcessorPil(size={"shortest_edge": 8}, crop_size={"height": 8, "width": 8})
    return LlavaProcessor(
        images,
        tokenizer,
        patch_size=4,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=_TEMPLATE,
        image_token="<image>",
    )


def prompts(n: int = 8, *, images: bool = True) -> Dataset:
    """Sums beside an image of one colour each."""
    rows = {"prompt": [[{"role": "user", "content": f"{i % 10} + {3 * i % 10} ="}] for i in range(n)]}
    colours = [Image.new("RGB", (8, 8), (30 * i, 255 - 30 * i, 90)) for i in range(n)]
    return Dataset.from_dict({**rows, "image": colours} if images else rows)
