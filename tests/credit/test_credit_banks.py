"""The script that makes banks: its commands are ones that forkwise takes."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest
import typer.main
import yaml

from forkwise.cli import app

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "credit_banks.py"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("credit_banks", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["credit_banks"] = module
    spec.loader.exec_module(module)
    return module


def test_every_command_is_one_that_forkwise_takes(script: ModuleType) -> None:
    known = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    for bank in script.BANKS:
        steps = script.commands(bank, Path("o"))
        assert [words[0] for words in steps][-3:] == ["sample", "forks", "credit"]
        assert (steps[0][0] == "grpo") == bank.endswith("-grpo")
        for name, *words in steps:
            flags = {flag for p in known[name].params for flag in p.opts}
            if name == "grpo":
                continue  # takes TRL's flags too
            assert {word for word in words if word.startswith("-")} <= flags


def test_each_step_takes_what_the_one_before_left(script: ModuleType) -> None:
    train, sample, forks, credit = script.commands("story-grpo", Path("o"), script.Size(5, 9, 8))
    assert train[train.index("--output_dir") + 1] == sample[sample.index("--model") + 1] == "o/grpo/story"
    assert sample[sample.index("--problems") + 1] == "5"
    assert forks[forks.index("--states") + 1 : forks.index("--states") + 4] == ["9", "--continuations", "8"]
    assert forks[1] == sample[sample.index("--out") + 1]
    assert forks[forks.index("--model") + 1] == "o/grpo/story"
    assert credit[1] == forks[forks.index("--out") + 1]
    assert yaml.safe_load(script.RECIPE.read_text())["seed"] == 0


def test_the_package_holds_banks_of_the_size_that_the_script_makes(script: ModuleType) -> None:
    pytest.importorskip("torch")
    from forkwise.credit.bank import SHIPPED, read_bank

    for file in SHIPPED.glob("*.parquet"):
        bank, size = read_bank(file), script.SIZES[file.stem]
        assert bank.name == file.stem
        assert (bank.about["of_problems"], bank.about["continuations"]) == (size.problems, size.continuations)
        assert bank.at_K.size == size.states


def test_the_package_holds_small_banks_of_both_tasks() -> None:
    pytest.importorskip("torch")
    from forkwise.credit.bank import SHIPPED
    from forkwise.credit.command import run_credit
    from forkwise.credit.options import CreditOptions

    assert sum(file.stat().st_size for file in SHIPPED.iterdir()) < 4_000_000
    scored = run_credit([], CreditOptions(only=True, method=["credit_weight:probability=0,least=0"]))
    assert [bank.name for bank in scored.banks] == ["countdown-base", "countdown-grpo", "story-base", "story-grpo"]
    story = scored.banks[2]
    grpo, masked = story.methods
    assert grpo.method == "grpo"
    # Masking tokens without entropy earns correlation, and nothing where tokens count by what they can change.
    assert masked.alike.minus_grpo.low is not None
    assert masked.alike.minus_grpo.low > 0.05
    assert masked.sized.minus_grpo.low is not None
    assert masked.sized.minus_grpo.low < 0
