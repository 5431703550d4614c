"""Bounds on real log-probs of four servers, where the files are at hand; docs/samples.md says where they come from.

The expected numbers are computed here from the raw JSON with the plain formulas, without our code.
"""

from __future__ import annotations

import gzip
import json
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from forkwise.cli import app
from forkwise.errors import InputError
from forkwise.explore import results
from forkwise.explore.bounds import entropy_bounds

DATA = Path(os.environ.get("FORKWISE_SHARED_DATA", Path(__file__).parents[3] / "shared" / "data")) / "logprobs"

pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason="no public files at FORKWISE_SHARED_DATA or ../shared/data")

V = 200_019


def raw(name: str) -> Any:
    data = (DATA / name).read_bytes()
    return json.loads(gzip.decompress(data) if name.endswith(".gz") else data)


def top(name: str) -> list[list[float]]:
    return [[c["logprob"] for c in p["top_logprobs"]] for p in raw(name)["choices"][0]["logprobs"]["content"]]


def plain(candidates: list[float]) -> tuple[float, float]:
    """The usual formulas: partial + m (-log p_k), and partial + m log((V - k) / m)."""
    told = [x for x in candidates if x > -1000]
    partial = -sum(math.exp(x) * x for x in told)
    m = max(0.0, 1 - sum(math.exp(x) for x in told))
    return partial + m * -min(told), partial + (m * math.log((V - len(told)) / m) if m > 0 else 0.0)


@pytest.mark.parametrize("name", ["domain_reasoning.json.gz", "topk_20.json.gz", "gpt4o_mini_creative.json.gz"])
def test_bounds_of_real_lists(name: str) -> None:
    lists = top(name)
    bounds = entropy_bounds(lists, V)
    expected = np.array([plain(candidates) for candidates in lists])
    assert bounds.candidates == 20
    np.testing.assert_allclose(bounds.high, expected[:, 1], atol=1e-6)
    # The plain lower bound divides the tail as if p_k were all it could hold at a time; where the tail is smaller than
    # p_k it overshoots what is certain: there the tail may be one token.
    fits = np.array([max(0.0, 1 - sum(map(math.exp, c))) >= math.exp(min(c)) for c in lists])
    assert (bounds.low[fits] >= expected[fits, 0] - 1e-9).all()
    # Fewer candidates tell less: the bounds from 20 lie inside those from 5, up to the rounding of the log-probs.
    five = entropy_bounds([sorted(c)[::-1][:5] for c in lists], V)
    assert (five.low <= bounds.low + 1e-5).all()
    assert (five.high >= bounds.high - 1e-5).all()
    assert five.high.mean() - five.low.mean() > 2 * (bounds.high.mean() - bounds.low.mean())


def test_a_confident_text_is_pinned_and_a_creative_one_is_not() -> None:
    confident, creative = (
        entropy_bounds(top(n), V) for n in ("domain_reasoning.json.gz", "gpt4o_mini_creative.json.gz")
    )
    assert confident.high.mean() - confident.low.mean() < 0.001
    assert 0.05 < creative.high.mean() - creative.low.mean() < 0.2
    assert creative.low.mean() > 3 * confident.low.mean()


@pytest.mark.parametrize(
    ("name", "tokens"),
    [("gpt2_openai.json", 9), ("gpt2_vllm.json", 9), ("ollama_sample.json", 7), ("gemini_sample.json", 12)],
)
def test_every_server_s_file_is_explored(tmp_path: Path, name: str, tokens: int) -> None:
    runner = CliRunner()
    assert runner.invoke(app, ["import", str(DATA / name), "--out", str(tmp_path / "s")]).exit_code == 0
    done = runner.invoke(app, ["explore", str(tmp_path / "s"), "--out", str(tmp_path / "o"), "--resamples", "100"])
    assert done.exit_code == 0, done.output
    entropy = results.read(tmp_path / "o").runs[0].entropy
    assert entropy is not None
    assert (entropy.source, entropy.tokens) == ("top-k", tokens)
    assert entropy.upper_mean is not None
    assert entropy.mean.value is not None
    assert 0 < entropy.mean.value < entropy.upper_mean


def test_raw_logits_are_refused_on_import_and_by_the_bounds(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["import", str(DATA / "gpt2_logits_openai.json"), "--out", str(tmp_path / "s")])
    assert isinstance(done.exception, InputError)
    with pytest.raises(ValueError, match="raw logits"):
        entropy_bounds(top("gpt2_logits_openai.json"), V)
