"""The tiny models of the tests and their tokenizers. Nothing is downloaded, and nothing of ours is used.

`policy` and `tokenizer` belong together; most tests need no other. `tiny_decoders` has one decoder per architecture.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from transformers import (
    BertConfig,
    BertModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen2ForTokenClassification,
)

WORDS = ["<pad>", "<eos>", "<unk>", "+", "=", *map(str, range(10)), *"abcdefghi"]
PAD, EOS, UNK = 0, 1, 2


def of_words(words: Iterable[str], unknown: str) -> Tokenizer:
    """A tokenizer whose tokens are the words between blanks."""
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token=unknown))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return backend


def tokenizer(*further: str, **settings: Any) -> PreTrainedTokenizerFast:
    """Of `WORDS`, and of `further` ones behind them."""
    return PreTrainedTokenizerFast(
        tokenizer_object=of_words([*WORDS, *further], "<unk>"),
        pad_token="<pad>",
        eos_token="<eos>",
        unk_token="<unk>",
        padding_side="left",
        **settings,
    )


def qwen2(**changes: Any) -> Qwen2Config:
    settings: dict[str, Any] = {"vocab_size": len(WORDS), "pad_token_id": PAD, "eos_token_id": EOS}
    return Qwen2Config(
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=64,
        initializer_range=0.3,
        tie_word_embeddings=False,
        bos_token_id=None,
        **{**settings, **changes},
    )


def policy(seed: int = 0, **changes: Any) -> Qwen2ForCausalLM:
    """A random Qwen2 with initial weights so large that its token entropies spread over about 1.5 to 2.7 nats."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Qwen2ForCausalLM(qwen2(**changes))


def critic(seed: int = 1) -> Qwen2ForTokenClassification:
    """Another one, with one value per token."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Qwen2ForTokenClassification(qwen2(num_labels=1)).eval()


def save_encoder(folder: Path, words: Iterable[str], *, positions: int, lowercase: bool = False) -> None:
    """A random BERT and a tokenizer of these words, as the sentence encoder loads them."""
    vocabulary = ["[PAD]", "[UNK]", *words]
    backend = of_words(vocabulary, "[UNK]")
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    if lowercase:
        backend.normalizer = normalizers.Lowercase()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = BertConfig(
            vocab_size=len(vocabulary),
            hidden_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=24,
            max_position_embeddings=positions,
            initializer_range=0.5,
            pad_token_id=0,
        )
        BertModel(config).eval().save_pretrained(folder)
    backend.save(str(folder / "tokenizer.json"))
