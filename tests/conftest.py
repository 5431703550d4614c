"""What tests of several rooms share."""

from __future__ import annotations

import atexit
import gc
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

HELPERS = str(Path(__file__).with_name("helpers"))
"""Modules that tests of several rooms import by their names, here and in the processes that tests start."""

sys.path[:0] = [HELPERS, str(Path(__file__).parents[1] / "benchmarks")]
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (HELPERS, os.environ.get("PYTHONPATH"))))
os.environ.setdefault("HF_HUB_OFFLINE", "1")  # no test waits for a hub: huggingface_hub reads it when it is imported
# Without a GPU Triton interprets its kernels; it reads this when it is first imported, by whatever library.
if not Path("/dev/nvidiactl").exists():
    os.environ.setdefault("TRITON_INTERPRET", "1")

gc.disable()  # until all modules are imported: a quarter of what collecting tests takes was looking at all of torch
IN_WORKER = "PYTEST_XDIST_WORKER" in os.environ
if IN_WORKER:
    atexit.register(os._exit, 0)  # the last to be called: to take torch down module by module costs seconds

_started: Counter[str] = Counter()


def pytest_configure() -> None:
    folders = Path(__file__).parent, Path(__file__).parents[1] / "benchmarks"
    names = Counter(path.name for folder in folders for path in folder.rglob("*.py") if path.name != "conftest.py")
    if shared := [name for name, count in names.items() if count > 1]:
        raise pytest.UsageError(
            f"Modules of tests and benchmarks are imported by their names alone; rename one of each: {shared}."
        )


def pytest_collection_finish() -> None:
    # What tests start reads bytecode and writes none: where files cannot grow, Python leaves half of one and trusts it.
    os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
    gc.freeze()
    gc.enable()


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Keeps what is imported out of later garbage collections: each `Trainer.train()` asks for one, of all of torch.

    The first tests of a module may import more. Freezing before every test would keep all garbage of tests.
    """
    _started[item.path.name] += 1
    if _started[item.path.name] <= 3:
        gc.freeze()


def pytest_sessionfinish() -> None:
    if "preloaded" in sys.modules:
        sys.modules["preloaded"].close()
    if not IN_WORKER:
        gc.unfreeze()


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str, str, str], None]]:
    """Installs a distribution with one module `its_module` and one entry point: `(group, "name = place", source)`."""

    def install(group: str, entry_point: str, source: str) -> None:
        site = tmp_path / "site"
        metadata = site / "its_package-1.0.dist-info"
        metadata.mkdir(parents=True)
        (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: its-package\nVersion: 1.0\n")
        (metadata / "entry_points.txt").write_text(f"[{group}]\n{entry_point}\n")
        (site / "its_module.py").write_text(source)
        monkeypatch.syspath_prepend(site)
        monkeypatch.setattr(sys, "dont_write_bytecode", True)  # some tests look at all that is written near it

    yield install
    sys.modules.pop("its_module", None)
