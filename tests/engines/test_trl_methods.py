"""Methods in TRL: the same whatever the batch is cut into, applied where they say, and never silently skipped.

Pinned here, on the oldest and the newest TRL that we declare:
* what a method selects among all tokens of an update does not depend on micro-batches, accumulation or processes;
* the loss is stock TRL's, fed with advantages that the test computes itself;
* every method runs in real training steps, and every way we could think of in which it would not, raises.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any, ClassVar

import pytest

pytest.importorskip("trl")

import tiny_trl as tiny
import torch
from accelerate import Accelerator
from installed import runnable
from test_trl import GRADIENT_TOLERANCE, loss_and_gradient, make, parameters, relative, updates_of
from trl import GRPOTrainer
from two_processes import run_in_two

from forkwise.engines.trl import EntropyShapedGRPOConfig, EntropyShapedGRPOTrainer
from forkwise.engines.trl.head import HeadChoice
from forkwise.engines.trl.update import POSITIONS
from forkwise.engines.whole_update import run_on_whole_update
from forkwise.errors import InputError
from forkwise.methods import Need, Scope, SettingsMethod, TokenMethod, Tokens, all_methods, describe, parse_method
from forkwise.methods.dcpo import Dcpo
from forkwise.methods.heal import Heal
from forkwise.methods.shear import Shear
from forkwise.training.ppo_config import EntropyShapedPPOConfig

# Several updates per rollout, for methods that compare with the policy that sampled.
REUSED = {"num_iterations": 2}
SELECTING = sorted(name for name, kind in all_methods().items() if kind.scope is Scope.UPDATE)


def config(where: Path, *specs: str, cls: type = EntropyShapedGRPOConfig, **options: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return cls(output_dir=str(where), **{**tiny.QUIET, "method": list(specs), **options})


def with_rows(*batches: dict[str, Any]) -> list[dict[str, Any]]:
    """Micro-batches as the mixin's rollout leaves them."""
    sizes = [len(batch["completion_ids"]) for batch in batches]
    return [{**batch, POSITIONS: torch.arange(sum(sizes[:i]), sum(sizes[: i + 1]))} for i, batch in enumerate(batches)]


class TestIsTheSameHoweverTheUpdateIsCut:
    SPECS: ClassVar[dict[str, str]] = {
        "placebo_permuted": "placebo_permuted",
        "placebo_constant": "placebo_constant",
        "placebo_weight": "placebo_weight",
        "forking_tokens": "forking_tokens:share=0.3",
        "clip_cov": "clip_cov:share=0.2,low=-9,high=9",
        "kl_cov": "kl_cov:share=0.3",
        "steer": "steer",
        "eapo": "eapo",
        "entropy_balanced_advantage": "entropy_balanced_advantage",
        "edge_grpo": "edge_grpo",
        "m2po": "m2po:largest=1e-4",
        "opefo": "opefo",
        "siren": "siren:coef=1",
    }

    def test_all_methods_that_select_are_tested(self) -> None:
        assert sorted(self.SPECS) == SELECTING

    @pytest.mark.parametrize("name", SELECTING)
    def test_parameters_and_metrics(self, tmp_path: Path, name: str) -> None:
        """One rollout of 16 completions, used twice, in micro-batches of 16, 8 and 4."""
        runs = []
        for size in (16, 8, 4):
            cut = {"per_device_train_batch_size": size, "gradient_accumulation_steps": 16 // size}
            steps = {"max_steps": 2, "learning_rate": 1e-3, **REUSED}
            trainer = make(EntropyShapedGRPOTrainer, tmp_path, method=[self.SPECS[name]], **cut, **steps)
            update = updates_of(trainer)
            logged = [{k: v for k, v in row.items() if k.startswith("method/")} for row in trainer.state.log_history]
            runs.append((update, [row for row in logged if row]))
        (one, metrics), *others = runs
        assert len(metrics) == 2
        assert any(row[f"method/{name}/changed"] > 0 for row in metrics)
        for update, logged in others:
            assert relative(update, one) < 1e-3
            for ours, theirs in zip(logged, metrics, strict=True):
                assert ours == pytest.approx(theirs, rel=1e-4, abs=1e-7)

    def test_a_selection_per_micro_batch_would_be_noticed(self, tmp_path: Path) -> None:
        """The two micro-batches differ so much in entropy that the highest tokens all lie in one of them."""
        trainer, stock = (make(cls, tmp_path, **options) for cls, options in self.forking())
        twin = tiny.policy()
        batches = with_rows(tiny.microbatch(4, 1, model=twin), tiny.microbatch(4, 2, model=twin))
        entropies = [tiny.exact_entropy(twin, batch) for batch in batches]
        masks = [batch["completion_mask"] == 1 for batch in batches]
        everything = torch.cat([h[m] for h, m in zip(entropies, masks, strict=True)])
        lowest = everything.sort(descending=True).values[round(0.3 * len(everything) + 0.4999) - 1]
        pairs = list(zip(batches, entropies, masks, strict=True))
        fed = [{**b, "advantages": b["advantages"][:, None] * ((h >= lowest) & m)} for b, h, m in pairs]
        trainer._buffered_inputs = batches
        loss, gradient = loss_and_gradient(trainer, *batches)
        want_loss, want = loss_and_gradient(stock, *fed)
        torch.testing.assert_close(loss, want_loss, rtol=1e-5, atol=1e-6)
        assert relative(gradient, want) < GRADIENT_TOLERANCE
        kept = [int(((h >= lowest) & m).sum()) for _, h, m in pairs]
        own = [-(-3 * int(m.sum()) // 10) for _, _, m in pairs]
        assert kept != own, "choose another seed: here both would select the same"

    @staticmethod
    def forking() -> list[tuple[type[GRPOTrainer], dict[str, Any]]]:
        cut = {"gradient_accumulation_steps": 2}
        return [(EntropyShapedGRPOTrainer, {**cut, "method": ["forking_tokens:share=0.3"]}), (GRPOTrainer, cut)]

    @pytest.mark.parametrize("name", ["placebo_permuted", "clip_cov"])
    def test_random_choices_follow_the_rollout_not_the_layout(self, name: str) -> None:
        """TRL shuffles a rollout on each process; completions get the same in whatever order and parts they come."""
        draw = torch.Generator().manual_seed(0)
        values = {key: torch.rand(8, 5, generator=draw) for key in ("advantages", "entropy", "logprobs")}
        mask = torch.arange(5) < torch.randint(1, 6, (8, 1), generator=draw)
        method = parse_method(self.SPECS[name])
        accelerator = Accelerator(cpu=True)

        def made(order: torch.Tensor, size: int) -> torch.Tensor:
            rows = order.split(size)
            parts = [Tokens(**{key: value[r] for key, value in values.items()}, mask=mask[r], seed=5) for r in rows]
            advantages, _ = run_on_whole_update([method], parts, rows, accelerator)
            return torch.cat(advantages)[order.argsort()]

        plain = made(torch.arange(8), 8)
        assert not torch.equal(plain, values["advantages"])
        assert torch.equal(made(torch.randperm(8, generator=draw), 8), plain)
        assert torch.equal(made(torch.randperm(8, generator=draw), 2), plain)

    @pytest.mark.slow
    def test_two_processes(self, tmp_path: Path) -> None:
        """Each process has half of a rollout; what it makes of it is its half of what one process makes."""
        script = Path(__file__).with_name("methods_on_one_of_two.py")
        run_in_two(script, tmp_path)
        ranks = [torch.load(tmp_path / f"rank{rank}.pt") for rank in (0, 1)]

        import methods_on_one_of_two as script_module

        alone = script_module.made(tmp_path, 0, 1)
        assert list(alone) == [*ranks[0]]
        for spec, (advantages, metrics) in alone.items():
            halves = [rank[spec] for rank in ranks]
            assert halves[0][1] == pytest.approx(metrics, rel=1e-5), spec
            assert halves[1][1] == pytest.approx(metrics, rel=1e-5), spec
            torch.testing.assert_close(torch.cat([half[0] for half in halves]), advantages, msg=spec)

    @pytest.mark.slow
    def test_a_term_on_two_processes(self, tmp_path: Path) -> None:
        run_in_two(Path(__file__).with_name("term_on_one_of_two.py"), tmp_path)
        import term_on_one_of_two as script_module

        alone = script_module.gradient(tmp_path, 0, 1)
        assert float(alone.norm()) > 0.01
        for rank in (0, 1):
            assert relative(torch.load(tmp_path / f"rank{rank}.pt"), alone) < GRADIENT_TOLERANCE


class TestTheLossIsFedWithWhatTheMethodMakes:
    def test_old_entropies_are_those_of_the_rollout(self, tmp_path: Path) -> None:
        seen = []

        class Spy(EntropyShapedGRPOTrainer):
            def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> torch.Tensor:
                real = inputs["completion_mask"] == 1
                seen.append((inputs["forkwise_old_entropy"][real], tiny.exact_entropy(twin_of(self), inputs)[real]))
                return super()._compute_loss(model, inputs)

        options = {"max_steps": 2, "learning_rate": 0.05, **REUSED}
        updates_of(make(Spy, tmp_path, method=["entropy_advantage:entropy=old"], **options))
        (first, now), (later, then) = seen
        torch.testing.assert_close(first.double(), now, rtol=1e-4, atol=1e-4)
        assert torch.equal(first, later)  # the same rollout, used again
        assert relative(then, now) > 0.01  # by another policy

    def test_rewards_are_made_into_advantages_over_whole_groups(self, tmp_path: Path) -> None:
        seen = []

        class Spy(EntropyShapedGRPOTrainer):
            def _generate_and_score_completions(self, inputs: Any) -> dict[str, Any]:
                batch = super()._generate_and_score_completions(inputs)
                seen.append(batch)
                return batch

        where = make(Spy, tmp_path, method=["rloo"], max_steps=1, per_device_train_batch_size=8)
        where.train()
        rows = zip(seen[0]["completion_ids"], seen[0]["completion_mask"], strict=True)
        ids = [row[mask == 1].tolist() for row, mask in rows]
        rewards = torch.tensor(tiny.reward(ids)).view(2, 4)
        want = rewards - (rewards.sum(dim=1, keepdim=True) - rewards) / 3
        torch.testing.assert_close(seen[0]["advantages"], want.flatten())
        assert where.state.log_history[0]["method/rloo/changed"] > 0
        assert list(where._logs["advantages"])[-8:] == pytest.approx(want.flatten().tolist(), abs=1e-5)

    def test_methods_compose(self, tmp_path: Path) -> None:
        """Shaped advantages at forking tokens: shaping first, because it was named first."""
        trainer = make(EntropyShapedGRPOTrainer, tmp_path, method=["entropy_advantage", "forking_tokens:share=0.5"])
        stock, (batch,) = make(GRPOTrainer, tmp_path), with_rows(tiny.microbatch())
        trainer._buffered_inputs = [batch]
        entropy, mask = tiny.exact_entropy(tiny.policy(), batch), batch["completion_mask"] == 1
        lowest = entropy[mask].sort(descending=True).values[(int(mask.sum()) + 1) // 2 - 1]
        fed = tiny.shaped(batch["advantages"], entropy) * ((entropy >= lowest) & mask)
        (_, gradient), (_, want) = (
            loss_and_gradient(trainer, batch),
            loss_and_gradient(stock, {**batch, "advantages": fed}),
        )
        assert relative(gradient, want) < GRADIENT_TOLERANCE

    def test_named_entropy_advantage_is_the_shorthand(self, tmp_path: Path) -> None:
        named, short = (
            make(EntropyShapedGRPOTrainer, tmp_path, **options)
            for options in ({"method": ["entropy_advantage:alpha=0.2"]}, {"alpha": 0.2})
        )
        (loss, gradient), (want_loss, want) = (loss_and_gradient(t, tiny.microbatch()) for t in (named, short))
        assert torch.equal(loss, want_loss)
        assert torch.equal(gradient, want)

    @pytest.mark.parametrize(
        ("options", "logged"),
        [("sign=positive", ["psi_pos"]), ("sign=negative", ["psi_neg"]), ("entropy=old", ["psi_pos", "psi_neg"])],
    )
    def test_the_switches_log_psi_too(self, tmp_path: Path, options: str, logged: list[str]) -> None:
        trainer = make(
            EntropyShapedGRPOTrainer, tmp_path, method=[f"entropy_advantage:{options}"], max_steps=2, **REUSED
        )
        trainer.train()
        rows = [row for row in trainer.state.log_history if "shaping/capped_frac" in row]
        assert len(rows) == 2
        assert 0 < max(row["shaping/psi_over_adv"] for row in rows) <= 0.5
        assert [k for k in ("psi_pos", "psi_neg") if max(row[f"shaping/{k}"] for row in rows) > 0] == logged

    def test_presets_alone_are_stock_trl(self, tmp_path: Path) -> None:
        steps = {"max_steps": 2, **REUSED}
        ours = make(
            EntropyShapedGRPOTrainer, tmp_path, method=["dr_grpo", "clip_higher"], entropy_backend="trl", **steps
        )
        stock = make(GRPOTrainer, tmp_path, loss_type="dr_grpo", scale_rewards="none", epsilon_high=0.28, **steps)
        assert torch.equal(updates_of(ours), updates_of(stock))

    def test_a_clip_that_keeps_nothing_is_the_trainers_own(self, tmp_path: Path) -> None:
        """CE-GPPO with no share of a clipped token's gradient is PPO's clip, here folded in under TRL's opened one."""
        spec = "ce_gppo:below=0,above=0,low=0.2,high=0.25,dual=1e6"
        ours = make(EntropyShapedGRPOTrainer, tmp_path, method=[spec], **REUSED)
        stock, loose = (
            make(GRPOTrainer, tmp_path, epsilon=low, epsilon_high=high, **REUSED)
            for low, high in ((0.2, 0.25), (1, 1e9))
        )
        batch = tiny.microbatch()
        (_, gradient), (_, want), (_, unclipped) = (loss_and_gradient(t, batch) for t in (ours, stock, loose))
        assert relative(gradient, want) < GRADIENT_TOLERANCE
        assert relative(unclipped, want) > 0.05, "choose another seed: nothing is clipped"

    def test_states_and_planned_options_change_as_they_say(self, tmp_path: Path) -> None:
        """The entropy is far above the target, so zeta halves with each rollout, of two updates each."""
        options = {"max_steps": 6, **REUSED}
        trainer = make(EntropyShapedGRPOTrainer, tmp_path, method=["repo_r:target=0.001,zeta=0.01"], **options)
        trainer.train()
        logged = [row for row in trainer.state.log_history if "method/repo_r/zeta" in row]
        assert [row["method/repo_r/zeta"] for row in logged] == pytest.approx(
            [0.01, 0.01, 0.005, 0.005, 0.0025, 0.0025]
        )
        trainer = make(EntropyShapedGRPOTrainer, tmp_path, method=["steer:smallest=0.8->0.4@linear"], **options)
        trainer.train()
        logged = [row for row in trainer.state.log_history if "method/steer/smallest" in row]
        smallest = [0.8 - 0.4 * step / 6 for step in range(6)]
        assert [row["method/steer/smallest"] for row in logged] == pytest.approx(smallest)
        assert trainer.args.method[0].startswith("steer:weights=exponential,smallest=0.8->0.4@linear")

    def test_opefo_gets_the_sum_over_the_vocabulary(self, tmp_path: Path) -> None:
        """Stock TRL is fed with advantages balanced by float64 distributions of two micro-batches."""
        options = {"gradient_accumulation_steps": 2}
        trainer = make(EntropyShapedGRPOTrainer, tmp_path, method=["opefo"], **options)
        stock = make(GRPOTrainer, tmp_path, **options)
        twin = tiny.policy()
        batches = with_rows(tiny.microbatch(4, 1, model=twin), tiny.microbatch(4, 2, model=twin))
        flows = []
        for batch in batches:
            logp = tiny.exact_logps(twin, batch)
            h = -(logp.exp() * logp).sum(dim=2)
            own = logp.gather(2, batch["completion_ids"][..., None])[..., 0]
            expected = (logp.exp() ** 2 * (logp + h[..., None])).sum(dim=2)
            change = own.exp() * (own + h) - expected
            flows.append(-batch["advantages"][:, None] * change * batch["completion_mask"])
        everything = torch.cat(flows)
        raised, lowered = everything.clamp(min=0).sum(), (-everything).clamp(min=0).sum()
        b = float((lowered - raised) / (lowered + raised))
        assert abs(b) > 0.02, "choose another seed: the flows are in balance"
        fed = [
            {**batch, "advantages": (batch["advantages"][:, None] * (1 + b * flow.sign())).float()}
            for batch, flow in zip(batches, flows, strict=True)
        ]
        trainer._buffered_inputs = batches
        (_, gradient), (_, want) = loss_and_gradient(trainer, *batches), loss_and_gradient(stock, *fed)
        assert relative(gradient, want) < GRADIENT_TOLERANCE

    @pytest.mark.parametrize("spec", ["siren:coef=0.5", "siren:coef=0.5,top_p=1"])
    def test_a_term_has_the_gradient_of_the_entropies(self, tmp_path: Path, spec: str) -> None:
        """Beside stock TRL: the term of two micro-batches by autograd of the full logits, with an anchor of half."""
        options = {"gradient_accumulation_steps": 2, "learning_rate": 1e-3}
        trainer = make(EntropyShapedGRPOTrainer, tmp_path, method=[spec], **options)
        stock = make(GRPOTrainer, tmp_path, **options)
        trainer._method_states.states = {"siren": {"anchor": 0.5}}
        twin = tiny.policy()
        batches = with_rows(tiny.microbatch(4, 1, model=twin), tiny.microbatch(4, 2, model=twin))
        uncertain = []
        for batch in batches:
            logp = exact_logps_with_gradient(stock.model, batch)
            for row, mask in zip(logp, batch["completion_mask"].bool(), strict=True):
                values = torch.stack([nucleus_of(token, 0.8 if "top_p" not in spec else 1.0) for token in row[mask]])
                uncertain.append(values[values > values.detach().quantile(0.8)])
        term = 0.5 * (torch.cat(uncertain).mean() - 0.5) ** 2
        assert sum(map(len, uncertain)) > 4
        term.backward()
        of_term = torch.cat([p.grad.flatten().float() for p in stock.model.parameters() if p.grad is not None])
        stock.model.zero_grad()
        trainer._buffered_inputs = batches
        (loss, gradient), (plain, without) = loss_and_gradient(trainer, *batches), loss_and_gradient(stock, *batches)
        torch.testing.assert_close(loss.sum(), plain.sum() + float(term.detach()), rtol=1e-5, atol=1e-5)
        assert relative(gradient, without + of_term) < GRADIENT_TOLERANCE
        assert relative(without, without + of_term) > 0.02, "choose another seed: the term has no weight"

    def test_siren_is_anchored_at_the_first_rollout(self, tmp_path: Path) -> None:
        """The anchor is the first policy's own mean and stays; nothing is pulled before something is learned."""
        seen = []

        class Spy(EntropyShapedGRPOTrainer):
            def _generate_and_score_completions(self, inputs: Any) -> dict[str, Any]:
                seen.append((super()._generate_and_score_completions(inputs), twin_of(self)))
                return seen[-1][0]

        steps = {"max_steps": 3, "learning_rate": 0.01, "per_device_train_batch_size": 8}
        trainer = make(Spy, tmp_path, method=["siren:coef=1"], **steps)
        updates_of(trainer)
        (batch, twin), *_ = seen
        chosen = []
        for row, mask in zip(tiny.exact_logps(twin, batch), batch["completion_mask"].bool(), strict=True):
            values = torch.stack([nucleus_of(token, 0.8) for token in row[mask]])
            chosen.append(values[values > values.quantile(0.8)])
        rows = [row for row in trainer.state.log_history if "method/siren/anchor" in row]
        want = float(torch.cat(chosen).mean())
        assert [row["method/siren/anchor"] for row in rows] == pytest.approx([want] * 3, abs=1e-4)
        shifts = [row["method/siren/shift"] for row in rows]
        assert shifts[0] < 1e-3 < min(shifts[1:])

    def test_a_term_needs_a_head_with_the_nucleus_and_no_other_bonus(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="'siren' needs the entropy of the nucleus, which TRL's own head does not"):
            config(tmp_path, "siren", entropy_backend="trl")
        if hasattr(config(tmp_path), "entropy_coef"):
            with pytest.raises(InputError, match="'siren' and TRL's entropy bonus .* both give the entropy a gradient"):
                config(tmp_path, "siren", "entropy_bonus")

    def test_dcpo_gets_the_log_probs_at_its_temperature(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        seen = []

        def spy(method: Dcpo, tokens: Tokens) -> torch.Tensor:
            seen.append((tokens, method.temperature_factor(tokens.states)))
            return plain(method, tokens)

        plain = Dcpo.advantages
        monkeypatch.setattr(Dcpo, "advantages", spy)
        batches = []

        class Spy(EntropyShapedGRPOTrainer):
            def _generate_and_score_completions(self, inputs: Any) -> dict[str, Any]:
                twin = twin_of(self)
                batch = super()._generate_and_score_completions(inputs)
                batches.append((batch, twin))
                return batch

        trainer = make(Spy, tmp_path, method=["dcpo"], max_steps=2, per_device_train_batch_size=8, learning_rate=0.01)
        trainer.reward_funcs = [right_or_wrong]
        trainer.train()
        assert [factor for _, factor in seen] == [1.2, 0.8]  # nothing known yet; then about 2 nats are too many
        for (tokens, factor), (batch, twin) in zip(seen, batches, strict=True):
            exact = tiny.exact_logps(twin, batch, temperature=tiny.TEMPERATURE * factor)
            want = exact.gather(2, batch["completion_ids"][..., None])[..., 0]
            torch.testing.assert_close(
                tokens.tempered_logprobs[tokens.mask].double(), want[tokens.mask], rtol=1e-4, atol=1e-4
            )
        assert trainer.temperature == tiny.TEMPERATURE
        changed = [row["method/dcpo/changed"] for row in trainer.state.log_history if "method/dcpo/changed" in row]
        assert changed[0] == 0 < changed[1]

    def test_shear_gets_the_hidden_states_of_each_group(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """What the model says were its last hidden states at the positions before each token; two groups of four."""
        pytest.importorskip("ot")
        seen, batches = [], []
        plain = Shear.advantages

        def spy(method: Shear, tokens: Tokens) -> torch.Tensor:
            seen.append((tokens, plain(method, tokens)))
            return seen[-1][1]

        monkeypatch.setattr(Shear, "advantages", spy)

        class Spy(EntropyShapedGRPOTrainer):
            def _generate_and_score_completions(self, inputs: Any) -> dict[str, Any]:
                twin = twin_of(self)
                batches.append((super()._generate_and_score_completions(inputs), twin))
                return batches[-1][0]

        trainer = make(Spy, tmp_path, method=["shear:window=3,stride=1"], max_steps=1, per_device_train_batch_size=8)
        trainer.reward_funcs = [right_or_wrong]
        trainer.train()
        [(batch, twin)] = batches
        ids, mask = (torch.cat([batch[f"prompt_{k}"], batch[f"completion_{k}"]], dim=1) for k in ("ids", "mask"))
        n = batch["completion_ids"].size(1)
        with torch.no_grad():
            states = twin(input_ids=ids, attention_mask=mask, output_hidden_states=True).hidden_states[-1]
        states = states[:, -n - 1 : -1]
        assert len(seen) == 2
        for group, (tokens, made) in enumerate(seen):
            rows = slice(4 * group, 4 * group + 4)
            assert tokens.hidden.dtype == torch.bfloat16
            assert torch.equal(tokens.mask, batch["completion_mask"][rows] == 1)
            torch.testing.assert_close(
                tokens.hidden[tokens.mask].float(), states[rows][tokens.mask], rtol=0.01, atol=0.01
            )
            torch.testing.assert_close(batch["advantages"][rows][tokens.mask], made[tokens.mask].float())

    def test_heal_gets_a_column_of_the_data_set(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Each completion with the domain of its own prompt, two groups of four; wrong columns are named before it."""
        seen, batches = [], []
        plain = Heal.advantages

        def spy(method: Heal, tokens: Tokens) -> torch.Tensor:
            seen.append(tokens)
            return plain(method, tokens)

        monkeypatch.setattr(Heal, "advantages", spy)

        class Spy(EntropyShapedGRPOTrainer):
            def _generate_and_score_completions(self, inputs: Any) -> dict[str, Any]:
                batches.append(super()._generate_and_score_completions(inputs))
                return batches[-1]

        def run(spec: str, column: list[str]) -> Any:
            steps = {"max_steps": 4, "per_device_train_batch_size": 8, "learning_rate": 1e-3}
            trainer = make(Spy, tmp_path, method=[spec], **steps)
            trainer.train_dataset = tiny.prompts().add_column("kind", column)
            trainer.train()
            return trainer

        kinds = ["rare" if i % 2 else "common" for i in range(16)]
        run("heal:column=kind,target=rare,shortest=1", kinds)
        words = tiny.tokenizer()
        rare = {
            prompt.replace(" ", "")
            for prompt, kind in zip(tiny.prompts()["prompt"], kinds, strict=True)
            if kind == "rare"
        }
        assert len(seen) == len(batches) == 4
        for tokens, batch in zip(seen, batches, strict=True):
            prompts = [
                words.decode(ids[mask == 1]).replace(" ", "")
                for ids, mask in zip(batch["prompt_ids"], batch["prompt_mask"], strict=True)
            ]
            assert tokens.labels.tolist() == [int(prompt in rare) for prompt in prompts]
        assert any(0 < int(tokens.labels.sum()) < 8 for tokens in seen)
        with pytest.raises(
            InputError, match="reads the column 'cluster' of the data set, which has prompt, kind: name"
        ):
            run("heal:shortest=1", kinds)
        with pytest.raises(InputError, match="the column 'kind' says the same of all problems"):
            run("heal:column=kind,target=other,shortest=1", kinds)
        with pytest.raises(InputError, match="more than 50 tokens, and max_completion_length is 10"):
            config(tmp_path, "heal")

    def test_hidden_states_stay_on_their_process(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        pytest.importorskip("ot")
        monkeypatch.setattr(EntropyShapedGRPOConfig, "world_size", property(lambda self: 2))
        config(tmp_path, "shear", per_device_train_batch_size=8)
        with pytest.raises(InputError, match=r"steps_per_generation \(2\) a multiple of num_generations \(4\)"):
            config(tmp_path, "shear", per_device_train_batch_size=2)

    def test_a_run_that_ends_before_a_method_begins(self, tmp_path: Path) -> None:
        """16 steps of one micro-batch, 2 of which a rollout has: 8 rollouts, and `pipo` has a window of 8 before it."""
        sizes = {"gradient_accumulation_steps": 1, "steps_per_generation": 2, "method": ["pipo"]}
        for steps, idle in ((16, True), (17, False), (-1, False)):
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                EntropyShapedGRPOConfig(output_dir=str(tmp_path), **{**tiny.QUIET, **sizes, "max_steps": steps})
            said = [str(w.message) for w in caught if "begins with rollout" in str(w.message)]
            assert bool(said) is idle
        with pytest.warns(UserWarning, match="'minerva' begins with rollout 11, and max_steps=2 draws 2: it will do"):
            EntropyShapedGRPOConfig(output_dir=str(tmp_path), **{**tiny.QUIET, "method": ["minerva"], "max_steps": 2})

    def test_a_package_that_is_missing(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(Shear, "packages", ("no_such_package",))
        with pytest.raises(InputError, match="'shear' needs the package no_such_package: pip install no_such_package"):
            config(tmp_path, "shear")

    def test_a_head_without_the_sum_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="'opefo' needs the sum of .* which TRL's own head does not give: set"):
            config(tmp_path, "opefo", entropy_backend="trl")
        with pytest.raises(InputError, match="'dcpo' needs the .*, which TRL's own head does not give: set"):
            config(tmp_path, "dcpo", entropy_backend="trl")
        config(tmp_path, "opefo:weight=paper", entropy_backend="trl")
        trainer = make(EntropyShapedGRPOTrainer, tmp_path, method=["opefo"])
        with pytest.raises(InputError, match="does not give, which computes .* since it must: set"):
            trainer._check_extras(HeadChoice("trl", why="it must"))


def exact_logps_with_gradient(model: torch.nn.Module, batch: dict[str, Any]) -> torch.Tensor:
    ids, mask = (torch.cat([batch[f"prompt_{k}"], batch[f"completion_{k}"]], dim=1) for k in ("ids", "mask"))
    n = batch["completion_ids"].size(1)
    logits = model(input_ids=ids, attention_mask=mask).logits[:, -n - 1 : -1]
    return (logits.double() / tiny.TEMPERATURE).log_softmax(dim=-1)


def nucleus_of(logp: torch.Tensor, top_p: float) -> torch.Tensor:
    """The entropy of the likeliest tokens that together have at most `top_p`, one after the other."""
    order = logp.detach().argsort(descending=True).tolist()
    total, inside = 0.0, []
    for token in order:
        total += float(logp[token].detach().exp())
        if inside and total > top_p + 1e-12:
            break
        inside.append(token)
    q = logp[inside].log_softmax(dim=0)
    return -(q.exp() * q).sum()


def twin_of(trainer: GRPOTrainer) -> torch.nn.Module:
    twin = tiny.policy()
    twin.load_state_dict(trainer.model.state_dict())
    return twin


def right_or_wrong(completion_ids: list[list[int]], **_: Any) -> list[float]:
    return [1.0 if sum(ids) % 2 else -1.0 for ids in completion_ids]


def right_or_nothing(completion_ids: list[list[int]], **_: Any) -> list[float]:
    return [max(0.0, reward) for reward in right_or_wrong(completion_ids)]


@pytest.mark.parametrize("name", runnable(sorted(all_methods())))
def test_two_real_steps_with_every_method(tmp_path: Path, name: str) -> None:
    method = parse_method(name)
    if Need.MEMORY in method.needs():
        pytest.skip("acts on prompts that recur: test_trl_meds.py")
    if Need.IMAGE_SIMILARITY in method.needs():
        pytest.skip("acts on images: test_trl_vgpo.py")
    if Need.REPLAY in method.needs():
        pytest.skip("learns in other turns than these: test_trl_replay.py")
    rows = 16 if name in ("miner", "heal") else 8  # which compare prompts
    options = {"max_steps": 2, "learning_rate": 1e-3, "per_device_train_batch_size": rows, "num_generations": 8}
    # Policies move little in one step.
    narrow = {
        "erc": "erc:low=0.9999,high=1.0001",
        "m2po": "m2po:largest=1e-7",
        "dppo": "dppo:low=1e-9,high=1e-9",
        "gppo": "gppo:low=1e-9,high=1e-9",
        "ce_gppo": "ce_gppo:low=1e-9,high=1e-9",
        "flexible_clip": "flexible_clip:fixed=1e-9",
        "entropy_balanced_clip": "entropy_balanced_clip:low=1e-9,high=1e-9",
        "overlong": "overlong:limit=10,buffer=9",
        "gtpo_trajectory": "gtpo_trajectory:threshold=9",
        "credit_weight": "credit_weight:least=0.5,width=9",
        "placebo_weight": "placebo_weight:least=0.5,width=9",
        "heal": "heal:column=prompt,target=0 + 0 =,shortest=1",
    }
    trainer = make(EntropyShapedGRPOTrainer, tmp_path, method=[narrow.get(name, name)], **options, **REUSED)
    trainer.reward_funcs = [right_or_nothing if name == "maxrl" else right_or_wrong]
    assert float(updates_of(trainer).norm()) > 0
    if isinstance(method, SettingsMethod):
        assert {key: getattr(trainer.args, key) for key in method.settings()} == dict(method.settings())
        return
    steps = [row for row in trainer.state.log_history if f"method/{name}/changed" in row]
    # Of the two, only the second differs from the policy that sampled; methods of the rollout act once, before both.
    assert len(steps) == (1 if method.scope is Scope.ROLLOUT else 2)
    changed = [row[f"method/{name}/changed"] for row in steps]
    if name == "erc":
        assert changed[0] == 0 < changed[1]  # the policy that sampled has the same entropies
    elif name not in ("clip_cov", "miner", "dcpo"):  # which finds nothing here, seldom something, begins later
        assert max(changed) > 0
    assert all(0 <= share <= 1 for share in changed)


PAIRS = {"num_generations": 2}


class TestRefused:
    @pytest.mark.parametrize("name", ["kl_cov", "erc", "entropy_advantage:entropy=old"])
    def test_comparison_with_the_same_policy(self, tmp_path: Path, name: str) -> None:
        with pytest.raises(InputError, match="would do nothing: set num_iterations to 2"):
            config(tmp_path, name)
        config(tmp_path, name, **REUSED)
        config(tmp_path, name, steps_per_generation=2)

    def test_selection_in_updates_that_span_rollouts(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match=r"steps_per_generation \(1\) to a multiple of gradient_accumulation"):
            config(tmp_path, "forking_tokens", gradient_accumulation_steps=2, steps_per_generation=1)

    @pytest.mark.parametrize(
        ("specs", "options", "message"),
        [
            (["clip_cov"], {"alpha": 0.3}, "alpha is the shorthand of a method; .* as in entropy_advantage:alpha=0.3"),
            (["entropy_advantage"], {"kappa": 3.0}, "kappa is the shorthand"),
            (["dr_grpo"], {"loss_type": "bnpo"}, "'dr_grpo' sets loss_type to dr_grpo, but it is given as bnpo"),
            (["grpo"], {"scale_rewards": False}, "'grpo' sets scale_rewards to group, but it is given as none"),
            (
                ["overlong"],
                {"max_completion_length": 512},
                "none is longer than 512 .*: set overlong:limit=512",
            ),
            (["clip_higher"], {}, "'clip_higher' compares the policy with the one that drew the rollout"),
            (["clip_higher"], {"epsilon_high": 0.3}, "sets epsilon_high to 0.28, but it is given as 0.3"),
            (["clipcov"], {}, "Did you mean 'clip_cov'"),
            (["passk_training"], {}, "k of the method 'passk_training' is 4, but groups have 4 completions"),
            (
                ["kl_cov"],
                {"loss_type": "sapo", **REUSED},
                "right only where the loss weighs each token by its own ratio",
            ),
            (["kl_cov", "gspo"], REUSED, "importance_sampling_level='sequence' does not"),
            (["gppo", "clip_higher"], REUSED, "'gppo' replaces the clip that epsilon_high=0.28 sets: leave one of"),
            (["maspo"], {"epsilon": 0.1, **REUSED}, "'maspo' replaces the clip that epsilon=0.1 sets"),
            (["dppo"], {"delta": 4.0, **REUSED}, "'dppo' replaces the clip that delta=4.0 sets"),
            (
                ["gppo"],
                {"loss_type": "sapo", **REUSED},
                "replaces the clip of each token's ratio, which loss_type='sapo'",
            ),
            (["gppo", "cispo"], REUSED, "replaces the clip that epsilon_high=5.0 sets"),
            (["gppo"], {"importance_sampling_level": "sequence", **REUSED}, "which loss_type='dapo' with"),
            (["gtpo:bonus=0"], {}, "bonus of the method 'gtpo' must be greater than 0, got 0"),
            (["ucpo"], PAIRS, "'ucpo' weighs the right answers .* 2 answers leave one at most, so it would do nothing"),
            (["asym_grpo"], PAIRS, "'asym_grpo' goes by the odds of a group, which among 2 answers are always 1"),
            (["gtpo:mixed_only=true"], PAIRS, "'gtpo' with mixed_only compares .* and 2 answers are one of each"),
            (["grpo_s:mixed_only=true"], PAIRS, "'grpo_s' with mixed_only compares .* and 2 answers are one of each"),
            (["miner"], {}, "'miner' pays answers to solved prompts .* and a rollout has one prompt"),
            (["heal:shortest=1"], {}, "'heal' compares answers to prompts of two domains, and a rollout has one"),
            (["miner", "dynamic_sampling"], PAIRS, r"earn all the same, which dynamic sampling \(max_draws=10\) takes"),
            (["cispo"], {}, "'cispo' compares the policy with the one that drew the rollout"),
            (["vgpo", "shear"], {}, "'vgpo' and 'shear' cannot be combined: the first acts where there are images"),
            (["vgpo", "forking_tokens"], {}, "'vgpo' and 'forking_tokens' cannot be combined"),
            (["vgpo", "rloo"], {}, "'vgpo' and 'rloo' cannot be combined"),
            (["rloo"], {"multi_objective_aggregation": "normalize_then_sum"}, "leave multi_objective_aggregation"),
        ],
    )
    def test_contradictions(self, tmp_path: Path, specs: list[str], options: dict[str, Any], message: str) -> None:
        with pytest.raises(InputError, match=message):
            config(tmp_path, *specs, **options)

    @pytest.mark.parametrize("name", ["rloo", "gtpo", "grpo", "dr_grpo"])
    def test_groups_in_ppo(self, tmp_path: Path, name: str) -> None:
        with pytest.raises(InputError, match=f"The method '{name}' compares the answers of a group; PPO has a critic"):
            config(tmp_path, name, cls=EntropyShapedPPOConfig)

    @pytest.mark.parametrize("name", ["empg", "gtpo_trajectory"])
    def test_rollouts_in_ppo(self, tmp_path: Path, name: str) -> None:
        with pytest.raises(InputError, match=f"'{name}' changes the advantages of a rollout, before PPO's critic"):
            config(tmp_path, name, cls=EntropyShapedPPOConfig)

    def test_ratios_per_sequence_in_ppo(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="importance ratio must be too"):
            config(tmp_path, "gspo", cls=EntropyShapedPPOConfig, num_generations=1)

    def test_completions_without_a_reward(self, tmp_path: Path) -> None:
        def silent(completion_ids: list[list[int]], **_: Any) -> list[float | None]:
            return [1.0, None] * (len(completion_ids) // 2)

        trainer = make(EntropyShapedGRPOTrainer, tmp_path, method=["rloo"], max_steps=1)
        trainer.reward_funcs = [silent]
        with pytest.raises(InputError, match="No reward function gave a number for 2 of 4 completions"):
            trainer.train()


class TestTheConfigSaysWhatIsInForce:
    def test_in_full(self, tmp_path: Path) -> None:
        args = config(tmp_path, "forking_tokens", "entropy_advantage:alpha=0.2")
        full = ["forking_tokens:share=0.2,rescale=false"]
        full += ["entropy_advantage:alpha=0.2,kappa=2.0,sign=both,multiplicative=false,cap=true,entropy=current"]
        assert (args.method, args.alpha, args.kappa) == (full, 0.2, 2.0)
        again = config(tmp_path, *args.method, alpha=args.alpha, kappa=args.kappa)
        assert (again.method, again.methods) == (args.method, args.methods)

    def test_named_methods_act_and_no_others(self, tmp_path: Path) -> None:
        assert [m.name for m in config(tmp_path).methods] == ["entropy_advantage"]
        assert config(tmp_path, alpha=0.0).methods == ()
        assert (config(tmp_path, "grpo").methods, config(tmp_path, "grpo").alpha) == ((), 0.0)
        assert [m.name for m in config(tmp_path, "steer", alpha=0.0).methods] == ["steer"]

    def test_ppo_has_the_papers_alpha_for_ppo(self, tmp_path: Path) -> None:
        args = config(tmp_path, "placebo_permuted", cls=EntropyShapedPPOConfig, num_generations=1)
        assert args.methods[0].alpha == 0.1

    def test_one_name_need_not_be_a_list(self, tmp_path: Path) -> None:
        assert config(tmp_path, method="steer").methods == (parse_method("steer"),)


class TestNeverSilentlySkipped:
    def test_rollouts_that_bypass_the_mixin(self, tmp_path: Path) -> None:
        def plain(self: Any, inputs: Any) -> Any:
            return GRPOTrainer._generate_and_score_completions(self, inputs)

        cls = type("Plain", (EntropyShapedGRPOTrainer,), {"_generate_and_score_completions": plain})
        for name in ("qae", "forking_tokens", "gtpo"):
            with pytest.raises(RuntimeError, match=f"The methods '{name}' did not act: the rollout bypassed the mixin"):
                make(cls, tmp_path, method=[name], max_steps=1).train()

    def test_advantages_replaced_after_the_rollout(self, tmp_path: Path) -> None:
        def replaced(self: Any, inputs: Any) -> Any:
            batch = EntropyShapedGRPOTrainer._generate_and_score_completions(self, inputs)
            return {**batch, "advantages": batch["advantages"] + 1}

        cls = type("Replaced", (EntropyShapedGRPOTrainer,), {"_generate_and_score_completions": replaced})
        with pytest.raises(RuntimeError, match="'ucpo' did not act: the advantages were replaced after the rollout"):
            make(cls, tmp_path, method=["ucpo"], max_steps=1).train()

    def test_rewards_that_bypass_the_mixin(self, tmp_path: Path) -> None:
        def plain(self: Any, *args: Any) -> Any:
            return GRPOTrainer._calculate_rewards(self, *args)

        cls = type("Plain", (EntropyShapedGRPOTrainer,), {"_calculate_rewards": plain})
        with pytest.raises(RuntimeError, match="did not call `_calculate_rewards`"):
            make(cls, tmp_path, method=["rloo"], max_steps=1).train()

    @pytest.mark.parametrize("name", ["forking_tokens", "rloo"])
    def test_losses_that_bypass_the_mixin(self, tmp_path: Path, name: str) -> None:
        def plain(self: Any, model: Any, inputs: dict[str, Any], **_: Any) -> torch.Tensor:
            return GRPOTrainer._compute_loss(self, model, inputs)

        trainer = make(type("Plain", (EntropyShapedGRPOTrainer,), {"_compute_loss": plain}), tmp_path, method=[name])
        before = parameters(trainer)
        with pytest.raises(RuntimeError, match=f"The methods '{name}' did not act: .*bypassed the mixin"):
            trainer.train()
        assert torch.equal(parameters(trainer), before)

    def test_an_update_that_is_not_in_the_buffer(self, tmp_path: Path) -> None:
        trainer = make(EntropyShapedGRPOTrainer, tmp_path, method=["forking_tokens"])
        with pytest.raises(RuntimeError, match="micro-batches of this update are not in TRL's buffer"):
            loss_and_gradient(trainer, *with_rows(tiny.microbatch()))


def test_only_what_is_required_is_computed(tmp_path: Path) -> None:
    """A second scoring of the rollout, or of later micro-batches, is made for those who need it and nobody else."""
    calls = []

    class Counting(EntropyShapedGRPOTrainer):
        def _score(self, batch: dict[str, Any]) -> Any:
            calls.append(len(batch["completion_ids"]))
            return super()._score(batch)

    def scored(name: str, **options: Any) -> list[int]:
        calls.clear()
        make(Counting, tmp_path, method=[name], max_steps=1, gradient_accumulation_steps=2, **options).train()
        return list(calls)

    assert scored("entropy_advantage") == []
    assert scored("rloo") == []
    assert scored("placebo_scaling", **REUSED) == []
    assert scored("forking_tokens") == [4]  # the second micro-batch
    assert scored("ucpo") == [8]  # the rollout
    assert scored("ucpo", **REUSED) == []  # whose log-probs TRL has computed
    assert scored("gtpo", **REUSED) == [8]
    assert scored("erc", **REUSED) == [8]


@pytest.mark.parametrize("scope", list(Scope))
def test_a_method_is_given_all_that_it_requires(tmp_path: Path, scope: Scope) -> None:
    """Groups and verdicts too, each with its completion in whatever order TRL has put the rollout."""
    seen: list[Tokens] = []
    batches: list[dict[str, Any]] = []
    given = ("entropy", "old_entropy", "logprobs", "old_logprobs", "groups", "correct")

    class Asking(TokenMethod):
        name = title = formula = "asking"
        requires = frozenset(
            {Need.ENTROPY, Need.OLD_ENTROPY, Need.LOGPROBS, Need.OLD_LOGPROBS, Need.GROUPS, Need.CORRECT}
        )

        def advantages(self, tokens: Tokens) -> torch.Tensor:
            seen.append(tokens)
            return 2 * tokens.advantages

    Asking.scope = scope

    class Spy(EntropyShapedGRPOTrainer):
        def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> torch.Tensor:
            batches.append(inputs)
            return super()._compute_loss(model, inputs)

    trainer = make(Spy, tmp_path, method=["steer"], max_steps=1, per_device_train_batch_size=8, **REUSED)
    trainer.reward_funcs = [right_or_wrong]
    trainer.args._methods = (Asking(),)
    trainer.train()
    (tokens,), (batch,) = seen, batches
    assert all(getattr(tokens, name) is not None for name in given)
    order = torch.arange(8) if scope in (Scope.TOKEN, Scope.COMPLETION) else batch[POSITIONS].argsort()
    rows = zip(batch["completion_ids"][order], batch["completion_mask"][order], strict=True)
    right = torch.tensor(right_or_wrong([ids[mask == 1].tolist() for ids, mask in rows])) > 0
    assert torch.equal(tokens.correct, right)
    assert not bool(right.all() | ~right.any()), "choose another seed: all alike"
    prompts = batch["prompt_ids"][order]
    assert torch.equal(tokens.groups[:, None] == tokens.groups, (prompts[:, None] == prompts).all(dim=2))
    assert len(set(tokens.groups.tolist())) == 2


def test_stages_are_all_used() -> None:
    assert {entry["stage"] for entry in describe()} == {*("settings", "reward", "replay", "token", "loss", "entropy")}
