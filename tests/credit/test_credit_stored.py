"""TRL's loss by itself and its updates of a stored rollout, against formulas by hand and an update by autograd."""

from __future__ import annotations

import copy
import os

import pytest

pytest.importorskip("trl")
os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")

import tiny_trl as tiny
import torch
from torch import Tensor

from forkwise.engines.trl.stored import TokenLoss, train_on
from forkwise.methods import Tokens, parse_method

LENGTHS = torch.tensor([6, 4, 2, 5])
LONGEST = 10


@pytest.fixture(scope="module")
def tokens() -> Tokens:
    generator = torch.Generator().manual_seed(0)

    def normal() -> Tensor:
        return torch.randn(4, 6, generator=generator, dtype=torch.float64)

    old = -normal().abs()
    return Tokens(
        torch.tensor([[1.5], [-0.5], [0.7], [-1.2]], dtype=torch.float64).expand(4, 6),
        torch.arange(6) < LENGTHS[:, None],
        entropy=normal().abs(),
        logprobs=old + 0.5 * normal(),
        old_logprobs=old,
    )


def slopes(spec: str | None, tokens: Tokens) -> tuple[Tensor, Tensor]:
    method = None if spec is None else parse_method(spec)
    loss = TokenLoss(tiny.policy(), tiny.tokenizer(), method, size=4, longest=LONGEST, temperature=1.0)
    return loss.slopes(tokens)


def by_hand(spec: str | None, tokens: Tokens) -> Tensor:
    """How much log-probs are raised, from the formulas of the papers."""
    assert tokens.logprobs is not None
    assert tokens.old_logprobs is not None
    mask, a = tokens.mask, tokens.advantages
    n = mask.sum()
    log_r = torch.where(mask, tokens.logprobs - tokens.old_logprobs, 0)
    r = log_r.exp()
    low, high = {"clip_higher:low=0.1,high=0.4": (0.1, 0.4)}.get(str(spec), (0.2, 0.2))
    beyond = (a > 0) & (r > 1 + high) | (a < 0) & (r < 1 - low)
    if spec in (None, "grpo", "token_level_loss", "clip_higher:low=0.1,high=0.4"):
        return torch.where(mask & ~beyond, r * a / n, 0)
    if spec == "dr_grpo":
        return torch.where(mask & ~beyond, r * a / (4 * LONGEST), 0)
    if spec == "cispo:largest=1.1":
        return torch.where(mask, r.clamp(max=1.1) * a / n, 0)
    if spec == "gppo":  # whose clip is not TRL's
        return torch.where(mask, r * a / n, 0)
    assert spec == "gspo:low=0.05,high=0.05"
    s = (log_r.sum(1) / LENGTHS).exp()[:, None]
    beyond = (a > 0) & (s > 1.05) | (a < 0) & (s < 0.95)
    return torch.where(mask & ~beyond, s * a / LENGTHS[:, None] / 4, 0)


@pytest.mark.parametrize(
    "spec",
    [
        *(None, "grpo", "token_level_loss", "dr_grpo", "clip_higher:low=0.1,high=0.4", "cispo:largest=1.1"),
        *("gspo:low=0.05,high=0.05", "gppo"),
    ],
)
def test_what_the_loss_does_to_log_probs(spec: str | None, tokens: Tokens) -> None:
    raised, spread = slopes(spec, tokens)
    assert raised.numpy() == pytest.approx(by_hand(spec, tokens).numpy(), abs=1e-12)
    assert not spread.any()
    assert (raised == 0)[tokens.mask].any() == (spec not in ("cispo:largest=1.1", "gppo"))  # some are clipped


def test_a_bonus_raises_entropies_and_a_term_moves_them() -> None:
    # coef / n at each token; SIREN's coef (mean H - anchor)^2 over uncertain tokens: slope -2 coef (mean - anchor) / n.
    mask = torch.ones(4, 4, dtype=torch.bool)
    zero = torch.zeros(4, 4, dtype=torch.float64)
    entropy = torch.tensor([0.0, 0.1, 0.2, 2.0], dtype=torch.float64).expand(4, 4)
    given = Tokens(zero, mask, entropy=entropy, logprobs=zero, old_logprobs=zero)
    raised, spread = slopes("entropy_bonus:coef=0.5", given)
    assert not raised.any()
    assert spread.numpy() == pytest.approx(0.5 / 16)
    siren = "siren:coef=0.5,top_p=1.0,share=0.2"
    given = Tokens(zero, mask, entropy=entropy, logprobs=zero, old_logprobs=zero, states={"siren": {"anchor": 1.5}})
    spread = slopes(siren, given)[1]
    assert spread[:, 3].numpy() == pytest.approx(-2 * 0.5 * (2.0 - 1.5) / 4)
    assert not spread[:, :3].any()


def rollout(model: torch.nn.Module, size: int) -> dict[str, Tensor]:
    batch = tiny.microbatch(size, model=model)
    kept = ("prompt_ids", "prompt_mask", "completion_ids", "completion_mask", "advantages", "old_per_token_logps")
    return {name: batch[name] for name in kept}


def flat(model: torch.nn.Module) -> Tensor:
    return torch.cat([weight.detach().flatten() for weight in model.parameters()])


def test_one_update_is_that_of_autograd() -> None:
    # AdamW without decay moves every weight by the learning rate, in the direction of its gradient, in its first step.
    model = tiny.policy()
    twin, batch = copy.deepcopy(model).double(), rollout(model, 8)
    log_p = _log_probs(twin, batch)
    mask, a = batch["completion_mask"].bool(), batch["advantages"].double()[:, None]
    r = (log_p - batch["old_per_token_logps"].double()).exp()
    objective = torch.min(r * a, r.clamp(0.8, 1.2) * a)[mask].sum() / mask.sum()
    gradient = torch.cat([g.flatten() for g in torch.autograd.grad(objective, list(twin.parameters()))])
    before = flat(model)
    train_on(
        *(model, tiny.tokenizer(), batch),
        updates=1,
        size=4,
        learning_rate=1e-3,
        temperature=tiny.TEMPERATURE,
        seed=0,
    )
    clear = gradient.abs() > 1e-4 * gradient.abs().max()
    assert clear.sum() > 200
    moved = (flat(model) - before).double()
    assert moved[clear].numpy() == pytest.approx(1e-3 * gradient[clear].sign().numpy(), rel=0.02)
    assert not model.training


def _log_probs(model: torch.nn.Module, batch: dict[str, Tensor]) -> Tensor:
    ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], dim=1)
    mask = torch.cat([batch["prompt_mask"], batch["completion_mask"]], dim=1)
    logits = model(input_ids=ids, attention_mask=mask).logits
    n = batch["completion_ids"].size(1)
    log_p = (logits[:, -n - 1 : -1] / tiny.TEMPERATURE).log_softmax(dim=-1)
    return log_p.gather(2, batch["completion_ids"][..., None])[..., 0]


def test_several_updates_see_each_completion_once(monkeypatch: pytest.MonkeyPatch) -> None:
    from forkwise.engines.trl import stored

    seen: list[list[float]] = []
    compute = stored._Stored._compute_loss

    def noted(self: object, model: object, inputs: dict[str, Tensor]) -> Tensor:
        seen.append(inputs["advantages"].tolist())
        loss: Tensor = compute(self, model, inputs)
        return loss

    monkeypatch.setattr(stored._Stored, "_compute_loss", noted)
    model = tiny.policy()
    batch = rollout(model, 12)
    batch["advantages"] = torch.arange(12.0) - 5.5
    train_on(*(model, tiny.tokenizer(), batch), updates=3, size=4, learning_rate=1e-3, temperature=1.0, seed=0)
    assert [len(one) for one in seen] == [4, 4, 4]
    assert sorted(a for one in seen for a in one) == batch["advantages"].tolist()
    with pytest.raises(ValueError, match="cannot be dealt to 5 updates"):
        train_on(*(model, tiny.tokenizer(), batch), updates=5, size=4, learning_rate=1e-3, temperature=1.0, seed=0)
