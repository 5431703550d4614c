"""Blocks, manifests and refusals of a sampling run, with an engine that only writes down what it was asked for."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from rich.console import Console

from forkwise import cli
from forkwise.errors import InputError
from forkwise.progress import Meter
from forkwise.report.sampling import drawn
from forkwise.samples import read_samples
from forkwise.sampling.engine import Block, Completion, TopToken, request_seed, sample_seed
from forkwise.sampling.engines import make_engine
from forkwise.sampling.manifest import MANIFEST
from forkwise.sampling.options import SamplingOptions
from forkwise.sampling.prompts import prompt_text
from forkwise.sampling.recipe import Job, Sampling, open_task, plan
from forkwise.sampling.run import sample
from forkwise.tasks import Problem, Verdict, load_task, problem_range


class Echo:
    """The completion of a sample says its problem and index; `lucky` fails after so many blocks."""

    def __init__(self, fail_after: int | None = None, weights: str = "w") -> None:
        self.asked: list[str] = []
        self.fail_after, self.weights = fail_after, weights

    def settings(self) -> dict[str, Any]:
        return {"weights": self.weights}

    def draw(self, blocks: Sequence[Block], meter: Meter) -> Iterator[tuple[Block, list[Completion]]]:
        for block in reversed(blocks):  # any order is allowed
            if len(self.asked) == self.fail_after:
                raise InputError("The engine has had enough.")
            self.asked.append(block.name)
            meter.add(tokens=7)
            yield (
                block,
                [
                    Completion(f"{block.problem.id}/{i}", "?", 7, "length" if i == 0 else "stop")
                    for i in block.sample_ids
                ],
            )
            meter.add(samples=len(block.sample_ids))


class Odd:
    """Right are samples with an odd index; index 4 gets no verdict."""

    name = "odd"

    def problems(self, split: Any, n: int | None = None, *, seed: int = 0) -> list[Problem]:
        return [Problem(f"p{i}", f"{i}?") for i in range(n or 3)]

    def verify(self, completions: Any, problems: Any) -> list[Verdict]:
        answers = []
        for text, problem in zip(completions, problems, strict=True):
            name, index = text.split("/")
            assert name == problem.id
            answers.append(Verdict(None if index == "4" else int(index) % 2 == 1, index, "odd"))
        return answers


def make_job(**changes: Any) -> Job:
    settings: dict[str, Any] = {"run": "r", "model": "m", "task": "odd", "n": 5, "seed": 1} | changes
    return Job(sampling=Sampling(batch_size=2), **settings)


def run(out: Path, engine: Echo | None = None, job: Job | None = None, problems: int = 3) -> Any:
    console = Console(file=io.StringIO())
    task = Odd()
    made = engine or Echo()
    return sample(job or make_job(), task, task.problems("test", problems), lambda: made, out, console=console)


def test_every_sample_is_there_once_with_its_verdict(tmp_path: Path) -> None:
    summary = run(tmp_path / "s")
    table = read_samples(tmp_path / "s")
    assert table["completion"].to_pylist() == [f"p{p}/{i}" for p in range(3) for i in range(5)]
    assert table["correct"].to_pylist() == [False, True, False, True, None] * 3
    assert table["seed"].to_pylist() == [1] * 15
    assert table["sampling"][0].as_py() == {"temperature": 1.0, "top_p": 1.0, "max_tokens": 512}
    # Blocks of two: samples 0-1, 2-3 and 4 of each problem.
    names = sorted(path.name for path in (tmp_path / "s").glob("*.parquet"))
    assert names == [f"0000{p}-00000{i}.parquet" for p in range(3) for i in (0, 2, 4)]
    assert (summary.samples, summary.drawn, summary.problems, summary.unscored) == (15, 15, 3, 3)
    assert summary.correct == 0.5
    assert summary.at_the_limit == pytest.approx(3 / 15)
    assert "15 samples of 3 problems" in drawn(summary)
    assert "50.0 % correct" in drawn(summary)


def test_what_problems_share_goes_into_the_table(tmp_path: Path) -> None:
    problems = [Problem("p", "?", cluster="algebra"), Problem("q", "!")]
    sample(make_job(), Odd(), problems, Echo, tmp_path / "s", console=Console(file=io.StringIO()))
    table = read_samples(tmp_path / "s", ["problem_id", "cluster"]).to_pylist()
    assert {(row["problem_id"], row["cluster"]) for row in table} == {("p", "algebra"), ("q", None)}


def test_a_finished_run_needs_no_engine(tmp_path: Path) -> None:
    run(tmp_path)
    task = Odd()
    summary = sample(make_job(), task, task.problems("test"), lambda: pytest.fail("no engine is needed"), tmp_path)
    assert (summary.samples, summary.drawn) == (15, 0)


def test_what_an_engine_wrote_before_it_failed_stays_and_only_the_rest_is_drawn_again(tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    run(whole)
    half = tmp_path / "half"
    with pytest.raises(InputError, match=r"has had enough. \(8 of 15 samples are safe"):
        run(half, Echo(fail_after=5))
    assert read_samples(half).num_rows == 8
    engine = Echo()
    run(half, engine)
    assert engine.asked == ["00001-000000", "00000-000004", "00000-000002", "00000-000000"]
    assert read_samples(half).equals(read_samples(whole))


@pytest.mark.parametrize(
    ("changes", "difference"),
    [
        ({"n": 6}, "n = 5, not 6"),
        ({"seed": 2}, "seed = 1, not 2"),
        ({"model": "other"}, "model = m, not other"),
        ({"run": "s"}, "run = r, not s"),
        ({"verify": False}, "verify = True, not False"),
    ],
)
def test_a_folder_with_other_settings_is_refused_and_says_which(
    tmp_path: Path, changes: dict[str, Any], difference: str
) -> None:
    run(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(InputError, match=difference):
        run(tmp_path, job=make_job(**changes))
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_other_weights_problems_or_sampling_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError):
        run(tmp_path, Echo(fail_after=2))
    with pytest.raises(InputError, match="weights = w, not v"):
        run(tmp_path, Echo(weights="v"))
    with pytest.raises(InputError, match="problems = 3, not 2"):
        run(tmp_path, problems=2)
    with pytest.raises(InputError, match=r"temperature = 1.0, not 0.6"):
        run(tmp_path, job=Job(**{**vars(make_job()), "sampling": Sampling(temperature=0.6, batch_size=2)}))


def test_folders_of_somebody_else_are_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(InputError, match="is a file"):
        run(tmp_path / "file")
    with pytest.raises(InputError, match="cannot be written"):
        run(tmp_path / "file" / "below")
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "x.parquet").write_bytes(b"?")
    with pytest.raises(InputError, match="no sampling.json"):
        run(foreign)
    (foreign / MANIFEST).write_text('{"settings": ')
    with pytest.raises(InputError, match="cannot be read"):
        run(foreign)


def test_a_damaged_shard_is_named(tmp_path: Path) -> None:
    run(tmp_path)
    shard = tmp_path / "00001-000002.parquet"
    shard.write_bytes(shard.read_bytes()[:-30])
    with pytest.raises(InputError, match="00001-000002.parquet' is damaged: delete it"):
        run(tmp_path)
    shard.unlink()
    assert run(tmp_path).drawn == 2


def test_a_second_process_is_kept_out(tmp_path: Path) -> None:
    with pytest.raises(InputError):
        run(tmp_path, Echo(fail_after=1))
    fcntl = pytest.importorskip("fcntl")
    with (tmp_path / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(InputError, match="Another process is writing"):
            run(tmp_path)
    assert run(tmp_path).samples == 15


def test_problems_with_one_id_are_refused(tmp_path: Path) -> None:
    task = Odd()
    with pytest.raises(InputError, match="same id"):
        sample(make_job(), task, [Problem("p", "1"), Problem("p", "2")], Echo, tmp_path)


def test_the_gold_answer_lies_with_each_sample(tmp_path: Path) -> None:
    problems = [Problem("p", "1", answer="eight"), Problem("q", "2")]
    sample(make_job(), Odd(), problems, Echo, tmp_path)
    table = read_samples(tmp_path, ["problem_id", "gold"])
    assert set(zip(*(table[name].to_pylist() for name in ("problem_id", "gold")), strict=True)) == {
        ("p", "eight"),
        ("q", None),
    }


def test_without_verification_nothing_is_wrong(tmp_path: Path) -> None:
    summary = run(tmp_path, job=make_job(verify=False))
    assert summary.correct is None
    assert summary.unscored == 15
    assert read_samples(tmp_path)["verdict_by"].null_count == 15


def test_token_data_and_odd_characters_are_stored(tmp_path: Path) -> None:
    class Odder(Echo):
        def draw(self, blocks: Sequence[Block], meter: Meter) -> Iterator[tuple[Block, list[Completion]]]:
            top = [[TopToken("a\ud800", -0.1), TopToken("b", -2.5)]]
            for block in blocks:
                yield (
                    block,
                    [
                        Completion(f"p0/{i}", "\ud800", 1, "stop", [3], ["a"], [-0.1], [0.4], top_logprobs=top)
                        for i in block.sample_ids
                    ],
                )

    run(tmp_path, Odder(), problems=1)
    row = pq.read_table(tmp_path / "00000-000000.parquet").to_pylist()[0]
    assert (row["prompt"], row["token_ids"], row["tokens"]) == ("?", [3], ["a"])
    assert row["logprobs"] == pytest.approx([-0.1])
    assert row["entropies"] == pytest.approx([0.4])
    assert [c["token"] for c in row["top_logprobs"][0]] == ["a?", "b"]


def test_seeds_depend_on_run_problem_and_index_alone() -> None:
    assert sample_seed(0, "p", 3) == sample_seed(0, "p", 3)
    assert len({sample_seed(s, p, i) for s in range(3) for p in "pq" for i in range(50)}) == 300
    seeds = [request_seed(5, "p", i) for i in range(10_000)]
    assert len(set(seeds)) == 10_000  # of one problem, no two are ever equal
    assert all(0 <= seed < 2**31 for seed in seeds)


def test_a_plan_takes_what_was_left_out_from_the_preset() -> None:
    paper = plan(SamplingOptions(model="org/m", task="amc23", preset="paper"))
    assert (paper.n, paper.run) == (128, "m")
    assert paper.sampling == Sampling(temperature=0.6, top_p=0.95, max_tokens=8192, batch_size=64)
    own = plan(SamplingOptions(model="m", task="aime24:dapo", preset="paper", n=4, temperature=0.0))
    assert (own.n, own.sampling.temperature, own.sampling.top_p) == (4, 0.0, 0.95)
    assert plan(SamplingOptions(model="m", task="countdown")).n == 16
    for preset, task, sentence in [("papr", "aime24", "no preset"), ("paper", "countdown", "says nothing of the task")]:
        with pytest.raises(InputError, match=sentence):
            plan(SamplingOptions(model="m", task=task, preset=preset))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"temperature": -1.0}, "temperature is -1.0"),
        ({"temperature": float("nan")}, "temperature is nan"),
        ({"top_p": 0.0}, "top-p is 0.0"),
        ({"max_tokens": 0}, "max-tokens is 0"),
        ({"batch_size": 0}, "batch-size is 0"),
        ({"n": 0}, "n is 0"),
    ],
)
def test_values_out_of_range_are_refused(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        plan(SamplingOptions(model="m", task="countdown", **changes))


def test_an_unknown_engine_and_an_unknown_source_are_refused() -> None:
    with pytest.raises(InputError, match="no engine 'vlm'"):
        make_engine(make_job(engine="vlm"), SamplingOptions(model="m"))
    with pytest.raises(InputError, match="not the address of a server"):
        make_engine(make_job(engine="server"), SamplingOptions(model="m"))
    for task, dataset in [(None, None), ("countdown", "x.jsonl")]:
        with pytest.raises(InputError, match="either --task or --dataset"):
            open_task(task, dataset)


def test_a_dataset_is_sampled_whole(tmp_path: Path) -> None:
    pytest.importorskip("math_verify")
    path = tmp_path / "d.jsonl"
    path.write_text("".join(json.dumps({"id": i, "prompt": f"{i}?", "answer": "1"}) + "\n" for i in range(20)))
    assert len(open_task(None, str(path)).problems("test")) == 20


class Template:
    chat_template: str | None = "x"

    def apply_chat_template(self, messages: Any, **_: Any) -> str:
        return "|".join(f"{m['role']}:{m['content']}" for m in messages)


def test_prompts_become_conversations_only_when_asked() -> None:
    talk = [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}]
    assert prompt_text(Problem("p", "text"), Template(), chat=False) == ("text", False)
    assert prompt_text(Problem("p", "text"), Template(), chat=True) == ("user:text", True)
    assert prompt_text(Problem("p", talk), Template(), chat=False) == ("system:s|user:u", True)
    without = Template()
    without.chat_template = None
    with pytest.raises(InputError, match="no chat template"):
        prompt_text(Problem("p", talk), without, chat=False)


def test_a_range_of_problems_is_sampled_continued_and_verified(tmp_path: Path, capsys: Any) -> None:
    """Problems 5 and 6 of the task's order, counted from 0, are what a larger run has at those places."""
    ours = ["--task", "countdown:3", "--out", str(tmp_path / "s")]
    words = ["sample", "--model", "embedded", "-n", "2", "--max-tokens", "3", "--device", "cpu", *ours]
    part = ["--first-problem", "5", "--problems", "2"]
    for _ in range(2):
        with pytest.raises(SystemExit) as ended:
            cli.run([*words, *part])
        assert ended.value.code == 0
    problems = set(read_samples(tmp_path / "s")["problem_id"].to_pylist())
    assert problems == {problem.id for problem in load_task("countdown:3").problems("test", 7)[5:]}
    with pytest.raises(SystemExit) as ended:
        cli.run(["verify", str(tmp_path / "s")])
    assert ended.value.code == 0
    assert "4 samples" in capsys.readouterr().out
    for wrong, said in (
        (["--first-problem", "4"], "first_problem = 5, not 4"),
        ([], "first_problem = 5, not no value"),
    ):
        with pytest.raises(SystemExit) as ended:
            cli.run([*words, *wrong, "--problems", "2"])
        assert ended.value.code == 2
        assert said in capsys.readouterr().err


def test_traces_are_kept_of_the_first_samples_alone(tmp_path: Path, capsys: Any) -> None:
    words = [
        "sample",
        "--model",
        "embedded",
        "--task",
        "countdown:3",
        "--problems",
        "2",
        "-n",
        "5",
        "--max-tokens",
        "3",
    ]
    for name, flags in {"all": [], "three": ["--traces", "3"], "none": ["--no-token-data"]}.items():
        options = ["--out", str(tmp_path / name), "--device", "cpu", "--batch-size", "2"]
        with pytest.raises(SystemExit) as ended:
            cli.run([*words, *flags, *options])
        assert ended.value.code == 0
    rows = {name: read_samples(tmp_path / name).to_pylist() for name in ("all", "three", "none")}
    assert [row["sample_id"] for row in rows["three"] if row["token_ids"] is not None] == [0, 1, 2, 0, 1, 2]
    assert all(row.get("token_ids") is None for row in rows["none"])
    assert [row["completion"] for row in rows["three"]] == [row["completion"] for row in rows["all"]]
    with pytest.raises(InputError, match="--traces goes with the transformers engine, not with server"):
        make_engine(make_job(engine="server"), SamplingOptions(model="m", traces=3))


def test_a_range_beyond_the_problems_is_refused() -> None:
    with pytest.raises(InputError, match="places count from 0"):
        problem_range(Odd(), "test", 2, first=-1)
    with pytest.raises(InputError, match="odd has 3 test problems, so none is left from place 3 on"):
        problem_range(Odd(), "test", None, first=3)
    assert [problem.id for problem in problem_range(Odd(), "test", None, first=1)] == ["p1", "p2"]
