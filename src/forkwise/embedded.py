"""The folders of the embedded base models: Hugging Face checkpoints inside the package."""

from __future__ import annotations

from pathlib import Path

from forkwise.errors import InputError, nearest

EMBEDDED_MODEL = Path(__file__).parent / "lab" / "base"
"""The one that solves Countdown: what `embedded` alone means."""

MODELS = {"countdown": EMBEDDED_MODEL, "story": EMBEDDED_MODEL.with_name("story")}
"""The folders by the names of the tasks that the models know."""

EMBEDDED = "embedded"


def is_embedded(model: str | None) -> bool:
    """Whether a model is one of this package: `embedded`, or `embedded:NAME`."""
    return model is not None and (model == EMBEDDED or model.startswith(f"{EMBEDDED}:"))


def model_path(model: str) -> str:
    """Returns the folder of `embedded` or `embedded:NAME`, and every other hub id or folder as it is.

    Raises:
        InputError: no embedded model has that name.
    """
    if not is_embedded(model):
        return model
    name = model.partition(":")[2] or "countdown"
    if name not in MODELS:
        known = ", ".join(f"{EMBEDDED}:{known}" for known in MODELS)
        raise InputError(f"There is no model '{model}' in this package: there is {known}.{nearest(name, MODELS)}")
    return str(MODELS[name])
