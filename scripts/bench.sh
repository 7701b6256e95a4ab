#!/usr/bin/env bash
# Purpose:  measures the environments, and sampling with learning in batches against one at a time;
#           and, if asked, an update of Llama-3.2-11B-Vision from images, with random weights.
# Usage:    bash scripts/bench.sh [env] [navigation] [rollout] [vision] [--key=value ...]
#           (no section: all but vision)
# Hardware: 2 CPU cores, about 2 minutes. vision: one GPU of 80 GB, or --architecture=DIRECTORY of a
#           smaller Mllama.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"

sections=() options=()
for argument in "$@"; do
  if [[ $argument == --* ]]; then options+=("$argument"); else sections+=("$argument"); fi
done
[[ ${#sections[@]} -gt 0 ]] && options+=("--sections=[$(IFS=,; echo "${sections[*]}")]")
if [[ " ${sections[*]} " == *" vision "* ]]; then
  options+=("--vision_tokenizer=$(start_checkpoint gp_vl tiny 0)")
fi
if [[ " ${sections[*]:-rollout} " == *" rollout "* && -z $(option model "" "$@") ]]; then
  options+=("--model=$(start_checkpoint gp_l tiny 0)")
fi
"$python" -m rl.bench "${options[@]}"
