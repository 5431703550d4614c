"""`sampling.json`: what a samples folder holds, compared before anything is added."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from forkwise.errors import InputError
from forkwise.reading import parse_json

MANIFEST = "sampling.json"


def read_manifest(out: Path) -> dict[str, Any]:
    """Reads the `sampling.json` of a samples folder; InputError where it cannot be read."""
    try:
        manifest: dict[str, Any] = parse_json((out / MANIFEST).read_bytes())
        settings = manifest["settings"]
        _flat(settings["sampling"])
        kinds = {"task": str | None, "dataset": str | None, "split": str, "problems": int}
        wrong = [name for name, kind in kinds.items() if not isinstance(settings[name], kind)]
        wrong += ["first_problem"] if not isinstance(settings.get("first_problem", 0), int) else []
        if wrong:
            raise ValueError(f"{wrong[0]} is {settings[wrong[0]]}")
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise InputError(f"'{out / MANIFEST}' cannot be read ({error}): restore it, or give another --out.") from error
    return manifest


def check_manifest(out: Path, manifest: Mapping[str, Any]) -> None:
    """Refuses a folder that holds anything but shards of this very job."""
    if out.exists() and not out.is_dir():
        raise InputError(f"'{out}' is a file; give another --out.")
    path = out / MANIFEST
    if not path.exists():
        if out.is_dir() and any(out.glob("*.parquet")):
            raise InputError(f"'{out}' holds Parquet files but no {MANIFEST}: give another --out.")
        return
    recorded = read_manifest(out)
    for part, wanted in manifest.items():
        new, old = _flat(wanted), _flat(recorded.get(part, {}))
        for key in sorted(new.keys() | old.keys()):
            if new.get(key) != old.get(key):
                raise InputError(
                    f"'{out}' holds samples with {key} = {_short(old.get(key))}, not {_short(new.get(key))}: give "
                    f"another --out, or the settings in {path}."
                )


def _flat(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Flattens nested settings under their own names."""
    flat: dict[str, Any] = {}
    for key, value in json.loads(json.dumps(settings)).items():
        flat |= _flat(value) if isinstance(value, dict) else {key: value}
    return flat


def _short(value: Any) -> str:
    return "no value" if value is None else str(value)
