"""The wheel is whole: installed away from the clone, it trains, samples and reports."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from collections.abc import Sequence
from pathlib import Path

import pytest

pytest.importorskip("hatchling")

ROOT = Path(__file__).parents[1]


def run(words: Sequence[str | Path], folder: Path) -> str:
    """What a command prints in an environment that knows nothing of the clone."""
    known = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TMPDIR") if name in os.environ}
    settings = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    done = subprocess.run(words, cwd=folder, env={**known, **settings}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    words = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    [built] = folder.glob("*.whl")
    return built


def test_the_wheel_holds_every_file_of_the_package(wheel: Path) -> None:
    source = ROOT / "src"
    files = {
        path.relative_to(source).as_posix()
        for path in (source / "forkwise").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert files <= set(zipfile.ZipFile(wheel).namelist())


@pytest.mark.slow
def test_a_quickstart_runs_from_the_wheel(wheel: Path, tmp_path: Path) -> None:
    pytest.importorskip("trl")
    environment, folder = tmp_path / "environment", tmp_path / "elsewhere"
    folder.mkdir()
    venv.create(environment, with_pip=False)
    python = environment / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", str(python), "--disable-pip-version-check"]
    subprocess.run([*pip, "install", "--quiet", "--no-deps", "--no-index", str(wheel)], check=True)
    # Everything else comes from the environment of the tests, behind the wheel, so that nothing is downloaded.
    site = Path(sysconfig.get_path("purelib", vars={"base": str(environment)}))
    (site / "others.pth").write_text(sysconfig.get_path("purelib") + "\n")

    assert run([python, "-c", "import forkwise; print(forkwise.__file__)"], folder).startswith(str(site))
    sizes = ("--steps", "1", "--problems", "2", "--samples", "2", "--jobs", "1")
    said = run([environment / "bin" / "forkwise", "quickstart", *sizes, "--out", "run"], folder)
    assert "On 2 problems, GRPO + entropy advantage against GRPO" in said
    assert (folder / "run" / "report.html").stat().st_size > 50_000
    assert json.loads((folder / "run" / "compare.json").read_text())
