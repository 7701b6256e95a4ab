#!/usr/bin/env bash
# Purpose:  fetches start checkpoints, the base model and the official data from the Hugging Face
#           hub, and checks every file that arrived. Run again, it goes on where it was interrupted.
# Usage:    bash scripts/download.sh NAME [NAME ...] [--local_dir=DIR]
#           A NAME is gp_l_init, gp_vl_init, virl_l_init, virl_vl_init, gp_l_rl20, base, data, or
#           the OWNER/NAME of any model on the hub.
# Needs:    the sizes are printed first (a checkpoint or the base model: about 21 GB). For base, a
#           licence accepted on its page and a token: hf auth login, or HF_TOKEN.
# Leaves:   models in the hub's cache (HF_HOME), where --model=OWNER/NAME finds them; the data,
#           unpacked, in data/, where the paper settings look for them; or either in DIR.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"

names=() options=()
for argument in "$@"; do
  if [[ $argument == -* ]]; then options+=("$argument"); else names+=("$argument"); fi
done
list=$("$python" -c 'import json, sys; print(json.dumps(sys.argv[1:]))' "${names[@]}")
run gym_policy.models.download --names="$list" "${options[@]}"
