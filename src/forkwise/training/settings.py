"""The settings of `forkwise grpo` and `forkwise ppo` that are neither TRL's nor the method's; loaded without torch."""

from __future__ import annotations

from dataclasses import dataclass, field

# Names that TRL users know, for the same thing here.
ALIASES = {"model_name_or_path": "model", "dataset_name": "dataset", "reward_funcs": "reward"}
# What the commands set otherwise than TRL: each step prints its line.
DEFAULTS = {"logging_steps": 1}


@dataclass
class RunArguments:
    """The settings of what to train, on what, with which reward. Everything else is TRL's or the method's."""

    model: str | None = field(
        default=None,
        metadata={"help": "Model to train: a hub id, a folder, or 'embedded' for the small model in this package."},
    )
    task: str | None = field(
        default=None,
        metadata={
            "help": "Task: 'countdown', 'countdown:3', 'countdown:4', 'math', 'math:dapo' or 'reasoning-gym:NAME'."
        },
    )
    dataset: str | None = field(
        default=None,
        metadata={"help": "Instead of a task: a hub id, or a JSONL/Parquet file with columns 'prompt' and 'answer'."},
    )
    dataset_config: str | None = field(
        default=None, metadata={"help": "Configuration of a hub dataset, e.g. 'main' of openai/gsm8k."}
    )
    prompt_column: str | None = field(
        default=None,
        metadata={"help": "Column of --dataset with the prompt (default: 'prompt', 'problem', 'question')."},
    )
    answer_column: str | None = field(
        default=None, metadata={"help": "Column of --dataset with the gold answer (default: 'answer', 'ground_truth')."}
    )
    reward: list[str] = field(
        default_factory=lambda: ["correct"],
        metadata={
            "help": "Rewards: 'correct' (1 or 0), 'signed' (+1 or -1, the paper's), or 'package.module:function'; "
            "several are weighted by TRL's --reward_weights.",
            "nargs": "+",
        },
    )
    train_problems: int | None = field(
        default=None,
        metadata={"help": "Use only so many training problems (default: all; 20,000 for generated tasks)."},
    )
    first_problem: int = field(
        default=0, metadata={"help": "Leave out so many training problems before those that are used."}
    )
    eval_problems: int = field(
        default=64, metadata={"help": "Validation problems, used only if --eval_strategy is not 'no'."}
    )
    chat: bool = field(
        default=False, metadata={"help": "Send each prompt as a user message through the chat template."}
    )
    resume: bool = field(
        default=False, metadata={"help": "Continue the run in --output_dir from its newest complete checkpoint."}
    )
    log_behaviours: bool = field(
        default=False,
        metadata={"help": "Log pivotal tokens and reflective sentences of the completions, with their entropies."},
    )
    behaviour_breaks: str = field(
        default="", metadata={"help": "For --log_behaviours: words that begin a sentence, with commas."}
    )
    health: bool = field(
        default=True,
        metadata={"help": "Stop at numbers that are not finite; warn of collapsed entropy and exploding lengths."},
    )
    health_window: int = field(
        default=10, metadata={"help": "Logged lines over which the start of the run and its present are averaged."}
    )
    health_min_entropy: float = field(
        default=0.1, metadata={"help": "Warn when the entropy falls below this fraction of that at the start."}
    )
    health_max_length: float = field(
        default=3.0, metadata={"help": "Warn when completions grow beyond this multiple of the length at the start."}
    )
    health_max_truncated: float = field(
        default=0.5, metadata={"help": "Warn when the share of truncated completions has risen by more than this."}
    )


@dataclass
class CriticSettings:
    """The critic of `forkwise ppo`, and PPO's default of alpha."""

    alpha: float = field(
        default=0.1, metadata={"help": "Weight of the entropy term added to the advantages; 0 is plain PPO."}
    )
    gamma: float = field(default=1.0, metadata={"help": "Discount per token, in [0, 1]."})
    lam: float = field(default=1.0, metadata={"help": "Lambda of generalized advantage estimation, in [0, 1]."})
    cliprange_value: float = field(
        default=0.5, metadata={"help": "Clip range of the value loss around the rollout's values, in reward units."}
    )
    value_model: str | None = field(
        default=None, metadata={"help": "Critic to start from: a hub id or a folder (default: a copy of the policy)."}
    )
    critic_shares_base: bool = field(
        default=False,
        metadata={"help": "With LoRA: critic as a second adapter and a value head over the policy's frozen base."},
    )
    critic_learning_rate: float = field(default=2e-6, metadata={"help": "Learning rate of the critic."})
    critic_lr_scheduler_type: str | None = field(
        default=None, metadata={"help": "Learning-rate schedule of the critic (default: that of the policy)."}
    )
    critic_lr_warmup_steps: int = field(
        default=0, metadata={"help": "Steps in which the critic's learning rate rises from 0."}
    )
    critic_warmup_steps: int = field(
        default=10, metadata={"help": "First optimizer steps, in which only the critic learns."}
    )
    critic_epochs: int = field(default=1, metadata={"help": "Steps of the critic for each of the policy's."})
    truncated_completions: str = field(
        default="score",
        metadata={"help": "Completions cut off at max_completion_length: 'score', 'bootstrap' or 'mask'."},
    )
