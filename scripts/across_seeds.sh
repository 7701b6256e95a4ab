#!/usr/bin/env bash
# Purpose:  averages start, end and their difference over finished runs that differ by their seed.
# Usage:    bash scripts/across_seeds.sh RUN RUN [RUN ...]
# Hardware: 1 CPU core, seconds.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"

list=$("$python" -c 'import json, sys; print(json.dumps(sys.argv[1:]))' "$@")
run evaluation.seeds --runs="$list"
