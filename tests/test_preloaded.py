"""Processes that have torch loaded end, fail, are killed and find what they are given as those of Python do."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("trl")

from preloaded import Started


def ending(folder: Path, code: str) -> tuple[int, str]:
    """How a script of this code ends and what it says."""
    (folder / "script.py").write_text(code)
    process = Started(["script.py"], os.environ, folder=folder)
    _, errors = process.communicate(timeout=120)
    return process.wait(), errors


@pytest.mark.parametrize(
    ("code", "status", "last"),
    [
        ("pass", 0, ""),
        ("raise SystemExit(3)", 3, ""),
        ("raise SystemExit('no such thing')", 1, "no such thing"),
        ("raise ValueError('broken')", 1, "ValueError: broken"),
        ("import atexit, sys\natexit.register(print, 'at the end', file=sys.stderr)", 0, "at the end"),
    ],
)
def test_an_ending_is_that_of_python(code: str, status: int, last: str, tmp_path: Path) -> None:
    ended, errors = ending(tmp_path, code)
    python = subprocess.run([sys.executable, "script.py"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ended == python.returncode == status
    for said in (errors, python.stderr):
        assert [*said.splitlines(), ""][-2 if said else 0] == last


def test_a_kill_reaches_it(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text("import time\nopen('began', 'w').close()\ntime.sleep(600)\n")
    process = Started(["script.py"], os.environ, folder=tmp_path)
    while not (tmp_path / "began").exists():
        assert process.poll() is None
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL


def test_it_has_arguments_environment_and_modules_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / "beside.py").write_text("import sys\nprint(__name__, *sys.argv[1:])\n")
    printed = tmp_path / "printed.txt"
    environment = {"PYTHONPATH": str(tmp_path / "modules"), "ONLY": "this"}
    code = "import os, sys, beside\nprint(os.getcwd(), dict(os.environ), 'torch' in sys.modules, __name__)\n"
    (tmp_path / "script.py").write_text(code)
    process = Started(["script.py", "a", "b"], environment, output=str(printed), folder=tmp_path)
    assert process.wait() == 0
    assert printed.read_text().splitlines() == ["beside a b", f"{tmp_path} {environment} True __main__"]
    module = Started(["-m", "beside", "c"], environment, output=str(printed), folder=tmp_path)
    assert module.wait() == 0
    assert printed.read_text().splitlines()[-1] == "__main__ c"
