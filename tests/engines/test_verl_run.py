"""The page's whole chain on a CPU: the example script, `verl.trainer.main_ppo`, dumps, merge, samples, comparison.

Only generation is not verl's (`cpu_rollout`). A run takes about a minute and a half on an idle machine.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("verl", reason="verl is not installed; 'make test' runs these in an environment that has it")

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from forkwise.embedded import EMBEDDED_MODEL
from forkwise.testing.engines import expected_advantages

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
STEPS = 2
UPDATES = 2  # of a step: eight prompts, four an update, in one micro-batch
# What a CPU and one process need, and a run of two steps of eight prompts.
SMALL = [
    "actor_rollout_ref.rollout.name=cpuhf",
    "actor_rollout_ref.rollout.free_cache_engine=False",
    "actor_rollout_ref.rollout.agent.num_workers=1",
    "actor_rollout_ref.rollout.log_prob_max_token_len_per_gpu=4096",
    "actor_rollout_ref.actor.ppo_max_token_len_per_gpu=4096",
    "actor_rollout_ref.model.use_remove_padding=False",
    "+actor_rollout_ref.model.override_config.attn_implementation=eager",
    "actor_rollout_ref.actor.strategy=fsdp2",
    "actor_rollout_ref.actor.fsdp_config.strategy=fsdp2",
    "actor_rollout_ref.actor.fsdp_config.dtype=float32",
    "+actor_rollout_ref.actor.fsdp_config.mixed_precision.param_dtype=fp32",
    "actor_rollout_ref.actor.use_torch_compile=False",
    "actor_rollout_ref.actor.fsdp_config.use_torch_compile=False",
    "actor_rollout_ref.actor.fsdp_config.param_offload=False",
    "actor_rollout_ref.actor.fsdp_config.optimizer_offload=False",
    "actor_rollout_ref.actor.optim.lr=1e-4",
    "actor_rollout_ref.rollout.n=4",
    "actor_rollout_ref.rollout.val_kwargs.n=4",
    "actor_rollout_ref.rollout.val_kwargs.temperature=1.0",
    "actor_rollout_ref.rollout.val_kwargs.top_p=1.0",
    "actor_rollout_ref.actor.ppo_mini_batch_size=4",
    "data.train_batch_size=8",
    "data.max_prompt_length=32",
    "data.max_response_length=80",
    "data.dataloader_num_workers=0",
    "reward.num_workers=1",
    "reward.custom_reward_function.path=pkg://forkwise.engines.verl.reward",
    "reward.custom_reward_function.name=compute_score",
    "ray_kwargs.ray_init.num_cpus=32",
    "+ray_kwargs.ray_init.num_gpus=1",
    "transfer_queue.backend.SimpleStorage.num_data_storage_units=1",
    "trainer.device=cpu",
    'trainer.logger=["console","file"]',
    f"trainer.total_training_steps={STEPS}",
    f"trainer.save_freq={STEPS}",
    f"trainer.test_freq={STEPS}",
]


def environment(where: Path, **more: str) -> dict[str, str]:
    path = os.pathsep.join([str(Path(__file__).parent), *(entry for entry in sys.path if entry)])
    return {
        **os.environ,
        "PYTHONPATH": path,
        "PYTHON": sys.executable,
        "PYTHONWARNINGS": "ignore",
        "VERL_USE_EXTERNAL_MODULES": "cpu_verl,cpu_rollout,watch_verl",
        "VERL_ENGINE_DEVICE": "cuda",
        "CPU_ROLLOUT_WEIGHTS": str(where / "weights.pt"),
        "RAY_ADDRESS": "local",  # not a cluster that somebody else runs on this machine
        "RAY_AUTH_MODE": "disabled",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_worker_niceness": "0",
        "OMP_NUM_THREADS": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_OFFLINE": "1",
        **more,
    }


def forkwise(where: Path, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "forkwise", *arguments],
        cwd=where,
        env=environment(where),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the embedded model, whose template adds nothing to a prompt, and two files of problems."""
    where = tmp_path_factory.mktemp("verl")
    shutil.copytree(EMBEDDED_MODEL, where / "tiny")
    settings = json.loads((where / "tiny" / "tokenizer_config.json").read_text())
    settings["chat_template"] = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    (where / "tiny" / "tokenizer_config.json").write_text(json.dumps(settings))
    for split, number in (("train", "64"), ("validation", "8")):
        forkwise(where, "verl-data", "countdown:3", "--split", split, "--problems", number, "--out", f"{split}.parquet")
    return where


def train(where: Path, script: str, *overrides: str, **settings: str) -> Path:
    """Runs an example script; the folder of the run."""
    files = {"TRAIN": "train.parquet", "VALIDATION": "validation.parquet", "MODEL": str(where / "tiny"), "GPUS": "1"}
    (where / "weights.pt").unlink(missing_ok=True)
    done = subprocess.run(
        ["bash", str(ROOT / "examples" / script), *SMALL, *overrides],
        cwd=where,
        env=environment(where, **{**files, **settings}),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    (run,) = [path for path in (where / "runs" / "verl").iterdir() if path.name in done.stdout + done.stderr]
    return run


def kept(folder: Path, prefix: str = "") -> list[dict[str, list[torch.Tensor]]]:
    """What `watch_verl` has kept of the losses of a run, in their order."""
    files = sorted(folder.glob(f"{prefix}[0-9]*.pt"), key=lambda file: int(file.stem.removeprefix(prefix)))
    return [torch.load(file) for file in files]


class Dumped:
    """The scores that verl dumped in a step, by the words of prompts and responses."""

    def __init__(self, where: Path, run: Path, step: int) -> None:
        self.tokenizer = AutoTokenizer.from_pretrained(where / "tiny")
        self.answers = [json.loads(line) for line in (run / "rollouts" / f"{step}.jsonl").read_text().splitlines()]
        self.groups: dict[str, list[float]] = {}
        self.scores: dict[tuple[str, str], float] = {}
        for answer in self.answers:
            prompt, score = answer["input"].strip(), answer["score"]
            self.groups.setdefault(prompt, []).append(score)
            assert self.scores.setdefault((prompt, answer["output"].strip()), score) == score

    def words(self, ids: torch.Tensor) -> str:
        return self.tokenizer.decode(ids, skip_special_tokens=True).strip()

    def score(self, prompt: torch.Tensor, response: torch.Tensor) -> float:
        return self.scores[self.words(prompt), self.words(response)]

    def of_group(self, prompt: torch.Tensor, response: torch.Tensor) -> list[float]:
        """GRPO's advantages of a response's tokens, by hand."""
        group = self.groups[self.words(prompt)]
        assert len(group) == 4
        a = (self.score(prompt, response) - statistics.mean(group)) / (statistics.stdev(group) + 1e-6)
        return [a] * len(response)


def of_critic(dumped: Dumped, losses: list[dict[str, list[torch.Tensor]]]) -> Callable[..., list[float]]:
    """PPO's advantages, by hand: with gamma = lambda = 1 the score less the critic's value, whitened over the batch."""
    rows = [row for loss in losses for row in zip(*loss.values(), strict=True)]
    assert len(rows) == len(dumped.answers)
    bare: dict[tuple[str, str], list[float]] = {}
    everything: list[float] = []
    for prompt, response, mask, values, returns in rows:
        score = dumped.score(prompt, response)
        assert bool(mask.all())
        assert returns.tolist() == pytest.approx([score] * len(response), abs=1e-5)
        a = [score - value for value in values.tolist()]
        everything += a
        bare[dumped.words(prompt), dumped.words(response)] = a
    mean, deviation = statistics.mean(everything), statistics.stdev(everything)
    assert deviation > 0.05

    def advantages(prompt: torch.Tensor, response: torch.Tensor) -> list[float]:
        return [(a - mean) / deviation for a in bare[dumped.words(prompt), dumped.words(response)]]

    return advantages


def check_advantages(
    where: Path,
    losses: list[dict[str, list[torch.Tensor]]],
    unshaped: Callable[[torch.Tensor, torch.Tensor], list[float]],
    *,
    alpha: float,
) -> None:
    """Holds the advantages in verl's loss to Eq. 5-7, token by token.

    H comes from a float64 softmax of the model before training, which is the policy of a rollout's first update, and
    of all of them where its entropies are the old policy's.
    """
    model = AutoModelForCausalLM.from_pretrained(where / "tiny", dtype=torch.float64, attn_implementation="eager")
    below = capped = 0
    for loss in losses:
        for prompt, response, mask, given in zip(*loss.values(), strict=True):
            with torch.no_grad():
                ids = torch.cat([prompt, response])[None]
                logp = model(input_ids=ids).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
            h = (-(logp.exp() * logp).sum(-1)).tolist()
            assert bool(mask.all())
            a = unshaped(prompt, response)
            (want,) = expected_advantages([a], [h], [[1] * len(h)], alpha=alpha, kappa=2.0)
            assert given.tolist() == pytest.approx(want, rel=1e-3, abs=1e-4)
            below += sum(alpha * y < abs(x) / 2 for x, y in zip(a, h, strict=True))
            capped += sum(alpha * y > abs(x) / 2 > 0 for x, y in zip(a, h, strict=True))
    assert below > 50
    assert capped > 50 or alpha < 0.4


def check_groups(where: Path, run: Path, seen: Path, *, alpha: float, updates: int) -> None:
    """Holds the first updates of a GRPO run to A by hand from the dumped scores."""
    losses = kept(seen)
    assert len(losses) == STEPS * UPDATES
    dumped = Dumped(where, run, step=1)
    assert all(len(loss["advantages"]) == len(dumped.answers) / UPDATES for loss in losses)
    check_advantages(where, losses[:updates], dumped.of_group, alpha=alpha)


def test_a_pair_is_trained_and_compared(place: Path) -> None:
    shaped = train(place, "verl_grpo.sh", ENTROPY="current", WATCHED_LOSSES=str(place / "of_shaped_losses"))
    assert shaped.name == "grpo-alpha0.4-current-tiny-seed0"
    check_groups(place, shaped, place / "of_shaped_losses", alpha=0.4, updates=1)
    plain = train(place, "verl_grpo.sh", ALPHA="0", WATCHED_LOSSES=str(place / "of_plain_losses"))
    assert plain.name == "grpo-alpha0-current-tiny-seed0"
    check_groups(place, plain, place / "of_plain_losses", alpha=0.0, updates=UPDATES)
    for run in (shaped, plain):  # the second has not continued the first's checkpoint
        logged = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        assert [row["step"] for row in logged] == [0, 1, 2]
        assert ("shaping/psi_over_adv" in logged[1]["data"]) == (run == shaped)
        assert sorted(path.name for path in (run / "rollouts").iterdir()) == ["1.jsonl", "2.jsonl"]
    said = forkwise(place, "doctor", "run", str(shaped))
    assert f"{shaped}: a run of verl, 2 steps logged; " in said
    assert "adds " in said

    dumps = [str(shaped / "validation" / f"{step}.jsonl") for step in (0, STEPS)]
    forkwise(place, "import", *dumps, "--out", "validated")
    assert "step0" in forkwise(place, "passk", "validated", "--k", "1,4")
    merged = place / "merged"
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "verl.model_merger",
            "merge",
            "--backend=fsdp",
            f"--local_dir={shaped / 'checkpoints' / f'global_step_{STEPS}' / 'actor'}",
            f"--target_dir={merged}",
        ],
        cwd=place,
        env=environment(place),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    problems = ["--task", "countdown:3", "--split", "test", "--problems", "6", "--n", "4"]
    for name, model in (("shaped", str(merged)), ("base", str(place / "tiny"))):
        forkwise(place, "sample", "--model", model, *problems, "--out", name)
    assert "base" in forkwise(place, "compare", "base=base", "shaped=shaped", "--k", "1,4")
    # The page's comparison of the two runs, by their own validation, its report of all runs, and its way of sampling.
    for name, run in (("plain", plain), ("of_shaped", shaped)):
        forkwise(place, "import", str(run / "validation" / f"{STEPS}.jsonl"), "--out", name)
    compared = forkwise(place, "compare", "plain=plain", "shaped=of_shaped", "--k", "1,4")
    assert "plain" in compared
    assert "shaped" in compared
    forkwise(place, "report", str(plain), str(shaped), "--out", "page.html")
    page = (place / "page.html").read_text()
    assert plain.name in page
    assert shaped.name in page
    chat = ["--chat", "--max-tokens", "40"]  # the page's --preset paper is of tasks that must be downloaded
    forkwise(place, "sample", "--model", str(merged), *problems, *chat, "--out", "in_chat")
    assert "merged has Pass@1" in forkwise(place, "passk", "in_chat", "--k", "1,4")


def test_the_old_policys_entropy_shapes_a_whole_run(place: Path) -> None:
    """On a file whose rows are there twice, of which `verl-data` keeps one, as of the page's DAPO-Math."""
    import pandas

    rows = pandas.read_parquet(place / "train.parquet")
    pandas.concat([rows, rows]).to_parquet(place / "twice.parquet")
    assert "64" in forkwise(place, "verl-data", "twice.parquet", "--out", "once.parquet")
    assert len(pandas.read_parquet(place / "once.parquet")) == 64
    run = train(place, "verl_grpo.sh", ENTROPY="old", TRAIN="once.parquet", WATCHED_LOSSES=str(place / "old_losses"))
    assert run.name == "grpo-alpha0.4-old-tiny-seed0"
    check_groups(place, run, place / "old_losses", alpha=0.4, updates=UPDATES)
    logged = [json.loads(line)["data"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert all(0 < row["shaping/psi_over_adv"] <= 0.5 for row in logged[1:])


def test_methods_act_in_a_whole_run(place: Path) -> None:
    """A method of rewards and one that selects."""
    methods = '["rloo","forking_tokens:share=0.2"]'
    run = train(place, "verl_grpo.sh", METHOD=methods, NAME="methods", ENTROPY="old")
    logged = [json.loads(line)["data"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    for step, row in enumerate(logged[1:], start=1):
        answers = [json.loads(line) for line in (run / "rollouts" / f"{step}.jsonl").read_text().splitlines()]
        scores: dict[str, set[float]] = {}
        for answer in answers:
            scores.setdefault(answer["input"], set()).add(answer["score"])
        learns = [len(scores[answer["input"]]) > 1 for answer in answers]
        # Groups with one score have no advantages to change; of the others' tokens a fifth keeps its own.
        assert row["method/rloo/changed"] == sum(learns) / len(answers)
        words = [len(answer["output"].split()) + 1 for answer in answers]  # one token each, and the end
        share = sum(n for n, learn in zip(words, learns, strict=True) if learn) / sum(words)
        assert 0.7 < row["method/forking_tokens/changed"] / share < 0.9


def test_ppo_trains_its_policy_after_the_critics_warm_up(place: Path) -> None:
    critic = [
        "critic.strategy=fsdp2",
        "critic.fsdp.strategy=fsdp2",
        "+critic.fsdp.mixed_precision.param_dtype=fp32",
        "critic.fsdp.use_torch_compile=False",
        "critic.fsdp.param_offload=False",
        "critic.fsdp.optimizer_offload=False",
        "critic.model.use_remove_padding=False",
        "critic.ppo_mini_batch_size=4",
        "critic.ppo_max_token_len_per_gpu=4096",
        "trainer.critic_warmup=2",
    ]
    run = train(place, "verl_ppo.sh", *critic, ENTROPY="current", WATCHED_LOSSES=str(place / "of_ppo"))
    assert run.name == "ppo-alpha0.1-current-tiny-seed0"
    # The second step's: the first was the critic's alone, so that the policy is still the model before training.
    of_policy, of_values = kept(place / "of_ppo"), kept(place / "of_ppo", "values")
    assert (len(of_policy), len(of_values)) == (UPDATES, STEPS * UPDATES)
    by_hand = of_critic(Dumped(place, run, step=2), of_values[UPDATES:])
    check_advantages(place, of_policy[:1], by_hand, alpha=0.1)
    logged = [json.loads(line)["data"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [("actor/pg_loss" in row, "shaping/psi_over_adv" in row) for row in logged[1:]] == [
        (False, False),
        (True, True),
    ]
    assert all(row["critic/vf_loss"] > 0 for row in logged[1:])
    assert 0 < logged[2]["shaping/psi_over_adv"] <= 0.5
    said = forkwise(place, "doctor", "run", str(run))
    assert "has not been trained" not in said
