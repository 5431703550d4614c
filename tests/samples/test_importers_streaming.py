"""Importing, verifying and measuring a large table needs no more memory than a small one."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from pathlib import Path

import pytest

# Prints the largest resident set in MiB and the number of rows.
CHILD = """
import process_memory, sys
from pathlib import Path
from forkwise.samples.importers import import_files
[report] = import_files([Path(sys.argv[1])], Path(sys.argv[2]))
[run] = report.runs.values()
print(process_memory.peak(), run.samples)
"""


# The same for a table: its words are counted, then its samples verified.
TABLE = """
import process_memory, sys
from pathlib import Path
from forkwise.samples.store import count_words
from forkwise.sampling.verify import Judge, verify
from forkwise.tasks import Verdict
judge = Judge(lambda texts, problems: [Verdict(True, None, "test") for _ in texts], gold_column="problem_id")
rows = len(count_words(Path(sys.argv[1])))
assert verify(Path(sys.argv[1]), judge, force=True).correct == rows
print(process_memory.peak(), rows)
"""


def write(path: Path, megabytes: int) -> int:
    """A file of lines of 4 kB, in this format's shape and with text that does not repeat; returns their number."""
    lines = megabytes * 250
    with gzip.open(path, "wt", compresslevel=1) if path.suffix == ".gz" else path.open("w") as file:
        for i in range(lines):
            text = " ".join(str(j * j + i) for j in range(560))[:3880]
            file.write(json.dumps({"problem_id": f"p{i % 100}", "completion": text, "correct": i % 3 == 0}) + "\n")
    return lines


def peak(script: str, *paths: Path) -> tuple[float, int]:
    output = subprocess.run([sys.executable, "-c", script, *paths], capture_output=True, text=True, check=True).stdout
    mebibytes, samples = output.split()
    return float(mebibytes), int(samples)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="it reads /proc")
@pytest.mark.parametrize("ending", [".jsonl", ".jsonl.gz"])
def test_memory_does_not_grow_with_the_file(tmp_path: Path, ending: str) -> None:
    small, large = tmp_path / f"small{ending}", tmp_path / f"large{ending}"
    n_small, n_large = write(small, 25), write(large, 125)
    peak_small, samples_small = peak(CHILD, small, tmp_path / "out-small")
    peak_large, samples_large = peak(CHILD, large, tmp_path / "out-large")
    assert (samples_small, samples_large) == (n_small, n_large)
    assert peak_large < peak_small + 40
    assert peak_large < 450
    # And from Parquet to Parquet, and in place.
    (table_small,), (table_large,) = (list((tmp_path / name).iterdir()) for name in ("out-small", "out-large"))
    for script, *name in ((CHILD, tmp_path / "again"), (TABLE,)):
        (peak_small, samples_small), (peak_large, samples_large) = (
            peak(script, table, *(folder.with_name(folder.name + table.stem) for folder in name))
            for table in (table_small, table_large)
        )
        assert (samples_small, samples_large) == (n_small, n_large)
        assert peak_large < peak_small + 40
