"""The engines that `forkwise methods` names are those whose configs accept the method."""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import Any

import pytest
from installed import runnable

from forkwise.engines.which import engines_of
from forkwise.errors import InputError
from forkwise.methods import all_methods

NAMES = sorted(all_methods())


@pytest.mark.parametrize(
    ("name", "engines"),
    [
        ("entropy_advantage", ["TRL", "TRL's PPO", "TRL async", "verl"]),
        ("rloo", ["TRL", "verl"]),
        ("forking_tokens", ["TRL", "TRL's PPO", "verl"]),
        ("clip_higher", ["TRL", "TRL's PPO", "verl"]),
        ("dynamic_sampling", ["TRL"]),
        ("opefo", ["TRL", "TRL's PPO"]),  # needs sum p^2 (log p + H)
        ("gtpo_trajectory", ["TRL", "verl"]),  # changes the advantages before a critic makes them
        ("dcpo", ["TRL"]),  # groups, and a second temperature
        ("siren", ["TRL", "TRL's PPO"]),  # a term of the loss
        ("shear", ["TRL"]),  # hidden states
        ("heal", ["TRL"]),  # a column of the data set
        ("aepo_arbitrary", ["TRL"]),  # draws again
        ("meds", ["TRL"]),  # remembers answers
        ("gspo", ["TRL", "verl"]),  # one ratio per answer, where PPO's advantages are per token
    ],
)
def test_engines_by_hand(name: str, engines: list[str]) -> None:
    assert engines_of(all_methods()[name]) == engines


@pytest.mark.parametrize("name", runnable(NAMES))
def test_configs_of_trl_accept_what_is_named(tmp_path: Path, name: str) -> None:
    pytest.importorskip("trl")
    from forkwise.training.ppo_config import EntropyShapedPPOConfig

    engines = engines_of(all_methods()[name])
    settings = {"use_cpu": True, "bf16": False, "per_device_train_batch_size": 8, "num_iterations": 2}
    assert accepts(EntropyShapedPPOConfig, tmp_path, method=[name], **settings) == ("TRL's PPO" in engines)
    try:
        from forkwise.engines.trl.async_grpo import EntropyShapedAsyncGRPOConfig
    except ImportError:
        return  # TRL before 1.16
    assert accepts(EntropyShapedAsyncGRPOConfig, tmp_path, method=[name], use_cpu=True, bf16=False) == (
        "TRL async" in engines
    )


def accepts(config: type, where: Path, **options: Any) -> bool:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            config(output_dir=str(where), **options)
        except InputError:
            return False
    return True


def test_the_page_names_the_methods_that_are_not_on_verl() -> None:
    page = (Path(__file__).parents[2] / "docs" / "engines.md").read_text()
    section = page.partition("### Methods that need an addition to the engine")[2].partition("In a loop of your own")[0]
    named = set(re.findall(r"`([a-z_]+)`", section)) & set(NAMES)
    missing = [name for name in NAMES if "verl" not in engines_of(all_methods()[name])]
    assert sorted(named) == missing
    assert f"| {len(NAMES) - len(missing)} of {len(NAMES)}, [below]" in page
