"""The folder of the embedded base model: a Hugging Face checkpoint inside the package."""

from __future__ import annotations

from pathlib import Path

EMBEDDED_MODEL = Path(__file__).parent / "lab" / "base"
