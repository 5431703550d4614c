"""Options that change in the course of a run, and what methods remember from one rollout to the next."""

from __future__ import annotations

import math

import pytest

torch = pytest.importorskip("torch")

from batches import tokens

from forkwise.engines.states import MethodStates
from forkwise.errors import InputError
from forkwise.methods import Need, TokenMethod, parse_method
from forkwise.methods.entropy_advantage import EntropyAdvantage


class TestSchedules:
    @pytest.mark.parametrize(
        ("text", "values"),
        [
            ("0.4->0.1@linear", (0.4, 0.325, 0.25, 0.1)),
            ("0.4->0.1", (0.4, 0.325, 0.25, 0.1)),
            ("0.4->0.1@exponential", (0.4, 0.4 * 0.25**0.25, 0.2, 0.1)),
            ("0.4->0.1@cosine", (0.4, 0.4 - 0.15 * (1 - math.sqrt(0.5)), 0.25, 0.1)),
            ("1e-3->5e-1@linear", (0.001, 0.12575, 0.2505, 0.5)),
        ],
    )
    def test_shapes(self, text: str, values: tuple[float, ...]) -> None:
        method = parse_method(f"entropy_advantage:alpha={text}")
        options = [method.at(progress, {}) for progress in (0.0, 0.25, 0.5, 1.0)]
        assert [now.alpha for now in options if isinstance(now, EntropyAdvantage)] == pytest.approx(values)
        assert not any(now.plans for now in options)
        assert parse_method(f"entropy_advantage:alpha={text}", {"alpha": 0.1, "kappa": 2.0}) == method
        assert parse_method(str(method)) == method

    def test_it_acts_with_the_value_of_the_moment(self) -> None:
        method = parse_method("entropy_advantage:alpha=0.4->0.1@linear,kappa=2->4@linear").at(0.5, {})
        assert isinstance(method, TokenMethod)
        # alpha .25, kappa 3: H = .4 and 9 at |A| = 1.
        made = method.advantages(tokens([[1.0, -1.0]], entropy=[[0.4, 9.0]]))
        assert made.tolist() == [[pytest.approx(1.1), pytest.approx(-2 / 3)]]

    def test_what_it_needs_of_the_engine(self) -> None:
        """So that an engine without progress or states refuses it, and does not keep the first value in silence."""
        for spec, extra in (
            ("entropy_advantage:alpha=0.4->0.1", {Need.PROGRESS}),
            ("entropy_advantage:alpha=0.4@target:1,entropy=old", {Need.STATES}),
            ("opefo:weight=paper", set()),
            ("repo_r:zeta=0.001->0.01", {Need.PROGRESS}),
            ("rloo", set()),
        ):
            method = parse_method(spec)
            assert method.needs() & {Need.PROGRESS, Need.STATES} == extra, spec
            assert not method.at(0.5, {}).needs() & {Need.PROGRESS, Need.STATES}

    def test_a_plain_method_is_itself(self) -> None:
        method = parse_method("entropy_advantage:alpha=0.4")
        assert method.at(0.7, {}) is method

    @pytest.mark.parametrize(
        ("spec", "message"),
        [
            (
                "entropy_advantage:alpha=0.4->0@linear",
                "alpha of the method 'entropy_advantage' must be a",
            ),
            ("entropy_advantage:kappa=2->0.5@linear", "kappa of the method 'entropy_advantage' must be"),
            ("eapo:alpha=0.2->3", "must be below phi"),
            # Both ends are fine; half-way alpha is 1.05 and phi .387.
            ("eapo:alpha=0.1->2@linear,phi=0.15->2.5@exponential", "must be below phi, .* got 0.1"),
            # alpha may come to .8 while phi comes to .5.
            ("eapo:alpha=0.2@target:0.3,phi=2@target:0.3", "must be below phi, .* got 0.8 and 0.5"),
            ("clip_cov:low=1->50@linear,high=1.1->100@exponential", "must be below high"),
            ("eapo:alpha=0.2->0.3@wobbly", "must be a number, FROM->TO@SHAPE with the shape linear, cosine"),
            ("eapo:alpha=0.2->", "must be a number, FROM->TO@SHAPE"),
            ("eapo:alpha=0.2@target:low", "must be a number, FROM->TO@SHAPE"),
            ("eapo:alpha=0.2->0.3@target:0.3", "must be a number, FROM->TO@SHAPE"),
            ("repo_r:zeta=-0.01->0.01@exponential", "must be above 0 to change as in"),
            ("repo_r:zeta=0.001@target:0.3,target=0.3", "is steered by its target already"),
            ("clip_higher:high=0.2->0.3", "cannot change in the course of a run: the trainer reads it once"),
            ("passk_training:k=4->8", "cannot change in the course of a run: only fractional numbers can"),
        ],
    )
    def test_refused(self, spec: str, message: str) -> None:
        with pytest.raises(InputError, match=message):
            parse_method(spec)


class TestStates:
    """Two rollouts: entropies .1 .3 (and one that is masked) of two tokens, then none."""

    @staticmethod
    def run(spec: str, entropies: list[list[float]]) -> tuple[MethodStates, list[dict[str, float]]]:
        method, states, used = parse_method(spec), MethodStates(), []
        states.advance([method], 0.0, lambda total: total)
        for batch in entropies:
            h = torch.tensor([[*batch, 99.0]])
            states.watch(h, h < 50)
            states.advance([method], 0.1, lambda total: total)
            used.append(dict(states.states[method.name]))
        return states, used

    def test_an_option_is_steered_towards_the_target(self) -> None:
        # Mean .2 of .5: a tenth more; .52: .5 / .52 of that.
        states, used = self.run("eapo:alpha=0.2@target:0.5", [[0.1, 0.3], [0.52, 0.52]])
        assert [state["alpha"] for state in used] == pytest.approx([0.22, 0.22 * 0.5 / 0.52])
        method = parse_method("eapo:alpha=0.2@target:0.5")
        logged = {"method/eapo/alpha": pytest.approx(0.22 * 0.5 / 0.52)}
        assert states.metrics([method], []) == states.metrics([method], [method.at(0, states.states)]) == logged

    def test_and_stays_within_four_times_of_where_it_began(self) -> None:
        _, used = self.run("eapo:alpha=0.2@target:9", [[0.1]] * 20)
        assert used[-1]["alpha"] == pytest.approx(0.8)
        _, used = self.run("eapo:alpha=0.2@target:0.001", [[0.1]] * 20)
        assert used[-1]["alpha"] == pytest.approx(0.05)

    def test_a_rollout_without_updates_changes_nothing(self) -> None:
        method, states = parse_method("repo_r:target=0.3"), MethodStates()
        for _ in range(3):
            states.advance([method], 0.0, lambda total: total)
        assert states.states == {"repo_r": {"zeta": 0.001}}

    def test_the_entropies_of_all_processes_count(self) -> None:
        method, states = parse_method("repo_r:target=0.3"), MethodStates()
        states.advance([method], 0.0, lambda total: total)
        states.watch(torch.tensor([[0.1]]), torch.tensor([[True]]))
        # Another process saw .9 at one token: together .5, too much.
        states.advance([method], 0.0, lambda total: total + torch.tensor([0.9, 1.0]))
        assert states.states == {"repo_r": {"zeta": pytest.approx(0.0005)}}

    def test_snapshot_and_restore_go_on_bit_for_bit(self) -> None:
        spec = "repo_r:target=0.3"
        states, _ = self.run(spec, [[0.1, 0.3]])
        states.watch(torch.tensor([[0.7]]), torch.tensor([[True]]))
        again = MethodStates()
        again.restore(states.snapshot())
        for each in (states, again):
            each.advance([parse_method(spec)], 0.2, lambda total: total)
        assert again.states == states.states == {"repo_r": {"zeta": 0.001}}

    def test_methods_without_a_state_cost_nothing(self) -> None:
        states = MethodStates()
        states.advance([parse_method("eapo")], 0.0, lambda total: pytest.fail("nothing to sum"))
        states.watch(torch.ones(1, 1), torch.ones(1, 1).bool())
        assert states.snapshot() == {"states": {}, "memories": {}, "seen": None, "outside": {}}
