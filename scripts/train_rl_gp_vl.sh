#!/usr/bin/env bash
# Purpose:  trains a policy that sees by RL to play GeneralPoints from pictures of the cards, and
#           shows in one table what that did in and out of distribution, and to reading the cards.
# Usage:    bash scripts/train_rl_gp_vl.sh [SCALE] [--key=value ...]    (--help lists every key)
#           --resume goes on with the newest run of that scale (or with --run_dir=RUN); --dry_run
#           prints the resolved configuration and the memory that it needs.
# Scales:   tiny (default): a Mllama of 1.8 M parameters.
#           paper: Llama-3.2-11B-Vision from the paper's start checkpoint (scripts/download.sh).
# Hardware: tiny: 2 CPU cores, 3 GB of memory, about 12 minutes. paper: 8 GPUs of 80 GB.
#           ACCELERATE_CONFIG=FILE (scripts/accelerate/) says how it is spread over processes.
# Leaves:   runs/NAME/ with configuration, metrics, TensorBoard log, checkpoints, sampled dialogues
#           with their images, table and plot.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"

train rl gp_vl "$@"
