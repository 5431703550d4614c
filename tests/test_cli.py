"""The command: light to start, and one sentence with exit code 2 for what the user must change."""

from __future__ import annotations

import gzip
import subprocess
import sys
from pathlib import Path

import pytest

from forkwise.cli import run


def forkwise(*argv: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "forkwise", *argv], capture_output=True, text=True, cwd=cwd, timeout=120, check=False
    )


def test_import_is_light_and_pulls_no_torch() -> None:
    code = (
        "import sys, time; start = time.process_time(); import forkwise; spent = time.process_time() - start; "
        "heavy = {'torch', 'transformers', 'numpy', 'matplotlib'} & set(sys.modules); print(spent < 0.5, sorted(heavy))"
    )
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert output.strip() == "True []"


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


def test_a_mistake_ends_the_process_with_exit_code_2(tmp_path: Path) -> None:
    pytest.importorskip("trl")
    before = mistaken(tmp_path)
    argv, message = MISTAKES[6]
    result = forkwise(*argv, cwd=tmp_path)
    assert result.returncode == 2, result.stderr
    assert "Traceback" not in result.stderr
    assert [message in line for line in result.stderr.splitlines() if line.startswith("forkwise: ")] == [True]
    assert sorted(tmp_path.rglob("*")) == before
