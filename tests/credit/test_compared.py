"""The script that sets scores side by side: what is bold, which placebo stands beside, which methods are left out."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

from forkwise.credit.results import Credit, GradientCredit, MethodGradient, write
from forkwise.explore.findings import Estimate

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "compared.py"
NONE = Estimate(None)


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("compared", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["compared"] = module
    spec.loader.exec_module(module)
    return module


def method(name: str, minus_grpo: Estimate, band: Estimate, placebo: Estimate = NONE) -> MethodGradient:
    cosine = Estimate(0.5, -0.2, 1.2)
    return MethodGradient(name, NONE, NONE, cosine, minus_grpo, band, None, placebo, NONE, NONE)


def scores(folder: Path, *methods: MethodGradient) -> Path:
    grpo = method("grpo", NONE, NONE)
    one = GradientCredit("run", "m", "w", "all", 9, 9, 9, 144, 16, 256, [grpo, *methods], [])
    write(folder, Credit([], [], {}, [], gradients=[one]))
    return folder


def run(script: ModuleType, monkeypatch: pytest.MonkeyPatch, *words: str) -> None:
    monkeypatch.setattr(sys, "argv", ["compared.py", *words])
    script.main()


def test_updates(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sure = method("a", Estimate(0.02, 0.01, 0.03), Estimate(0.02, 0.005, 0.035), Estimate(-0.1, -0.2, 0.0))
    unsure = method("b", Estimate(-0.02, -0.03, -0.01), Estimate(-0.02, -0.04, 0.001))
    still = method("c", Estimate(0.0004, 0.0, 0.0008), Estimate(0.0004, -0.001, 0.002))
    first = scores(tmp_path / "first", sure, still)
    second = scores(tmp_path / "second", unsure)
    run(script, monkeypatch, "updates", f"one={first},{second}", f"two={second}")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "| method | one | two |"
    assert lines[2:5] == [
        "| `grpo` | 0.500 [-0.200, 1.000] (itself) | 0.500 [-0.200, 1.000] (itself) |",
        "| `a` | **+0.020 [+0.010, +0.030]** (-0.100) |  |",
        "| `b` | -0.020 [-0.030, -0.010] | -0.020 [-0.030, -0.010] |",
    ]
    assert lines[-1] == "Below 0.0005 everywhere: `c`."


def test_a_policy_that_was_not_moved_is_refused(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(SystemExit, match="score it with --updates"):
        run(script, monkeypatch, "moved", f"one={scores(tmp_path)}")
