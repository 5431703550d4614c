"""The tables of docs/statistics.md in small: claims at a nominal 5 % are as rare as said, and true ones are found."""

from __future__ import annotations

import calibration
import numpy as np
import pytest

SETS = 300
ALLOWED = 0.05 + 3 * np.sqrt(0.05 * 0.95 / SETS)


@pytest.mark.slow
def test_claims_are_false_no_more_often_than_said() -> None:
    fair = [c for c in calibration.FALSE_CLAIMS if not any(part in c.name for part in calibration.TOO_MANY)]
    shares = calibration.simulate("False claims", fair, SETS)
    assert {name: row.max() for name, row in shares.items() if row.max() > ALLOWED} == {}


@pytest.mark.slow
def test_what_raises_the_power() -> None:
    wanted = ["10 v 10", "20 v 20", "10 v 10, seeds share .5, not paired", "10 v 10, seeds share .5, paired"]
    cells = [cell for cell in calibration.POWER if cell.name in wanted]
    ten, twenty, apart, paired = calibration.simulate("Power", cells, 150, find=True).values()
    anywhere = calibration.HEADER.index("any K")
    assert twenty[0] > ten[0] + 0.1  # more runs
    assert ten[0] > ten[anywhere]  # one K named beforehand
    assert paired[1] > apart[1] + 0.1  # pairing what is shared


def test_the_benchmark_runs(capsys: pytest.CaptureFixture[str]) -> None:
    (row,) = calibration.simulate("False claims", [calibration.Cell("3 v 3", 3, 3)], 3).values()
    assert row.shape == (len(calibration.HEADER),)
    assert "| 3 v 3 |" in capsys.readouterr().out
    assert calibration.truth(calibration.Cell("1 v 1", 0, 0)).tolist() == [0.0] * len(calibration.KS)


def test_topics_without_their_clusters_claim_too_much() -> None:
    untold = next(cell for cell in calibration.FALSE_CLAIMS if not cell.told)
    (row,) = calibration.simulate("False claims", [untold], 60).values()
    assert row[0] > ALLOWED
