"""The command: light to start, and one sentence with exit code 2 for what the user must change."""

from __future__ import annotations

import gzip
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import typer
from packaging.requirements import Requirement

from forkwise.cli import app, run
from forkwise.cli.environment import _engines, _group


def forkwise(*argv: str, cwd: Path | None = None, timeout: float | None = 120) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "forkwise", *argv], capture_output=True, text=True, cwd=cwd, timeout=timeout, check=False
    )


def test_import_is_light_and_pulls_no_torch() -> None:
    code = (
        "import sys, time; start = time.process_time(); import forkwise; spent = time.process_time() - start; "
        "heavy = {'torch', 'transformers', 'numpy', 'matplotlib'} & set(sys.modules); print(spent < 0.5, sorted(heavy))"
    )
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert output.strip() == "True []"


@pytest.mark.parametrize("number", ["SIGINT", "SIGTERM"])
def test_an_interrupt_within_a_destructor_is_not_lost(number: str) -> None:
    # Python drops what a destructor raises; a library's destructors may take much of the time.
    code = (
        "import os, signal, time\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # which a shell's background job ignores
        "from forkwise.cli import common, root\n"
        "class Dies:\n"
        "    def __del__(self):\n"
        f"        os.kill(os.getpid(), signal.{number})\n"
        "        time.sleep(0)\n"
        "def command(*_, **__):\n"
        "    with common.long_command():\n"
        "        Dies()\n"
        "        time.sleep(30)\n"
        "    return 'went on'\n"
        "root.app = lambda *_, **__: print(command())\n"
        "root.main()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=100)
    assert done.stdout == ""
    assert "interrupted; the same command" in done.stderr
    assert "ignored" not in done.stderr


def test_evaluation_works_where_torch_is_not_installed() -> None:
    code = (
        "import sys, importlib.abc\n"
        "class NoTorch(importlib.abc.MetaPathFinder):\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] in ('torch', 'transformers', 'trl'): raise ImportError(name)\n"
        "sys.meta_path.insert(0, NoTorch())\n"
        "import forkwise, forkwise.passk, forkwise.samples, forkwise.report, forkwise.tasks, forkwise.cli\n"
        "print(forkwise.pass_at_k(4, [1], 2)[0])"
    )
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert float(output) == pytest.approx(0.5)


def test_every_public_name_resolves() -> None:
    pytest.importorskip("trl")
    import forkwise

    for name in forkwise.__all__:
        assert getattr(forkwise, name) is not None
    assert set(forkwise.__all__) == {*forkwise._HOME, "__version__"}
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        forkwise.nonsense  # noqa: B018


def test_version_and_help() -> None:
    assert forkwise("--version").stdout.startswith("forkwise ")
    text = forkwise("quickstart", "--help").stdout
    for flag in ("--steps", "--seeds", "--alpha", "--kappa", "--out", "--resume"):
        assert flag in text


HELP = [
    *("grpo", "ppo", "quickstart", "sample", "import", "verify", "select", "passk", "compare", "plan"),
    *("explore", "forks", "credit"),
    "verl-data",
    *("report", "methods", "doctor", "doctor run", "doctor verl"),
    *("study plan", "study register", "study run", "study analyse"),
]


def shown(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """What a command prints, in this process; it must end with code 0."""
    with pytest.raises(SystemExit) as ended:
        run(list(words))
    assert ended.value.code == 0
    return capsys.readouterr().out


def example_in(help_text: str) -> list[str]:
    """The words of the worked example at the end of a help text."""
    assert help_text.count("Example:\n") == 1
    return shlex.split(help_text.partition("Example:\n")[2].replace("\\\n", ""))


def test_help_is_in_groups(capsys: pytest.CaptureFixture[str]) -> None:
    text = shown(capsys, "--help")
    groups = {
        "Train": ["grpo", "ppo", "quickstart", "study"],
        "Sample": ["sample", "import", "verify", "select", "verl-data"],
        "Measure": ["passk", "compare", "plan", "explore", "forks", "credit"],
        "Look": ["report", "doctor", "methods"],
    }
    for heading, commands in groups.items():
        section = text.partition(f"\n{heading}:\n")[2].partition("\n\n")[0]
        assert sorted(line.split()[0] for line in section.splitlines() if line[2] != " ") == sorted(commands)
    assert "lab" not in text.split()  # a former name


@pytest.mark.parametrize("command", HELP)
def test_help_fits_80_columns_and_ends_with_an_example(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    text = shown(capsys, *command.split(), "--help")
    assert max(map(len, text.splitlines())) <= 80
    words = example_in(text)
    assert words[: 1 + len(command.split())] == ["forkwise", *command.split()]
    parser: Any = typer.main.get_command(app)
    for name in command.split():
        parser = parser.commands[name]
    parser.make_context(command, words[1 + len(command.split()) :])  # raises for a flag that is not there


@pytest.mark.parametrize(("command", "ours"), [("grpo", "--kappa"), ("ppo", "--critic_warmup_steps")])
def test_help_of_training_is_short_and_ours_first(command: str, ours: str) -> None:
    pytest.importorskip("trl")
    code = (
        f"import sys, time; sys.argv = ['forkwise', '{command}', '--help']\n"
        "from forkwise.cli import main\n"
        "try:\n    main()\nfinally:\n    print(time.process_time(), {'torch', 'trl'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    *lines, last = done.stdout.splitlines()
    seconds, _, heavy = last.partition(" ")
    assert (float(seconds) < 2, heavy) == (True, "set()")
    assert len(lines) < 120
    assert "--output_dir" in lines[5]
    text = "\n".join(lines)
    assert ours in text
    assert ("0.1" if command == "ppo" else "0.4") in text.partition("--alpha")[2].partition("--kappa")[0]
    if command == "grpo":
        return  # the rest is the same code, and takes seconds to load TRL
    full = forkwise(command, "--help-all").stdout
    assert full.partition("\nRun:\n")[2].startswith("\n".join(lines[5:60]))
    named = re.findall(r"--\w+", text.partition("\nTRL:\n")[2].partition("--help-all")[0])
    assert len(named) > 10
    example = [word for word in example_in(text) if word.startswith("--")]
    for flag in [*named, *example, "--vllm_mode", "--lora_r"]:
        assert f"\n  {flag} " in full or f"\n  {flag}\n" in full, flag
    assert full.count("\n  --alpha ") == 1
    assert "[default: 1]" in full.partition("\n  --logging_steps ")[2].partition("\n  --")[0]  # a line for each step
    assert "--model_name_or_path" not in full  # --model is its name here


def test_doctor_alone_names_versions_and_what_to_install(capsys: pytest.CaptureFixture[str]) -> None:
    text = shown(capsys, "doctor")
    assert f"Python {sys.version.split()[0]}" in text.splitlines()[0]
    assert f"numpy {version('numpy')}" in " ".join(text.split())
    assert "GPU" in text
    shown_of = [
        str(f) for f in _group("vllm", "sampling", [Requirement("numpy>=999"), Requirement("no-such-thing>=1")])
    ]
    assert shown_of[0] == f"  vllm       numpy {version('numpy')}"
    assert shown_of[1] == '  vllm       no-such-thing missing, for sampling: pip install "forkwise[vllm]"'
    assert shown_of[2].startswith("! vllm       numpy ")
    assert 'does not fit >=999: pip install --upgrade "forkwise[vllm]"' in shown_of[2]


MISTAKES = [
    (["methods", "clipcov"], "Did you mean 'clip_cov'"),
    (["ppo", "--method", "rloo", "--output_dir", "out"], "PPO has a critic"),
    (["quickstart", "--kappa", "1"], "kappa must be a finite number greater than 1, got 1.0"),
    (["quickstart", "--alpha", "0"], "alpha of the shaped arm must be a finite number greater than 0, got 0.0"),
    (["grpo", "--model", "embedded", "--output_dir", "out"], "Give either --task"),
    (["grpo", "--model", "embedded", "--task", "countdwn", "--output_dir", "out"], "Did you mean 'countdown'"),
    (["grpo", "--model", "absent/model", "--task", "countdown", "--output_dir", "out"], "'absent/model' cannot be"),
    (["grpo", "--model", "embedded", "--task", "countdown", "--reward", "corect", "--output_dir", "out"], "'correct'"),
    (["grpo", "--task", "countdown", "--output_dir", "out"], "--model"),
    (["grpo", "--model", "embedded", "--dataset", "absent.jsonl", "--output_dir", "out"], "absent.jsonl"),
    (["grpo", "--model", "embedded", "--dataset", "empty.jsonl", "--output_dir", "out"], "empty.jsonl"),
    (["grpo", "--model", "embedded", "--dataset", "columns.jsonl", "--output_dir", "out"], "question"),
    (["grpo", "--model", "embedded", "--task", "countdown", "--output_dir", "used"], "--resume"),
    (["grpo", "--model", "embedded", "--task", "countdown", "--output_dir", "empty.jsonl/x"], "cannot be written"),
    (["grpo", "--model", "embedded", "--task", "countdown", "--kappa", "0.5", "--output_dir", "out"], "kappa"),
    (["grpo", "--modle", "embedded"], "Did you mean 'model'"),
    (
        ["grpo", "--model", "embedded", "--task", "countdown", "--train_problems", "0", "--output_dir", "o"],
        "at least 1",
    ),
    (["grpo", "--model", "embedded", "--task", "countdown", "--prompt_column", "q", "--output_dir", "o"], "--dataset"),
    (["grpo", "--model", "embedded", "--dataset", "cut.jsonl.gz", "--output_dir", "o"], "cut.jsonl.gz cannot be read"),
    (["grpo", "--model", "embedded", "--dataset", "prompts.jsonl", "--output_dir", "o"], "no usable prompt"),
    (["grpo", "--config", "list.yaml", "--output_dir", "o"], "'alpha' takes one value"),
    (["grpo", "--config", "float.yaml", "--output_dir", "o"], "invalid"),
    (["ppo", "--alpha", "0.1"], "--output_dir FOLDER"),
    (["quickstart", "--problems", "100000", "--out", "o"], "test problems"),
    (["quickstart", "--kappa", "inf", "--out", "o"], "kappa must be a finite number greater than 1, got inf"),
    (["quickstart", "--out", "used", "--resume"], "holds no run to resume"),
]


def mistaken(tmp_path: Path) -> list[Path]:
    """Puts the files that the mistakes are about into a folder, and lists everything that is in it."""
    (tmp_path / "empty.jsonl").write_text("")
    (tmp_path / "columns.jsonl").write_text('{"question": "1+1", "solution": "2"}\n')
    (tmp_path / "used").mkdir()
    (tmp_path / "cut.jsonl.gz").write_bytes(gzip.compress(b'{"prompt": "1+1", "answer": "2"}\n' * 99)[:-20])
    (tmp_path / "prompts.jsonl").write_text('{"prompt": ["a", "b"], "answer": "2"}\n')
    (tmp_path / "list.yaml").write_text("model: embedded\ntask: countdown\nalpha: [1]\n")
    (tmp_path / "float.yaml").write_text("model: embedded\ntask: countdown\ntrain_problems: 12.5\n")
    (tmp_path / "used" / "precious").write_text("keep")
    return sorted(tmp_path.rglob("*"))


@pytest.mark.parametrize(("argv", "message"), MISTAKES, ids=[" ".join(argv[:7]) for argv, _ in MISTAKES])
def test_a_mistake_is_one_sentence_and_writes_nothing(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    argv: list[str],
    message: str,
) -> None:
    pytest.importorskip("trl")
    before = mistaken(tmp_path)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ending:  # any other exception would be a traceback
        run(argv)
    assert ending.value.code == 2
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("forkwise: ")]
    assert len(said) == 1
    assert message in said[0]
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ("passk --kk 3", "No such option: --kk"),
        ("passk", "Missing argument 'samples'; see forkwise passk --help."),
        ("passk x --level high", "'--level'"),
        ("compare a b --resamples 5", "'--resamples'"),
        ("import x", "Missing option '--out'; see forkwise import --help."),
        ("sample --model m --out o --split dev", "'dev' is not one of 'train', 'validation', 'test'"),
        ("compre a b", "No such command 'compre'"),
        ("lab foo", "see forkwise lab --help."),
        ("quickstart extra", "(extra)"),
        ("report --out", "'--out' requires an argument"),
    ],
)
def test_a_command_typed_wrong_gets_one_line(capsys: pytest.CaptureFixture[str], argv: str, message: str) -> None:
    with pytest.raises(SystemExit) as ended:
        run(argv.split())
    assert ended.value.code == 2
    stdout, err = capsys.readouterr()
    (line,) = err.splitlines()
    assert (stdout, line[:10]) == ("", "forkwise: ")
    assert message in line


def test_a_mistake_ends_the_process_with_exit_code_2(tmp_path: Path) -> None:
    pytest.importorskip("trl")
    before = mistaken(tmp_path)
    argv, message = MISTAKES[6]
    result = forkwise(*argv, cwd=tmp_path)
    assert result.returncode == 2, result.stderr
    assert "Traceback" not in result.stderr
    assert [message in line for line in result.stderr.splitlines() if line.startswith("forkwise: ")] == [True]
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.slow
def test_every_example_runs(tmp_path: Path) -> None:
    pytest.importorskip("trl")
    rows = [{"problem_id": "p", "sample_id": i, "completion": f"So \\\\boxed{{{i}}}"} for i in range(3)]
    (tmp_path / "samples.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    (tmp_path / "gold.jsonl").write_text('{"problem_id": "p", "answer": "2"}\n')
    repository = Path(__file__).parents[1]
    shutil.copytree(repository / "studies", tmp_path / "studies")
    shutil.copy(repository / "examples" / "study.yaml", tmp_path / "mine.yaml")
    drawn = example_in(forkwise("sample", "--help").stdout)[1:]
    for seed, name in enumerate(("base", "seed0", "seed1", "seed2", "trained")):
        words = [name if word == "base" else word for word in drawn]
        further = ["--seed", str(seed), "--run", name] if seed else []
        assert forkwise(*words, *further, cwd=tmp_path, timeout=None).returncode == 0
    for command in ("grpo", "ppo", *(command for command in HELP if command not in ("grpo", "ppo", "doctor verl"))):
        words = example_in(forkwise(*command.split(), "--help").stdout)[1:]
        done = forkwise(*words, cwd=tmp_path, timeout=None)
        assert done.returncode == 0, (words, done.stderr[-2000:])


def test_doctor_names_the_engines_that_are_here_and_what_was_tested(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from forkwise.cli import environment
    from forkwise.engines.tested import TestedEngine

    for folder in ("checkout/its_engine/trainer", "named_alike/tools"):
        (tmp_path / folder).mkdir(parents=True)
    monkeypatch.syspath_prepend(tmp_path / "checkout")
    monkeypatch.syspath_prepend(tmp_path)
    here = (
        TestedEngine("pytest", "pytest", "_pytest/mark", "by itself", ("<0.1", f"=={pytest.__version__}")),
        TestedEngine("Older", "pytest", "_pytest/mark", "with 0.1", ("==0.1",)),
        TestedEngine("Another", "no-such-engine", "no_such_engine/trainer", "never"),
        TestedEngine("Mine", "its-engine", "its_engine/trainer", "once"),
        TestedEngine("Alike", "pytest", "named_alike/trainer", "never"),  # a package of that name, and not the engine's
    )
    monkeypatch.setattr(environment, "ENGINES", here)
    assert [remark.text for remark in _engines()] == [
        f"pytest {pytest.__version__}; tested: by itself",
        f"Older {pytest.__version__}; tested: with 0.1. Not with this version",
        "Mine from its sources; tested: once",
    ]


def test_doctor_upgrades_nothing_that_an_engine_wants_older(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As ms-swift wants trl < 1.0. A bound that our oldest fits too, or of an extra, holds nothing back."""
    from forkwise.cli import environment
    from forkwise.engines.tested import TestedEngine

    (tmp_path / "its_engine" / "trainer").mkdir(parents=True)
    metadata = tmp_path / "its_engine-1.0.dist-info"
    metadata.mkdir()
    wants = ("numpy>=1,<999", "scipy>=0.1", "rich<999; extra == 'all'")
    lines = ["Metadata-Version: 2.1", "Name: its-engine", "Version: 1.0", *(f"Requires-Dist: {want}" for want in wants)]
    (metadata / "METADATA").write_text("\n".join(lines) + "\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(environment, "ENGINES", (TestedEngine("Mine", "its-engine", "its_engine/trainer", "once"),))
    said = [str(r) for r in _group("train", "x", [Requirement(f"{name}>=999") for name in ("numpy", "scipy", "rich")])]
    assert f"numpy {version('numpy')} does not fit >=999, and Mine wants numpy<999,>=1: train with its hook" in said[1]
    assert not said[1].startswith("!")
    assert ["pip install --upgrade" in line for line in said[1:]] == [False, True, True]


def test_the_tested_engines_are_known_by_parts_that_they_have() -> None:
    """Of those that are installed here from the package index, where two others have the names of packages of it."""
    from importlib.metadata import distributions, version

    from forkwise.engines.tested import ENGINES

    names = {distribution.name.lower().replace("_", "-") for distribution in distributions()} - {"roll", "slime"}
    for engine in ENGINES:
        if engine.package in names:
            assert engine.version() == version(engine.package)


@pytest.mark.parametrize(
    ("command", "files"),
    [
        (["passk", "TABLE"], {"--json": "a.json", "--csv": "a.csv", "--figure": "a.svg"}),
        (["compare", "a=TABLE", "b=TABLE", "--k", "1"], {"--json": "a.json", "--csv": "a.csv", "--figure": "a.svg"}),
        (["plan", "--components", "STATED"], {"--json": "a.json", "--figure": "a.svg"}),
        (["report", "TABLE", "--text"], {"--out": "a.html", "--figures": "drawn"}),
        (["study", "analyse", "RECEIPTS"], {"--json": "a.json", "--markdown": "a.md"}),
    ],
    ids=lambda x: x[0] if isinstance(x, list) else "",
)
def test_files_are_there_though_nobody_reads_what_is_printed(
    command: list[str], files: dict[str, str], tmp_path: Path
) -> None:
    root = Path(__file__).parents[1]
    inputs = {
        "TABLE": root / "examples" / "data" / "step400.jsonl",
        "STATED": root / "examples" / "data" / "variances.yaml",
        "RECEIPTS": root / "studies" / "receipts" / "pilot",
    }
    argv = command
    for name, path in inputs.items():
        argv = [word.replace(name, str(path)) for word in argv]
    for option, file in files.items():
        argv = [*argv, option, str(tmp_path / file)]
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as closed:
        ended = subprocess.run([sys.executable, "-m", "forkwise", *argv], stdout=closed, timeout=300, check=False)
    assert ended.returncode != 0
    assert [file for file in files.values() if not (tmp_path / file).exists()] == []
