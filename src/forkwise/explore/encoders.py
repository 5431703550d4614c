"""Encoders of sentences: the one of the `sbert` extra, any sentence-transformers model, and one that remembers."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from forkwise.errors import InputError
from forkwise.explore.neighbours import Vectors


class Encoder(Protocol):
    """Encoder that turns texts into unit vectors."""

    name: str

    def encode(self, texts: Sequence[str]) -> Vectors:
        """Returns the embeddings, `(len(texts), d)`, in unit rows."""
        ...


@dataclass
class _Named:
    name: str
    model: Any

    def encode(self, texts: Sequence[str]) -> Vectors:
        vectors = np.asarray(self.model.encode(list(texts)), dtype=np.float32)
        unit: Vectors = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
        return unit


def _fast_dtype() -> str:
    """Returns `bfloat16` where the processor multiplies in it, which only Linux tells without a trial."""
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return "float32"
    return "bfloat16" if re.search(r"\b(?:avx512_bf16|amx_bf16)\b", flags) else "float32"


def load_encoder(name: str | None = None, dtype: str = "auto") -> Encoder:
    """Loads the encoder of the `sbert` extra, or any sentence-transformers model by Hub id or folder.

    A folder with a BERT checkpoint needs no sentence-transformers: mean pooling and unit length are assumed then.

    Args:
        dtype: of the `sbert` encoder; `"auto"` is bfloat16 where the processor has it, `"float32"` the same everywhere.

    Raises:
        InputError: its package or the model is not there.
    """
    from forkwise.explore.encoder import SentenceEncoder

    if dtype not in ("auto", "float32", "bfloat16"):
        raise InputError(f"There is no encoder dtype '{dtype}': use auto, float32 or bfloat16.")
    if name is None:
        chosen = _fast_dtype() if dtype == "auto" else dtype
        return _Named(f"all-MiniLM-L6-v2, {chosen}", SentenceEncoder(dtype=chosen))
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError as error:
        if getattr(error, "name", None) != "sentence_transformers":
            raise InputError(
                f"sentence-transformers is installed but cannot be loaded ({_reason(error)}): install it anew, or "
                "leave out --encoder."
            ) from error
        if all((Path(name) / file).exists() for file in ("config.json", "tokenizer.json", "model.safetensors")):
            return _Named(Path(name).name, SentenceEncoder(Path(name)))
        raise InputError(
            f"The encoder '{name}' needs sentence-transformers: pip install sentence-transformers, or leave out "
            "--encoder."
        ) from error
    try:
        return _Named(Path(name).name, SentenceTransformer(name))
    except (OSError, ValueError) as error:
        raise InputError(
            f"The encoder '{name}' cannot be loaded as a sentence-transformers model ({_reason(error)}): give a folder "
            "with one, the Hub id of one that is in the cache or can be reached from here, or leave out --encoder."
        ) from error


def _reason(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")


@dataclass
class _Remembering:
    name: str
    encoder: Encoder
    capacity: int
    rows: dict[str, npt.NDArray[np.float32]]

    def encode(self, texts: Sequence[str]) -> Vectors:
        unknown = list(dict.fromkeys(text for text in texts if text not in self.rows))
        fresh = dict(zip(unknown, self.encoder.encode(unknown), strict=True)) if unknown else {}
        vectors = np.stack([fresh[text] if text in fresh else self.rows[text] for text in texts])
        for text in unknown[: max(0, self.capacity - len(self.rows))]:
            self.rows[text] = fresh[text].copy()  # a view would keep its whole batch
        return vectors


def remembering(encoder: Encoder, capacity: int = 100_000) -> Encoder:
    """Wraps the encoder to keep the vectors of the first `capacity` texts: runs share their base and many a sentence.

    100,000 vectors of 384 dimensions are 0.15 GB.
    """
    return _Remembering(encoder.name, encoder, capacity, {})
