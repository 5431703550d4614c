"""The patches of docs/verl.md for forks of verl 0.7 and older: on verl 0.7.1 itself, and on tensors of its shapes.

verl 0.7.1 is not a dependency of anything here. `make test-verl-slow` fetches it, beside the packages of verl 0.9:

    pip install --no-deps --target FOLDER verl==0.7.1
    FORKWISE_VERL_07=FOLDER python -m pytest tests/engines/test_verl_fork.py
"""

from __future__ import annotations

import os
import re
import shutil
import statistics
import subprocess
import sys
import textwrap
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from tiny_models import PAD, policy

from forkwise.testing.engines import expected_advantages

PAGE = (Path(__file__).parents[2] / "docs" / "verl.md").read_text()
A = [[1.0, 1.0, 1.0], [-1.5, -1.5, 0.0]]
H = [[0.5, 2.0, 0.0], [3.0, 0.1, 9.0]]
MASK = [[1, 1, 1], [1, 1, 0]]
WANT = expected_advantages(A, H, MASK, alpha=0.4, kappa=2.0)
CURRENT, OLD = "dp_actor.py", "ray_trainer.py"
TEMPERATURE = 0.4


def patch_of(file: str) -> str:
    (block,) = re.findall(rf"```diff\n(--- a/verl/\S+/{file}\n.*?)```", PAGE, re.DOTALL)
    return str(block)


def lines(file: str) -> str:
    """What a patch adds, without indentation."""
    added = [line[1:] for line in patch_of(file).splitlines() if line.startswith("+") and not line.startswith("+++")]
    width = {len(line) - len(line.lstrip()) for line in added if "old_entropy =" in line}
    return textwrap.dedent("\n".join(line[4:] if width and "old_entropy =" in line else line for line in added))


def test_of_the_policy_under_update() -> None:
    before = torch.tensor(A)
    entropy = torch.tensor(H, requires_grad=True)
    scope: dict[str, Any] = {"advantages": before, "entropy": entropy, "response_mask": torch.tensor(MASK)}
    scope["micro_batch_metrics"] = {}
    exec(lines(CURRENT), scope)
    assert scope["micro_batch_metrics"] == {"actor/shaped": 1.0}
    assert torch.allclose(scope["advantages"], torch.tensor(WANT))
    assert not scope["advantages"].requires_grad
    assert torch.equal(before, torch.tensor(A))  # a second epoch starts from the same
    with pytest.raises(RuntimeError, match="not shaped: no entropies. Set calculate_entropy=True"):
        exec(lines(CURRENT), {**scope, "entropy": None})


def test_of_the_old_policy() -> None:
    before = torch.tensor(A)
    batch = SimpleNamespace(batch={"advantages": before, "returns": before, "response_mask": torch.tensor(MASK)})
    scores = SimpleNamespace(batch={"entropys": torch.tensor(H)})
    logged: dict[str, float] = {}
    exec(lines(OLD), {"batch": batch, "old_log_prob": scores, "metrics": logged})
    assert logged == {"actor/shaped": 1.0}
    assert torch.allclose(batch.batch["advantages"], torch.tensor(WANT))
    assert torch.equal(batch.batch["returns"], torch.tensor(A))  # what a critic learns stays, shared memory or not
    assert not scores.batch  # as verl wants it, which joins the rest to the batch


class TestOnVerl07:
    """Two prompts with four answers; two updates, of an answer's group each, in two micro-batches."""

    @pytest.fixture(autouse=True)
    def _verl_07(self, tmp_path: Path) -> None:
        if "FORKWISE_VERL_07" not in os.environ:
            pytest.skip("FORKWISE_VERL_07 names no folder with verl 0.7.1 (pip install --no-deps --target FOLDER)")
        pytest.importorskip("verl", reason="what verl imports is not installed; make test-verl-slow has it")
        self.place = tmp_path
        draw = torch.Generator().manual_seed(4)
        prompts = torch.randint(3, 20, (2, 3), generator=draw).repeat_interleave(4, dim=0)
        lengths = torch.tensor([5, 3, 4, 2, 5, 1, 4, 3])
        shown = (torch.arange(5) < lengths[:, None]).long()
        responses = torch.randint(3, 20, (8, 5), generator=draw) * shown  # PAD is 0
        before = torch.ones(8, 3, dtype=torch.long)
        before[:4, 0] = 0  # the first prompt is shorter, padded on its left
        prompts *= before
        response_mask = shown.clone()
        response_mask[0, 2] = response_mask[4, 1:3] = 0  # what a tool said
        attention_mask = torch.cat([before, shown], dim=1)
        self.scores = [1.0, 0.0, 0.0, 0.5, 1.0, 0.0, 0.0, 0.0]
        rewards = torch.zeros(8, 5)
        rewards[torch.arange(8), lengths - 1] = torch.tensor(self.scores)
        self.inputs = {
            "prompts": prompts,
            "responses": responses,
            "input_ids": torch.cat([prompts, responses], dim=1),
            "attention_mask": attention_mask,
            "position_ids": (attention_mask.cumsum(dim=1) - 1).clamp(min=0),
            "response_mask": response_mask,
            "rm_scores": rewards,
        }
        assert PAD == 0

    def run(self, what: str, inputs: dict[str, Any], *patched: str) -> Any:
        """Runs verl 0.7.1, with some of the page's patches, in a process of its own."""
        copy = self.place / "-".join(["verl", *patched])
        if not copy.exists():
            shutil.copytree(Path(os.environ["FORKWISE_VERL_07"], "verl"), copy / "verl")
            for file in patched:
                subprocess.run(["patch", "-p1"], input=patch_of(file), text=True, cwd=copy, check=True)
        torch.save(inputs, self.place / "inputs.pt")
        helpers = Path(__file__).parents[1] / "helpers"
        path = os.pathsep.join([str(copy), str(helpers), *(entry for entry in sys.path if entry)])
        script = Path(__file__).with_name("verl_07.py")
        done = subprocess.run(
            [sys.executable, str(script), what, str(self.place / "inputs.pt"), str(self.place / "results.pt")],
            env={**os.environ, "PYTHONPATH": path, "VERL_USE_EXTERNAL_PLUGINS": "none"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        results = torch.load(self.place / "results.pt")
        assert results["version"] == "0.7.1"
        return results

    def unshaped(self) -> list[float]:
        """GRPO's advantages of the answers: scores less their group's mean, by its standard deviation."""
        groups = [self.scores[:4], self.scores[4:]]
        pairs = [(score, group) for group in groups for score in group]
        return [(x - statistics.mean(group)) / (statistics.stdev(group) + 1e-6) for x, group in pairs]

    def by_hand(self, weights: dict[str, Any] | None = None) -> Any:
        """Advantages shaped with a policy's entropies, by float64 softmax; 0 outside the mask, as verl has them."""
        model = policy()
        if weights:
            model.load_state_dict(weights)
        model = model.double()
        given = {name: self.inputs[name] for name in ("input_ids", "attention_mask", "position_ids")}
        with torch.no_grad():
            logp = (model(**given).logits[:, 2:-1] / TEMPERATURE).log_softmax(-1)
        entropy = -(logp.exp() * logp).sum(-1)
        mask = self.inputs["response_mask"]
        rows = [[a * m for m in row] for a, row in zip(self.unshaped(), mask.tolist(), strict=True)]
        return torch.tensor(expected_advantages(rows, entropy.tolist(), mask.tolist(), alpha=0.4, kappa=2.0))

    def test_the_old_policys_entropy_shapes_what_the_update_is_given(self) -> None:
        seen = self.run("fit", self.inputs, OLD)
        torch.testing.assert_close(seen["advantages"], self.by_hand().float(), rtol=1e-4, atol=1e-5)
        plain = torch.tensor(self.unshaped()).float()[:, None] * self.inputs["response_mask"]
        torch.testing.assert_close(seen["returns"], plain, rtol=1e-5, atol=1e-6)  # of a critic

    def test_the_current_policys_entropy_shapes_each_update(self) -> None:
        """The update is that of the released actor on advantages shaped elsewhere, each with its own policy."""
        shaped = self.run("fit", self.inputs, CURRENT)
        plain = torch.tensor(self.unshaped()).float()[:, None] * self.inputs["response_mask"]
        torch.testing.assert_close(shaped["advantages"], plain, rtol=1e-5, atol=1e-6)
        assert shaped["metrics"] == {"actor/shaped": [1.0] * 4}  # of its micro-batches
        given = {**self.inputs, "old_log_probs": shaped["old_log_probs"]}
        of_first = self.by_hand()
        half = {name: values[:4] for name, values in {**given, "advantages": of_first.float()}.items()}
        after_one = self.run("update", half)
        both = torch.cat([of_first[:4], self.by_hand(after_one["policy"])[4:]]).float()
        want = self.run("update", {**given, "advantages": both})["weights"]
        start = torch.cat([weight.detach().flatten() for weight in policy().parameters()])
        assert float((shaped["weights"] - want).norm() / (want - start).norm()) < 1e-4
        other = self.run("update", {**given, "advantages": of_first.float()})["weights"]  # the first policy's for both
        assert float((other - want).norm() / (want - start).norm()) > 1e-3
