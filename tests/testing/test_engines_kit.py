"""The kit's numbers are those worked out by hand, and it notices an adapter that does not do its work."""

from __future__ import annotations

import os
import re
from functools import partial
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from forkwise.testing.engines import (
    Batch,
    Outcome,
    check_adapter,
    check_alpha_zero,
    check_metrics,
    check_skipped_step,
    expected_advantages,
    expected_metrics,
    expected_totals,
    made_batches,
)
from forkwise.testing.processes import in_processes

# alpha 0.4, kappa 2: psi = min(0.4 H, |A| / 2) is 0.2 (H binds), 0.5 (cap) | 0.75 (cap), 0.04; the last has mask 0.
A = [[1.0, 1.0], [-1.5, -1.5, 9.0]]
H = [[0.5, 2.0], [3.0, 0.1, 9.0]]
MASK = [[1, 1], [1, 1, 0]]
WANT = {
    "shaping/psi_over_adv": (0.2 + 0.5 + 0.75 / 1.5 + 0.04 / 1.5) / 4,
    "shaping/capped_frac": 2 / 4,
    "shaping/psi_pos": 0.35,
    "shaping/psi_neg": 0.395,
}


def test_expectations_are_those_by_hand() -> None:
    shaped = expected_advantages(A, H, MASK, alpha=0.4, kappa=2.0)
    assert shaped[0] == pytest.approx([1.2, 1.5])
    assert shaped[1] == pytest.approx([-0.75, -1.46, 9.0])
    assert expected_metrics(A, H, MASK, alpha=0.4, kappa=2.0) == pytest.approx(WANT)


def test_metrics() -> None:
    check_metrics({**WANT, "loss": 1.0}, A, H, MASK, alpha=0.4, kappa=2.0)
    with pytest.raises(AssertionError, match="psi_pos is logged as None; its definition gives 0.35"):
        check_metrics({k: v for k, v in WANT.items() if k != "shaping/psi_pos"}, A, H, MASK, alpha=0.4, kappa=2.0)
    with pytest.raises(AssertionError, match="capped_frac is logged as 0.51"):
        check_metrics({**WANT, "shaping/capped_frac": 0.51}, A, H, MASK, alpha=0.4, kappa=2.0)


def test_alpha_zero() -> None:
    update = torch.tensor([0.1, -0.2])
    check_alpha_zero(update, update.clone(), [{"loss": 1.0}])
    with pytest.raises(AssertionError, match="bit for bit"):
        check_alpha_zero(update, update * (1 + 1e-6), [])
    with pytest.raises(AssertionError, match="nothing is compared"):
        check_alpha_zero(0 * update, 0 * update, [])
    with pytest.raises(AssertionError, match="yet shaping/psi_pos is logged"):
        check_alpha_zero(update, update, [{"shaping/psi_pos": 0.0}])


def test_skipped_steps() -> None:
    def raising(message: str) -> None:
        raise RuntimeError(message)

    for message in ("Advantages were not entropy-shaped: x", "The methods 'erc' did not act: x"):
        assert check_skipped_step(lambda message=message: raising(message)) == message
    with pytest.raises(AssertionError, match="a silent no-op"):
        check_skipped_step(lambda: None)
    with pytest.raises(AssertionError, match="raises something else: out of memory"):
        check_skipped_step(lambda: raising("out of memory"))


def test_expected_totals_are_those_by_hand() -> None:
    totals = expected_totals(A, H, MASK, alpha=0.4, kappa=2.0)
    assert totals == pytest.approx([2, 2, 0.2 + 0.5, 0.75 + 0.04, 0.2 + 0.5 + 0.5 + 0.04 / 1.5, 2])


def psi(batch: Batch, alpha: float, kappa: float) -> list[list[float]]:
    rows = zip(batch.advantages, batch.entropy, strict=True)
    return [[min(alpha * h, abs(a) / kappa) for a, h in zip(*row, strict=True)] for row in rows]


NAMES = ("psi_pos", "psi_neg", "psi_over_adv", "capped_frac")


def summed(mine: list[float]) -> dict[str, float]:
    """What an engine logs that adds up six numbers over the processes of the group: the ratios of the sums."""
    totals = torch.tensor(mine)
    torch.distributed.all_reduce(totals)
    n_pos, n_neg, *numbers = totals.tolist()
    counts = (n_pos, n_neg, n_pos + n_neg, n_pos + n_neg)
    return {f"shaping/{name}": x / max(n, 1) for name, x, n in zip(NAMES, numbers, counts, strict=True)}


class TestAnAdapter:
    """An engine whose loss is minus the sum of A log p, with log p the parameters, and adapters of it."""

    @staticmethod
    def check(adapter: Any, bypassed: Any, **options: Any) -> list[str]:
        options = {"logged": TestAnAdapter.logged} | options
        return check_adapter(TestAnAdapter.engine, adapter, bypassed=bypassed, **options)

    @staticmethod
    def logged(batch: Batch, alpha: float, kappa: float) -> dict[str, float]:
        return summed(expected_totals(*batch.columns, alpha=alpha, kappa=kappa))

    @staticmethod
    def engine(batch: Batch, totals: list[float] | None = None) -> Outcome:
        assert all(number > 0 for prompt in batch.prompts for number in prompt)  # reads them, and does not use them
        rows = zip(batch.advantages, batch.mask, strict=True)
        flat = torch.tensor([a * m for row in rows for a, m in zip(*row, strict=True)])
        logp = torch.linspace(-2.0, -0.1, len(flat)).requires_grad_()
        loss = -(flat * logp).sum()
        loss.backward()
        return Outcome(loss.detach(), logp.grad, None if totals is None else torch.tensor(totals))

    def adapter(self, batch: Batch, alpha: float, kappa: float) -> Outcome:
        shaped = expected_advantages(*batch.columns, alpha=alpha, kappa=kappa)
        totals = expected_totals(*batch.columns, alpha=alpha, kappa=kappa) if alpha else [0.0] * 6
        return self.engine(batch._replace(advantages=shaped), totals)

    @staticmethod
    def bypassed() -> None:
        raise RuntimeError("Advantages were not entropy-shaped: x")

    def test_that_does_its_work_passes(self) -> None:
        assert self.check(self.adapter, self.bypassed) == [
            *("alpha 0", "loss and gradient", "tools and padding", "micro-batches", "prompts", "two processes"),
            "a skipped step",
        ]

    def test_that_does_nothing_fails(self) -> None:
        with pytest.raises(AssertionError, match="gradient is not the engine's|loss is not the engine's"):
            self.check(lambda batch, alpha, kappa: self.engine(batch), self.bypassed)

    def test_that_acts_at_alpha_zero_fails(self) -> None:
        with pytest.raises(AssertionError, match="With alpha = 0 loss and gradient are not"):
            self.check(lambda b, alpha, kappa: self.adapter(b, alpha + 1e-6, kappa), self.bypassed)

    def test_that_counts_tools_fails(self) -> None:
        def adapter(batch: Batch, alpha: float, kappa: float) -> Outcome:
            outcome = self.adapter(batch, alpha, kappa)
            return outcome._replace(totals=outcome.totals + bool(alpha) * sum(map(sum, psi(batch, alpha, kappa))))

        with pytest.raises(AssertionError, match="count: their entropies change the totals"):
            self.check(adapter, self.bypassed)
        for name, read in (("entropies", lambda b: b.entropy), ("advantages", lambda b: b.advantages)):
            with pytest.raises(AssertionError, match=f"count: their {name} change the loss"):
                self.check(
                    lambda b, alpha, kappa, read=read: (
                        loss._replace(loss=loss.loss + alpha * sum(map(sum, read(b))) * 1e-7)
                        if (loss := self.adapter(b, alpha, kappa)) and alpha
                        else self.engine(b)
                    ),
                    self.bypassed,
                )

    @pytest.mark.parametrize("mutant", ["zeros", "42 a row", "masked tokens count", "at alpha 0 too"])
    def test_whose_totals_are_not_the_definitions_fails(self, mutant: str) -> None:
        """Each adds up over micro-batches and does not depend on what stands outside the mask."""

        def adapter(batch: Batch, alpha: float, kappa: float) -> Outcome:
            outcome = self.adapter(batch, alpha, kappa)
            totals = {
                "zeros": [0.0] * 6,
                "42 a row": [42.0 * len(batch.mask) * bool(alpha)] * 6,
                "masked tokens count": [bool(alpha) * float(sum(len(row) for row in batch.mask)), *outcome.totals[1:]],
                "at alpha 0 too": expected_totals(*batch.columns, alpha=alpha, kappa=kappa),
            }[mutant]
            return outcome._replace(totals=torch.tensor(totals))

        message = "yet there are totals" if mutant == "at alpha 0 too" else "The totals are .*their definitions give"
        with pytest.raises(AssertionError, match=message):
            self.check(adapter, self.bypassed)

    def test_whose_totals_are_means_fails(self) -> None:
        def adapter(batch: Batch, alpha: float, kappa: float) -> Outcome:
            outcome = self.adapter(batch, alpha, kappa)
            return outcome._replace(totals=outcome.totals / max(len(batch.mask), 1))

        with pytest.raises(AssertionError, match="The totals are .*their definitions give"):
            self.check(adapter, self.bypassed)

        def keeps(batch: Batch, alpha: float, kappa: float) -> Outcome:
            """Right in the whole, and that of the whole in each half."""
            whole = max(made_batches(), key=lambda other: other.advantages[0][:4] == batch.advantages[0][:4])
            whole = batch if len(batch.mask) > 2 else whole
            totals = expected_totals(*whole.columns, alpha=alpha, kappa=kappa) if alpha else [0.0] * 6
            return self.adapter(batch, alpha, kappa)._replace(totals=torch.tensor(totals))

        adapter = keeps
        with pytest.raises(AssertionError, match="do not add up over micro-batches"):
            self.check(adapter, self.bypassed)

    def test_without_totals_fails(self) -> None:
        def adapter(batch: Batch, alpha: float, kappa: float) -> Outcome:
            return self.adapter(batch, alpha, kappa)._replace(totals=None)

        with pytest.raises(AssertionError, match="gives no totals"):
            self.check(adapter, self.bypassed)

    def test_that_is_skipped_in_silence_fails(self) -> None:
        with pytest.raises(AssertionError, match="a silent no-op"):
            self.check(self.adapter, lambda: None)

    @pytest.mark.parametrize("counts", ["loss", "gradient", "totals"])
    def test_in_which_prompts_count_fails(self, counts: str) -> None:
        """Right in all else: what prompts add is none where their numbers are those that the kit begins with."""
        usual = sum(map(sum, made_batches()[0].prompts))

        def adapter(batch: Batch, alpha: float, kappa: float) -> Outcome:
            outcome = self.adapter(batch, alpha, kappa)
            other = alpha * (sum(map(sum, batch.prompts)) - usual) if len(batch.mask) > 2 else 0.0
            return outcome._replace(**{counts: getattr(outcome, counts) + 1e-6 * other})

        with pytest.raises(AssertionError, match="Tokens of prompts count: .* change the (loss|totals)"):
            self.check(adapter, self.bypassed)

    def test_that_lays_out_no_prompts_says_why(self) -> None:
        def engine(batch: Batch) -> Outcome:
            return self.engine(batch._replace(prompts=()))

        def adapter(batch: Batch, alpha: float, kappa: float) -> Outcome:
            return self.adapter(batch._replace(prompts=()), alpha, kappa)

        with pytest.raises(AssertionError, match="does not lay out batch.prompts .* or say in without_prompts why"):
            check_adapter(engine, adapter, bypassed=self.bypassed, logged=self.logged)
        parts = check_adapter(
            engine, adapter, bypassed="a function", logged="one process", without_prompts="columns are of responses"
        )
        assert parts[4:] == [
            "not prompts: columns are of responses",
            "not two processes: one process",
            "not a skipped step: a function",
        ]

    @pytest.mark.parametrize(
        ("mutant", "message"),
        [
            ("its own", r"process 0 of two logs, with 2 of 4 rows on the first, .*: shaping/\w+ is logged as"),
            ("mean of ratios", r"process 0 of two logs, with 2 of 4 rows on the first, .*: shaping/\w+ is logged as"),
            ("where rows count", "Process [01] (did not end|failed)"),
            ("nothing", "Neither of two processes logs"),
            ("an error", "Process 1 failed:.*ZeroDivisionError"),
        ],
    )
    def test_whose_log_is_not_of_all_processes_fails(
        self, mutant: str, message: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The third adds up only where something was shaped, and the other process waits for it in vain."""
        if mutant == "where rows count":
            monkeypatch.setattr("forkwise.testing.engines.in_processes", partial(in_processes, timeout=5))

        def logged(batch: Batch, alpha: float, kappa: float) -> Any:
            own = expected_metrics(*batch.columns, alpha=alpha, kappa=kappa)
            if mutant == "its own":
                return own
            if mutant == "mean of ratios":
                values = torch.tensor(list(own.values()))
                torch.distributed.all_reduce(values)
                return dict(zip(own, (values / 2).tolist(), strict=True))
            if mutant == "where rows count":
                return self.logged(batch, alpha, kappa) if any(map(any, batch.mask)) else None
            return None if mutant == "nothing" else 1 / (1 - int(os.environ["RANK"])) and None

        with pytest.raises(AssertionError, match=re.compile(message, re.DOTALL)):
            self.check(self.adapter, self.bypassed, logged=logged)

    def test_may_log_in_one_process_alone(self) -> None:
        def logged(batch: Batch, alpha: float, kappa: float) -> Any:
            metrics = self.logged(batch, alpha, kappa)
            return metrics if torch.distributed.get_rank() == 0 else None

        assert "two processes" in self.check(self.adapter, self.bypassed, logged=logged)
