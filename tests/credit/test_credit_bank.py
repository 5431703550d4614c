"""A bank's file, its halves, and methods that act on it by training's own functions."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

pytest.importorskip("torch")

from tabular_bank import tabular_bank

from forkwise.credit.arms import Given, advantages, choose_arms, draws, short
from forkwise.credit.bank import half_of, read_bank, rounded, write_bank
from forkwise.errors import InputError
from forkwise.methods import parse_method


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    bank = tabular_bank(6, 4, noise=0.2)
    some = np.arange(0, bank.at_K.size, 5)
    bank = replace(
        bank,
        at_K=some,
        chance_K=np.linspace(0.1, 1, some.size),
        advantage_K=bank.advantage_K[some],
        error_K=bank.error_K[some],
        half_K2=bank.half_K2[some],
    )
    write_bank(tmp_path / "b.parquet", bank)
    again = read_bank(tmp_path / "b.parquet")
    assert (again.name, again.about, again.groups.problems) == (bank.name, bank.about, bank.groups.problems)
    for name in ("problem_S", "sample_S", "correct_S", "cut_S", "length_S", "ids_N"):
        assert np.array_equal(getattr(again.groups, name), getattr(bank.groups, name))
    for name in ("entropy", "logprob", "sum_p2", "sum_p2_log"):
        stored, exact = getattr(again.groups, f"{name}_N"), getattr(bank.groups, f"{name}_N")
        assert stored == pytest.approx(exact, abs=6e-4)
        assert np.array_equal(stored, rounded(name, exact))
    assert np.array_equal(again.at_K, some)
    for name in ("chance_K", "advantage_K", "error_K", "half_K2"):
        assert getattr(again, name) == pytest.approx(getattr(bank, name), rel=1e-6)


def test_the_halves_of_a_bank_share_no_problem_and_leave_none_out() -> None:
    bank = tabular_bank(7, 4)
    first, second = (bank.of(half_of(7, half)) for half in ("first", "second"))
    assert first.groups.problems + second.groups.problems == bank.groups.problems
    assert np.array_equal(np.concatenate([first.advantage_K, second.advantage_K]), bank.advantage_K)
    assert np.array_equal(second.groups.ids_N[second.at_K], bank.groups.ids_N[-second.at_K.size :])
    assert second.problem_K.max() == 2


def test_a_file_that_is_no_bank(tmp_path: Path) -> None:
    (tmp_path / "x.parquet").write_bytes(b"PAR1 nothing")
    with pytest.raises(InputError, match="no bank of true advantages"):
        read_bank(tmp_path / "x.parquet")


def test_a_bank_replaces_a_bank_and_no_other_file(tmp_path: Path) -> None:
    mine = tmp_path / "notes.txt"
    mine.write_text("mine")
    with pytest.raises(InputError, match="is there, and is no bank"):
        write_bank(mine, tabular_bank(7, 4))
    assert mine.read_text() == "mine"
    write_bank(tmp_path / "x.parquet", tabular_bank(7, 4))
    write_bank(tmp_path / "x.parquet", tabular_bank(6, 4))
    assert len(read_bank(tmp_path / "x.parquet").groups.problems) == 6


@pytest.mark.parametrize("place", [-1, 10_000])
def test_a_state_outside_of_its_completion_is_refused(tmp_path: Path, place: int) -> None:
    write_bank(tmp_path / "x.parquet", tabular_bank(7, 4))
    table = pq.read_table(tmp_path / "x.parquet")
    at = table.schema.get_field_index("state_position")
    field = table.schema.field(at)
    moved = pa.array([[place for _ in places] for places in table.column(at).to_pylist()], field.type)
    pq.write_table(table.set_column(at, field, moved), tmp_path / "x.parquet")
    with pytest.raises(InputError, match="no bank of true advantages .a state stands beyond its completion"):
        read_bank(tmp_path / "x.parquet")


def test_grpo_and_rloo_by_hand() -> None:
    # Three of four right: mean 3/4, deviation with n - 1: 1/2. RLOO: 1 minus the mean of the others.
    bank = tabular_bank(2, 4)
    groups = replace(bank.groups, correct_S=np.array([True, True, True, False, False, False, False, False]))
    length = int(groups.length_S[0])
    grpo = advantages(groups, parse_method("grpo")).reshape(8, length)
    assert grpo[:, 0] == pytest.approx(np.array([0.5, 0.5, 0.5, -1.5, 0, 0, 0, 0]), abs=4e-4)
    assert np.ptp(grpo, axis=1) == pytest.approx(0)
    rloo = advantages(groups, parse_method("rloo")).reshape(8, length)[:, 0]
    assert rloo == pytest.approx([1 / 3, 1 / 3, 1 / 3, -1, 0, 0, 0, 0])


def test_shaping_acts_on_entropies_and_its_placebo_on_others() -> None:
    bank = tabular_bank(4, 4, seed=3)
    method = parse_method("entropy_advantage:alpha=0.4,kappa=2")
    grpo = advantages(bank.groups, parse_method("grpo"))
    psi = np.minimum(0.4 * bank.groups.entropy_N, np.abs(grpo) / 2)
    assert advantages(bank.groups, method) == pytest.approx(grpo + psi)
    placebo = advantages(bank.groups, method, placebo=True)
    assert placebo != pytest.approx(grpo + psi)
    # The same entropies, dealt to other tokens: without a cap their sum is the same.
    open_ended = parse_method("entropy_advantage:cap=false")
    moved = advantages(bank.groups, open_ended, placebo=True) - grpo
    assert np.sort(moved) == pytest.approx(np.sort(0.4 * bank.groups.entropy_N))


def test_random_methods_are_drawn_several_times_and_others_once() -> None:
    groups = tabular_bank(4, 4).groups
    arms = {arm.name: arm for arm in choose_arms([], Given(), only=False)[0]}
    assert len(draws(groups, arms["placebo_permuted"], 5, 0)) == 5
    assert len(draws(groups, arms["entropy_advantage"], 5, 0)) == 1
    assert len(draws(groups, arms["entropy_advantage"], 5, 0, placebo=True)) == 5


def test_every_method_has_a_score_or_a_reason() -> None:
    from forkwise.methods import all_methods

    arms, left = choose_arms([], Given(), only=False)
    assert sorted([arm.method.name for arm in arms] + [one.name for one in left]) == sorted(all_methods())
    assert arms[0].name == "grpo"
    assert not {"entropy_advantage", "forking_tokens", "rloo", "gtpo"} & {one.name for one in left}
    reasons = {one.name: one.reason for one in left}
    assert set(reasons) >= {"clip_higher", "kl_cov", "dcpo"}
    assert reasons["shear"] == "it needs last hidden states, which banks do not hold"


def test_specs_beside_the_defaults() -> None:
    assert short(parse_method("entropy_advantage:alpha=1,kappa=2")) == "entropy_advantage:alpha=1.0"
    names = [arm.name for arm in choose_arms(["entropy_advantage:alpha=1"], Given(), only=True)[0]]
    assert names == ["grpo", "entropy_advantage:alpha=1.0"]
    with pytest.raises(InputError, match="'kl_cov' cannot be scored: it acts only after"):
        choose_arms(["kl_cov"], Given(), only=False)
