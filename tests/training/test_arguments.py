"""Settings from a file and from flags: flags win, and a typo is named with its nearest neighbour."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("trl")

from forkwise.engines.trl import EntropyShapedGRPOConfig
from forkwise.errors import InputError
from forkwise.training.arguments import parse_run


def parse(*argv: str) -> tuple:
    return parse_run(argv, EntropyShapedGRPOConfig, "grpo")


def config_file(folder: Path, text: str) -> str:
    path = folder / "run.yaml"
    path.write_text(text)
    return str(path)


def test_flags_win_over_the_file_and_trl_names_are_understood(tmp_path: Path) -> None:
    path = config_file(
        tmp_path,
        "model_name_or_path: embedded\nlearning_rate: 1e-6\nalpha: 0.2\nreward: signed\nepsilon_high: 0.28\n"
        f"output_dir: {tmp_path}/out\n",
    )
    run, config, model = parse("--config", path, "--task", "countdown", "--alpha", "0.3", "--max-steps=5", "--use_peft")
    assert (run.model, run.task, run.reward) == ("embedded", "countdown", ["signed"])
    assert config.learning_rate == pytest.approx(1e-6)  # YAML 1.1 reads 1e-6 as text
    assert (config.alpha, config.kappa, config.epsilon_high, config.max_steps) == (0.3, 2.0, 0.28, 5)
    assert model.use_peft


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--tsak", "countdown"], "There is no flag '--tsak'. Did you mean 'task'"),
        (["--epsilon_hgh", "0.3"], "Did you mean 'epsilon_high'"),
        (["--alph", "0.3"], "Did you mean 'alpha'"),  # no silent abbreviations
        (["--learning_rate", "fast"], "invalid float value: 'fast'"),
        (["--output_dir", "x", "--kappa", "1.0"], "kappa"),
        (["--output_dir", "x", "--alpha", "-1"], "alpha"),
        (["--output_dir", "x", "--num_generations", "7"], "num_generations"),
        (["--config", "absent.yaml"], "cannot be read"),
    ],
)
def test_a_wrong_flag_is_one_sentence(argv: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        parse(*argv)
    assert "\n" not in str(caught.value).strip()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("learning_rat: 1e-6\n", "unknown key 'learning_rat'. Did you mean 'learning_rate'"),
        ("a: [1\n", r"not valid YAML \(line"),
        ("- 1\n", "must hold 'key: value' lines"),
        ("learning_rate: fast\n", "fast"),
    ],
)
def test_a_wrong_file_is_one_sentence(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse("--config", config_file(tmp_path, text))
