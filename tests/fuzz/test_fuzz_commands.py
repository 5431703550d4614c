"""No input ends a command otherwise than with exit code 0, 1 or 2 and at most one sentence: no traceback, no hang."""

from __future__ import annotations

import json
import random
import sys
import time
from pathlib import Path
from typing import Any

import process_memory
import pyarrow.parquet as pq
import pytest
from mutations import HOSTILE, Draw, command, damaged_bytes, damaged_json, damaged_table, damaged_yaml

from forkwise.samples import write_shard
from forkwise.sampling.run import Summary

FIXTURES = Path(__file__).parent.parent / "samples" / "fixtures"
STUDY = {"title": "t", "algorithm": "grpo", "seeds": 1, "steps": 2, "problems": 2, "samples": 2, "arms": {
    "GRPO": {"alpha": 0.0}, "other": {"alpha": 0.4, "kappa": 2.0, "method": ["erc"]}}}  # fmt: skip
LEXICON = {"contrast": ["but", {"however": {"not_before": ["long"]}}], "cause": ["because", "so that"]}
REFLECTIVE = {"wait": r"\bwait\b", "check": "let me (check|verify)"}
VARIANCES = {"problems": 9, "samples": 64, "freedom": 4, "rho": 0.3, "components": {
    1: {"run_sd": 0.02, "sampling_variance": 0.01}, "curve": {"run_variance": 0.001, "run_problem_sd": 0.1,
    "sampling_sd": {16: 0.2, 64: 0.1}, "method_problem_sd": 0.05, "problem_sd": 0.3, "mean": 0.4}}}  # fmt: skip
RUN = {"model": "embedded", "task": "countdown", "alpha": 0.4, "kappa": 2.0, "max_steps": 9, "learning_rate": 1e-6,
       "num_generations": 8, "beta": 0.0, "max_completion_length": 64, "critic_learning_rate": 1e-5}  # fmt: skip


def rows(run: str, right: int) -> list[dict[str, Any]]:
    made = []
    for problem in range(4):
        for i in range(4):
            tokens = ["wait", " but", f" {i}", ".", " So", f" {problem}"]
            top = [[{"token": t, "logprob": -0.3}, {"token": "!", "logprob": -2.0}] for t in tokens]
            made.append(
                {
                    **{"run": run, "model": "m", "problem_id": f"p{problem}", "sample_id": i, "prompt": "what is it?"},
                    **{"completion": "".join(tokens), "answer": str(problem), "correct": (problem + i) % 4 < right},
                    **{"verdict_by": "x", "n_tokens": 6, "finish_reason": "stop", "seed": i, "tokens": tokens},
                    "sampling": {"temperature": 1.0, "top_p": 1.0, "max_tokens": 64},
                    **{"token_ids": list(range(6)), "logprobs": [-0.3] * 6, "entropies": [0.1 * j for j in range(6)]},
                    "top_logprobs": top,
                }
            )
    return made


@pytest.fixture
def good(tmp_path: Path) -> Path:
    """A folder with something of everything that a command reads."""
    write_shard(tmp_path / "good", "0", rows("good", 2))
    (tmp_path / "answers.jsonl").write_text("".join(f'{{"id": "p{i}", "answer": "{i}"}}\n' for i in range(4)))
    run = tmp_path / "run"
    run.mkdir()
    line = {"loss": 0.1, "entropy": 1.0, "grad_norm": 1.0, "shaping/capped_frac": 0.1, "kl": 0.0}
    line |= {"completions/mean_length": 20.0, "completions/clipped_ratio": 0.1}
    lines = [{"step": i, "reward": 0.2 * i, **line} for i in range(1, 10)]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (run / "run.yaml").write_text(json.dumps(RUN))
    assert command("explore", tmp_path / "good", "--out", run, "--resamples", 100)[0] == 0
    return tmp_path


def on_tables(good: Path, draw: Draw) -> None:
    table, bad = pq.read_table(good / "good" / "0.parquet"), good / "bad.parquet"
    damaged_table(table, bad, draw)
    few = ("--resamples", 100)
    words = draw.choice(
        [
            ("passk", bad, *few, *draw.choice([(), ("--diversity",), ("--k", "all"), ("--extrapolate", "64")])),
            ("passk", bad, good / "good", *few, "--json", good / "o.json", "--csv", good / "o.csv"),
            (
                "passk",
                bad,
                *few,
                *draw.choice([("--caps", "3,6"), ("--budgets", "6,60"), ("--figure", good / "o.svg")]),
            ),
            ("compare", f"a={good / 'good'}", f"b={bad}", *few, *draw.choice([(), ("--intersect",), ("--diversity",)])),
            ("compare", bad, good / "good", *few, "--figure", good / "o.png"),
            ("explore", bad, *few, "--out", good / "explored"),
            ("explore", good / "good", bad, *few, "--vocabulary", 50_000),
            ("report", bad, good / "good", "--out", good / "o.html", "--text"),
            ("report", bad, "--out", good / "o.html", *draw.choice([(), (), ("--figures", good / "figures")])),
            (
                "verify",
                bad,
                "--answers",
                good / "answers.jsonl",
                "--verifier",
                "exact",
                *draw.choice([(), ("--force",)]),
            ),
            ("verify", bad, "--gold-column", "answer", "--verifier", "exact", "--force"),
            ("import", bad, "--out", good / "imported"),
            ("import", bad, "--out", good / "imported2", "--map", "completion=completion", "--map", "problem_id=run"),
        ]
    )
    command(*words)


def on_json(good: Path, draw: Draw) -> None:
    kind = draw.randrange(7)
    if kind < 3:
        source = draw.choice(sorted(path for path in FIXTURES.iterdir() if path.suffix in (".json", ".jsonl", ".eval")))
        bad = good / source.name
        data = source.read_bytes()
        bad.write_bytes(damaged_bytes(data, draw) if source.suffix == ".eval" else damaged_json(data.decode(), draw))
        command(
            "import", bad, "--out", good / "imported", *draw.choice([(), (), ("--format", "plain"), ("--run", HOSTILE)])
        )
        command(draw.choice(["passk", "explore"]), bad, "--resamples", 100)
    elif kind == 3:
        bad = good / draw.choice(["answers.jsonl", "answers.json", "answers.csv"])
        text = (good / "answers.jsonl").read_text()
        if bad.suffix == ".csv":
            bad.write_bytes(damaged_bytes(b'id,answer\np0,1\np1,"2"\np2,3\n', draw))
        else:
            bad.write_bytes(damaged_json(text, draw))
        words = draw.choice([("--answers",), ("--dataset",)])
        command("verify", good / "good", *words, bad, "--verifier", "exact", "--force")
    elif kind == 6:
        (good / "variances.yaml").write_bytes(json.dumps(VARIANCES).encode())
        bad = good / "plan.json"
        assert command("plan", "--components", good / "variances.yaml", "--detect", ".05", "--json", bad)[0] == 0
        bad.write_bytes(damaged_json(bad.read_text(), draw))
        command("plan", "--components", bad, "--detect", ".05")
    elif kind == 4:
        bad = good / "run" / "explore.json"
        bad.write_bytes(damaged_json(bad.read_text(), draw))
        command("report", good / "run", *draw.choice([(), (good / "good",)]), "--out", good / "o.html", "--text")
    else:
        bad = good / "run" / "metrics.jsonl"
        bad.write_bytes(damaged_json(bad.read_text(), draw))
        words = draw.choice([("doctor", "run"), ("report", "--text", "--out", good / "o.html")])
        command(*words, good / "run")


def on_yaml(good: Path, draw: Draw) -> None:
    kind = draw.randrange(4)
    bad = good / "bad.yaml"
    if kind == 3:
        bad.write_bytes(damaged_yaml(VARIANCES, draw))
        command("plan", "--components", bad, *draw.choice([(), ("--k", "1,curve"), ("--cost-run", "1")]))
    elif kind == 0:
        bad.write_bytes(damaged_yaml(draw.choice([LEXICON, REFLECTIVE]), draw))
        command("explore", good / "good", "--resamples", 100, draw.choice(["--lexicon", "--reflective"]), bad)
    elif kind == 1:
        bad = good / "run" / "run.yaml"
        bad.write_bytes(damaged_yaml(RUN, draw))
        command(*draw.choice([("doctor", "run"), ("report", "--out", good / "o.html")]), good / "run")
    else:
        manifest = {
            "settings": {"sampling": {"n": 3}, "task": "countdown", "dataset": None, "split": "test", "problems": 4}
        }
        (good / "good" / "sampling.json").write_bytes(damaged_json(json.dumps(manifest), draw))
        command("verify", good / "good", "--verifier", "exact", "--force")


WHOLE = ["0", "-1", "1", "2", "3", "100", "9" * 12, "9" * 30, "-" + "9" * 25]
REAL = ["0", "-1", "1", "0.5", "0.9999", "2", "nan", "inf", "-inf", "1e-300", "1e300", "1e999"]
LISTS = [
    "1,2",
    "1",
    "4",
    "0",
    "-1",
    "all",
    "1,2,x",
    "",
    ",",
    "1,,2",
    "9" * 30,
    "1" * 5000,
    HOSTILE,
    "3,3",
    "64,100000000",
]
NAMES = [
    "",
    "x",
    "math",
    "exact",
    "countdown",
    "answer",
    "completion=answer",
    "correct=run",
    "reasoning-gym:x",
    HOSTILE,
]
PATHS = [
    "",
    ".",
    "absent",
    "absent/x.json",
    "/dev/full",
    "\0",
    "x" * 300 + ".json",
    "good",
    "run/metrics.jsonl",
    HOSTILE,
]
OPTIONS = {
    "passk": "k:l tau:r extrapolate:l caps:l budgets:l level:r resamples:w seed:w json:p csv:p figure:p",
    "compare": "k:l margin:r caps:l budgets:l level:r resamples:w seed:w json:p csv:p figure:p",
    "explore": "out:p quantile:r cross:p cross-prompts:w vocabulary:w lexicon:p breaks:n k:w rare:r level:r seed:w "
    "max-sentences:w resamples:w",
    "plan": "components:p k:l runs:w problems:w samples:w detect:r power:r level:r contrasts:w endpoints:w rho:r "
    "method-problem-sd:r cost-run:r cost-sample:r budget:r max-problems:w json:p figure:p",
    "report": "out:p figures:p",
    "verify": "task:n dataset:p answers:p gold-column:n verifier:n problems:w timeout:r memory-mb:w workers:w",
    "import": "format:n run:n model:n threshold:r score:n map:n",
    "sample": "task:n dataset:p temperature:r top-p:r max-tokens:w problems:w batch-size:w engine:n preset:n seed:w",
    "quickstart": "algorithm:n alpha:r kappa:r steps:w problems:w samples:w seeds:w",
    "methods": "",
}


def on_words(good: Path, draw: Draw) -> None:
    name = draw.choice(list(OPTIONS))
    values = {"l": LISTS, "r": REAL, "w": WHOLE, "n": NAMES, "p": [*PATHS, *(good / p for p in PATHS if "\0" not in p)]}
    place = str(draw.choice([good / "good", good / "good", good / "good" / "0.parquet", good / "run", *values["p"]]))
    words: dict[str, list[object]] = {
        "compare": [good / "good", draw.choice([f"a={place}", f"b={place}"])],
        "import": [place, "--out", good / "imported"],
        "sample": ["--model", place, "--out", good / "sampled", "--task", draw.choice(["countdown", place, HOSTILE])],
        "quickstart": ["--out", good / "good"],
    }
    options: list[object] = []
    known = OPTIONS[name].split()
    for option in draw.sample(known, min(len(known), draw.randrange(4))):
        flag, kind = option.split(":")
        options += [f"--{flag}", draw.choice(values[kind])]
    if name in ("passk", "compare", "explore") and "--resamples" not in options:
        options += ["--resamples", 100]
    command(name, *words.get(name, [place]), *options)


KINDS = {"tables": on_tables, "json": on_json, "yaml": on_yaml, "words": on_words}


RUNS = {"tables": 25, "json": 60, "yaml": 60, "words": 25}


@pytest.fixture(autouse=True)
def nothing_is_sampled_or_trained(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)  # some of the paths are relative, and commands write there
    monkeypatch.setattr("forkwise.sampling.run.sample", lambda *_: Summary(1, 0, 1, None, 0, None, 0.0, 0.0))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    if "huggingface_hub.constants" in sys.modules:
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


def fuzz(kind: str, good: Path, seeds: range, seconds: float) -> None:
    """So many seeds, fewer where the time is over; each sees its own files beside the good ones."""
    until = time.monotonic() + seconds
    before = process_memory.resident()
    process_memory.forget_peak()
    keep = {path: path.read_bytes() for path in good.rglob("*") if path.is_file()}
    for seed in seeds:
        if time.monotonic() > until:
            break
        for path in sorted(good.rglob("*"), reverse=True):
            if path.is_file() and path not in keep:
                path.unlink()
        for path, data in keep.items():
            path.write_bytes(data)
        try:
            KINDS[kind](good, random.Random(f"{kind}{seed}"))
        except AssertionError as error:
            raise AssertionError(f"{kind}, seed {seed}: {error}") from None
    grown = process_memory.peak() - before
    # Torch, and twice the largest document that is read (/dev/full has no end) before it is refused.
    assert grown < 3000, f"{grown:.0f} MiB more"


@pytest.mark.parametrize("kind", list(KINDS))
def test_no_input_ends_in_a_traceback(kind: str, good: Path) -> None:
    fuzz(kind, good, range(RUNS[kind]), 6)


@pytest.mark.slow
@pytest.mark.parametrize("kind", list(KINDS))
def test_no_input_ends_in_a_traceback_for_longer(kind: str, good: Path) -> None:
    fuzz(kind, good, range(1000, 10_000), 120)
