"""Lessons of earlier completions on TRL: which, with which advantages, and under whose log-probs; kept and resumed."""

from __future__ import annotations

import inspect
import os
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("trl")

import tiny_chat
import tiny_trl as tiny
import torch
import transformers
from accelerate.utils import gather_object
from datasets import Dataset
from packaging.version import Version
from test_trl_methods import config, exact_logps_with_gradient, twin_of
from tiny_decoders import byte_tokenizer, tiny_decoder
from transformers import TrainerCallback
from trl import GRPOTrainer
from two_processes import run_in_two

from forkwise.engines.rows import ROW, Rows
from forkwise.engines.trl import EntropyShapedGRPOTrainer
from forkwise.engines.trl.update import POSITIONS
from forkwise.errors import InputError
from forkwise.methods import parse_methods
from forkwise.tasks import load_task
from forkwise.tasks.catalog import f1
from forkwise.training.resume import ExactResumeMixin
from forkwise.training.rewards import training_dataset

SIZE = 4
TOOLS_PARSED = Version(transformers.__version__) >= Version("5.13")  # the tokenizer's own parser of answers


class Recorded(ExactResumeMixin, EntropyShapedGRPOTrainer):
    """Notes what is drawn, with a copy of the policy that drew it, and what is learned from."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.drawn: list[tuple[list[list[int]], Any]] = []
        self.asked: list[tuple[float, list[str]]] = []
        self.lessons: list[dict[str, Any]] = []
        super().__init__(*args, **kwargs)

    def _generate(self, *args: Any, **kwargs: Any) -> Any:
        twin = twin_of(self)
        generated = super()._generate(*args, **kwargs)
        self.drawn.append(([list(ids) for ids in generated[1]], twin))
        self.asked.append((self.generation_config.temperature, list(args[0])))
        return generated

    def _generate_and_score_completions(self, inputs: Any) -> dict[str, Any]:
        self.lessons.append(super()._generate_and_score_completions(inputs))
        return self.lessons[-1]


def trainer_of(where: Path, *specs: str, **options: Any) -> Recorded:
    cut = {"per_device_train_batch_size": 8, "num_generations": SIZE, "max_steps": 6, "learning_rate": 1e-2}
    reward = options.pop("reward", tiny.reward)
    return Recorded(
        tiny.policy(),
        reward,
        config(where, *specs, **{**cut, **options}),
        train_dataset=tiny.prompts(),
        processing_class=tiny.tokenizer(),
    )


def trained(where: Path, *specs: str, draw: int = 0, **options: Any) -> Recorded:
    trainer = trainer_of(where, *specs, **options)
    torch.manual_seed(draw)
    trainer.train()
    return trainer


def completions(batch: dict[str, Any]) -> list[list[int]]:
    rows = zip(batch["completion_ids"], batch["completion_mask"], strict=True)
    return [ids[mask == 1].tolist() for ids, mask in rows]


def scored_by(policy: Any, batch: dict[str, Any], row: int) -> None:
    """Holds a completion's old log-probs against those of the policy that drew it, from its full logits."""
    one = {name: v[row : row + 1] for name, v in batch.items() if isinstance(v, torch.Tensor) and v.dim()}
    exact = tiny.exact_logps(policy, one).gather(2, one["completion_ids"][..., None])[..., 0]
    mask = one["completion_mask"].bool()
    torch.testing.assert_close(one["old_per_token_logps"][mask].double(), exact[mask], atol=1e-4, rtol=0)


def flat(trainer: Any) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in trainer.model.parameters()])


def trl_advantages(rewards: list[float]) -> torch.Tensor:
    groups = torch.tensor(rewards, dtype=torch.float64).view(-1, SIZE)
    advantages = (groups - groups.mean(1, keepdim=True)) / (groups.std(1, keepdim=True) + 1e-4)
    return advantages.flatten()


class TestPipo:
    def test_until_its_history_is_full_it_is_grpo_bit_for_bit(self, tmp_path: Path) -> None:
        pipo, grpo = (trained(tmp_path, *specs, alpha=0, max_steps=3) for specs in (["pipo:window=3"], ["grpo"]))
        assert torch.equal(flat(pipo), flat(grpo))
        assert len(pipo.drawn) == 3
        assert not torch.equal(flat(pipo), flat(trainer_of(tmp_path, "grpo")))

    def test_the_rollout_before_is_learned_from_again_with_its_log_probs(self, tmp_path: Path) -> None:
        """Rollouts 1 and 2 are the history; 3 says how 2 is learned from again, then follows itself; and so on."""
        trainer = trained(tmp_path, "pipo:window=2,lam=0.5", max_steps=6, draw=3)
        assert len(trainer.drawn) == 4
        means = [sum(tiny.reward(ids)) / len(ids) for ids, _ in trainer.drawn]
        plan: list[tuple[int, float]] = [(0, 1.0), (1, 1.0)]
        for t in (2, 3):
            history = torch.tensor(means[t - 2 : t], dtype=torch.float64)
            assert float(history.std()) > 0, "choose another seed: the history has no spread"
            xi = float((means[t] - history.mean()) / (history.std() + 1e-6))
            plan += [(t - 1, xi if xi >= 0 else 0.5 * xi), (t, 1.0)]
        assert len(plan) == len(trainer.lessons) == 6
        assert min(factor for _, factor in plan) < 0, "choose another seed: nothing is undone"
        for (which, factor), batch in zip(plan, trainer.lessons, strict=True):
            ids, twin = trainer.drawn[which]
            assert completions(batch) == ids
            want = factor * trl_advantages(tiny.reward(ids))
            torch.testing.assert_close(batch["advantages"].double(), want, atol=1e-5, rtol=1e-5)
            assert int(batch["num_items_in_batch"]) == sum(map(len, ids))
            assert batch[POSITIONS].tolist() == list(range(8))
            if "old_per_token_logps" not in batch:
                assert (which, factor) in ((0, 1.0), (1, 1.0))  # the policy has not moved since
                continue
            for row in range(8):
                scored_by(twin, batch, row)
        # The policy that learns is not the one that drew: at a rate of 1e-2 the ratio shows it.
        now, then = (tiny.exact_logps(twin, trainer.lessons[2]) for twin in (trainer.drawn[3][1], trainer.drawn[1][1]))
        assert float((now - then).abs().max()) > 1e-2
        xis = [row["method/pipo/xi"] for row in trainer.state.log_history if "method/pipo/xi" in row]
        assert [x if x >= 0 else x / 2 for x in xis] == pytest.approx(
            [0, 0, *(plan[i][1] for i in (2, 2, 4, 4))], rel=1e-4
        )

    def test_a_history_without_spread_teaches_nothing_again(self, tmp_path: Path) -> None:
        def tied(completion_ids: list[list[int]], **_: Any) -> list[float]:
            return [1.0, 0.0] * (len(completion_ids) // 2)

        trainer = trained(tmp_path, "pipo:window=2", reward=tied)
        assert len(trainer.drawn) == len(trainer.lessons) == 6

    @pytest.mark.parametrize("step", [3, 4])
    def test_a_run_that_is_resumed_goes_on_bit_for_bit(self, tmp_path: Path, step: int) -> None:
        """After 3 the rollout that was drawn waits for its turn; after 4 a new one is drawn."""
        options = {"save_strategy": "steps", "save_steps": 1, "num_iterations": 1}
        whole = trained(tmp_path / "run", "pipo:window=2", **options)
        again = trainer_of(tmp_path / "run", "pipo:window=2", **options)
        again.train(resume_from_checkpoint=str(tmp_path / "run" / f"checkpoint-{step}"))
        assert torch.equal(flat(whole), flat(again))
        assert again.drawn[-1][0] == whole.drawn[-1][0]

    def test_with_dynamic_sampling_every_rollout_is_full_and_learned_from_again(self, tmp_path: Path) -> None:
        """Groups without a spread give way before the rollout is learned from, and kept."""

        def coarse(completion_ids: list[list[int]], **_: Any) -> list[float]:
            return [float(sum(ids) // 7 % 5 == 0) + 0.5 * float(sum(ids) % 4 == 1) for ids in completion_ids]

        trainer = trained(tmp_path, "pipo:window=2", "dynamic_sampling", reward=coarse, max_steps=8, draw=1)
        assert [row for row in trainer.state.log_history if row.get("dynamic_sampling/draws", 0) > 1]
        again = [i for i, lesson in enumerate(trainer.lessons) if completions(lesson) in seen(trainer.lessons[:i])]
        assert again, "choose another seed: nothing is learned again"
        fresh = [lesson for i, lesson in enumerate(trainer.lessons) if i not in again]
        for lesson in fresh:
            rewards = coarse(completions(lesson))
            assert all(len({*rewards[start : start + SIZE]}) > 1 for start in (0, SIZE))
            torch.testing.assert_close(lesson["advantages"].double(), trl_advantages(rewards), atol=1e-5, rtol=1e-5)

    def test_with_tools_what_they_said_counts_no_more_the_second_time(self, tmp_path: Path) -> None:
        if "tools" not in inspect.signature(GRPOTrainer.__init__).parameters or not TOOLS_PARSED:
            pytest.skip("this TRL, or this transformers, has no tools")
        trainer = Recorded(
            tiny.policy(),
            tiny.reward,
            config(
                tmp_path,
                "pipo:window=2",
                "empg",
                max_tool_calling_iterations=1,
                max_completion_length=24,
                per_device_train_batch_size=8,
                max_steps=3,
            ),
            train_dataset=Dataset.from_dict({"prompt": [[{"role": "user", "content": f"{i} + 1"}] for i in range(8)]}),
            processing_class=tiny_chat.tokenizer(),
            tools=[tiny_chat.b],
        )
        torch.manual_seed(2)
        trainer.train()
        first, again = trainer.lessons[1:3]
        assert completions(first) == completions(again)
        masks = [batch["completion_mask"] * batch["tool_mask"] for batch in (first, again)]
        assert torch.equal(*masks)
        assert int(masks[0].sum()) < int(first["completion_mask"].sum()), "choose another seed: no tool says anything"
        assert int(again["num_items_in_batch"]) == int(masks[1].sum())

    def test_it_goes_with_methods_that_make_or_shape_advantages(self, tmp_path: Path) -> None:
        trainer = trained(tmp_path, "pipo:window=2", "maxrl", "entropy_advantage", "forking_tokens", reward=_positive)
        assert [row for row in trainer.state.log_history if "method/forking_tokens/changed" in row]
        again = trainer.lessons[2]
        assert completions(again) == trainer.drawn[1][0]
        groups = torch.tensor(_positive(trainer.drawn[1][0]), dtype=torch.float64).view(-1, SIZE)
        advantages = (groups / groups.mean(1, keepdim=True) - 1).flatten()
        factor = float(again["advantages"][advantages.abs().argmax()] / advantages[advantages.abs().argmax()])
        torch.testing.assert_close(again["advantages"].double(), factor * advantages, atol=1e-5, rtol=1e-5)
        assert abs(factor) > 0.1


def seen(lessons: list[dict[str, Any]]) -> list[list[list[int]]]:
    return [completions(lesson) for lesson in lessons]


def _positive(completion_ids: list[list[int]], **_: Any) -> list[float]:
    return [1.0 + value for value in tiny.reward(completion_ids)]


def quarter(completion_ids: list[list[int]], **_: Any) -> list[float]:
    """Every fourth completion is right, so that some groups have none."""
    return [1.0 if sum(ids) % 4 == 0 else 0.0 for ids in completion_ids]


class TestUecRl:
    GROUP = 6
    SPEC = "uec_rl:group=6,every=2,rare=0.8"

    def plan(self, trainer: Recorded) -> list[list[tuple[list[int], float, Any]]]:
        """What should have been learned from in each turn but replays, from what was drawn, and by which policy."""
        queue: list[tuple[list[int], float, Any]] = []
        lessons = []
        for (ids, twin), (temperature, _) in zip(trainer.drawn, trainer.asked, strict=True):
            again = temperature > tiny.TEMPERATURE * 1.01
            size, least = (self.GROUP, 0.5) if again else (SIZE, 0.05)
            groups = torch.tensor(quarter(ids), dtype=torch.float64).view(-1, size)
            advantages = (
                ((groups - groups.mean(1, keepdim=True)) / (groups.std(1, keepdim=True) + 1e-4)).flatten().tolist()
            )
            if not again:
                while len(queue) >= 8:
                    lessons.append(queue[:8])
                    queue = queue[8:]
            good = [abs(a) > least and (len(row) < 10 or a < 0) for row, a in zip(ids, advantages, strict=True)]
            queue += [(row, a, twin) for row, a, keep in zip(ids, advantages, good, strict=True) if keep]
        while len(queue) >= 8:
            lessons.append(queue[:8])
            queue = queue[8:]
        return lessons

    def test_what_waits_is_learned_from_in_its_order(self, tmp_path: Path) -> None:
        trainer = trained(tmp_path, self.SPEC.replace("every=2", "every=1000"), reward=quarter, max_steps=4)
        lessons = self.plan(trainer)
        assert len(trainer.lessons) == 4 <= len(lessons) < 9
        for want, batch in zip(lessons, trainer.lessons, strict=False):
            assert completions(batch) == [ids for ids, _, _ in want]
            assert batch["advantages"].tolist() == pytest.approx([a for _, a, _ in want], abs=1e-4)
            for row, (_, _, twin) in enumerate(want):
                scored_by(twin, batch, row)

    def test_prompts_that_nothing_solves_are_drawn_again_hotter(self, tmp_path: Path) -> None:
        trainer = trained(tmp_path, self.SPEC, reward=quarter, max_steps=3)
        turns = list(zip(trainer.drawn, trainer.asked, strict=True))
        hot = [i for i, (_, (temperature, _)) in enumerate(turns) if temperature > tiny.TEMPERATURE]
        assert hot, "choose another seed: every prompt was solved"
        for i, ((ids, _), (temperature, prompts)) in enumerate(turns):
            if i in hot:
                continue
            groups = [quarter(ids[g : g + SIZE]) for g in range(0, 8, SIZE)]
            unsolved = [prompts[g * SIZE] for g, rewards in enumerate(groups) if sum(rewards) == 0]
            assert temperature == pytest.approx(tiny.TEMPERATURE)
            assert (i + 1 in hot) == bool(unsolved)
            if unsolved:
                assert turns[i + 1][1][0] == pytest.approx(1.1 * tiny.TEMPERATURE)
                assert turns[i + 1][1][1] == [prompt for prompt in unsolved for _ in range(self.GROUP)]
        assert trainer.generation_config.temperature == pytest.approx(tiny.TEMPERATURE)
        assert trainer.num_generations == SIZE

    def test_rare_right_ones_are_learned_from_again(self, tmp_path: Path) -> None:
        trainer = trained(tmp_path, self.SPEC, reward=quarter, max_steps=12)
        seen: list[list[int]] = []
        replays = 0
        for batch in trainer.lessons:
            rows = completions(batch)
            if all(row in seen for row in rows):
                replays += 1
                assert float(batch["advantages"].min()) > 0.8
            seen += rows
        assert replays >= 1, "choose another seed: too little is rare"

    def test_where_nothing_can_be_learned_the_turn_is_filled_with_what_counts_nothing(self, tmp_path: Path) -> None:
        def flat_reward(completion_ids: list[list[int]], **_: Any) -> list[float]:
            return [1.0] * len(completion_ids)

        trainer = trained(tmp_path, "uec_rl", reward=flat_reward, max_steps=1)
        (batch,) = trainer.lessons
        assert len(trainer.drawn) == 10
        assert len(batch["completion_ids"]) == 8
        assert int(batch["completion_mask"].sum()) == 0
        assert torch.equal(flat(trainer), flat(trainer_of(tmp_path, "grpo")))

    @pytest.mark.parametrize("step", [3])
    def test_a_run_that_is_resumed_goes_on_bit_for_bit(self, tmp_path: Path, step: int) -> None:
        options = {"save_strategy": "steps", "save_steps": 1, "reward": quarter}
        whole = trained(tmp_path / "run", self.SPEC, **options)
        again = trainer_of(tmp_path / "run", self.SPEC, **options)
        again.train(resume_from_checkpoint=str(tmp_path / "run" / f"checkpoint-{step}"))
        assert torch.equal(flat(whole), flat(again))
        assert whole.extra_prompts == again.extra_prompts > 0


class TestPolicySplit:
    """The second prompt begins with "h i"."""

    def spec(self, where: Path, *more: str) -> str:
        (where / "text").write_text("h i\n")
        return ",".join([f"policy_split:eta=0.3,mix=0.6,cap=2,prompt={where / 'text'}", *more])

    def test_completions_are_learned_from_under_both_prompts(self, tmp_path: Path) -> None:
        trainer = trained(tmp_path, self.spec(tmp_path, "normal=0.1"), max_steps=4)
        assert len(trainer.drawn) == 2
        for turn, ((ids, twin), (_, asked)) in enumerate(zip(trainer.drawn, trainer.asked, strict=True)):
            second = [prompt.startswith("h i\n\n") for prompt in asked]
            assert second == [False, True] * 4
            plain = [prompt.removeprefix("h i\n\n") for prompt in asked]
            lessons = trainer.lessons[2 * turn : 2 * turn + 2]
            rows = [row for lesson in lessons for row in completions(lesson)]
            assert rows == [row for row in ids for _ in (0, 1)]
            read = [self.prompt(lesson, i) for lesson in lessons for i in range(8)]
            other = [p if s else f"h i {p}" for p, s in zip(plain, second, strict=True)]
            own = [prompt.replace("\n\n", " ") for prompt in asked]
            assert read == [prompt for pair in zip(own, other, strict=True) for prompt in pair]
            for i in range(16):
                scored_by(twin, lessons[i // 8], i % 8)
            self.check_advantages(lessons, read, trl_advantages(tiny.reward(ids)).repeat_interleave(2))
        assert [row for row in trainer.state.log_history if 0 < row.get("method/policy_split/changed", 0) <= 1]

    def prompt(self, batch: dict[str, Any], row: int) -> str:
        ids, mask = batch["prompt_ids"][row], batch["prompt_mask"][row]
        return " ".join(tiny.WORDS[i] for i in ids[mask == 1].tolist())

    def check_advantages(self, lessons: list[dict[str, Any]], read: list[str], a: torch.Tensor) -> None:
        """Row i and the one beside it are one completion; the groups are of eight rows, four in each mode."""
        old = [lesson["old_per_token_logps"][i].double() for lesson in lessons for i in range(8)]
        masks = [lesson["completion_mask"][i].bool() for lesson in lessons for i in range(8)]
        advantages = [lesson["advantages"][i].double() for lesson in lessons for i in range(8)]
        u = [-row[mask] for row, mask in zip(old, masks, strict=True)]
        mixed = [0.6 * u[i] + 0.4 * u[i ^ 1] for i in range(16)]
        for group in (range(8), range(8, 16)):
            for high in (False, True):
                rows = [i for i in group if read[i].startswith("h i") == high]
                assert len(rows) == 4
                values = torch.cat([mixed[i] for i in rows])
                for i in rows:
                    z = (mixed[i] - values.mean()) / (values.std() + 1e-6)
                    term = (0.3 * z if high else -0.1 * z).clamp(-abs(a[i]) / 2, abs(a[i]) / 2)
                    torch.testing.assert_close(advantages[i][masks[i]], a[i] + term, atol=1e-4, rtol=1e-4)

    def test_constants_must_be_given(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="needs eta and mix and cap and prompt, which its authors have not publis"):
            config(tmp_path, "policy_split")
        with pytest.raises(InputError, match="needs mix, which .*: give them, as in policy_split:mix="):
            config(tmp_path, self.spec(tmp_path).replace("mix=0.6,", ""))
        with pytest.raises(InputError, match="text of the method 'policy_split' cannot be read: .*No such file"):
            config(tmp_path, self.spec(tmp_path).replace("/text", "/none"))
        (tmp_path / "empty").write_text(" ")
        with pytest.raises(InputError, match="is empty: write the text into it"):
            config(tmp_path, self.spec(tmp_path).replace("/text", "/empty"))
        with pytest.raises(InputError, match="under which the reference policy of beta scores them: set beta to 0"):
            config(tmp_path, self.spec(tmp_path), beta=0.1)
        with pytest.raises(InputError, match="set num_generations to an even number, not 5"):
            config(tmp_path, self.spec(tmp_path), num_generations=5, per_device_train_batch_size=5)
        with pytest.raises(InputError, match="the second changes the advantages of a rollout, and not those of what"):
            config(tmp_path, self.spec(tmp_path), "empg")
        with pytest.raises(InputError, match="which does not go with max_draws=2"):
            config(tmp_path, self.spec(tmp_path), max_draws=2)

    def test_a_text_that_has_changed_since_is_noticed(self, tmp_path: Path) -> None:
        options = {"save_strategy": "steps", "save_steps": 1}
        spec = self.spec(tmp_path)
        whole = trained(tmp_path / "run", spec, **options)
        checkpoint = str(tmp_path / "run" / "checkpoint-3")
        again = trainer_of(tmp_path / "run", spec, **options)
        again.train(resume_from_checkpoint=checkpoint)
        assert torch.equal(flat(whole), flat(again))
        (tmp_path / "text").write_text("h o")
        other = trainer_of(tmp_path / "run", spec, **options)
        with pytest.raises(InputError, match="A file of the method 'policy_split' has changed since this run began"):
            other.train(resume_from_checkpoint=checkpoint)
        assert not other.drawn

    def test_a_text_that_changes_while_the_run_goes_on(self, tmp_path: Path) -> None:
        trainer = trainer_of(tmp_path, self.spec(tmp_path))

        class Edit(TrainerCallback):
            def on_step_end(self, *_: Any, **__: Any) -> None:
                (tmp_path / "text").write_text("h o")

        trainer.add_callback(Edit())
        with pytest.raises(InputError, match="has changed since this run began"):
            trainer.train()


class TestMinerva:
    """A prompt without a right completion is drawn six times more with its answer; whoever shares no word leaks."""

    SPEC = "minerva:group=6,every=2,shortest=0,rate=0.1,column=gold,named=2"

    def run(self, where: Path, *others: str, draw: int = 5, **options: Any) -> Recorded:
        trainer = trainer_of(
            where,
            self.SPEC,
            *others,
            reward=quarter,
            optim="sgd",
            lr_scheduler_type="constant",
            max_grad_norm=0.0,
            **options,
        )
        prompts = tiny.prompts()
        trainer.train_dataset = prompts.add_column("gold", ["3"] * len(prompts))
        trainer.weights = []
        trainer.add_callback(KeepWeights(trainer))
        torch.manual_seed(draw)
        trainer.train()
        return trainer

    def test_clean_answers_are_imitated_under_the_prompt_without_the_hint(self, tmp_path: Path) -> None:
        trainer = self.run(tmp_path, max_steps=3)
        assert len(trainer.lessons) == 3
        clean: list[list[tuple[str, list[int]]]] = []
        for (ids, _), (temperature, asked) in zip(trainer.drawn, trainer.asked, strict=True):
            if temperature == pytest.approx(tiny.TEMPERATURE):
                continue
            assert temperature == pytest.approx(0.7 * tiny.TEMPERATURE)
            assert all("The answer is 3. Do not mention" in prompt for prompt in asked)
            for start in range(0, len(ids), 6):
                task = asked[start].partition("\n\n")[0]
                rows = ids[start : start + 6]
                clean.append([(task, row) for row in rows if quarter([row])[0] and self.shares(task, row)])
        imitated = trainer.lessons[2]
        mask = imitated["completion_mask"].bool()
        count = int(mask.any(dim=1).sum())
        assert count == sum(bool(some) for some in clean) > 0, "choose another seed: nothing is kept"
        for row, some in zip(range(count), [some for some in clean if some], strict=True):
            ids = imitated["prompt_ids"][row][imitated["prompt_mask"][row] == 1].tolist()
            own = (" ".join(tiny.WORDS[i] for i in ids), imitated["completion_ids"][row][mask[row]].tolist())
            assert own in some
        assert "old_per_token_logps" not in imitated
        assert imitated["advantages"][:count].tolist() == [1.0] * count
        assert trainer.optimizer.param_groups[0]["lr"] == pytest.approx(1e-2)
        self.check_imitation(trainer)

    def check_imitation(self, trainer: Recorded, per_completion: bool = False) -> None:
        """Likelihood in the third step: the gradient of -mean log p over all tokens, at a tenth of the rate.

        With `per_completion` the mean over completions of their own means.
        """
        imitated, before, after = trainer.lessons[2], trainer.weights[1], trainer.weights[2]
        mask = imitated["completion_mask"].bool()
        assert 0 < int(mask.any(dim=1).sum()) < len(mask), "choose another seed: nothing is kept, or as much as drawn"
        twin = tiny.policy()
        twin.load_state_dict(before)
        logps = exact_logps_with_gradient(twin, imitated).gather(2, imitated["completion_ids"][..., None])[..., 0]
        of_each = [-row[counted].mean() for row, counted in zip(logps, mask, strict=True) if bool(counted.any())]
        (torch.stack(of_each).mean() if per_completion else -(logps * mask).sum() / mask.sum()).backward()
        moved = 0.0
        for name, parameter in twin.named_parameters():
            step = before[name] - after[name]
            torch.testing.assert_close(step, 1e-3 * parameter.grad, atol=2e-6, rtol=1e-3)
            moved += float(step.abs().sum())
        assert moved > 1e-3

    @pytest.mark.parametrize("others", [["entropy_advantage:alpha=9"], ["siren:coef=9", "forking_tokens"], ["repo_r"]])
    def test_nothing_shapes_what_is_imitated(self, tmp_path: Path, others: list[str]) -> None:
        trainer = self.run(tmp_path, *others, draw=11, max_steps=3)
        self.check_imitation(trainer)
        name = others[0].partition(":")[0]
        assert [f"method/{name}/changed" in row for row in trainer.state.log_history[:3]] == [True, True, False]

    def test_what_is_imitated_steers_no_option(self, tmp_path: Path) -> None:
        """The entropy that decides the next rollout's option is that of the two rollouts' updates alone."""
        seen: list[Any] = []
        trainer = trainer_of(tmp_path, self.SPEC, "repo_r:target=9", reward=quarter, max_steps=3)
        trainer.train_dataset = tiny.prompts().add_column("gold", ["3"] * 16)
        plain = trainer._method_states.watch
        trainer._method_states.watch = lambda *args: (seen.append(trainer.state.global_step), plain(*args))
        torch.manual_seed(5)
        trainer.train()
        assert trainer.lessons[2].get("old_per_token_logps") is None
        assert seen == [0, 1]

    @pytest.mark.parametrize("loss_type", ["grpo", "sapo"])
    def test_few_completions_are_not_diluted_by_their_filling(self, tmp_path: Path, loss_type: str) -> None:
        self.check_imitation(self.run(tmp_path, max_steps=3, loss_type=loss_type), per_completion=True)

    def test_losses_in_which_imitation_is_not_likelihood(self, tmp_path: Path) -> None:
        for options in ({"entropy_coef": 0.1}, {"top_entropy_quantile": 0.5}):
            with pytest.raises(InputError, match="'minerva' imitates completions by their likelihood alone, on which"):
                config(tmp_path, self.SPEC, **options)
        with pytest.raises(InputError, match="fewer completions than a rollout has, and loss_type='bnpo'"):
            config(tmp_path, self.SPEC, loss_type="bnpo")

    @pytest.mark.parametrize("step", [2, 3])
    def test_a_run_that_is_resumed_goes_on_bit_for_bit(self, tmp_path: Path, step: int) -> None:
        options = {"save_strategy": "steps", "save_steps": 1, "reward": quarter}
        made = []
        for resumed in (None, str(tmp_path / f"checkpoint-{step}")):
            trainer = trainer_of(tmp_path, self.SPEC, **options)
            trainer.train_dataset = tiny.prompts().add_column("gold", ["3"] * 16)
            torch.manual_seed(5)
            trainer.train(resume_from_checkpoint=resumed)
            made.append(flat(trainer))
        assert torch.equal(*made)

    def shares(self, task: str, row: list[int]) -> bool:
        """Clean: at least one word of 20 is one of the task's, and 3 stands there twice at most."""
        words = {tiny.WORDS[i] for i in row if i not in (tiny.PAD, tiny.EOS)}
        return bool(words & {*task.split()}) and row.count(tiny.WORDS.index("3")) <= 2

    def test_other_lessons_are_grpo_s(self, tmp_path: Path) -> None:
        trainer = self.run(tmp_path, max_steps=2)
        for lesson in trainer.lessons:
            rewards = quarter(completions(lesson))
            torch.testing.assert_close(lesson["advantages"].double(), trl_advantages(rewards), atol=1e-5, rtol=0)
            assert "old_per_token_logps" not in lesson

    def test_a_column_that_is_not_there(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="'minerva' learns completions under another prompt than .* set beta to 0"):
            config(tmp_path, "minerva", beta=0.1)
        with pytest.raises(InputError, match="'minerva' reads the column 'gold' of the data set, which has prompt"):
            trainer_of(tmp_path, self.SPEC).train()
        trainer = trainer_of(tmp_path, self.SPEC)
        trainer.train_dataset = tiny.prompts().add_column("gold", ["3", None] * 8)
        with pytest.raises(InputError, match="shows answers, and the column 'gold' has none for some problems"):
            trainer.train()
        trainer = trainer_of(tmp_path, "minerva:reference=source")
        trainer.train_dataset = tiny.prompts().add_column("answer", ["3"] * 16)
        with pytest.raises(InputError, match="reads the column 'source' of the data set, which has prompt, answer"):
            trainer.train()


class Scripted(EntropyShapedGRPOTrainer):
    """Answers catalogs from a script: wrong without the hint; with it in three ways, one of them clean and right."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.lessons: list[dict[str, Any]] = []
        super().__init__(*args, **kwargs)

    def _generate_and_score_completions(self, inputs: Any) -> dict[str, Any]:
        self.lessons.append(super()._generate_and_score_completions(inputs))
        return self.lessons[-1]

    def _generate_single_turn(self, prompt_ids: Any, *args: Any, **kwargs: Any) -> Any:
        texts = [self._tokenizer.decode(ids) for ids in prompt_ids]
        return [self._tokenizer(self.answer(text, i))["input_ids"] for i, text in enumerate(texts)], None

    def answer(self, prompt: str, number: int) -> str:
        _, hinted, hint = prompt.partition("The answer is ")
        if not hinted:
            return "I look at the parts. \\boxed{Z99}"
        gold = hint.partition(". Do not")[0]
        reasons = (
            "The parts that are red, blue, green or black are compared with the length that is asked for in mm, and "
        )
        ways = (
            f"{reasons}these fit: \\boxed{{{gold}}}",
            f"{reasons}the given answer is right: \\boxed{{{gold}}}",
            f"{reasons}one fits: \\boxed{{{gold.partition(',')[0]}}}",
        )
        return ways[number % 3]


def test_minerva_on_structured_answers(tmp_path: Path) -> None:
    """Sets of ids, paid by their F1. Nothing is solved; of three hinted answers the right and clean one is imitated."""
    problems = load_task("catalog:set").problems("train", 4)
    tokenizer = byte_tokenizer()
    trainer = Scripted(
        tiny_decoder("llama", max_position_embeddings=2048).train(),
        f1,
        config(
            tmp_path,
            "minerva:group=3,every=1,rate=1",
            per_device_train_batch_size=8,
            num_generations=SIZE,
            max_completion_length=256,
            max_steps=2,
            learning_rate=1e-3,
        ),
        train_dataset=training_dataset(problems),
        processing_class=tokenizer,
    )
    trainer.train()
    rollout, imitated = trainer.lessons
    assert len(rollout["completion_ids"]) == 8
    assert float(rollout["advantages"].abs().max()) == 0  # all wrong alike
    kept = [row for row in completions(imitated) if row]
    texts = [tokenizer.decode(row) for row in kept]
    assert len(texts) == 2  # prompts of the rollout
    golds = {problem.answer: problem.prompt for problem in problems}
    for row, text in enumerate(texts):
        gold = text.rpartition("{")[2].rstrip("}")
        assert "these fit" in text
        ids = imitated["prompt_ids"][row][imitated["prompt_mask"][row] == 1]
        assert tokenizer.decode(ids) == golds[gold]  # without the hint
    logged = next(row for row in trainer.state.log_history if "method/minerva/leaks" in row)
    assert logged["method/minerva/leaks"] == pytest.approx(1 / 3)
    assert logged["method/minerva/drawn_again"] == 1
    assert logged["method/minerva/waiting"] == 2
    partial = [2 / (1 + len(str(problem.answer).split(", "))) for problem in problems]
    most, least = ((0.1 + 0.1 - 0.5 + 0.1 * f(partial)) / 3 for f in (max, min))
    assert least - 1e-6 <= logged["method/minerva/hinted_reward"] <= most + 1e-6


class KeepWeights(TrainerCallback):
    """Copies the policy after each step."""

    def __init__(self, trainer: Any) -> None:
        self.trainer = trainer

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.trainer.weights.append({k: v.detach().clone() for k, v in self.trainer.model.state_dict().items()})


class TestRows:
    ROWS = Rows(
        {
            ROW: torch.tensor([3, 5]),
            "prompt_ids": torch.tensor([[0, 7], [8, 9]]),
            "prompt_mask": torch.tensor([[False, True], [True, True]]),
            "completion_ids": torch.tensor([[1, 0, 0], [2, 3, 0]]),
            "completion_mask": torch.tensor([[True, False, False], [True, True, False]]),
            "advantages": torch.tensor([0.5, -1.0]),
        }
    )

    def test_prompts_are_padded_in_front_and_completions_behind(self) -> None:
        wider = Rows(
            {
                ROW: torch.tensor([6]),
                "prompt_ids": torch.tensor([[4, 5, 6]]),
                "prompt_mask": torch.ones(1, 3, dtype=torch.bool),
                "completion_ids": torch.tensor([[9]]),
                "completion_mask": torch.tensor([[True]]),
                "advantages": torch.tensor([2.0]),
            }
        )
        both = self.ROWS.joined(wider)
        assert both.columns["prompt_ids"].tolist() == [[0, 0, 7], [0, 8, 9], [4, 5, 6]]
        assert both.columns["completion_ids"].tolist() == [[1, 0, 0], [2, 3, 0], [9, 0, 0]]
        assert both.of(torch.tensor([6, 3])).columns["advantages"].tolist() == [2.0, 0.5]
        assert both.only(torch.tensor([5, 9])).numbers().tolist() == [5]

    def test_columns_that_nobody_uses_go(self) -> None:
        one = self.ROWS.of(torch.tensor([3])).trimmed()
        assert one.columns["prompt_ids"].tolist() == [[7]]
        assert one.columns["completion_ids"].tolist() == [[1]]

    def test_completions_that_were_not_kept(self) -> None:
        with pytest.raises(RuntimeError, match="were not kept"):
            self.ROWS.of(torch.tensor([4]))


@pytest.mark.parametrize("name", ["pipo:window=2", "uec_rl:group=6", "policy_split"])
def test_completions_of_older_policies_have_ratios_with_one_update_per_rollout(tmp_path: Path, name: str) -> None:
    (tmp_path / "text").write_text("h i")
    spec = f"policy_split:eta=0.3,mix=0.6,cap=2,prompt={tmp_path / 'text'}" if name == "policy_split" else name
    for other in ("clip_higher", "erc", "kl_cov"):
        if other != "clip_higher" or name != "uec_rl":
            config(tmp_path, spec, other)
    with pytest.raises(InputError, match="'erc' compares the policy with the one that drew the rollout"):
        config(tmp_path, "minerva", "erc")
    if name == "pipo:window=2":
        trainer = trained(tmp_path, spec, "erc:low=0.99,high=1.01", max_steps=6, draw=3)
        changed = [row["method/erc/changed"] for row in trainer.state.log_history if "method/erc/changed" in row]
        assert changed[:2] == [0, 0]  # the policy that drew them learns
        assert changed[2] > 0


@pytest.mark.parametrize("name", ["uec_rl", "aepo_arbitrary", "policy_split"])
def test_what_no_second_draw_goes_with_is_refused_before_the_first(tmp_path: Path, name: str) -> None:
    (tmp_path / "text").write_text("h i")
    spec = f"policy_split:eta=0.3,mix=0.6,cap=2,prompt={tmp_path / 'text'}" if name == "policy_split" else name
    trainer = trainer_of(tmp_path, spec)
    trainer.tools = [print]
    with pytest.raises(InputError, match=f"'{name}' takes text prompts and TRL's own generation .* there is tools"):
        trainer.train()
    assert not trainer.drawn


def test_further_prompts_of_a_streamed_data_set_are_missed_before_anything_is_drawn(tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path, "uec_rl")
    trainer.train_dataset = tiny.prompts().to_iterable_dataset()
    trainer.model.train()
    with pytest.raises(InputError, match="'uec_rl' draws further prompts, which a streamed data set does not give"):
        trainer._generate_and_score_completions(tiny.prompts().to_list()[:8])
    assert not trainer.drawn


def test_what_cannot_be_honoured_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="learns from completions in the place of a rollout, so that no update may"):
        config(tmp_path, "pipo", gradient_accumulation_steps=2, steps_per_generation=1)
    with pytest.raises(InputError, match="window of the method 'pipo' must be at least 2, got 1"):
        config(tmp_path, "pipo:window=1")
    assert [method.name for method in parse_methods(["eapo", "pipo", "rloo"])] == ["pipo", "rloo", "eapo"]
    with pytest.raises(InputError, match="'uec_rl' decides which completions are trained on, .* max_draws=3"):
        config(tmp_path, "uec_rl", max_draws=3)
    for other in ("rloo", "shear", "empg"):
        with pytest.raises(InputError, match="cannot be combined"):
            config(tmp_path, "uec_rl", other)
    with pytest.raises(InputError, match="'uec_rl' and 'pipo' cannot be combined: both decide the replay"):
        config(tmp_path, "uec_rl", "pipo")
    config(tmp_path, "uec_rl", "entropy_advantage", "dr_grpo")


def test_two_processes_learn_from_halves_of_the_same_lessons(tmp_path: Path) -> None:
    run_in_two(Path(__file__), tmp_path)


def whole_lessons(halves: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Puts each lesson together from both processes, in columns that are lists of rows."""
    names = ("prompt_ids", "prompt_mask", "completion_ids", "completion_mask", "advantages", "old_per_token_logps")
    mine = [{name: list(half[name]) for name in names if name in half} for half in halves]
    both = gather_object([mine])
    assert len(both) == 2
    return [{name: a[name] + b[name] for name in a} for a, b in zip(*both, strict=True)]


def check_policy_split_in_two(where: Path) -> None:
    """Two groups, one on each process: what a process makes of its own is what one alone would make."""
    split, own = TestPolicySplit(), where / os.environ["RANK"]
    own.mkdir()
    trainer = trained(where, split.spec(own, "normal=0.1"), per_device_train_batch_size=4, max_steps=4)
    assert [len(lesson["completion_ids"]) for lesson in trainer.lessons] == [4] * 4
    for turn, (ids, _) in enumerate(trainer.drawn):
        everyone = gather_object(ids)
        lessons = whole_lessons(trainer.lessons[2 * turn : 2 * turn + 2])
        rows = [row for lesson in lessons for row in completions(lesson)]
        assert rows == [row for row in everyone for _ in (0, 1)]
        read = [split.prompt(lesson, i) for lesson in lessons for i in range(8)]
        split.check_advantages(lessons, read, trl_advantages(tiny.reward(everyone)).repeat_interleave(2))
    same_everywhere(trainer, "policy_split")


def check_minerva_in_two(where: Path) -> None:
    """What either process drew with the hint is imitated by both, as one would: the step has its gradient."""
    trainer = TestMinerva().run(where, draw=9, per_device_train_batch_size=4, max_steps=3)
    [*_, imitated] = whole_lessons(trainer.lessons)
    rows = [(i, row) for i, row in enumerate(completions(imitated)) if row]
    hinted = [
        row
        for (ids, _), (temperature, _) in zip(trainer.drawn, trainer.asked, strict=True)
        if temperature < 0.9 * tiny.TEMPERATURE
        for row in ids
    ]
    everyone = gather_object(hinted)
    assert 0 < len(rows) < 8
    assert all(row in everyone and quarter([row]) == [1.0] for _, row in rows)
    before, after = trainer.weights[1], trainer.weights[2]
    twin = tiny.policy()
    twin.load_state_dict(before)
    total, tokens = torch.zeros(()), 0
    for i, row in rows:
        one = {n: imitated[n][i][None] for n in ("prompt_ids", "prompt_mask", "completion_ids", "completion_mask")}
        logps = exact_logps_with_gradient(twin, one).gather(2, one["completion_ids"][..., None])[..., 0]
        total, tokens = total - (logps * one["completion_mask"]).sum(), tokens + len(row)
    (total / tokens).backward()
    for name, parameter in twin.named_parameters():
        torch.testing.assert_close(before[name] - after[name], 1e-3 * parameter.grad, atol=2e-6, rtol=1e-3)
    same_everywhere(trainer, "minerva")


def same_everywhere(trainer: Any, name: str) -> None:
    kept = trainer._method_states.memories[name]
    sums = gather_object([float(sum(t.double().sum() for (t,) in kept.values()))])
    weights = gather_object([float(flat(trainer).double().abs().sum())])
    assert sums[0] == sums[1]
    assert weights[0] == weights[1]


if __name__ == "__main__":  # one of two processes
    check_policy_split_in_two(Path(sys.argv[1]))
    check_minerva_in_two(Path(sys.argv[1]))
    half = trained(Path(sys.argv[1]), "pipo:window=2", per_device_train_batch_size=4)
    assert len(half.drawn) == 4
    for turn, rollout in enumerate((0, 1, 1, 2, 2, 3)):
        assert completions(half.lessons[turn]) == half.drawn[rollout][0]
    again, first = half.lessons[2], half.lessons[1]
    both = gather_object([float(value) for value in again["advantages"]])
    everyone = gather_object(half.drawn[1][0])
    expected = trl_advantages(tiny.reward(everyone))
    factors = torch.tensor(both, dtype=torch.float64)[expected != 0] / expected[expected != 0]
    assert factors.tolist() == pytest.approx([float(factors[0])] * len(factors), rel=1e-3)
    assert len(everyone) == 8
    hard = trained(Path(sys.argv[1]), TestUecRl.SPEC, reward=quarter, per_device_train_batch_size=4, max_steps=4)
    for name, trainer in (("pipo", half), ("uec_rl", hard)):
        same_everywhere(trainer, name)
    assert any(temperature > tiny.TEMPERATURE for temperature, _ in hard.asked)
    learned = gather_object([completions(lesson) for lesson in hard.lessons])
    everything = gather_object([ids for ids, _ in hard.drawn])
    assert all(row in [r for rows in everything for r in rows] for rows in learned for row in rows)
    assert all(len(rows) == 4 for rows in learned)
