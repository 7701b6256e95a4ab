#!/usr/bin/env bash
# Purpose:  measures the environment, and sampling with learning in batches against one at a time.
# Usage:    bash scripts/bench.sh [env] [rollout] [--key=value ...]    (no section: all)
# Hardware: 2 CPU cores, about 2 minutes.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"

sections=() options=()
for argument in "$@"; do
  if [[ $argument == --* ]]; then options+=("$argument"); else sections+=("$argument"); fi
done
[[ ${#sections[@]} -gt 0 ]] && options+=("--sections=[$(IFS=,; echo "${sections[*]}")]")
if [[ -z $(option model "" "$@") ]]; then
  options+=("--model=$(start_checkpoint gp_l tiny 0)")
fi
"$python" -m rl.bench "${options[@]}"
