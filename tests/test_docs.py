"""What the docs say is what the program does: the README's snippet trains, and every metric is in the table."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
METRICS = (ROOT / "docs" / "metrics.md").read_text()
CLAIM = "methods meant to keep them exploring, and measure whether they do"


def test_the_snippet_of_the_readme_trains_as_pasted(tmp_path: Path) -> None:
    pytest.importorskip("trl")
    [snippet] = re.findall(r"^```python\n(.*?)^```$", (ROOT / "README.md").read_text(), re.DOTALL | re.MULTILINE)
    (tmp_path / "pasted.py").write_text(snippet)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "pasted.py"], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    logged = json.loads((tmp_path / "out" / "checkpoint-5" / "trainer_state.json").read_text())["log_history"]
    assert [row["step"] for row in logged if row.get("shaping/psi_over_adv", 0) > 0] == [1, 2, 3, 4, 5]


def in_the_table(name: str) -> bool:
    """Whether a metric is named in full."""
    return f"`{name}`" in METRICS


def test_every_metric_of_a_rollout_and_an_update_is_in_the_table() -> None:
    torch = pytest.importorskip("torch")
    from forkwise.core import shape_and_measure
    from forkwise.explore.live import TOTALS, metrics

    behaviours = [f"behaviours/{name}" for name in metrics(np.ones(len(TOTALS)))]
    training = "".join(path.read_text() for path in (ROOT / "src" / "forkwise" / "training").glob("*.py"))
    written_out = set(re.findall(r"\"(critic/[a-z_]*[a-z])\"", training))
    critic = [*written_out, "critic/value_mean", "critic/return_mean"]
    _, stats = shape_and_measure(torch.tensor([[1.0]]), torch.tensor([[1.0]]))
    shaping = [f"shaping/{name}" for name in stats.as_dict() if not name.startswith("mass")]
    logged = [*behaviours, *critic, *shaping]
    assert len(logged) >= 8 + 8 + 4
    assert [name for name in logged if not in_the_table(name)] == []


@pytest.mark.parametrize(
    "file", ["README.md", "docs/index.md", "mkdocs.yml", "pyproject.toml", "src/forkwise/cli/root.py"]
)
def test_one_claim_is_made_everywhere(file: str) -> None:
    assert CLAIM in (ROOT / file).read_text()
