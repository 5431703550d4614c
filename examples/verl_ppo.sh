#!/usr/bin/env bash
# PPO with a critic and entropy-shaped advantages on verl 0.9 (tested: 0.9.1), as in "Reasoning with Exploration: An Entropy
# Perspective" (arXiv 2506.14758): examples/verl_grpo.sh with what is different for PPO. What that one says about GPUS,
# NODES, ENTROPY, ALPHA, SEED, METHOD, NAME, the data and the installation holds here too. Values marked [paper] are
# stated there; the others are verl's defaults or follow from the hardware.
#
#   bash examples/verl_ppo.sh                       # 8 GPUs, Qwen2.5-7B and a critic of the same size  [paper]
#   GPUS=1 bash examples/verl_ppo.sh                # 1 GPU, Qwen2.5-1.5B
#   CRITIC=PATH bash examples/verl_ppo.sh           # the critic begins as another model
set -euo pipefail

export ALGORITHM=ppo ALPHA="${ALPHA:-0.1}"

recipe=(
    # Monte Carlo returns minus the critic's values; verl whitens them.  [paper: gamma = lambda = 1]
    algorithm.adv_estimator=gae
    algorithm.gamma=1.0
    algorithm.lam=1.0

    # The critic: its learning rate, and 10 steps in which it alone learns: the actor's first update is in step 11.
    # [paper: if its steps are updates, not rollouts, write 1]
    critic.optim.lr=2e-6
    trainer.critic_warmup=11
    trainer.total_training_steps=135
    critic.model.path="${CRITIC:-\${actor_rollout_ref.model.path\}}"

    # Memory of the critic: its states are on the CPU while it does not train.
    critic.ppo_max_token_len_per_gpu=32768
    critic.model.enable_gradient_checkpointing=True
    critic.fsdp.param_offload=True
    critic.fsdp.optimizer_offload=True
    trainer.max_critic_ckpt_to_keep=1
)

exec bash "$(dirname "${BASH_SOURCE[0]}")/verl_grpo.sh" "${recipe[@]}" "$@"
