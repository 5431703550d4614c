"""`forkwise credit`: what it writes and prints, and what it refuses."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

from tabular_bank import tabular_bank
from typer.testing import CliRunner

from forkwise.cli import app
from forkwise.credit import results
from forkwise.credit.arms import ScoredMethod
from forkwise.credit.bank import Bank, write_bank
from forkwise.credit.command import run_credit
from forkwise.credit.options import CreditOptions
from forkwise.credit.scoring import score_bank
from forkwise.errors import InputError
from forkwise.methods import parse_method
from forkwise.report.credit import conclusions, notes, tables
from forkwise.report.table import Table

ONLY = {"only": True, "method": ["entropy_advantage", "placebo_permuted", "psr"]}


def score(bank: Bank, specs: Sequence[str] = (), **options: object) -> results.BankCredit:
    arms = [ScoredMethod(parse_method(spec)) for spec in ("grpo", *specs)]
    return score_bank(bank, arms, CreditOptions(**options))


def test_a_method_that_knows_the_truth_would_have_r_1(monkeypatch: pytest.MonkeyPatch) -> None:
    # RLOO in place of the truth: advantages made equal to the true ones, whose halves are noisy.
    from forkwise.credit import scoring

    bank = tabular_bank(30, 8, noise=0.3, seed=4)
    exact = tabular_bank(30, 8, seed=4).advantage_K
    plain = scoring.draws
    monkeypatch.setattr(
        scoring, "draws", lambda g, arm, *a, **k: exact[None] if arm.name == "rloo" else plain(g, arm, *a, **k)
    )
    found = score(bank, ["rloo"])
    knows = next(m for m in found.methods if m.method == "rloo")
    for r in (knows.alike.r, knows.sized.r):
        assert r.value == pytest.approx(1, abs=0.1)
        assert r.low is not None
        assert r.high is not None
        assert r.low < 1 < r.high
    assert knows.slope.value == pytest.approx(1, abs=0.1)
    # Var A / (Var A + .3^2 / 2) of the estimates is signal, of the states at hand.
    assert found.signal == pytest.approx(exact.var() / (exact.var() + 0.045), abs=0.08)


def test_numbers_are_those_of_numpy_where_every_token_is_a_state() -> None:
    bank = tabular_bank(20, 6, seed=2)
    found = score(bank, ["credit_weight"])
    from forkwise.credit.arms import advantages

    for m in found.methods:
        x = advantages(bank.groups, parse_method(m.method))
        assert m.alike.r.value == pytest.approx(np.corrcoef(x, bank.advantage_K)[0, 1])
        cov = np.cov(x, bank.advantage_K, aweights=bank.groups.score_N)
        assert m.sized.r.value == pytest.approx(cov[0, 1] / np.sqrt(cov[0, 0] * cov[1, 1]))
    grpo = advantages(bank.groups, parse_method("grpo"))
    stratum = found.strata[0]
    low, high = (float(part) for part in stratum.name.split("H ")[1].split("–"))
    inside = (grpo > 0) & (bank.groups.entropy_N >= low) & (bank.groups.entropy_N < high)
    assert stratum.states == inside.sum()
    assert stratum.mean.value == pytest.approx(bank.advantage_K[inside].mean())
    assert stratum.factor.value == pytest.approx((grpo * bank.advantage_K)[inside].sum() / (grpo[inside] ** 2).sum())


def test_states_count_for_the_tokens_that_they_stand_for() -> None:
    # Half of the states, drawn with chances of .25 and 1: a token that stands for four counts four times.
    bank = tabular_bank(20, 6, seed=6)
    kept = np.arange(0, bank.at_K.size, 2)
    chance = np.where(kept % 4 == 0, 0.25, 1.0)
    drawn = replace(
        bank,
        at_K=kept,
        chance_K=chance,
        advantage_K=bank.advantage_K[kept],
        error_K=bank.error_K[kept],
        half_K2=bank.half_K2[kept],
    )
    from forkwise.credit.arms import advantages

    x, a = advantages(bank.groups, parse_method("grpo"))[kept], bank.advantage_K[kept]
    times = np.where(kept % 4 == 0, 4, 1)
    exact = np.corrcoef(np.repeat(x, times), np.repeat(a, times))[0, 1]
    assert exact != pytest.approx(np.corrcoef(x, a)[0, 1], abs=1e-3)
    assert score(drawn).methods[0].alike.r.value == pytest.approx(exact)


def test_the_command_prints_and_writes_the_same(tmp_path: Path) -> None:
    write_bank(tmp_path / "b.parquet", tabular_bank(16, 8, noise=0.1))
    given = ["credit", str(tmp_path / "b.parquet"), "--out", str(tmp_path / "o"), "--figure", str(tmp_path / "f.png")]
    done = CliRunner().invoke(app, [*given, "--only", "--method", "entropy_advantage", "--method", "psr"])
    assert done.exit_code == 0, done.output
    read = results.read(tmp_path / "o")
    assert read.banks[0].methods[0].method == "grpo"
    assert {m.method for m in read.banks[0].methods} == {"grpo", "entropy_advantage", "psr"}
    assert read.inputs[0].path == str(tmp_path / "b.parquet")
    assert len(read.inputs[0].sha256) == 64
    assert conclusions(read)[0].split(":")[0] in done.output
    assert (tmp_path / "f.png").stat().st_size > 1000
    table = next(t for t in tables(read) if isinstance(t, Table))
    assert [row[0] for row in table.rows] == [m.method for m in read.banks[0].methods]
    assert any("cut off" in note for note in notes(read))
    smallest = read.banks[0].detectable
    assert smallest is not None
    assert 0 < smallest.alone < smallest.together
    assert f"of {smallest.together:.3f} by the band" in " ".join(notes(read))


def test_a_report_has_a_section_of_it(tmp_path: Path) -> None:
    write_bank(tmp_path / "b.parquet", tabular_bank(16, 8, noise=0.1))
    score = ["credit", str(tmp_path / "b.parquet"), "--out", str(tmp_path / "o"), "--only", "--method", "psr"]
    assert CliRunner().invoke(app, score).exit_code == 0
    done = CliRunner().invoke(app, ["report", str(tmp_path / "o"), "--out", str(tmp_path / "r.html"), "--text"])
    assert done.exit_code == 0, done.output
    (bank,) = results.read(tmp_path / "o").banks
    page = (tmp_path / "r.html").read_text()
    section = page[page.index('<section id="credit">') : page.index("</main>")]
    for cell in ("psr", f"{bank.methods[0].sized.r.value:.3f}", f"{bank.methods[1].sized.minus_grpo.value:+.3f}"):
        assert cell in section
        assert cell in done.output
    assert conclusions(results.read(tmp_path / "o"))[0] in " ".join(html.unescape(page).split())


def test_only_half_of_the_problems(tmp_path: Path) -> None:
    write_bank(tmp_path / "b.parquet", tabular_bank(16, 8, noise=0.1))
    halves = [run_credit([tmp_path / "b.parquet"], CreditOptions(half=half, **ONLY)) for half in ("first", "second")]
    assert [h.banks[0].problems for h in halves] == [8, 8]
    assert halves[0].banks[0].methods[0].sized.r.value != halves[1].banks[0].methods[0].sized.r.value


def test_groups_without_contrast_are_refused() -> None:
    bank = tabular_bank(12, 4)
    right = replace(bank.groups, correct_S=np.ones_like(bank.groups.correct_S))
    with pytest.raises(InputError, match=r"states in 0 groups .* of 12, and intervals over problems need 5"):
        score(replace(bank, groups=right))


def test_too_few_problems_are_refused_and_few_are_named() -> None:
    with pytest.raises(InputError, match="of 4, and intervals over problems need 5"):
        score(tabular_bank(4, 8))
    credit = results.Credit([score(tabular_bank(8, 8))], [], {}, [])
    assert any("With 8 problems the intervals may be too narrow" in note for note in notes(credit))


def test_continuations_that_say_nothing_are_refused() -> None:
    bank = tabular_bank(12, 8)
    noise = np.random.default_rng(0).standard_normal((bank.at_K.size, 2))
    nothing = np.stack([noise[:, 0], -noise[:, 0]], axis=1)  # halves that contradict each other
    with pytest.raises(InputError, match="do not tell its true advantages from their error"):
        score(replace(bank, half_K2=nothing, advantage_K=noise[:, 1]))


def test_cut_off_completions_are_counted() -> None:
    bank = tabular_bank(8, 8)
    cut = np.zeros_like(bank.groups.cut_S)
    cut[:3] = True
    credit = results.Credit([score(replace(bank, groups=replace(bank.groups, cut_S=cut)))], [], {}, [])
    assert credit.banks[0].cut == 3
    assert any("3 completions cut off" in note for note in notes(credit))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nowhere"], "There is no 'nowhere'"),
        (["--method", "kl_cov"], "acts only after a first update"),
        (["--groups", "t"], "--groups is given 1 times and --model 0 times"),
        (["--level", "1"], "level is 1"),
    ],
)
def test_bad_words_end_in_a_sentence(words: list[str], said: str) -> None:
    done = CliRunner().invoke(app, ["credit", *words])
    assert done.exit_code != 0
    assert isinstance(done.exception, InputError)
    assert said in str(done.exception)
