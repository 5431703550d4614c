"""Registration: a plan frozen in a file before the first run, and the check that nothing else runs under it."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from forkwise.errors import InputError
from forkwise.folders import write_text
from forkwise.folders.settings import refuse_other
from forkwise.reading import read_yaml
from forkwise.study.reading import parse_study
from forkwise.study.receipts import versions
from forkwise.study.spec import Study

_HEAD = "# A registered plan: `forkwise study register` wrote it. Commit it, and change nothing in it.\n"
PLAN = "study.yaml"
"""The file of a study's folder, and of its receipts, that says which plan they belong to."""


def registered_file(file: Path) -> Path:
    """Returns where the registration of a study file is: `FILE.registered.yaml` for `FILE.yaml`."""
    return file.with_name(f"{file.stem}.registered.yaml")


def register(file: Path, study: Study) -> Path:
    """Freezes the study beside its file.

    Raises:
        InputError: it is registered already, under this plan or another.
    """
    target = registered_file(file)
    if target.exists():
        registered, _ = read_plan(target)
        same = "this plan" if registered.sha256() == study.sha256() else "another plan"
        raise InputError(f"'{target}' holds {same} already: a study is registered once.")
    write_plan(target, study, head=_HEAD)
    return target


def write_plan(path: Path, study: Study, *, head: str = "", registered: str | None = None) -> None:
    """Writes a plan with its hash, the versions and the date; `registered` is the date of its registration."""
    record = {
        "sha256": study.sha256(),
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        **({} if registered is None else {"registered": registered}),
        "versions": versions(),
        "plan": study.plain(),
    }
    write_text(path, head + yaml.safe_dump(record, sort_keys=False, width=120))


def read_plan(path: Path) -> tuple[Study, dict[str, Any]]:
    """Reads a plan that `write_plan` wrote, and what was recorded with it.

    Raises:
        InputError: it is none, its plan is not the one that it has the hash of, or another version of forkwise took it.
    """
    record = read_yaml(path)
    if not isinstance(record, dict) or not isinstance(record.get("plan"), dict) or "sha256" not in record:
        raise InputError(f"'{path}' is no recorded plan: restore it, or give another folder.")
    try:
        study = parse_study(record["plan"], str(path))
    except InputError as error:
        version = (record.get("versions") or {}).get("forkwise", "an older version")
        raise InputError(f"'{path}' is a plan of forkwise {version}, which this version refuses: {error}") from error
    if study.sha256() != record["sha256"]:
        raise InputError(f"'{path}' was changed after it was written (its hash is another): restore it.")
    return study, record


def registration_of(file: Path, study: Study) -> dict[str, Any] | None:
    """Returns what was registered for the study file, or None.

    Raises:
        InputError: the file holds another plan than the one registered.
    """
    target = registered_file(file)
    if not target.exists():
        return None
    registered, record = read_plan(target)
    refuse_other_plan(study, registered, target)
    return record


def refuse_other_plan(study: Study, recorded: Study, where: Path) -> None:
    """Raises an `InputError` that names what differs, unless both are one plan."""
    unknown = [path for path in study.contents if path not in recorded.contents]
    if unknown and replace(study, contents=recorded.contents) == replace(recorded, title=study.title):
        raise InputError(
            f"The plan in '{where}' is of an older version of forkwise, which did not hash the contents of "
            f"'{unknown[0]}': finish it with that version, or begin anew with another --out, and register again."
        )
    remedy = "a study goes on as it began; what is different is another study, with a file and folder of its own"
    refuse_other(where / PLAN, recorded.settings_by_name(), study.settings_by_name(), content="a study", remedy=remedy)
