"""What `explore.json` holds fits together, or is refused when it is made and when it is read."""

from __future__ import annotations

from pathlib import Path

import pytest

from forkwise.errors import InputError
from forkwise.explore.findings import Histogram
from forkwise.folders.results import read_result


@pytest.mark.parametrize("counts", [[], [3], [3, 4, 5]])
def test_a_histogram_has_as_many_counts_as_bins(counts: list[int]) -> None:
    with pytest.raises(ValueError, match=f"a histogram has 3 edges for {len(counts)} counts"):
        Histogram([0.0, 0.5, 1.0], counts)


def test_a_file_whose_histogram_lacks_counts_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "explore.json"
    file.write_text('{"schema": 1, "edges": [0.0, 0.5, 1.0], "counts": [3, 4]}')
    assert read_result(file, Histogram, schema=1, command="forkwise explore").counts == [3, 4]
    file.write_text('{"schema": 1, "edges": [0.0, 0.5, 1.0], "counts": [3]}')
    with pytest.raises(InputError, match="is damaged .*a histogram has 3 edges for 1 counts.*: run forkwise explore"):
        read_result(file, Histogram, schema=1, command="forkwise explore")
