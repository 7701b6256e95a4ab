#!/usr/bin/env bash
# Purpose:  writes RUN/report.html, one page to open from disk: the claim with its numbers, figures,
#           tables, and sampled dialogues before and after, side by side. Training by RL and
#           eval_ood.sh leave it by themselves; this makes it again, or of an older run.
# Usage:    bash scripts/report.sh RUN [RUN ...] [--key=value ...]    (--help lists every key)
# Hardware: 1 CPU core, seconds.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"

runs=() options=()
for argument in "$@"; do
  if [[ $argument == --* ]]; then options+=("$argument"); else runs+=("$argument"); fi
done
list=$("$python" -c 'import json, sys; print(json.dumps(sys.argv[1:]))' "${runs[@]}")
run evaluation.html --runs="$list" "${options[@]}"
