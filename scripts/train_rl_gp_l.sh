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

choose_scale rl/configs/gp_l "$@"
[[ $# -gt 0 && $1 != --* ]] && shift
seed=$(option seed 0 "$@")
model=$(option model "" "$@")
if [[ -z $model && " $* " != *" --help "* ]]; then
  model=$(start_checkpoint gp_l "$seed")
fi
launch rl.train --config "$config" --run_dir="runs/rl-gp_l-$scale-seed$seed-$(date +%Y%m%d-%H%M%S)" \
  --model="$model" "$@"
