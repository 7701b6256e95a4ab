#!/usr/bin/env bash
# Purpose:  answers, for one task, what SFT and RL from the same start do at equal compute, in and out
#           of distribution: trains both arms under several seeds, evaluates their checkpoints, and
#           leaves tables, figures and a page to read. Run again, it goes on where it was.
# Usage:    bash scripts/study.sh [--task gp_l] [--scale tiny] [--seeds 3] [--arms=[sft,rl]] [...]
#           (--help lists every key; evaluation/study/configs/ has the settings and the other arms.)
#           On a cluster, --list_jobs prints the jobs and --only=[seed200/rl] runs one of them;
#           --analyse shows what is there.
# Hardware: tiny: 2 CPU cores, 3 GB of memory; three seeds of gp_l 35 minutes, of virl_l 31; one seed
#           of gp_vl 9, of virl_vl 16, and 5 to 8 more for each start that does not come along.
#           small: one GPU. paper: 8 GPUs of 80 GB. ACCELERATE_CONFIG=FILE says how each command is
#           spread over processes.
# Leaves:   runs/study-TASK-SCALE/ with report.html, results.json, table.txt, figures/, and every
#           run of every arm under seedN/ARM/.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"

if [[ " $* " =~ " --scale"[=\ ]"small " ]]; then "$python" -m gym_policy.models.smollm >/dev/null; fi
run evaluation.study --processes="$(spread)" "$@"
