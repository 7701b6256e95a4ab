#!/usr/bin/env bash
# Purpose:  evaluates checkpoints in and out of distribution on the same seeded episodes, side by
#           side, with 95 % intervals; the differences from the first one are paired.
# Usage:    bash scripts/eval_ood.sh [CHECKPOINT ...] [--key=value ...]    (--help lists every key)
#           A CHECKPOINT is a directory saved by save_pretrained, a hub name, or a run's directory,
#           which stands for the run's first and last checkpoint. None: the newest run.
# Hardware: tiny: 2 CPU cores, about 1 minute a checkpoint.
# Leaves:   runs/eval-TASK-TIME/ with table.txt, summary.json, turns.jsonl, success.png, report.html.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"

checkpoints=() options=()
for argument in "$@"; do
  if [[ $argument == --* ]]; then options+=("$argument"); else checkpoints+=("$argument"); fi
done
list=$("$python" -c 'import json, sys; print(json.dumps(sys.argv[1:]))' "${checkpoints[@]}")
launch evaluation.evaluate --checkpoints="$list" "${options[@]}"
