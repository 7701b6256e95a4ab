# Sourced by the launchers: goes to the project's root and takes the environment that is activated, if
# it has what is needed, or makes or reuses the project's own, .venv. PYTHON names the interpreter to
# make that with (3.10 or newer; python3 by default).
cd "$(dirname "${BASH_SOURCE[0]}")/.."

fail() {
  echo "error: $*" >&2
  exit 2
}

# make_environment DIRECTORY REQUIREMENTS...: a virtual environment with these and ./gym, made anew
# where they have changed.
make_environment() {
  local place=$1 base=${PYTHON:-python3} file wanted files=()
  shift
  for file in "$@"; do files+=(-r "$file"); done
  wanted=$(cat "$@" gym/pyproject.toml)
  [[ -f $place/made-from && $(<"$place/made-from") == "$wanted" ]] && return
  local lock=
  if command -v flock >/dev/null; then  # one launcher makes it, others wait
    mkdir -p .cache && exec {lock}>.cache/environment.lock
    flock --nonblock "$lock" ||
      { echo "Waiting for another launcher, which makes $place" >&2 && flock "$lock"; }
    if [[ -f $place/made-from && $(<"$place/made-from") == "$wanted" ]]; then
      exec {lock}>&-
      return
    fi
  fi
  "$base" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null ||
    fail "$base: Python 3.10 or newer is needed; name one with PYTHON=/path/to/python"
  echo "Making the environment $place from $* (minutes, the first time only)"
  [[ -x $place/bin/python ]] || "$base" -m venv "$place" ||
    fail "$place: cannot be made with $base -m venv (on Debian: apt-get install python3-venv)"
  "$place/bin/python" -m pip install --quiet --disable-pip-version-check "${files[@]}" -e ./gym ||
    fail "$place: pip could not install $*; its message is above"
  printf '%s\n' "$wanted" >"$place/made-from"
  [[ -z $lock ]] || exec {lock}>&-
}

# choose_environment: sets `python` to that of the virtual or conda environment that is activated
# (conda's base is none), if it lacks nothing (for_tests=--tests: of what tests need, too), else to
# that of .venv. Says which, where one is active. With for_one_process=--one-process, DeepSpeed and
# the like are not needed, and where there is no .venv yet, the machine's own Python may serve.
choose_environment() {
  local active=${VIRTUAL_ENV:-} missing wanted=${for_tests:-}${for_one_process:-} interpreter
  if [[ -z $active && ${CONDA_DEFAULT_ENV:-base} != base ]]; then active=${CONDA_PREFIX:-}; fi
  python=$PWD/.venv/bin/python
  interpreter=${active:+$active/bin/python}
  if [[ -z $active && -n ${for_one_process:-} && ! -f .venv/made-from ]]; then
    interpreter=$(type -P "${PYTHON:-python3}") && active=$interpreter
  fi
  if [[ -n $interpreter && -x $interpreter && ! $active -ef .venv ]]; then
    missing=$("$interpreter" scripts/check_environment.py $wanted 2>/dev/null) ||
      missing="Python 3.10 or newer"
    if [[ -z $missing ]]; then
      echo "Using the active environment $active" >&2
      python=$interpreter
      export PYTHONPATH=$PWD/gym${PYTHONPATH:+:$PYTHONPATH}
      return
    fi
    echo "The active environment $active lacks $missing: using .venv instead" >&2
  fi
  make_environment .venv requirements.txt
}

choose_environment
export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH} TOKENIZERS_PARALLELISM=false

# option NAME DEFAULT ARGS...: the value of the last --NAME=VALUE among ARGS, else DEFAULT.
option() {
  local name=$1 value=$2 argument
  shift 2
  for argument in "$@"; do
    [[ $argument == "--$name" ]] && fail "--$name: write --$name=VALUE"
    [[ $argument == "--$name="* ]] && value=${argument#*=}
  done
  printf '%s' "$value"
}

# switch NAME ARGS...: whether --NAME or --NAME=true is among ARGS.
switch() {
  local name=$1 argument
  shift
  for argument in "$@"; do
    [[ $argument == "--$name" || ${argument,,} == "--$name=true" ]] && return 0
  done
  return 1
}

# spread: prints how commands are spread over processes: the accelerate configuration in
# ACCELERATE_CONFIG, or the number in PROCESSES; without either, one process where there is a GPU,
# else two with a thread each, which is faster for tiny models than one with two threads.
spread() {
  local processes=2
  nvidia-smi -L >/dev/null 2>&1 && processes=1
  printf '%s' "${ACCELERATE_CONFIG:-${PROCESSES:-$processes}}"
}

# use_all_gpus: has `launch` start a process on each GPU, unless the user says how many; as many as
# CUDA_VISIBLE_DEVICES leaves. Without a GPU it changes nothing.
use_all_gpus() {
  local found
  [[ -n ${ACCELERATE_CONFIG:-}${PROCESSES:-} ]] && return
  if [[ -n ${CUDA_VISIBLE_DEVICES+set} ]]; then
    found=$(tr ',' '\n' <<<"$CUDA_VISIBLE_DEVICES" | grep -c .)
  else
    found=$(nvidia-smi -L 2>/dev/null | grep -c '^GPU ')
  fi || return 0
  PROCESSES=$found
}

# run MODULE ARGS...: a command that takes the place of the shell, so that a signal to the launcher
# reaches it. Ctrl-C is its own business: one line, even while it is still importing. Where the shell
# was started with SIGINT ignored, as in the background of a script, the command ignores it too.
run() {
  [[ -n $(trap -p INT) ]] || export OBEY_INTERRUPTS=1
  trap '' INT
  exec "$python" -m gym_command.process "$@"
}

# launch MODULE ARGS...: the same in as many processes as `spread` says.
launch() {
  run gym_command.launch "$(spread)" "$@"
}

# start_checkpoint TASK SCALE SEED: prints the directory of the start checkpoint, made if it neither
# comes with the project nor is in the cache, with the pretrained model that it starts from (small).
start_checkpoint() {
  local config=sft/configs/$1_start.yaml
  if [[ $2 == small ]]; then
    config=sft/configs/$1_small_start.yaml
    "$python" -m gym_policy.models.smollm >/dev/null
  fi
  echo "Start checkpoint of $1, scale $2, seed $3: as shipped, from the cache, or made now (tiny: minutes)" >&2
  ACCELERATE_CONFIG='' launch sft.initial --config "$config" --seed="$3"
}

# choose_scale PREFIX ARGS...: sets `scale` to the first argument, or tiny if it is an option, and
# `config` to PREFIX_SCALE.yaml.
choose_scale() {
  local prefix=$1 file known=
  scale=tiny
  [[ $# -gt 1 && $2 != --* ]] && scale=$2
  config=${prefix}_$scale.yaml
  for file in "$prefix"_*.yaml; do
    file=${file#"${prefix}_"}
    [[ $file == *_*.yaml || $file == *start.yaml ]] || known+=" ${file%.yaml}"
  done
  [[ -f $config ]] || fail "scale $scale: must be one of$known"
  if [[ $scale == paper ]]; then  # eight GPUs, as in the paper, unless another is named
    local how=zero2_offload
    [[ $prefix == sft/* ]] && how=zero3_offload
    ACCELERATE_CONFIG=${ACCELERATE_CONFIG:-scripts/accelerate/gpu8_$how.yaml}
  fi
}

# newest_run PREFIX: prints the newest run's directory of those whose name starts so.
newest_run() {
  local newest
  newest=$(ls -td "$1"*/ 2>/dev/null | head -n 1)
  printf '%s' "${newest%/}"
}

# train PACKAGE TASK ARGS...: what every training launcher does with its arguments. CKPT_NAME is the
# --model where none is given. With --resume it goes on with the run of --run_dir, or the newest of
# this scale, under the settings of that run.
train() {
  local package=$1 task=$2 seed model run_dir suites
  shift 2
  choose_scale "$package/configs/$task" "$@"
  [[ $# -gt 0 && $1 != --* ]] && shift
  seed=$(option seed 0 "$@")
  model=$(option model "${CKPT_NAME:-}" "$@")
  run_dir=$(option run_dir "" "$@")
  if switch resume "$@"; then
    run_dir=${run_dir:-$(newest_run "runs/$package-$task-$scale-")}
    [[ -n $run_dir ]] || fail "--resume: there is no run under runs/$package-$task-$scale-*; name one with --run_dir"
    if [[ -s $run_dir/config.yaml ]]; then
      launch "$package.train" --config "$run_dir/config.yaml" "$@" --run_dir="$run_dir"
    fi
  fi
  run_dir=${run_dir:-runs/$package-$task-$scale-seed$seed-$(date +%Y%m%d-%H%M%S)}
  if [[ -z $model && " $* " != *" --help "* ]] && ! grep -q '^model:' "$config"; then
    if switch dry_run "$@"; then  # nothing is made for it: any start of this scale has the same size
      model=.cache/models/smollm2-135m-instruct
      if [[ $scale == tiny ]]; then
        suites=$(sed -n 's/^task: *//p' "$config")  # starts are named for what they play
        model=$(newest_run ".cache/start/${suites:-$task}-")
        model=${model:-$(newest_run "assets/start/${suites:-$task}-")}
      fi
      [[ -f $model/config.json ]] || fail "--dry_run: the start checkpoint of scale $scale is not made yet; name a model with --model=DIRECTORY_OR_HUB_NAME"
    else
      model=$(start_checkpoint "$task" "$scale" "$seed")
    fi
  fi
  if switch dry_run "$@"; then
    export ACCELERATE_CONFIG=${ACCELERATE_CONFIG:-}
    "$python" -m "$package.train" --config "$config" --run_dir="$run_dir" \
      ${model:+--model="$model"} "$@"
    return
  fi
  launch "$package.train" --config "$config" --run_dir="$run_dir" \
    ${model:+--model="$model"} "$@"
}
