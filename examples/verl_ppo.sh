#!/usr/bin/env bash
# PPO with a critic and entropy-shaped advantages on verl 0.9 / 0.10, as in "Reasoning with Exploration: An Entropy
# Perspective" (arXiv 2506.14758). Values marked [paper] are stated there; the others are verl's defaults or follow from
# the hardware. What examples/verl_grpo.sh says about GPUS, NODES, ENTROPY, ALPHA, SEED, NAME, the data and the installation holds here too.
#
#   bash examples/verl_ppo.sh                       # 8 GPUs, Qwen2.5-7B and a critic of the same size  [paper]
#   GPUS=1 bash examples/verl_ppo.sh                # 1 GPU, Qwen2.5-1.5B
set -euo pipefail

GPUS=${GPUS:-8}
NODES=${NODES:-1}
ENTROPY=${ENTROPY:-current}
ALPHA=${ALPHA:-0.1}
SEED=${SEED:-0}
if [ "$GPUS" -gt 1 ]; then MODEL=${MODEL:-Qwen/Qwen2.5-7B}; else MODEL=${MODEL:-Qwen/Qwen2.5-1.5B}; fi

if [ -n "${METHOD:-}" ]; then
    : "${NAME:?names the run; with METHOD, give it yourself}"
    shaping=(+algorithm.forkwise.method="$METHOD" +algorithm.forkwise.policy="$ENTROPY")
else
    NAME=${NAME:-ppo-alpha$ALPHA-$ENTROPY-$(basename "$MODEL")-seed$SEED}
    shaping=(
        +algorithm.entropy_shaping.alpha="$ALPHA"
        +algorithm.entropy_shaping.kappa=2.0
        +algorithm.entropy_shaping.entropy="$ENTROPY"
    )
fi
RUN=${RUNS:-runs/verl}/$NAME

recipe=(
    # The shaped advantage A + min(alpha * H, |A| / kappa), H of the policy under update.  [paper]
    trainer.v1.trainer_mode=entropy_sync
    "${shaping[@]}"

    # Monte Carlo returns minus the critic's values; verl whitens them.  [paper: gamma = lambda = 1]
    algorithm.adv_estimator=gae
    algorithm.gamma=1.0
    algorithm.lam=1.0

    # The critic: its learning rate, and 10 steps in which it alone learns: the actor's first update is in step 11.
    # [paper: if its steps are updates, not rollouts, write 1]
    critic.optim.lr=2e-6
    trainer.critic_warmup=11

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
    trainer.total_training_steps=135

    # AdamW at 1e-6; 8K tokens at temperature 1.  [paper]
    actor_rollout_ref.actor.optim.lr=1e-6
    data.max_response_length=8192
    actor_rollout_ref.rollout.temperature=1.0

    # The model, the data and the longest prompt.
    actor_rollout_ref.model.path="$MODEL"
    critic.model.path="${CRITIC:-$MODEL}"
    data.train_files="${TRAIN:-data/dapo-math-17k.parquet}"
    data.val_files="${VALIDATION:-data/aime-2024.parquet}"
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

    # Memory: micro-batches of at most 16384 tokens, activations recomputed, states on the CPU while not in use.
    actor_rollout_ref.actor.use_dynamic_bsz=True
    actor_rollout_ref.actor.ppo_max_token_len_per_gpu=16384
    actor_rollout_ref.model.enable_gradient_checkpointing=True
    actor_rollout_ref.actor.fsdp_config.param_offload=True
    actor_rollout_ref.actor.fsdp_config.optimizer_offload=True
    critic.ppo_max_token_len_per_gpu=32768
    critic.model.enable_gradient_checkpointing=True
    critic.fsdp.param_offload=True
    critic.fsdp.optimizer_offload=True
    actor_rollout_ref.rollout.name=vllm
    actor_rollout_ref.rollout.tensor_model_parallel_size=1
    actor_rollout_ref.rollout.gpu_memory_utilization=0.5

    trainer.n_gpus_per_node="$GPUS"
    trainer.nnodes="$NODES"
    trainer.logger='["console","file","tensorboard"]'
    trainer.project_name=forkwise
    trainer.experiment_name="$NAME"
    trainer.default_local_dir="$RUN/checkpoints"
    trainer.rollout_data_dir="$RUN/rollouts"
    trainer.validation_data_dir="$RUN/validation"
    trainer.val_before_train=True
    trainer.test_freq=25
    trainer.save_freq=25
    trainer.max_actor_ckpt_to_keep=6
    trainer.max_critic_ckpt_to_keep=1
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
