#!/usr/bin/env bash
# Purpose:  measures this project on this machine, by ratios within one run, and prints a table of them:
#           the environments (env, navigation), every sampler on the same dialogues (rollout), the
#           learner's passes (learner) and memory (memory), an update against one dialogue at a time
#           (end-to-end), against TRL's GRPO (peer), against what a GPU could do (limits), and one of
#           Llama-3.2-11B-Vision from images (vision). limits and vision have random weights.
# Usage:    bash scripts/bench.sh [SECTION ...] [--key=value ...]    (--help lists every key)
#           (no section: all but peer, limits and vision)
# Hardware: 2 CPU cores, about 8 minutes; peer installs TRL in an environment of its own, .venv-peer,
#           and takes 3 minutes more. limits, vision: one GPU of 80 GB, or --shape= and
#           --architecture=DIRECTORY of smaller ones.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"

known="env navigation rollout learner memory end_to_end peer limits vision"
sections=() options=()
for argument in "$@"; do
  if [[ $argument == --* ]]; then
    options+=("$argument")
  elif [[ " $known " == *" ${argument//-/_} "* ]]; then
    sections+=("${argument//-/_}")
  else
    fail "section $argument: must be one of ${known//_/-}"
  fi
done
[[ ${#sections[@]} -gt 0 ]] && options+=("--sections=[$(IFS=,; echo "${sections[*]}")]")
asked=" ${sections[*]:-rollout} "
switch help "$@" && asked=""  # nothing is made for it
if [[ $asked == *" vision "* ]]; then
  options+=("--vision_tokenizer=$(start_checkpoint gp_vl tiny 0)")
fi
if [[ $asked =~ " "(rollout|learner|end_to_end|peer|limits)" " && -z $(option model "" "$@") ]]; then
  options+=("--model=$(start_checkpoint gp_l tiny 0)")
fi
if [[ $asked == *" peer "* ]]; then
  make_environment .venv-peer requirements.txt rl/bench/peer_requirements.txt
  python=.venv-peer/bin/python
fi
run rl.bench "${options[@]}"
