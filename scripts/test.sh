#!/usr/bin/env bash
# Purpose:  runs the tests: offline, on real parts, under 10 minutes on 2 CPU cores.
# Usage:    bash scripts/test.sh [pytest arguments]
set -euo pipefail
for_tests=--tests
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"

export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}  # threads only hold tiny models up
export OBEY_INTERRUPTS=1  # tests of Ctrl-C hold where SIGINT is ignored, too
run pytest "$@"
