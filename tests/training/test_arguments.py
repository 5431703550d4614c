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
        (["--output_dir", "x", "--num_generations", "0"], "^num_generations cannot be 0"),
        (["--config", "absent.yaml"], "cannot be read"),
        (["--config"], "expected one argument"),
        (["--alpha", "0.1"], "--output_dir FOLDER"),
        (["--output_dir", "x", "countdown"], "'countdown' belongs to no flag"),
        (["-x", "--output_dir", "x"], "There is no flag '-x'"),
    ],
)
def test_a_wrong_flag_is_one_sentence(argv: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        parse(*argv)
    assert "\n" not in str(caught.value).strip()


class TestMethods:
    """`--method` may be repeated, take several names at once, and stand in the file as a list or alone."""

    FULL = ("forking_tokens:share=0.3,rescale=false", "placebo_scaling:kappa=2.0")

    @pytest.mark.parametrize(
        "words",
        [
            ["--method", "forking_tokens:share=0.3", "--max_steps", "5", "--method", "placebo_scaling"],
            ["--method", "forking_tokens:share=0.3", "placebo_scaling", "--max_steps", "5"],
            ["--method=forking_tokens:share=0.3", "--max_steps=5", "--method=placebo_scaling"],
        ],
    )
    def test_flags(self, tmp_path: Path, words: list[str]) -> None:
        _, config, _ = parse("--output_dir", str(tmp_path), *words)
        assert (config.method, config.max_steps, config.alpha) == ([*self.FULL], 5, 0.0)

    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("method: [forking_tokens:share=0.3, placebo_scaling]", FULL),
            ("method: placebo_scaling", FULL[1:]),
            ("method: []", ()),
        ],
    )
    def test_file(self, tmp_path: Path, text: str, expected: tuple[str, ...]) -> None:
        path = config_file(tmp_path, f"{text}\noutput_dir: {tmp_path}/out\n")
        assert tuple(parse("--config", path)[1].method) == expected
        _, config, _ = parse("--config", path, "--method", "grpo")
        assert config.method == ["grpo"]  # flags win, as a whole

    def test_alpha_zero_beside_methods_is_what_a_run_records(self, tmp_path: Path) -> None:
        path = config_file(tmp_path, f"method: [steer]\nalpha: 0.0\noutput_dir: {tmp_path}/out\n")
        assert parse("--config", path)[1].alpha == 0
        with pytest.raises(InputError, match="alpha=0.4 belongs to the method"):
            parse("--config", config_file(tmp_path, f"method: [steer]\nalpha: 0.4\noutput_dir: {tmp_path}/out\n"))

    def test_a_mistake_is_one_sentence(self, tmp_path: Path) -> None:
        for words, message in (
            (["--method", "clipcov"], "There is no method 'clipcov'. Did you mean 'clip_cov'"),
            (["--method", "steer:wights=linear"], "Did you mean 'weights'"),
            (["--method"], "expected at least one argument"),
            (["--methods", "steer"], "Did you mean 'method'"),
            (["--method", "steer", "--alpha", "0.4"], "alpha=0.4 belongs to the method 'entropy_advantage', which is"),
        ):
            with pytest.raises(InputError, match=message) as caught:
                parse("--output_dir", str(tmp_path), *words)
            assert "\n" not in str(caught.value).strip()


def test_a_list_may_come_in_several_parts_and_flags_win_as_a_whole(tmp_path: Path) -> None:
    flags = ("--reward", "correct", "--output_dir", str(tmp_path), "--reward", "signed", "a:b")
    assert parse(*flags)[0].reward == ["correct", "signed", "a:b"]
    path = config_file(tmp_path, f"reward: [signed, a:b]\nreward_weights: [1e-3, 2]\noutput_dir: {tmp_path}/out\n")
    run, config, _ = parse("--config", path)
    assert (run.reward, config.reward_weights) == (["signed", "a:b"], [0.001, 2.0])  # YAML 1.1 reads 1e-3 as text
    assert parse(f"--config={path}", "--reward", "correct")[0].reward == ["correct"]


def test_what_is_not_given_is_what_the_classes_say(tmp_path: Path) -> None:
    import dataclasses

    from trl import ModelConfig

    from forkwise.training.settings import RunArguments

    _, config, model = parse("--output_dir", str(tmp_path))
    assert dataclasses.asdict(model) == dataclasses.asdict(ModelConfig())
    direct = EntropyShapedGRPOConfig(output_dir=str(tmp_path), use_cpu=config.use_cpu, bf16=config.bf16)
    assert (config.logging_steps, direct.logging_steps) == (1, 10)  # the command prints each step; TRL's class is TRL's
    same = {"logging_steps", "logging_dir", "run_name"}
    assert {k: v for k, v in config.to_dict().items() if k not in same} == {
        k: v for k, v in direct.to_dict().items() if k not in same
    }
    assert parse("--output_dir", str(tmp_path))[0] == RunArguments()
    assert parse("--output_dir", str(tmp_path), "--logging_steps", "7")[1].logging_steps == 7


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("learning_rat: 1e-6\n", "unknown key 'learning_rat'. Did you mean 'learning_rate'"),
        ("a: [1\n", r"not YAML \(line"),
        ("- 1\n", "must hold 'key: value' lines"),
        ("learning_rate: fast\n", "fast"),
        ("max_steps: " + "9" * 5000 + "\n", "not YAML"),
        ("[" * 100_000, "not YAML"),
    ],
)
def test_a_wrong_file_is_one_sentence(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse("--config", config_file(tmp_path, text))
