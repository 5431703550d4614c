#!/usr/bin/env bash
# GRPO with entropy-shaped advantages on verl 0.9 (tested: 0.9.1), as in "Reasoning with Exploration: An Entropy Perspective"
# (arXiv 2506.14758). Values marked [paper] are stated there, those marked [verl] are verl's defaults where the paper
# says nothing, and the others follow from the hardware.
#
#   bash examples/verl_grpo.sh                      # 8 GPUs, Qwen2.5-7B  [paper]
#   ALPHA=0 bash examples/verl_grpo.sh              # the baseline: verl's GRPO, bit for bit
#   SEED=1 bash examples/verl_grpo.sh               # another order of the prompts; one more run of the same arm
#   METHOD='["rloo","forking_tokens:share=0.2"]' NAME=rloo-forking-seed0 bash examples/verl_grpo.sh    # other methods
#   GPUS=1 bash examples/verl_grpo.sh               # 1 GPU, Qwen2.5-1.5B
#   NODES=4 bash examples/verl_grpo.sh              # on the head node of a Ray cluster of 4 x 8 GPUs
#   ENTROPY=old bash examples/verl_grpo.sh          # entropy of the rollout's policy: no extra memory or time
#   bash examples/verl_grpo.sh trainer.total_training_steps=20    # arguments after the script's name win
#   bash examples/verl_grpo.sh trainer.nnodes=2 --cfg job    # print the whole configuration and stop; --cfg comes last
#
# All that a run leaves is in runs/verl/NAME: checkpoints/, rollouts/ and validation/ (a file per step), metrics.jsonl.
# NAME says algorithm, alpha, entropy, model and seed, so that a run only ever continues its own checkpoint; name runs
# that differ in anything else yourself (NAME=...). The same command again continues where the run was stopped.
#
# Data, in verl's format; its data_source "math_dapo" makes verl score +1 for a correct answer and -1 otherwise. Both
# files as published hold every problem many times (1.79 M rows of 17 thousand, 960 of 30), which verl would train and
# validate on one by one; the last two lines leave one row of each:
#   hf download BytedTsinghua-SIA/DAPO-Math-17k data/dapo-math-17k.parquet --repo-type dataset --local-dir data/dapo
#   hf download BytedTsinghua-SIA/AIME-2024 data/aime-2024.parquet --repo-type dataset --local-dir data/aime
#   forkwise verl-data data/dapo/data/dapo-math-17k.parquet --out data/dapo-math-17k.parquet
#   forkwise verl-data data/aime/data/aime-2024.parquet --out data/aime-2024.parquet
# forkwise must be installed in verl's environment on every node: forkwise doctor verl
set -euo pipefail

GPUS=${GPUS:-8}
NODES=${NODES:-1}
ENTROPY=${ENTROPY:-current}
ALPHA=${ALPHA:-0.4}
SEED=${SEED:-0}
if [ "$GPUS" -gt 1 ]; then MODEL=${MODEL:-Qwen/Qwen2.5-7B}; else MODEL=${MODEL:-Qwen/Qwen2.5-1.5B}; fi

if [ -n "${METHOD:-}" ]; then
    : "${NAME:?names the run; with METHOD, give it yourself}"
    shaping=(+algorithm.forkwise.method="$METHOD" +algorithm.forkwise.policy="$ENTROPY")
else
    NAME=${NAME:-${ALGORITHM:-grpo}-alpha$ALPHA-$ENTROPY-$(basename "$MODEL")-seed$SEED}
    shaping=(
        +algorithm.entropy_shaping.alpha="$ALPHA"
        +algorithm.entropy_shaping.kappa=2.0
        +algorithm.entropy_shaping.entropy="$ENTROPY"
    )
fi
# Absolute paths: on a Ray cluster that already runs, verl's processes stand in folders of their own.
absolute() { case $1 in /* | \[* | *://*) echo "$1" ;; *) echo "$PWD/$1" ;; esac }
RUN=$(absolute "${RUNS:-runs/verl}")/$NAME

recipe=(
    # The shaped advantage A + min(alpha * H, |A| / kappa), H of the policy under update.  [paper]
    trainer.v1.trainer_mode=entropy_sync
    "${shaping[@]}"

    # Group-relative advantages, divided by the standard deviation of the group.  [paper]
    algorithm.adv_estimator=grpo
    algorithm.norm_adv_by_std_in_grpo=True

    # Token-level loss, clip-higher, neither KL nor entropy loss.  [paper]
    actor_rollout_ref.actor.loss_agg_mode=token-mean
    actor_rollout_ref.actor.clip_ratio_low=0.2
    actor_rollout_ref.actor.clip_ratio_high=0.28
    actor_rollout_ref.actor.use_kl_loss=False
    algorithm.use_kl_in_reward=False
    actor_rollout_ref.actor.entropy_coeff=0

    # 512 prompts x 8 samples per rollout, 32 prompts per update: 16 updates. 2000 updates are 125 rollouts.  [paper]
    data.train_batch_size=512
    actor_rollout_ref.rollout.n=8
    actor_rollout_ref.actor.ppo_mini_batch_size=32
    trainer.total_training_steps=125

    # AdamW at 1e-6; 8K tokens at temperature 1.  [paper]
    actor_rollout_ref.actor.optim.lr=1e-6
    data.max_response_length=8192
    actor_rollout_ref.rollout.temperature=1.0

    # The model, the data and the longest prompt.
    actor_rollout_ref.model.path="$MODEL"
    data.train_files="$(absolute "${TRAIN:-data/dapo-math-17k.parquet}")"
    data.val_files="$(absolute "${VALIDATION:-data/aime-2024.parquet}")"
    data.max_prompt_length=2048
    data.filter_overlong_prompts=True
    data.seed="$SEED"
    actor_rollout_ref.actor.data_loader_seed="$SEED"
    actor_rollout_ref.rollout.val_kwargs.n=32
    actor_rollout_ref.rollout.val_kwargs.do_sample=True
    actor_rollout_ref.rollout.val_kwargs.temperature=0.6
    actor_rollout_ref.rollout.val_kwargs.top_p=0.95

    # What the paper does not say.  [verl]
    actor_rollout_ref.actor.optim.weight_decay=0.01
    actor_rollout_ref.actor.optim.lr_warmup_steps_ratio=0.0
    actor_rollout_ref.actor.optim.lr_scheduler_type=constant
    actor_rollout_ref.actor.optim.clip_grad=1.0
    actor_rollout_ref.actor.clip_ratio_c=3.0
    actor_rollout_ref.actor.ppo_epochs=1
    actor_rollout_ref.actor.shuffle=False
    actor_rollout_ref.actor.strategy=fsdp

    # Memory: micro-batches of at most 16384 tokens, activations recomputed, states on the CPU during generation.
    actor_rollout_ref.actor.use_dynamic_bsz=True
    actor_rollout_ref.actor.ppo_max_token_len_per_gpu=16384
    actor_rollout_ref.model.enable_gradient_checkpointing=True
    actor_rollout_ref.actor.fsdp_config.param_offload=True
    actor_rollout_ref.actor.fsdp_config.optimizer_offload=True
    actor_rollout_ref.rollout.name=vllm
    actor_rollout_ref.rollout.tensor_model_parallel_size=1
    actor_rollout_ref.rollout.gpu_memory_utilization=0.5

    trainer.n_gpus_per_node="$GPUS"
    trainer.nnodes="$NODES"
    trainer.logger='["console","file","tensorboard"]'
    trainer.project_name=forkwise
    trainer.experiment_name="$NAME"
    +ray_kwargs.ray_init.runtime_env.env_vars.VERL_FILE_LOGGER_PATH="$RUN/metrics.jsonl"
    +ray_kwargs.ray_init.runtime_env.env_vars.TENSORBOARD_DIR="$RUN/tensorboard"
    trainer.default_local_dir="$RUN/checkpoints"
    trainer.rollout_data_dir="$RUN/rollouts"
    trainer.validation_data_dir="$RUN/validation"
    trainer.val_before_train=True
    trainer.test_freq=25
    trainer.save_freq=25
    trainer.max_actor_ckpt_to_keep=6
)
if [ "$ENTROPY" = current ] && [ "$ALPHA" != 0 ]; then recipe+=(actor_rollout_ref.actor.calculate_entropy=True); fi

# verl's log of metrics; verl empties it at each start, so that of an earlier one is kept beside it.
export VERL_FILE_LOGGER_PATH=$RUN/metrics.jsonl TENSORBOARD_DIR=$RUN/tensorboard
case " $* " in *" --cfg "*) ;; *)
    mkdir -p "$RUN"
    if [ -s "$RUN/metrics.jsonl" ]; then
        mv "$RUN/metrics.jsonl" "$RUN/metrics-before-$(date -u +%Y%m%dT%H%M%S).jsonl"
    fi ;;
esac

exec "${PYTHON:-python3}" -m verl.trainer.main_ppo "${recipe[@]}" "$@"
