"""Which runs are started, again or not at all; what a study refuses before and while it runs. Nothing is trained."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from made_studies import receipt, study, write_all
from rich.console import Console

pytest.importorskip("trl")
torch = pytest.importorskip("torch")

from forkwise.errors import InputError, RunError
from forkwise.study import places
from forkwise.study.places import LocalPlace, RayPlace, Resources, gpus, shares
from forkwise.study.reading import read_study
from forkwise.study.receipts import read_receipt, starts, training_summary, write_receipt
from forkwise.study.run import check_study, run, works
from forkwise.study.spec import BASE, Device, Study
from forkwise.study.spending import boundary
from forkwise.study.work import Work, perform
from forkwise.training.folder import COLLAPSED

Outcome = Callable[[Work], None]


def solve(work: Work) -> None:
    """What a run leaves: a receipt; the shaped arm solves more."""
    c = (3, 3, 4) * 4 if work.arm is not None and work.arm.name == "shaped" else (0, 1, 2) * 4
    write_receipt(work.receipts, receipt(work.study, work.arm.name if work.arm else BASE, work.seed, c))


@dataclass
class Pretend:
    """A place whose runs end at once, as `outcome` says."""

    outcome: Outcome = solve
    device: Device = "cpu"
    threads: int = 1
    submitted: list[str] = field(default_factory=list)

    def submit(self, work: Work) -> Future[None]:
        self.submitted.append(work.run)
        future: Future[None] = Future()
        try:
            self.outcome(work)
            future.set_result(None)
        except Exception as error:
            future.set_exception(error)
        return future

    def close(self) -> None:
        pass


def quiet() -> Console:
    return Console(file=io.StringIO(), width=300)


def test_every_run_is_started_once_and_none_that_has_a_receipt(tmp_path: Path) -> None:
    plan = study(seeds="0-2", primary=None)
    place = Pretend()
    assert run(plan, tmp_path, place, console=quiet()).startswith("Done: 9 runs")
    assert sorted(place.submitted) == sorted(plan.runs())
    again = Pretend()
    run(plan, tmp_path, again, console=quiet())
    assert again.submitted == []
    # The folder may be lost: receipts elsewhere are enough, and what one is missing for is run again.
    (tmp_path / "receipts" / "placebo-seed1.json").unlink()
    elsewhere = Pretend()
    run(plan, tmp_path / "new", elsewhere, receipts=tmp_path / "receipts", console=quiet())
    assert elsewhere.submitted == ["placebo-seed1"]


def test_the_arms_of_a_seed_come_together_and_stages_end_in_looks(tmp_path: Path) -> None:
    plan = study(looks=[5], primary={"arm": "placebo", "endpoint": 1})
    place = Pretend()
    run(plan, tmp_path, place, console=quiet())
    assert place.submitted[:3] == ["grpo-seed0", "shaped-seed0", "placebo-seed0"]
    assert BASE in place.submitted[:16]
    assert (tmp_path / "receipts" / "look-5.json").exists()
    ended = Pretend()
    said = run(study(looks=[5]), tmp_path / "other", ended, console=quiet())
    assert said == "The study ends at its look after 5 seeds, as registered: the primary difference is shown."
    assert not any(name.endswith("seed5") for name in ended.submitted)


def test_the_runs_of_the_yardstick_come_first(tmp_path: Path) -> None:
    made = study(seeds=[3], primary=None, yardstick={"seeds": "5-6"})
    runs = [work.run for work in works(made, [3], tmp_path, tmp_path, Pretend())]
    assert runs == ["grpo-seed5", "grpo-seed6", "grpo-seed3", "shaped-seed3", "placebo-seed3", "base"]
    assert sorted(runs) == sorted(made.runs())


def test_a_run_that_fails_is_started_again_and_then_left_to_the_next_time(tmp_path: Path) -> None:
    plan = study(seeds="0-2", primary=None)
    left = {"shaped-seed1": 1, "placebo-seed2": 99}

    def shaky(work: Work) -> None:
        if left.get(work.run, 0) > 0:
            left[work.run] -= 1
            raise RunError(f"The run '{work.run}' stopped with exit code -9.")
        solve(work)

    place, console = Pretend(shaky), quiet()
    with pytest.raises(RunError, match="1 of 10 runs could not be .* The first: The run 'placebo-seed2' stopped"):
        run(plan, tmp_path, place, console=console)
    assert place.submitted.count("shaped-seed1") == 2
    assert place.submitted.count("placebo-seed2") == 3
    assert console.file.getvalue().count("It is started again.") == 2  # type: ignore[attr-defined]
    assert len(list((tmp_path / "receipts").glob("*.json"))) == 9
    left.clear()
    again = Pretend(shaky)
    run(plan, tmp_path, again, console=quiet())
    assert again.submitted == ["placebo-seed2"]


def test_what_one_run_refuses_ends_the_study(tmp_path: Path) -> None:
    def refuse(work: Work) -> None:
        raise InputError("The model is not there.")

    with pytest.raises(InputError, match="The model is not there"):
        run(study(seeds="0-2", primary=None), tmp_path, Pretend(refuse), console=quiet())


def test_a_study_goes_on_under_its_plan_and_on_its_device(tmp_path: Path) -> None:
    run(study(seeds="0-2", primary=None), tmp_path, Pretend(), console=quiet())
    with pytest.raises(InputError, match=r"other settings \(seeds = \[0, 1, 2\], not \[0, 1, 2, 3\]\)"):
        run(study(seeds="0-3", primary=None), tmp_path, Pretend(), console=quiet())
    other = study(seeds="0-2", primary=None, problems=9)
    with pytest.raises(InputError, match=r"other settings \(problems = 8, not 9\)"):
        run(other, tmp_path / "x", Pretend(), receipts=tmp_path / "receipts", console=quiet())
    with pytest.raises(InputError, match="ran on cpu, and this would go on on cuda: give --device cpu"):
        run(study(seeds="0-2", primary=None), tmp_path, Pretend(device="cuda"), console=quiet())
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "precious").write_text("")
    with pytest.raises(InputError, match="holds no run to resume"):
        run(study(), tmp_path / "mine", Pretend(), console=quiet())


# ---------------------------------------------------------------------------------------------- refused before training


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"arms": {"GRPO": {}, "shaped": "entropy_advantag:alpha=1"}}, "'entropy_advantag'. Did you mean 'entropy_adv"),
        (
            {"arms": {"GRPO": {}, "b": {"alhpa": 1}}, "primary": None},
            "'b' cannot be trained: it has an unknown key 'al",
        ),
        (
            {
                "algorithm": "ppo",
                "arms": {"PPO": {}, "rloo": "rloo"},
                "recipe": {"like": "quickstart-ppo", "max_steps": 20},
                "primary": None,
            },
            "The arm 'rloo' cannot be trained: .*critic",
        ),
        # A study trains with TRL's head unless it says otherwise.
        ({"arms": {"GRPO": {}, "o": "opefo"}, "primary": None}, "The arm 'o' cannot be trained: .* head does not give"),
        ({"algorithm": "ppo", "recipe": {"like": "quickstart-ppo", "max_steps": 10}}, "With 10 steps the policy of"),
        ({"evaluation": {"problems": 99_999, "n": 4}}, "99999 cannot be had"),
        ({"evaluation": {"problems": 10, "n": 4, "first_problem": 1480}}, "1490 cannot be had"),
        ({"problems": 99_999}, "99999 cannot be had"),
        ({"task": "cuntdown:4"}, "no task 'cuntdown:4'"),
        (
            {"primary": {"margin": 0.05}, "evaluation": {"problems": 71, "n": 4}},
            # .95^72 is the first power below .025; of 71 problems 1 - .025^(1/71) = 5.06 % could differ unseen.
            "On 71 problems no arms .* margin of 0.05, since 5.1% .*: give evaluation.problems 72 or more, or a "
            "margin of 0.051 or more",
        ),
        ({"primary": {"margin": 0.75, "secondary": [1, 4, 1]}}, r"secondary is \[1, 4, 1\], with a K more than once"),
        # Without a weight nothing is shaped, whatever caps it; 0.4 and 2 are GRPO's defaults.
        ({"arms": {"GRPO": {"alpha": 0}, "EA": {"alpha": 0, "kappa": 3}}, "primary": None}, "'GRPO' and 'EA' would"),
        ({"arms": {"EA": {}, "x": "gtpo", "same": {"alpha": 0.4, "kappa": 2}}, "primary": None}, "'EA' and 'same' wo"),
        ({"arms": {"a": {}, "b": "entropy_advantage:alpha=0.4"}, "primary": None}, "'a' and 'b' would train alike"),
        ({"arms": {"a": {"alpha": 0}, "b": {"alpha": 0, "beta": 0.0}}, "primary": None}, "'a' and 'b' would train"),
        (
            {"arms": {"a": {"alpha": 0, "epsilon_high": 0.4}, "b": "clip_higher:high=0.4"}, "primary": None},
            "'a' and 'b' would train alike",
        ),
    ],
)
def test_what_could_not_run_is_refused_before_it_is_registered_or_run(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        check_study(study(**changes))


ROOT = Path(__file__).parents[2]
FILES = [ROOT / "examples" / "study.yaml", *sorted((ROOT / "studies").glob("*.yaml"))]


@pytest.mark.parametrize("file", [f for f in FILES if ".registered" not in f.name], ids=lambda path: path.stem)
def test_every_study_of_the_repository_can_run(file: Path) -> None:
    check_study(read_study(file))


def test_the_powered_study_is_the_one_that_was_designed() -> None:
    plan = read_study(ROOT / "studies" / "paper-regime.yaml")
    recipe = plan.recipe
    rollout = recipe["per_device_train_batch_size"] * recipe["steps_per_generation"]
    assert (rollout, recipe["per_device_train_batch_size"]) == (512, 32)  # 16 updates of each rollout
    assert plan.problems == 288 // 16 * 512 // recipe["num_generations"]  # none is met twice
    assert (recipe["epsilon"], recipe["epsilon_high"], recipe["loss_type"]) == (0.2, 0.28, "dapo")
    assert recipe["lr_scheduler_kwargs"]["num_decay_steps"] == plan.steps / 4
    assert plan.seeds == list(range(100, 132))
    assert [round(boundary(plan, seeds), 4) for seeds in (16, 32)] == [0.0031, 0.049]
    pilot = read_study(ROOT / "studies" / "paper-regime-pilot.yaml")
    assert (pilot.recipe, pilot.problems) == (recipe, plan.problems)
    assert pilot.arms == plan.arms[:2]
    asked = [range(s.evaluation.first_problem, s.evaluation.first_problem + 300) for s in (plan, pilot)]
    assert not set(asked[0]) & set(asked[1])
    assert not set(pilot.seeds) & set(plan.seeds)


# --------------------------------------------------------------------------------------------------------------- places


@pytest.mark.parametrize(
    ("visible", "count", "expected"),
    [
        (None, 0, []),
        (None, 2, ["0", "1"]),
        ("", 0, []),
        ("5,7", 2, ["5", "7"]),
        ("GPU-1f2e,GPU-9a9b", 2, ["GPU-1f2e", "GPU-9a9b"]),
        ("3", 0, []),  # named, but not there
    ],
)
def test_gpus_are_named_as_the_environment_names_them(
    visible: str | None, count: int, expected: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    assert gpus() == expected


def test_runs_share_the_gpus_evenly_and_a_run_may_take_several() -> None:
    assert shares([], 1, 3) == [None, None, None]
    assert shares(["0", "1"], 1, 4) == ["0", "1", "0", "1"]
    assert shares(["0", "1", "2", "3", "4"], 2, 3) == ["0,1", "2,3", "0,1"]
    with pytest.raises(InputError, match="A run takes 4 GPUs .processes., and there are 2"):
        shares(["0", "1"], 4, 1)


def test_each_run_gets_a_gpu_of_its_own_and_gives_it_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    seen: list[str | None] = []

    def pretend(work: Work, share: str | None, stopped: Callable[[], bool]) -> None:
        seen.append(share)
        solve(work)

    monkeypatch.setattr(places, "perform", pretend)
    place = LocalPlace(2)
    assert place.device == "cuda"
    run(study(seeds="0-2", primary=None), tmp_path, place, console=quiet())
    place.close()
    assert len(seen) == 10
    assert set(seen) == {"0", "1"}


def test_a_device_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(InputError, match="no GPU that CUDA can use"):
        LocalPlace(1, "cuda")
    with pytest.raises(InputError, match="device is 'gpu': it must be cpu, cuda or auto"):
        LocalPlace(1, "gpu")


def test_without_ray_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    with pytest.raises(InputError, match=r'pip install "forkwise\[ray\]"'):
        RayPlace("auto", Resources())


# ------------------------------------------------------------------------------------------------------------ one run


def work_of(plan: Study, out: Path, arm: str | None = "shaped", seed: int | None = 0) -> Work:
    return Work(plan, plan.sha256(), None if arm is None else plan.arm(arm), seed, out, out / "receipts")


def test_the_command_that_samples_a_run(tmp_path: Path) -> None:
    plan = study(evaluation={"problems": 3, "n": 4, "first_problem": 100, "temperature": 0.7, "split": "validation"})
    words = work_of(plan, tmp_path).sample_words()
    options = dict(zip(words[1::2], words[2::2], strict=False))
    assert words[0] == "sample"
    expected = {
        **{"--model": str(tmp_path / "arms" / "shaped-seed0"), "--task": "countdown:4", "--split": "validation"},
        **{"--first-problem": "100", "--problems": "3", "-n": "4", "--temperature": "0.7", "--max-tokens": "40"},
        **{"--run": "shaped-seed0", "--out": str(tmp_path / "samples" / "shaped-seed0"), "--device": "cpu"},
    }
    assert {key: options[key] for key in expected} == expected
    base = work_of(plan, tmp_path, None, None).sample_words()
    assert base[base.index("--model") + 1] == "embedded"
    assert base[base.index("--run") + 1] == "base"


def test_a_collapsed_run_counts_with_no_problem_solved(tmp_path: Path) -> None:
    plan = study()
    work = work_of(plan, tmp_path)
    work.folder.mkdir(parents=True)
    (work.folder / COLLAPSED).write_text("Step 2: not finite: loss.\n")
    (tmp_path / "arms" / "shaped-seed0.yaml").write_text("seed: 0\noutput_dir: x\n")
    perform(work)
    made = read_receipt(tmp_path / "receipts" / "shaped-seed0.json")
    assert made.collapsed == "Step 2: not finite: loss."
    assert (made.n, made.c, made.tokens) == ([4, 4, 4], [0, 0, 0], None)
    assert len(made.attempts) == 1
    perform(work)  # it is done
    assert starts(tmp_path / "receipts", "shaped-seed0") == []


def test_metrics_are_summarised() -> None:
    log = [
        {
            "step": s,
            "reward": s / 100,
            "clip_ratio/low_mean": s / 100,
            "num_tokens": 10 * s,
            "step_time": 2.0,
            "note": "x",
        }
        for s in range(1, 101)
    ]
    summary, curves = training_summary(log)
    assert summary["reward"] == pytest.approx(0.955)  # of steps 91 to 100
    assert summary["clip_ratio/low_mean"] == pytest.approx(0.505)  # of all
    assert (summary["num_tokens"], summary["step"]) == (1000, 100)
    assert summary["minutes"] == pytest.approx(200 / 60)
    assert "note" not in summary
    assert curves["reward, step"][:2] == [1, 4]
    assert curves["reward"][:2] == [0.01, 0.04]
    assert len(curves["reward"]) <= 48


def test_a_receipt_of_an_ordinary_evaluation_is_small(tmp_path: Path) -> None:
    plan = study(evaluation={"problems": 1000, "n": 256})
    ids = [f"countdown-10-10-10-{q}=40" for q in range(1000)]
    made = receipt(plan, "shaped", 0, [q % 256 for q in range(1000)], problems=ids, tokens=[123.45] * 1000)
    log = [{"step": s, **{f"metric/number/{i}": 0.123456789 for i in range(60)}, "reward": 0.1} for s in range(300)]
    summary, curves = training_summary(log)
    from dataclasses import replace

    write_receipt(tmp_path, replace(made, training=summary, curves=curves))
    assert (tmp_path / "shaped-seed0.json").stat().st_size < 100_000


def test_nothing_is_left_of_a_study_that_is_refused(tmp_path: Path) -> None:
    write_all(tmp_path / "r", study(problems=9), {})
    with pytest.raises(InputError, match="problems = 9, not 8"):
        run(study(), tmp_path / "out", Pretend(), receipts=tmp_path / "r", console=quiet())
    assert not (tmp_path / "out").exists()


# ------------------------------------------------------------------------------------------------------------ clusters


def table(path: Path, clusters: list[str | None]) -> Path:
    rows = [{"id": f"q{i}", "prompt": f"{i} + 1 =", "answer": str(i + 1)} for i in range(len(clusters))]
    named = [row if name is None else {**row, "cluster": name} for row, name in zip(rows, clusters, strict=True)]
    path.write_text("".join(f"{json.dumps(row)}\n" for row in named))
    return path


def on_table(path: Path) -> Study:
    evaluation = {"problems": 4, "n": 4, "dataset": str(path)}
    return study(seeds="0-4", evaluation=evaluation)


@pytest.mark.parametrize(
    ("clusters", "said"),
    [(["a"] * 9, "are in one cluster, 'a'"), (["a", None, "b"] * 3, "is in no cluster while others are")],
)
def test_problems_of_one_cluster_are_refused_before_anything_is_trained(
    tmp_path: Path, clusters: list[str | None], said: str
) -> None:
    pytest.importorskip("math_verify")
    with pytest.raises(InputError, match=said):
        check_study(on_table(table(tmp_path / "rows.jsonl", clusters)))


def test_a_receipt_holds_the_cluster_of_each_problem(tmp_path: Path) -> None:
    """Also that of a collapsed run, which has no samples."""
    pytest.importorskip("math_verify")
    plan = on_table(table(tmp_path / "rows.jsonl", ["a", "b", "c"] * 4))
    check_study(plan)
    work = Work(plan, plan.sha256(), plan.arms[1], 0, tmp_path, tmp_path / "receipts")
    work.folder.mkdir(parents=True)
    (work.folder / COLLAPSED).write_text("Step 1: not finite")
    work.folder.with_name(f"{work.run}.yaml").write_text("alpha: 0.4\n")
    perform(work)
    made = read_receipt(tmp_path / "receipts" / f"{work.run}.json")
    assert made.clusters == ["abc"[int(problem[1:]) % 3] for problem in made.problems]
