#!/usr/bin/env bash
# Purpose:  evaluates a model behind any OpenAI-compatible API on the suites of eval_ood.sh, with
#           images where the task has them. Every reply is kept at once, so that an evaluation that
#           was interrupted goes on without paying twice, and prints the same table.
# Usage:    OPENAI_API_KEY=... bash scripts/eval_api.sh --base_url=URL --model=NAME [--key=value ...]
#           URL is the API's root, such as https://api.openai.com/v1, or http://localhost:8000/v1 for
#           `transformers serve`, vLLM or llama.cpp on this machine, which need no key. --task=NAME
#           chooses the suites, --run_dir=RUN goes on with a run, --help lists every key.
# Needs:    the endpoint; here 1 CPU core. 100 episodes a suite, so at most 100 x suites x 5 requests.
# Leaves:   runs/api-TASK-TIME/ with what eval_ood.sh leaves, usage.json (requests and tokens) and
#           replies.jsonl (the journal).
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"

run evaluation.api "$@"
