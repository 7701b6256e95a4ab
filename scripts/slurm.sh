#!/usr/bin/env bash
#SBATCH --job-name=train
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --exclusive
#SBATCH --time=24:00:00
#SBATCH --signal=TERM@900
#SBATCH --requeue
# Purpose:  runs a training launcher on several machines under Slurm: one task a machine, in which
#           gym_command.launch starts a process for each GPU. 15 minutes before the end of its time
#           every process gets SIGTERM: the run saves, ends, is queued again and goes on.
# Usage:    sbatch [--nodes=N] scripts/slurm.sh train_rl_gp_l.sh paper --run_dir=runs/NAME [...]
#           (--run_dir must be on a disk that all machines see, as must this project; make .venv
#           once before, for instance with bash scripts/test.sh on the login node)
# Hardware: N machines with 8 GPUs of 80 GB; other numbers by --gpus-per-node.
# Leaves:   runs/NAME/, as the launcher does.
set -euo pipefail
cd "${SLURM_SUBMIT_DIR:-$(dirname "${BASH_SOURCE[0]}")/..}"

[[ $# -ge 1 && -f scripts/$1 ]] || { echo "error: name a launcher, such as train_rl_gp_l.sh" >&2; exit 2; }
[[ " $* " == *" --run_dir="* ]] || { echo "error: name the run with --run_dir=DIRECTORY" >&2; exit 2; }

export NUM_MACHINES=$SLURM_NNODES NUM_PROCESSES=${SLURM_GPUS_ON_NODE:-8}
mapfile -t hosts < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
export MAIN_PROCESS_IP=${hosts[0]} MAIN_PROCESS_PORT=$((20000 + SLURM_JOB_ID % 20000))
export ACCELERATE_CONFIG=${ACCELERATE_CONFIG:-scripts/accelerate/nodes_zero3.yaml}

launcher=$1
shift
resume=()
[[ $launcher == train_* ]] && resume=(--resume)
code=0
# Each task names its machine. --resume starts the run the first time and goes on with it later.
srun --kill-on-bad-exit=1 bash -c \
  'export MACHINE_RANK=$SLURM_NODEID; exec bash "scripts/$0" "$@"' "$launcher" "$@" "${resume[@]}" || code=$?
if [[ $code == 143 ]]; then  # ended by SIGTERM, and saved
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
