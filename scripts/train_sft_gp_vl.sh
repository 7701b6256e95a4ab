#!/usr/bin/env bash
# Purpose:  fine-tunes a policy that sees on the solver's answers to pictures of GeneralPoints hands
#           (usual rule, black suits only).
# Usage:    bash scripts/train_sft_gp_vl.sh [SCALE] [--key=value ...]    (--help lists every key)
#           --data_file=FILE learns from a file of dialogues with images instead (JSONL, or LLaVA's
#           form, as trainers take it); --image_folder=DIR says where the images lie.
# Scales:   tiny (default): from the same start checkpoint as scripts/train_rl_gp_vl.sh.
#           paper: Llama-3.2-11B-Vision-Instruct.
# Hardware: tiny: 2 CPU cores, 3 GB of memory, about 6 minutes. paper: 8 GPUs of 80 GB.
#           ACCELERATE_CONFIG=FILE (scripts/accelerate/) says how it is spread over processes.
# Leaves:   runs/NAME/ with configuration, data, images, metrics, TensorBoard log and checkpoints.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"

train sft gp_vl "$@"
