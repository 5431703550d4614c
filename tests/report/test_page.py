"""The page is self-contained, and hostile text stays text."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from forkwise.passk import bootstrap_interval
from forkwise.report import Curve, passk_figure, training_figure, write_page

HOSTILE = "</pre><script>alert(1)</script><img src=x onerror=alert(2)> \u202e \ud800 &amp;"


def test_page_escapes_everything_and_asks_for_nothing(tmp_path: Path) -> None:
    values = np.random.default_rng(0).random((10, 3))
    curve = Curve([1, 2, 4], bootstrap_interval(values))
    path = tmp_path / "page.html"
    write_page(
        path,
        title=HOSTILE,
        verdict=HOSTILE,
        header=["", HOSTILE],
        rows=[[HOSTILE, HOSTILE]],
        figures={HOSTILE: passk_figure({"a": curve}, curve, "a - a", "caption")},
        texts={HOSTILE: HOSTILE},
        footer=HOSTILE,
    )
    page = path.read_text(encoding="utf-8")
    # Without our own tags nothing remains that a browser would read as one.
    tags = set(re.findall(r"<\s*/?\s*([a-zA-Z!]+)", page))
    ours = "!doctype html head meta title style body h h p div table thead tbody tr th td img pre footer"
    assert tags <= set(ours.split()), tags
    assert "onerror=alert(2)&gt;" in page
    assert page.count("<img") == 1
    assert re.findall(r'src="(.{10})', page) == ["data:image"]
    assert "http" not in page.replace("http-equiv", "")


def test_training_figure_draws_the_mean_over_seeds_at_common_steps() -> None:
    runs = [
        [{"step": 1, "reward": 0.0}, {"step": 2, "reward": 1.0}, {"step": 3, "reward": 1.0}],
        [{"step": 1, "reward": 1.0}, {"step": 2, "reward": 0.0}],  # this seed has not got to step 3
    ]
    figure = training_figure({"arm": runs}, window=1)
    lines = figure.axes[0].get_lines()
    assert [list(line.get_ydata()) for line in lines] == [[0.0, 1.0], [1.0, 0.0], [0.5, 0.5]]
    assert list(lines[-1].get_xdata()) == [1, 2]
