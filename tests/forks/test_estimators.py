"""A policy small enough to enumerate: what the estimators say on the average, and the budget's identity, are exact."""

from __future__ import annotations

import itertools
from types import SimpleNamespace

import numpy as np
import pytest

from forkwise.forks import estimators
from forkwise.forks.branches import first_tokens
from forkwise.forks.cost import _half_width
from forkwise.forks.estimators import (
    Branches,
    advantages,
    budget,
    permuted_decided,
    state_value,
    variance_of_outcome,
    weighted_mean,
)
from forkwise.forks.states import draw, halves, parts, strata

LENGTH, TOKENS = 3, 3


class Tabular:
    """A policy over three tokens and three steps with a table of probabilities, and a verdict for each text."""

    def __init__(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        prefixes = [p for t in range(LENGTH) for p in itertools.product(range(TOKENS), repeat=t)]
        self.next = {prefix: rng.dirichlet([0.5] * TOKENS) for prefix in prefixes}
        self.right = {text: float(rng.random() < 0.4) for text in itertools.product(range(TOKENS), repeat=LENGTH)}

    def value(self, prefix: tuple[int, ...]) -> float:
        if len(prefix) == LENGTH:
            return self.right[prefix]
        return float(sum(p * self.value((*prefix, a)) for a, p in enumerate(self.next[prefix])))

    def decided(self, prefix: tuple[int, ...]) -> float:
        after = np.array([self.value((*prefix, a)) for a in range(TOKENS)])
        return float(self.next[prefix] @ after**2 - self.value(prefix) ** 2)

    def chance(self, prefix: tuple[int, ...]) -> float:
        return float(np.prod([self.next[prefix[:t]][a] for t, a in enumerate(prefix)]))

    def text(self, rng: np.random.Generator, prefix: tuple[int, ...] = ()) -> tuple[int, ...]:
        while len(prefix) < LENGTH:
            prefix = (*prefix, int(rng.choice(TOKENS, p=self.next[prefix])))
        return prefix

    def roll(self, rng: np.random.Generator, prefix: tuple[int, ...]) -> float:
        return self.right[self.text(rng, prefix)]

    def pairs(self, rng: np.random.Generator, prefix: tuple[int, ...], first: int) -> np.ndarray:
        tokens = rng.choice(TOKENS, p=self.next[prefix], size=first)
        return np.array([[self.roll(rng, (*prefix, int(a)))] for a in tokens for _ in range(2)])


def test_what_tokens_decide_adds_up_to_what_there_is() -> None:
    for seed in range(5):
        policy = Tabular(seed)
        total = sum(policy.chance(prefix) * policy.decided(prefix) for prefix in policy.next)
        assert total == pytest.approx(policy.value(()) * (1 - policy.value(())))


@pytest.mark.parametrize("prefix", [(), (0,), (2, 1)])
@pytest.mark.parametrize("forced", [0, 1, 2, 3])
def test_estimates_have_no_bias_by_enumeration(prefix: tuple[int, ...], forced: int) -> None:
    # The tokens 0 .. forced - 1 are forced, the tail is two drawn tokens; two continuations after each. All outcomes of
    # all draws, with their probabilities.
    policy = Tabular(3)
    after = [policy.value((*prefix, a)) for a in range(TOKENS)]
    chance = policy.next[prefix]
    drawn = 2 if forced < TOKENS else 0
    mass = chance[forced:].sum()
    branches = Branches(
        np.array([*chance[:forced], *[mass / 2] * drawn]),
        np.array([True] * forced + [False] * drawn),
        np.full(forced + drawn, 2),
    )
    totals = np.zeros(3)
    worth = np.zeros(forced + drawn)
    for tail in itertools.product(range(forced, TOKENS), repeat=drawn):
        tokens = (*range(forced), *tail)
        for outcomes in itertools.product((0.0, 1.0), repeat=2 * len(tokens)):
            p = np.prod([chance[a] / mass for a in tail])
            for a, pair in zip(tokens, np.array(outcomes).reshape(-1, 2), strict=True):
                p *= np.prod([after[a] if y else 1 - after[a] for y in pair])
            value = state_value(branches, np.array(outcomes)[:, None])
            totals += p * np.array([value.value_C[0], value.decided, value.open])
            worth += p * advantages(branches, np.array(outcomes))[0]
    v = policy.value(prefix)
    assert totals == pytest.approx([v, policy.decided(prefix), v * (1 - v)])
    assert worth[:forced] == pytest.approx(np.array(after[:forced]) - v)


def test_pairs_by_hand() -> None:
    # Means 1, .5, 0: products of different rows (1 * .5 + 1 * 0 + .5 * 0) / 3; of one row 1, 0, 0.
    value = state_value(Branches.drawn(3), np.array([[1, 1, 1, 0, 0, 0]]).T)
    assert (value.value_C[0], value.decided, value.open) == pytest.approx((0.5, 1 / 3 - 1 / 6, 0.5 - 1 / 6))
    with pytest.raises(ValueError, match="two continuations"):
        Branches.drawn(1)


def test_forced_tokens_by_hand() -> None:
    # Token a with .75: outcomes 1 1 0, so Q = 2/3 and Q^2 is (3 choose 2 products: 1, 0, 0) 1/3; b with .25: 0 0.
    # V = .5; V^2 = .75^2 / 3 + 2 * .75 * .25 * (2/3 * 0) + 0 = .1875; E Q^2 = .75 / 3 = .25.
    branches = Branches(np.array([0.75, 0.25]), np.array([True, True]), np.array([3, 2]))
    value = state_value(branches, np.array([[1.0], [1], [0], [0], [0]]))
    assert (value.value_C[0], value.decided, value.open) == pytest.approx((0.5, 0.0625, 0.5 - 0.1875))
    # A of a is 2/3 - 1/2; its error has (1 - .75)^2 times the variance of the mean of 1 1 0, which is 1/3 / 3.
    worth, variance = advantages(branches, np.array([1.0, 1, 0, 0, 0]))
    assert (worth[0], worth[1]) == pytest.approx((1 / 6, -1 / 2))
    assert variance == pytest.approx([0.0625 / 9, 0.75**2 / 9])


def test_answers_count_by_their_identity() -> None:
    # With two answers that share all of the mass, every estimate is twice that of one of them.
    right = np.array([1.0, 1, 1, 0, 0, 0])
    one, both = (state_value(Branches.drawn(3), y) for y in (right[:, None], np.stack([right, 1 - right], axis=1)))
    assert (both.decided, both.open) == pytest.approx((2 * one.decided, 2 * one.open))
    assert variance_of_outcome([2, 3, 0], 5) == pytest.approx(1 - (2 * 1 + 3 * 2) / 20)


def test_the_error_of_an_advantage_is_that_over_draws() -> None:
    policy, rng = Tabular(1), np.random.default_rng(0)
    chance = policy.next[()]
    truth = policy.value((1,)) - policy.value(())
    tail = np.where(np.arange(TOKENS) == 1, 0, chance) / (1 - chance[1])
    branches = Branches(np.array([chance[1], *[(1 - chance[1]) / 4] * 4]), np.arange(5) < 1, np.array([6, 2, 2, 2, 2]))
    estimates = []
    for _ in range(800):
        tokens = [1, *rng.choice(TOKENS, p=tail, size=4)]
        outcome = [policy.roll(rng, (int(a),)) for a, n in zip(tokens, branches.size_G, strict=True) for _ in range(n)]
        worth, variance = advantages(branches, np.array(outcome))
        estimates.append((worth[0], variance[0]))
    worth_R, variance_R = np.array(estimates).T
    assert worth_R.mean() == pytest.approx(truth, abs=4 * worth_R.std() / np.sqrt(800))
    assert variance_R.mean() == pytest.approx(worth_R.var(), rel=0.2)


def test_first_tokens_hold_all_of_the_mass_and_all_continuations() -> None:
    rng = np.random.default_rng(0)
    for seed in range(200):
        probs = np.random.default_rng(seed).dirichlet([10.0 ** (seed % 5 - 3)] * 50)
        token, continuations = int(rng.choice(50, p=probs)), int(rng.integers(8, 40))
        first = first_tokens(probs, token, continuations, rng)
        size, forced = first.branches.size_G, first.branches.forced_G
        assert len(first.rows) == size.sum() == continuations
        assert first.tokens[0] == token
        assert forced[0]
        assert (size[~forced] == 2).all()
        of_forced = [t for t, f in zip(first.tokens, forced, strict=True) if f]
        assert len(set(of_forced)) == len(of_forced)
        assert first.branches.weight_G[forced] == pytest.approx(probs[of_forced])
        assert not set(of_forced) & {t for t, f in zip(first.tokens, forced, strict=True) if not f}
        assert all(probs[t] > 0 for t in first.tokens)
        assert first.probabilities == pytest.approx(probs[first.tokens])


def test_likely_tokens_are_forced_and_get_more_continuations() -> None:
    probs = np.array([0.5, 0.3, 0.19, 0.009, 0.001])
    first = first_tokens(probs, 3, 24, np.random.default_rng(0))
    assert first.tokens[:4] == [3, 0, 1, 2]
    assert set(first.tokens[4:]) == {4}
    assert first.branches.size_G[:4].tolist() == [2, 7, 6, 5]  # (p (1 - p))^(2/3): .04, .40, .35, .29; 4 in the tail
    alone = first_tokens(np.array([0.0, 1.0]), 1, 8, np.random.default_rng(0))
    assert (alone.tokens, alone.branches.size_G.tolist()) == ([1], [8])


def test_grouping_by_the_first_token_weighs_tokens_equally_which_is_wrong() -> None:
    # Two ways with .9 and .1, right with .7 and .3 behind them: F = .9 * .1 * .4^2 = .0144. An analysis of variance of
    # the groups estimates the variance of .7 and .3 with equal weights, .08.
    rng = np.random.default_rng(0)
    chance, after = np.array([0.9, 0.1]), np.array([0.7, 0.3])
    forced, grouped = [], []
    for _ in range(3000):
        first = first_tokens(chance, 0, 32, rng)
        forced.append(state_value(first.branches, rng.random((32, 1)) < after[first.rows][:, None]).decided)
        token = (rng.random(32) < 0.1).astype(int)
        size = np.bincount(token, minlength=2)
        if size.min() < 2:
            continue
        y = rng.random(32) < after[token]
        within = sum(y[token == a].var(ddof=1) * (size[a] - 1) for a in (0, 1)) / 30
        between = (size * (np.array([y[token == a].mean() for a in (0, 1)]) - y.mean()) ** 2).sum()
        grouped.append((between - within) / (32 - (size**2).sum() / 32))
    assert np.mean(forced) == pytest.approx(0.0144, abs=4 * np.std(forced) / np.sqrt(3000))
    assert np.mean(grouped) == pytest.approx(0.08, rel=0.1)


def test_forcing_tokens_costs_less_than_drawing_them() -> None:
    # Three ways, none of which decides anything: the error of F at 16 continuations, drawn in pairs and forced.
    rng = np.random.default_rng(0)
    probs = np.array([0.6, 0.3, 0.1])
    y = (rng.random((2000, 16, 1)) < 0.4).astype(float)
    forced = np.std([state_value(first_tokens(probs, 0, 16, rng).branches, outcome).decided for outcome in y])
    drawn = np.std([state_value(Branches.drawn(8), outcome).decided for outcome in y])
    assert forced < 0.5 * drawn


@pytest.mark.parametrize("probs", [[0.8, 0.15, 0.05], [0.25, 0.25, 0.25, 0.25]])
def test_dealing_outcomes_anew_is_exact_where_nothing_is_decided(probs: list[float]) -> None:
    rng = np.random.default_rng(0)
    small = 0
    for _ in range(300):
        branches = first_tokens(np.array(probs), 0, 16, rng).branches
        outcome = (rng.random((16, 1)) < 0.4).astype(float)  # whatever the first token
        null = permuted_decided(branches, outcome, 199, rng)
        small += (1 + (null >= state_value(branches, outcome).decided - 1e-12).sum()) / 200 <= 0.05
    assert small <= 27  # at most 15 expected, a discrete test; more than 27 in one of 500 runs
    decided = np.repeat(rng.random(16) < 0.5, 2)[:, None]  # the first token decides all
    pairs = Branches.drawn(16)
    assert (permuted_decided(pairs, decided, 200, rng) < state_value(pairs, decided).decided).mean() > 0.95


def test_what_a_token_can_decide_at_most() -> None:
    # Two ways of .01 and .99 have .056 nats, and decide .0099 if one is always right and the other never.
    entropy = -0.01 * np.log(0.01) - 0.99 * np.log(0.99)
    most = estimators.most_decided(np.array([0.0, entropy, np.log(2), 2.0]))
    assert most == pytest.approx([0, 0.0099, 0.25, 0.25], rel=1e-3)
    rng = np.random.default_rng(0)
    for _ in range(300):
        probs, worth = rng.dirichlet([0.05] * 5), rng.random(5) < 0.5
        decided = probs @ worth - (probs @ worth) ** 2
        entropy = np.array([-(probs * np.log(probs + 1e-300)).sum()])
        assert decided <= estimators.most_decided(entropy)[0] + 1e-12
        # Where every token leads to an answer of its own, all of the choice is decided.
        assert 1 - probs @ probs <= estimators.most_decided(entropy, by_answer=True)[0] + 1e-12


def test_outcomes_are_dealt_anew_in_pieces_where_they_are_many(monkeypatch: pytest.MonkeyPatch) -> None:
    branches = first_tokens(np.array([0.5, 0.3, 0.2]), 0, 16, np.random.default_rng(0)).branches
    outcome = np.eye(16)  # every continuation ends in an answer of its own
    whole = permuted_decided(branches, outcome, 50, np.random.default_rng(1))
    seen: list[int] = []
    moments = estimators._moments
    monkeypatch.setattr(estimators, "_ENTRIES", 7 * outcome.size)
    monkeypatch.setattr(estimators, "_moments", lambda b, o: (seen.append(len(o)), moments(b, o))[1])
    assert permuted_decided(branches, outcome, 50, np.random.default_rng(1)).tolist() == whole.tolist()
    assert seen == [7] * 7 + [1]


def test_the_variance_of_the_outcome_has_no_bias() -> None:
    from scipy import stats

    n, v = 5, 0.3
    expected = sum(stats.binom.pmf(c, n, v) * variance_of_outcome([c], n) for c in range(n + 1))
    assert expected == pytest.approx(v * (1 - v))


@pytest.mark.parametrize("parted", [False, True])
def test_the_budget_holds_for_the_whole_design(parted: bool) -> None:
    # Many problems, each a policy of its own with samples of which every second one chooses it; states by strata of
    # entropy, weighted by their chance; likely tokens forced, that of the sample among them.
    missed = found_missing = 0
    apart, sums, forecast = [], [], []
    for seed in range(25):
        rng = np.random.default_rng(seed)
        policies = [Tabular(100 * seed + q) for q in range(30)]
        texts = [(q, policies[q].text(rng)) for q in range(30) for _ in range(12)]
        right = [bool(policies[q].right[text]) for q, text in texts]
        chosen, used = halves([str(q) for q, _ in texts], right)
        place = {int(problem): i for i, problem in enumerate(chosen)}
        frame = [(place[q], policies[q], text, t) for q, text in (texts[i] for i in used) for t in range(LENGTH)]
        next_token = [policy.next[text[:t]] for _, policy, text, t in frame]
        entropy = np.array([-(p * np.log(p + 1e-300)).sum() for p in next_token])
        problem = np.array([q for q, *_ in frame])
        stratum, _ = strata(entropy, np.zeros(entropy.size, dtype=np.int64))
        verdicts = [right[i] for i in used for _ in range(LENGTH)]
        part = parts(np.array([t for *_, t in frame]), np.full(len(frame), LENGTH), verdicts)
        drawn = draw(stratum, entropy, problem, 150, seed, part if parted else None)
        assert (len(drawn.strata) > 10) == parted
        decided = np.zeros(len(chosen))
        for i, chance in zip(drawn.index, drawn.chance, strict=True):
            q, policy, text, t = frame[i]
            first = first_tokens(next_token[i], text[t], 16, rng)
            outcome = np.array([[policy.roll(rng, (*text[:t], a))] for a in first.rows])
            decided[q] += state_value(first.branches, outcome).decided / chance / 6
        solved = np.bincount([place[texts[i][0]] for i in used], weights=[right[i] for i in used])
        available = np.array([variance_of_outcome([int(c)], 6) for c in solved])
        balance = budget(decided, available)
        missed += not balance.agrees
        found_missing += not budget(2 * decided, available).agrees
        apart.append(balance.difference.value)
        sums.append(balance.decided.value)
        table = SimpleNamespace(units=SimpleNamespace(value_N=entropy, problem_N=problem))
        whole = SimpleNamespace(table=table, per_trace_N=np.full(entropy.size, 1 / 6))
        pool = SimpleNamespace(problems=chosen, available_Q=available)
        forecast.append(_half_width(whole, pool, drawn, 16, 0.95))  # type: ignore[arg-type]
    # The cost line says beforehand how well the sum will be known, twice its error: here, where all tokens decide much
    # alike, it is too careful, by less than twice.
    assert 1 < np.mean(forecast) / (2 * np.std(sums)) < 2
    assert missed <= 4
    assert found_missing >= 12  # twice as much is noticed
    assert abs(np.mean(apart)) < 3.5 * np.std(apart) / 5


def test_draws_are_without_replacement_and_their_chances_add_up() -> None:
    rng = np.random.default_rng(0)
    entropy = rng.exponential(size=1000)
    stratum, threshold = strata(entropy, (rng.random(1000) < 0.03).astype(np.int64))
    problem = np.sort(rng.integers(0, 10, 1000))
    drawn = draw(stratum, entropy, problem, 120, seed=1)
    assert drawn.index.size == np.unique(drawn.index).size == 120
    assert (1 / drawn.chance).sum() == pytest.approx(1000)
    for kind in np.unique(stratum):
        members = stratum[drawn.index] == kind
        assert drawn.chance[members] == pytest.approx(members.sum() / (stratum == kind).sum())
        # Each problem gets its share of the stratum, give or take less than two.
        due = np.bincount(problem[stratum == kind], minlength=10) * members.sum() / (stratum == kind).sum()
        assert (np.abs(np.bincount(problem[drawn.index[members]], minlength=10) - due) < 2).all()
    assert np.array_equal(drawn.index, draw(stratum, entropy, problem, 120, seed=1).index)
    assert threshold > 0
    assert draw(stratum, entropy, problem, 5000, seed=1).chance.min() == 1.0  # no more than there are


def test_states_go_where_there_is_entropy() -> None:
    # Sizes 1600, 200, 50 and entropies 0, .5, 2: of 60 states 3 are of low entropy; the others as .5 sqrt 200 to
    # 2 sqrt 50, which is 1 to 2. Of 100, the last stratum is taken whole, and the second gets what is left.
    entropy = np.repeat([0.0, 0.5, 2.0], [1600, 200, 50])
    stratum, problem = np.repeat([0, 2, 4], [1600, 200, 50]), np.zeros(1850, dtype=np.int64)
    for states, expected in ((60, [3, 19, 38]), (100, [7, 43, 50])):
        drawn = draw(stratum, entropy, problem, states, seed=0)
        counts = [int((entropy[drawn.index] == h).sum()) for h in (0.0, 0.5, 2.0)]
        assert counts == pytest.approx(expected, abs=1)


def test_means_are_of_all_tokens_not_of_those_drawn() -> None:
    rng = np.random.default_rng(0)
    x = np.where(np.arange(2000) < 200, 5.0, 1.0)
    stratum = np.where(np.arange(2000) < 200, 4, 2)
    entropy = np.where(np.arange(2000) < 200, 1.0, 0.2)
    problem = rng.integers(0, 10, 2000)
    drawn = draw(stratum, entropy, problem, 200, seed=0)
    everything = np.ones(200, dtype=np.bool_)
    mean = weighted_mean(x[drawn.index], everything, 1 / drawn.chance, problem[drawn.index], (0.0, 6.0))
    assert x[drawn.index].mean() > 2.5
    assert mean.value == pytest.approx(1.4)
    assert mean.low < 1.4 < mean.high


def test_the_samples_that_choose_a_problem_are_not_used() -> None:
    problems = ["a"] * 6 + ["b"] * 6 + ["c"] * 3
    right = [True, False, False, False, False, True] + [False, True] * 3 + [True, False, False]
    chosen, used = halves(problems, right)
    # Of "a" samples 0, 2, 4 choose it, one right; those of "b" are all wrong; "c" has one sample left.
    assert chosen == ["a"]
    assert used == [1, 3, 5]


def test_strata_are_parted_by_place_and_verdict_where_states_suffice() -> None:
    # A hundred samples of 30 tokens, every fourth right; all tokens alike: one stratum, six parts of sizes 250 (right)
    # and 750 (wrong). Parts get states as the roots of their sizes: of 120, 14.6 and 25.4 each; two each take 12, so
    # that of 11 only thirds are told apart, and of 5 nothing.
    position, trace = np.tile(np.arange(30), 100), np.repeat(np.arange(100), 30)
    part = parts(position, np.full(3000, 30), [bool(t % 4 == 0) for t in trace])
    assert part[:30].tolist() == [1] * 10 + [4] * 10 + [7] * 10  # sample 0 is right: early, middle, late
    assert part[30:60].tolist() == [0] * 10 + [3] * 10 + [6] * 10
    stratum, entropy, problem = np.full(3000, 4), np.ones(3000), trace // 10
    drawn = draw(stratum, entropy, problem, 120, 0, part)
    assert {s.name: (s.tokens, s.states) for s in drawn.strata} == {
        f"high, not marked, {place}, {verdict}": (size, states)
        for place in ("early", "middle", "late")
        for verdict, size, states in (("wrong", 750, 25), ("right", 250, 15))
    }
    assert (1 / drawn.chance).sum() == pytest.approx(3000)
    right = trace[drawn.index] % 4 == 0
    assert drawn.chance[right] == pytest.approx(15 / 250)
    assert [s.name for s in draw(stratum, entropy, problem, 11, 0, part).strata] == [
        f"high, not marked, {place}" for place in ("early", "middle", "late")
    ]
    assert [s.name for s in draw(stratum, entropy, problem, 5, 0, part).strata] == ["high, not marked"]


def test_sums_over_parted_strata_have_no_bias() -> None:
    rng = np.random.default_rng(0)
    position = np.tile(np.arange(30), 30)
    entropy = rng.exponential(0.5, 900) * (position + 1) / 15  # rises, so that late parts get more states
    decided = entropy * (position + 1.0)
    problem = np.repeat(np.arange(10), 90)
    part = parts(position, np.full(900, 30), [bool(i // 30 % 2) for i in range(900)])
    stratum, _ = strata(entropy, (rng.random(900) < 0.1).astype(np.int64))
    sums = []
    for seed in range(300):
        drawn = draw(stratum, entropy, problem, 240, seed, part)
        assert drawn.index.size == 240
        sums.append((decided[drawn.index] / drawn.chance).sum())
    assert np.mean(sums) == pytest.approx(decided.sum(), abs=4 * np.std(sums) / np.sqrt(300))
