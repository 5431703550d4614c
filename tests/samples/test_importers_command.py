"""`forkwise import`: what it prints, its exit codes, and that it needs no torch."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

FIXTURES = Path(__file__).parent / "fixtures"

WITHOUT_TORCH = """
import sys
for name in ("torch", "transformers", "pandas", "numpy"):
    sys.modules[name] = None
from forkwise.cli import main
main()
"""


def forkwise_import(cwd: Path, *argv: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", WITHOUT_TORCH, "import", *argv]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, timeout=120, check=False)


def test_it_says_what_was_found_and_what_was_not_taken(tmp_path: Path) -> None:
    file = str(FIXTURES / "reasoning_gym_countdown.json")
    result = forkwise_import(tmp_path, file, "--out", "samples", "--run", "qwq", "--threshold", "1.0")
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.splitlines()[:3] == [
        f"{file} (reasoning-gym) -> samples/reasoning_gym_countdown.parquet",
        "  run qwq: 12 samples of 4 problems (3 each), 7 of 12 correct",
        "  note: 4 samples with an empty completion, kept with the file's verdict",
    ]
    assert [path.name for path in (tmp_path / "samples").iterdir()] == ["reasoning_gym_countdown.parquet"]


def test_a_refused_file_is_one_sentence_and_exit_code_2(tmp_path: Path) -> None:
    good, bad = str(FIXTURES / "gpt2_openai.json"), str(FIXTURES / "gpt2_logits_openai.json")
    result = forkwise_import(tmp_path, good, bad, "--out", "samples", "--map", "completoin=x")
    assert result.returncode == 2
    assert result.stderr.startswith("forkwise: --map names 'completoin'")
    assert not (tmp_path / "samples").exists()
    result = forkwise_import(tmp_path, good, bad, "--out", "samples")
    assert result.returncode == 2
    assert result.stderr == (
        f"forkwise: '{bad}': the log-prob at token ' quick' is 7.547, above 0: these are raw logits; apply log_softmax "
        "before you write them.\n"
    )
    # What came before the refused file stays.
    assert "gpt2_openai.parquet" in result.stdout
    assert [path.name for path in (tmp_path / "samples").iterdir()] == ["gpt2_openai.parquet"]


def test_ctrl_c_keeps_what_was_imported_and_leaves_no_half_shard(tmp_path: Path) -> None:
    small, large = tmp_path / "small.jsonl", tmp_path / "large.jsonl"
    line = '{"problem_id": "p%d", "completion": "so \\\\boxed{%d}", "correct": true}\n'
    small.write_text(line % (1, 1))
    with large.open("w") as file:  # seconds of work
        file.writelines(line % (i % 50, i) for i in range(400_000))
    folder = tmp_path / "samples"
    command = [sys.executable, "-m", "forkwise", "import", str(small), str(large), "--out", str(folder)]
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A suite that runs in the background hands an ignored SIGINT down.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509
    ) as process:
        deadline = time.monotonic() + 120
        while not list(folder.glob(".large.*")):
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        printed, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert said.strip() == ("forkwise: interrupted; the files reported above stay imported; import the others again.")
    assert "run small: 1 sample" in printed
    assert [path.name for path in folder.iterdir()] == ["small.parquet"]
