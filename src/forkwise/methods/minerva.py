"""MinervaRL's hook, arXiv 2602.00513: what nothing solves is drawn with its answer shown, and imitated without it.

Rules and constants as in the authors' code (maveryn/minerva), without their data; the hint's text and the banned
phrases are ours.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from forkwise.errors import InputError
from forkwise.methods.base import check_range
from forkwise.methods.hints import HintMethod
from forkwise.methods.leaks import LeakRules
from forkwise.methods.replay import Drawn, Lesson, Memory, Redraw
from forkwise.methods.two_prompts import Prompt

if TYPE_CHECKING:
    import torch
    from torch import Tensor

_RIGHT, _LEAK = 0.1, 0.5  # of the reward that a hinted completion gets; logged only
_HINT = (
    "The answer is {answer}. Do not mention that you know it: write the reasoning by which one finds it, and end with "
    "it in the form that is asked for."
)


@dataclass(frozen=True)
class Minerva(HintMethod):
    """The trainer's own advantages, and now and then imitation of clean answers to prompts that nothing solved.

    A prompt of which no completion reaches the reward `solved` is drawn `group` times more, with the answer shown. Of
    what earns `accept` and gives nothing away one completion is kept, at random. After every `every` rollouts what was
    kept is imitated once, under the prompt without the answer, at `rate` times the learning rate, and forgotten.

    Args:
        solved: the reward of a solved prompt.
        accept: the least reward of what is kept.
        group: completions with the answer shown, at least 1.
        temperature: times the sampling temperature, above 0.
        top_p: of their drawing, in (0, 1].
        every: rollouts, at least 1.
        rate: times the learning rate, above 0.
        column: of the data set, with the answer: ids, separated by commas.
        reference: of the data set, with a text that is shown beside the answer; `none` for none.
        shortest: characters of reasoning that a kept completion has, at least 0.
        named: how often it may name each id of the answer, at least 1.
    """

    solved: float = 1.0
    accept: float = 0.99
    group: int = 4
    temperature: float = 0.7
    top_p: float = 0.9
    every: int = 10
    rate: float = 0.05
    column: str = "answer"
    reference: str = "none"
    shortest: int = 100
    named: int = 3

    name = "minerva"
    title = "MinervaRL: hinted answers to unsolved prompts (arXiv 2602.00513)"
    paper = "2602.00513"
    formula = "A; where max r < solved, clean answers drawn with the answer shown are imitated without it"

    def __post_init__(self) -> None:
        for field in ("group", "every", "named"):
            check_range(self, field, 1, float("inf"))
        for field in ("temperature", "rate"):
            check_range(self, field, 0, float("inf"), open_low=True)
        check_range(self, "top_p", 0, 1, open_low=True)
        check_range(self, "shortest", 0, float("inf"))
        for field in ("solved", "accept"):
            check_range(self, field, float("-inf"), float("inf"))
        if self.accept > self.solved:
            raise InputError(
                f"accept of the method 'minerva' is {self.accept}, above solved ({self.solved}), the reward of a "
                "solved prompt: nothing would be kept."
            )

    @property
    def again(self) -> Redraw:
        """How hinted completions are drawn."""
        return Redraw(self.group, self.temperature, self.top_p)

    def hard(self, rewards: Tensor, advantages: Tensor) -> Tensor:
        """Finds the prompts that no completion solved, `(Q,)` bool."""
        hard: Tensor = rewards.amax(dim=1) < self.solved
        return hard

    def columns(self) -> tuple[str, ...]:
        """Returns the columns with the answer and the reference."""
        return (self.column,) if self.reference == "none" else (self.column, self.reference)

    def hinted(self, row: Mapping[str, Any]) -> Prompt:
        """Puts the answer, and the reference if there is one, behind the prompt."""
        hint = _HINT.format(answer=row[self.column])
        if text := self._reference(row):
            hint = f"{text}\n\n{hint}"
        prompt = row["prompt"]
        if isinstance(prompt, str):
            return f"{prompt}\n\n{hint}\n\n"
        return [*prompt[:-1], {**prompt[-1], "content": f"{prompt[-1]['content']}\n\n{hint}"}]

    def leak(self, completion: str, row: Mapping[str, Any]) -> str | None:
        """Says what gives the answer away; None where nothing does."""
        prompt = row["prompt"]
        task = prompt if isinstance(prompt, str) else " ".join(str(message["content"]) for message in prompt)
        rules = LeakRules(shortest=self.shortest, named=self.named)
        return rules.leak(completion, task, str(row[self.column]), self._reference(row))

    def _reference(self, row: Mapping[str, Any]) -> str:
        return "" if self.reference == "none" else str(row[self.reference] or "")[:8096]

    def draw_rewards(self, rewards: Tensor, leaks: Tensor) -> Tensor:
        """Returns what hinted completions would get if they were learned from by reward."""
        return _RIGHT * rewards - _LEAK * leaks.to(rewards)

    def first_rollout(self) -> int:
        """Returns the one that the first imitation takes the place of."""
        return self.every + 1

    def note(self, memory: Memory, drawn: Drawn) -> Memory:
        """Lets the rollout wait, and keeps one clean answer of each prompt that was drawn with the hint."""
        import torch

        plain, again = drawn.rows[~drawn.again], drawn.again
        leaks = torch.zeros_like(again) if drawn.leaks is None else drawn.leaks
        before = memory or {"kept": plain[:0], "imitate": plain[:0], "rollouts": torch.zeros(1, dtype=torch.int64)}
        clean = (drawn.rewards[again] >= self.accept) & ~leaks[again]
        generator, chosen = torch.Generator().manual_seed(drawn.seed), []
        for rows, good in zip(drawn.rows[again].split(self.group), clean.split(self.group), strict=True):
            if bool(good.any()):
                candidates = rows[good]
                chosen.append(candidates[torch.randint(len(candidates), (1,), generator=generator)])
        kept = torch.cat([before["kept"], *chosen])
        rollouts = before["rollouts"] + 1
        due = int(rollouts) % self.every == 0
        would_earn = self.draw_rewards(drawn.rewards[again], leaks[again])
        none = torch.zeros(1, dtype=torch.float64)
        return {
            "fresh": plain,
            "kept": kept[:0] if due else kept,
            "imitate": torch.cat([before["imitate"], kept]) if due else before["imitate"],
            "rollouts": rollouts,
            "leaks": leaks[again].double().mean()[None] if len(would_earn) else none,
            "reward": would_earn.double().mean()[None] if len(would_earn) else none,
        }

    def lesson(
        self, memory: Memory, size: int, generator: torch.Generator, *, whole: bool = True
    ) -> tuple[Lesson | None, Memory]:
        """Returns the rollout; then what is to be imitated, if it is time; then None."""
        import torch

        fresh, imitate = memory["fresh"], memory["imitate"]
        if len(fresh):
            return Lesson(fresh, torch.ones(len(fresh), dtype=torch.float64)), {**memory, "fresh": fresh[:0]}
        if not len(imitate):
            return None, memory
        ones = torch.ones(len(imitate[:size]), dtype=torch.float64)
        lesson = Lesson(imitate[:size], ones, imitation=True, rate=self.rate)
        return lesson, {**memory, "imitate": imitate[size:]}

    def kept(self, memory: Memory) -> Tensor:
        """Returns the rollout, and what is or will be imitated."""
        import torch

        return torch.cat([memory["fresh"], memory["kept"], memory["imitate"]])

    def measures(self, memory: Memory) -> dict[str, float]:
        """Returns how many clean answers wait, the share of hinted ones that leak, and the mean of `draw_rewards`."""
        waiting = len(memory["kept"]) + len(memory["imitate"])
        leaks, reward = float(memory["leaks"]), float(memory["reward"])
        return {"waiting": float(waiting), "leaks": leaks, "hinted_reward": reward}
