# shellcheck shell=bash
# What train.sbatch needs to know of a site. Copy it to site.sh beside it (or name it by LLM2ER_SITE) and edit.

# module load cuda/12.4
# source /scratch/me/llm2er/.venv/bin/activate
export LLM2ER_PYTHON=python

# Ranks a node; without it the number of GPUs that the job was given there.
# export LLM2ER_RANKS_PER_NODE=8

# Models and data on the shared file system; models are fetched once, on a login node, and jobs stay offline.
# export HF_HOME=/scratch/me/huggingface HF_HUB_OFFLINE=1
# export WANDB_MODE=offline

# The network that ranks talk over, where it is not found by itself.
# export NCCL_SOCKET_IFNAME=ib0 GLOO_SOCKET_IFNAME=ib0

# A container, by digest; nothing is installed within a job. One of:
# export LLM2ER_CONTAINER="apptainer exec --nv docker://registry/llm2er@sha256:..."
# export LLM2ER_CONTAINER="enroot start --mount /scratch:/scratch llm2er"
# srun's own (pyxis): add --container-image=... --container-mounts=... to the srun line of train.sbatch
