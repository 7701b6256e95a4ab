#!/usr/bin/env bash
# Purpose:  fine-tunes a policy on right moves along routes through a city by street views (compass
#           moves only).
# Usage:    bash scripts/train_sft_virl_vl.sh [SCALE] [--key=value ...]    (--help lists every key)
#           --data_file=FILE learns from a file of dialogues with images instead (JSONL, or LLaVA's
#           form, as trainers take it); --image_folder=DIR says where the images lie.
# Scales:   tiny (default): from the same start checkpoint as scripts/train_rl_virl_vl.sh.
#           paper: Llama-3.2-11B-Vision-Instruct on the paper's routes
#           (scripts/download.sh data).
# Hardware: tiny: 2 CPU cores, 3 GB of memory, minutes. paper: 8 GPUs of
#           80 GB. ACCELERATE_CONFIG=FILE (scripts/accelerate/) says how it is spread over processes.
# Leaves:   runs/NAME/ with configuration, data, images, metrics, TensorBoard log and checkpoints.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"

train sft virl_vl "$@"
