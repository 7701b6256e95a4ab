#!/usr/bin/env bash
# Purpose:  trains a policy by RL to play GeneralPoints from text, and shows in one table what that
#           did in and out of distribution.
# Usage:    bash scripts/train_rl_gp_l.sh [SCALE] [--key=value ...]    (--help lists every key)
# Scales:   tiny (default): a Llama of 0.9 M parameters, made here on the first run.
# Hardware: tiny: 2 CPU cores, 3 GB of memory, about 10 minutes.
# Leaves:   runs/NAME/ with configuration, metrics, TensorBoard log, checkpoints, sampled dialogues,
#           table and plot.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"

train rl gp_l "$@"
