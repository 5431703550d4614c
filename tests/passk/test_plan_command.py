"""The command `plan`: tables, files, what a study cannot claim, and bad input as one sentence each."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from forkwise.cli import app
from forkwise.errors import InputError
from forkwise.passk.plan import read_plan
from forkwise.samples import write_shard
from forkwise.version import __version__

# Of the audit of docs/evidence.md, rounded: SD of runs, and variance per problem and run at 256 samples.
EVIDENCE = """\
problems: 100
samples: 256
components:
  1: {run_sd: 0.0190, sampling_variance: 0.0101}
  16: {run_sd: 0.0227, sampling_variance: 0.0253}
  256: {run_sd: 0.0313, sampling_variance: {256: 0.0474, 1024: 0.021}}
"""


def run(*argv: object) -> Result:
    return CliRunner().invoke(app, ["plan", *map(str, argv)])


def refused(*argv: object) -> str:
    result = run(*argv)
    assert isinstance(result.exception, InputError), result.output
    assert "\n" not in str(result.exception)
    return str(result.exception)


def words(*argv: object) -> str:
    """What the command prints, in one line."""
    result = run(*argv)
    assert result.exit_code == 0, result.output
    return " ".join(result.output.split())


@pytest.fixture
def stated(tmp_path: Path) -> Path:
    (tmp_path / "evidence.yaml").write_text(EVIDENCE)
    return tmp_path / "evidence.yaml"


def pilot(folder: Path, name: str, runs: int, n: int = 16, problems: int = 20) -> str:
    """An arm whose runs differ, as tables with commas."""
    rng = np.random.default_rng(sum(map(ord, name)))
    base = np.random.default_rng(0).uniform(0.1, 0.8, problems)
    paths = []
    for s in range(runs):
        rates = np.clip(base + 0.1 * rng.standard_normal(), 0, 1)
        rows: list[dict[str, Any]] = [
            {"run": f"{name}-seed{s}", "model": "m", "problem_id": f"q{q}", "sample_id": i, "correct": bool(right)}
            for q in range(problems)
            for i, right in enumerate(rng.random(n) < rates[q])
        ]
        paths.append(write_shard(folder / f"{name}-{s}", "0", rows).parent)
    return ",".join(map(str, paths))


def test_the_plan_of_the_published_studies(stated: Path) -> None:
    text = words("--components", stated)
    # As published (audit, section 3); 5 runs per arm is the default.
    assert "0.044 at K = 1" in text
    assert "To find +0.01, +0.02 and +0.03 takes 74, 20 and 10 runs per arm at K = 1" in text
    assert "122, 32 and 15 runs per arm at K = 16; 230, 59 and 27 runs per arm at K = 256." in text
    assert "The variances are stated, and how well they are known is not" in text
    more = words("--components", stated, "--samples", 1024, "--k", 256, "--brief")
    assert "takes 188, 48 and 22 runs per arm at K = 256." in more
    paired = words("--components", stated, "--problems", 300, "--rho", 0.3, "--detect", ".02", "--brief")
    assert "takes 14 runs per arm at K = 1; 20 runs per arm at K = 16; 36 runs per arm at K = 256." in paired
    split = words("--components", stated, "--endpoints", 3, "--detect", ".02")
    assert "alpha 0.017 (0.05 over 3 endpoints)" in split
    assert "takes 26 runs per arm at K = 1; 42 runs per arm at K = 16; 78 runs per arm at K = 256." in split


def test_costs_and_a_budget(stated: Path) -> None:
    # 4 minutes per run and 6 per 100,000 samples: 20 + 20 runs with 25,600 samples cost 40 x (4 + 1.536) = 221
    text = words("--components", stated, "--k", 1, "--detect", ".02", "--cost-run", 4, "--cost-sample", 6e-5)
    assert "20; 221" in text
    assert "Cheapest study that finds a difference" in text
    assert "Smallest difference found for a cost of" not in text
    text = words("--components", stated, "--cost-run", 4, "--cost-sample", 6e-5, "--budget", 1800)
    assert "Smallest difference found for a cost of 1,800" in text


def test_a_pilot_gives_components_with_their_uncertainty(tmp_path: Path) -> None:
    arms = [pilot(tmp_path, name, 3) for name in ("grpo", "ours")]
    files = {"--json": tmp_path / "plan.json", "--figure": tmp_path / "power.svg"}
    text = words(*arms, *(x for pair in files.items() for x in pair))
    assert "3 runs per arm on 20 problems x 16 samples find" in text
    assert "the curve's mean" in text
    assert "rests on 4 degrees of freedom" in text
    assert "0.6 to 2.9 times the estimate" in text  # sqrt(4 / 11.14), sqrt(4 / .4844)
    assert "Dealing 3 runs and 3 to the arms in all ways cannot give a p below 0.1" in text  # 2 / 20
    assert "With 3 runs per arm, no number of problems or samples brings" in text
    assert "<svg" in files["--figure"].read_text()

    stored = read_plan(files["--json"])
    assert (stored.forkwise, stored.schema) == (__version__, 2)
    assert stored.settings["pilot"] == arms
    shards = [Path(path, "0.parquet") for arm in arms for path in arm.split(",")]
    assert [(i.path, i.sha256) for i in stored.inputs] == [
        (str(shard), hashlib.sha256(shard.read_bytes()).hexdigest()) for shard in shards
    ]
    assert stored.sentence in text
    # The drawn runs differ by SD .1 in every problem alike.
    at_1 = stored.plan.components[0]
    assert at_1.run_low**0.5 < 0.1 < at_1.run_high**0.5
    [d] = [d for d in stored.plan.detectable if d.endpoint == "1"]
    assert d.low < d.difference < d.high
    assert d.runs + d.run_problem + d.sampling + d.method_problem == pytest.approx(1)
    for curve in stored.plan.curves:
        assert (curve.low <= curve.power + 1e-9).all()
        assert (curve.power <= curve.high + 1e-9).all()

    # The result is itself a file of components: the same numbers come out again.
    again = words("--components", files["--json"], "--runs", 3, "--json", tmp_path / "again.json")
    assert stored.sentence in again
    assert [d.difference for d in read_plan(tmp_path / "again.json").plan.detectable] == [
        d.difference for d in stored.plan.detectable
    ]


def test_nothing_in_a_plan_says_which_arm_is_better(tmp_path: Path) -> None:
    """A pilot must not unblind the study: exchanging the arms changes no number."""
    first, second = (pilot(tmp_path, name, 3) for name in ("grpo", "ours"))
    outputs = []
    for arms in ((first, second), (second, first)):
        result = run(*arms, "--json", "-")
        content = json.loads(result.stdout)
        outputs.append((content["plan"], content["sentence"], content["limits"]))
    assert outputs[0] == outputs[1]


def test_paired_seeds_and_a_fixed_reference(tmp_path: Path) -> None:
    arms = [pilot(tmp_path, name, 5) for name in ("grpo", "ours")]
    text = words(*arms, "--paired-seeds", "--k", "1")
    assert "paired seeds" in text
    assert "seeds' rho" in text
    assert "Exchanging the arms in 5 pairs of runs in all ways cannot give a p below 0.062" in text  # 2 / 32
    assert "paired seeds" in words(*arms, "--rho", 0.5, "--k", "1", "--detect", ".05")
    fixed = words(arms[0], "--fixed", "--k", "1", "--contrasts", 1)
    assert "fixed reference" in fixed
    assert "Dealing" not in fixed


def test_other_tools_files_are_a_pilot(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for s in range(3):
        lines = [
            {"problem_id": f"q{q}", "correct": (rng.random(8) < 0.3 + 0.1 * s).tolist(), "completion": ["x"] * 8}
            for q in range(12)
        ]
        (tmp_path / f"grpo-seed{s}.jsonl").write_text("\n".join(map(json.dumps, lines)))
    paths = [str(tmp_path / f"grpo-seed{s}.jsonl") for s in range(3)]
    result = run(",".join(paths), "--json", tmp_path / "plan.json")
    assert result.exit_code == 0, result.output
    assert [i.path for i in read_plan(tmp_path / "plan.json").inputs] == paths
    assert "and 2 more were imported (plain): 288 samples in 3 runs." in result.output
    assert "How much the arms' difference varies over problems is not known, and is left out" in " ".join(
        result.output.split()
    )


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        (["--runs", 1], "1 run per arm on 100 problems x 256 samples finds a difference"),
        (
            ["--runs", 1],
            "Cannot be claimed: anything about other trainings. One run per arm compares these very models",
        ),
        (["--runs", 3], "Dealing 3 runs and 3 to the arms in all ways cannot give a p below 0.1, so no such test"),
        (["--runs", 4, "--endpoints", 3], "cannot give a p below 0.029"),  # 2 / 70, alpha .017
        (["--samples", 300, "--k", "1,256"], "no number of problems or samples brings the smallest difference below"),
        (["--detect", ".00001"], "Out of reach with up to 10,000 runs per arm: +1e-05 at K = 1"),
        (["--level", 0.9999999999], " at K = 16, and none at K = 256 (80% power"),
        (["--level", 0.9999999999, "--k", 256], "find no difference at K = 256 (80% power"),
        (["--runs", 10**8], "100,000,000 runs per arm on 100 problems"),
    ],
)
def test_what_cannot_be_claimed_is_said(stated: Path, argv: list[object], sentence: str) -> None:
    assert sentence in words("--components", stated, *argv)


def test_no_difference_of_1_or_more_is_printed(stated: Path) -> None:
    # With one degree of freedom the SD over runs may be 1 / sqrt(.000982) = 32 times as large, at K = 256 about 1;
    # five runs per arm then find some 3 x 1 x sqrt(2 / 5), which is above 1.
    stated.write_text(f"freedom: 1\n{EVIDENCE}")
    assert re.search(r"0\.0\d\d \[0\.0\d\d, none\]", words("--components", stated, "--k", 256))


def test_stated_degrees_of_freedom_give_ranges(stated: Path) -> None:
    stated.write_text(f"freedom: 4\n{EVIDENCE}")
    text = words("--components", stated, "--k", 1)
    # .0190 sqrt(4 / 11.143) and .0190 sqrt(4 / .48442)
    assert "0.0190 [0.0114, 0.0546]" in text
    assert "rests on 4 degrees of freedom" in text


def test_a_k_above_the_samples_cannot_be_claimed(stated: Path) -> None:
    stated.write_text(EVIDENCE.replace("sampling_variance: 0.0101", "sampling_variance: {64: 0.0101}"))
    text = words("--components", stated, "--samples", 64, "--k", "1,256")
    assert "Cannot be claimed: anything at K = 256, which needs 256 samples of a problem; the study has 64." in text


def test_two_runs_per_arm_in_the_pilot_say_how_little_they_know(tmp_path: Path) -> None:
    text = words(pilot(tmp_path, "grpo", 2), "--runs", 8, "--k", "1")
    assert "rests on 1 degrees of freedom" not in text
    assert "rests on 1 degree of freedom" in text
    assert "0.45 to 32 times the estimate" in text  # sqrt(1 / 5.024), sqrt(1 / .000982)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("[]", "states no components"),
        ("components: {}", "its mapping 'components' is empty"),
        ("components: {16: {run_sd: .02}}", "does not say of how many samples"),
        (
            "samples: 64\ncomponents: {16: {run_sd: -1}}",
            "run_sd is -1, and Pass@K, its deviations and its variances lie between 0 and 1",
        ),
        ("samples: 64\ncomponents: {16: {run_sd: .nan}}", "run_sd is nan"),
        ("samples: 64\ncomponents: {16: {run_std: 1}}", "'run_std' means nothing here. Did you mean 'run_sd'?"),
        ("samples: 64\ncomponents: {16: {sampling_sd: 1}}", "does not say how runs differ"),
        ("samples: 64\ncomponents: {16: {run_sd: .1, run_variance: .1}}", "say the same: leave one out"),
        ("samples: 64\ncomponents: {16: {run_sd: {64: .1}}}", "only sampling depends on n"),
        ("samples: 64\ncomponents: {16: .02}", "where a mapping is needed"),
        ("samples: 64\ncomponents: {x: {run_sd: .1}}", "each belongs to a K, such as 16, or to curve"),
        ("samples: 0\ncomponents: {16: {run_sd: .1}}", "a whole number from 1 to a billion"),
        ("samples: 64\nrho: 2\ncomponents: {16: {run_sd: .1}}", "a correlation lies between -1 and 1"),
        ("samples: 64\nseeds: 5\ncomponents: {16: {run_sd: .1}}", "'seeds' means nothing here"),
        ("samples: 64\ncomponents: {16: {run_sd: .1}}", "how many problems the study has: give --problems"),
        ("problems: 9\nsamples: 8\ncomponents: {16: {run_sd: .1}}", "exceeds the 8 samples"),
        (
            "problems: 9\nsamples: 64\ncomponents: {16: {run_sd: .1, sampling_sd: {128: .1}}}",
            "the fewest that are known",
        ),
        ('{"schema": 9}', "has schema 9"),
        ("{", "is not YAML"),
    ],
)
def test_a_file_of_components_that_says_too_little_or_too_much(tmp_path: Path, content: str, sentence: str) -> None:
    (tmp_path / "c.yaml").write_text(content)
    assert sentence in refused("--components", tmp_path / "c.yaml")


def test_a_damaged_plan_is_no_file_of_components(tmp_path: Path, stated: Path) -> None:
    path = tmp_path / "plan.json"
    assert run("--components", stated, "--json", path).exit_code == 0
    for change in (
        {"noise": []},
        {"noise": [{"n": 0, "variance": 0.1}]},
        {"noise": [{"n": 64, "variance": -0.1}]},
        {"run": -1.0},
        {"run_high": float("nan")},
        {"largest_k": 0},
        {"run_freedom": -1},
        {"rho": 7.0},
        {"cluster_size": 0.5},
        {"endpoint": "x"},
    ):
        content = json.loads(path.read_text())
        content["plan"]["components"][0] |= change
        (tmp_path / "damaged.json").write_text(json.dumps(content))
        assert "is damaged" in refused("--components", tmp_path / "damaged.json"), change
    for components in ([], [content["plan"]["components"][1]] * 2):
        content["plan"]["components"] = components
        (tmp_path / "damaged.json").write_text(json.dumps(content))
        assert "is damaged" in refused("--components", tmp_path / "damaged.json")


def test_a_plan_says_which_curve_it_is_about(tmp_path: Path) -> None:
    table = pilot(tmp_path, "a", 4)
    said = "The curve's mean is planned over K = 1, 2, 4, ..., 16, as far as the variances are known; with 64 samples"
    assert said in words(table, "--k", "1,curve", "--samples", 64)
    assert said not in words(table, "--k", "1,curve")
    assert said not in words(table, "--k", "1", "--samples", 64)


def test_a_plan_on_few_problems_says_what_binds(stated: Path) -> None:
    few = words("--components", stated, "--problems", 6)
    assert "So few problems say little about others, whatever runs and samples there are" in few
    assert "differ from problem to problem, or these are few" in few
    assert "So few problems" not in words("--components", stated, "--problems", 12)


def test_no_variance_at_all_is_found_at_once(stated: Path) -> None:
    stated.write_text("problems: 90\nsamples: 9\ncomponents: {1: {run_sd: 0}}")
    assert "find a difference of 0.000 at K = 1" in words("--components", stated)


def test_bad_input_ends_in_one_sentence(tmp_path: Path, stated: Path) -> None:
    one, several = pilot(tmp_path, "one", 1), pilot(tmp_path, "several", 3)
    for argv, sentence in (
        ([], "give one of the two"),
        ([several, "--components", stated], "give one of the two"),
        ([one], "No arm of the pilot has two runs"),
        ([tmp_path / "nowhere"], "There are no samples"),
        ([several, "--k", "32"], "one in the pilot has 16"),
        ([several, "--k", "x"], "--k takes numbers of samples and curve"),
        ([several, "--detect", "a"], "--detect takes differences with commas"),
        ([several, "--detect", "2"], "lies above 0 and below 1"),
        ([several, "--power", "1"], "The power is 1"),
        ([several, "--samples", "9" * 30], "from 1 to a billion"),
        ([several, "--rho", "nan"], "rho is nan"),
        ([several, "--paired-seeds"], "One arm says nothing"),
        ([several, pilot(tmp_path, "short", 2), "--paired-seeds"], "only runs of the same seeds can be paired"),
        ([several, "--fixed", "--rho", ".3"], "shares no seeds"),
        ([several, "--cost-run", "-1"], "a cost is a number from 0 on"),
        ([several, "--budget", "5"], "nothing costs"),
        ([several, several], "the same name"),
        ([several, pilot(tmp_path, "few", 3, problems=9)], "--intersect"),
        (["--components", stated, "--k", "4"], "says nothing about '4': it has components of 1, 16, 256"),
        (["--components", stated, "--paired-seeds"], "state --rho"),
        (["--components", tmp_path / "nowhere.yaml"], "cannot be read"),
        # What `compare` refuses too: two runs, and fewer than five pairs.
        (["--components", stated, "--runs", 2], "has 2 runs per arm, and how training varies shows in 3 at least"),
        ([pilot(tmp_path, "two", 2)], "has 2 runs per arm, and how training varies shows in 3 at least"),
        (["--components", stated, "--runs", 4, "--rho", 0.3], "pairs of seeds take at least 5"),
        ([several, pilot(tmp_path, "other", 3), "--paired-seeds"], "pairs of seeds take at least 5"),
        ([several, "--figure", tmp_path / "x.txt"], "let its name end with .png, .svg or .pdf"),
    ):
        assert sentence in refused(*argv), argv
    assert "Take the problems that all arms share" in run("--help").output
    shared = words(several, pilot(tmp_path, "few2", 3, problems=9), "--intersect", "--k", "1")
    assert "3 runs per arm on 9 problems" in shared
    assert "11 dropped" in shared
