"""`sampling.json`: what a samples folder holds, compared before anything is added."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from forkwise.errors import InputError
from forkwise.folders.settings import is_new, read_settings, refuse_other

MANIFEST = "sampling.json"


def read_manifest(out: Path) -> dict[str, Any]:
    """Reads the `sampling.json` of a samples folder; InputError where it cannot be read."""
    manifest = read_settings(out / MANIFEST)
    try:
        settings = manifest["settings"]
        _flat(settings["sampling"])
        kinds = {"task": str | None, "dataset": str | None, "split": str, "problems": int}
        wrong = [name for name, kind in kinds.items() if not isinstance(settings[name], kind)]
        wrong += ["first_problem"] if not isinstance(settings.get("first_problem", 0), int) else []
        if wrong:
            raise ValueError(f"{wrong[0]} is {settings[wrong[0]]}")
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise InputError(f"'{out / MANIFEST}' cannot be read ({error}): restore it, or give another --out.") from error
    return manifest


def check_manifest(out: Path, manifest: Mapping[str, Any]) -> None:
    """Refuses a folder that holds anything but shards of this very job."""
    file = out / MANIFEST
    if is_new(file):
        return
    recorded = read_manifest(out)
    remedy = f"give another --out, or the settings in {file}"
    for part, wanted in manifest.items():
        refuse_other(file, _flat(recorded.get(part, {})), _flat(wanted), content="samples", remedy=remedy)


def _flat(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Flattens nested settings under their own names."""
    flat: dict[str, Any] = {}
    for key, value in json.loads(json.dumps(settings)).items():
        flat |= _flat(value) if isinstance(value, dict) else {key: value}
    return flat
