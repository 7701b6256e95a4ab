#!/usr/bin/env bash
# Purpose:  evaluates checkpoints in and out of distribution on the same seeded episodes, side by
#           side, with 95 % intervals; the differences from the first one are paired.
# Usage:    bash scripts/eval_ood.sh [CHECKPOINT ...] [paper] [--key=value ...]    (--help lists every key)
#           A CHECKPOINT is a directory saved by save_pretrained, a hub name, or a run's directory,
#           which stands for the run's first and last checkpoint. None: $CKPT_NAME, else the newest
#           run. `paper` evaluates as the paper does: 234 hands or every route once in order, 256
#           tokens, bfloat16, the checkpoint's own sampling; --task=gp_l, gp_vl, virl_l or virl_vl
#           where the checkpoint's name does not tell. --sampler=vllm --engines=[http://HOST:PORT]:
#           by servers (scripts/serve.sh), to which the weights are sent.
# Hardware: tiny: 2 CPU cores, about 1 minute a checkpoint. paper: every GPU that is there, a process
#           on each, with room for 11 B parameters in bfloat16.
# Leaves:   runs/eval-TASK-TIME/ with table.txt, summary.json, turns.jsonl, success.png, report.html.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"

checkpoints=() options=()
for argument in "$@"; do
  if [[ $argument == --* ]]; then
    options+=("$argument")
  elif [[ $argument == paper && ! -e paper ]]; then
    options=(--settings=paper "${options[@]}")
  else
    checkpoints+=("$argument")
  fi
done
if [[ ${#checkpoints[@]} == 0 && -n ${CKPT_NAME:-} ]]; then checkpoints=("$CKPT_NAME"); fi
[[ $(option settings "" "${options[@]}") == paper ]] && use_all_gpus
list=$("$python" -c 'import json, sys; print(json.dumps(sys.argv[1:]))' "${checkpoints[@]}")
launch evaluation.evaluate --checkpoints="$list" "${options[@]}"
