#!/usr/bin/env bash
# Purpose:  fine-tunes a policy on the solver's answers to GeneralPoints in text (usual rule only).
# Usage:    bash scripts/train_sft_gp_l.sh [SCALE] [--key=value ...]    (--help lists every key)
# Scales:   tiny (default): from the same start checkpoint as scripts/train_rl_gp_l.sh.
# Hardware: tiny: 2 CPU cores, 3 GB of memory, about 3 minutes.
# Leaves:   runs/NAME/ with configuration, data, metrics, TensorBoard log and checkpoints.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"

train sft gp_l "$@"
