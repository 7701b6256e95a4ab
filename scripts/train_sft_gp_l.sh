#!/usr/bin/env bash
# Purpose:  fine-tunes a policy on the solver's answers to GeneralPoints in text (usual rule only).
# Usage:    bash scripts/train_sft_gp_l.sh [SCALE] [--key=value ...]    (--help lists every key)
# Scales:   tiny (default): from the same start checkpoint as scripts/train_rl_gp_l.sh.
# Hardware: tiny: 2 CPU cores, 3 GB of memory, about 3 minutes.
# Leaves:   runs/NAME/ with configuration, data, metrics, TensorBoard log and checkpoints.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"

choose_scale sft/configs/gp_l "$@"
[[ $# -gt 0 && $1 != --* ]] && shift
seed=$(option seed 0 "$@")
model=$(option model "" "$@")
if [[ -z $model && " $* " != *" --help "* ]]; then
  model=$(start_checkpoint gp_l "$seed")
fi
launch sft.train --config "$config" \
  --run_dir="runs/sft-gp_l-$scale-seed$seed-$(date +%Y%m%d-%H%M%S)" --model="$model" "$@"
