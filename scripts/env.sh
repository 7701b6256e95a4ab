# Sourced by the launchers: goes to the project's root and makes or reuses its environment, .venv.
# PYTHON names the interpreter to make it with (3.10 or newer; python3 by default).
cd "$(dirname "${BASH_SOURCE[0]}")/.."

fail() {
  echo "error: $*" >&2
  exit 2
}

wanted=$(cat requirements.txt gym/pyproject.toml)
if [[ ! -f .venv/made-from || $(<.venv/made-from) != "$wanted" ]]; then
  base=${PYTHON:-python3}
  "$base" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null ||
    fail "$base: Python 3.10 or newer is needed; name one with PYTHON=/path/to/python"
  echo "Making the environment .venv from requirements.txt (minutes, the first time only)"
  [[ -x .venv/bin/python ]] || "$base" -m venv .venv ||
    fail ".venv: cannot be made with $base -m venv (on Debian: apt-get install python3-venv)"
  .venv/bin/python -m pip install --quiet --disable-pip-version-check -r requirements.txt -e ./gym ||
    fail ".venv: pip could not install requirements.txt; its message is above"
  printf '%s\n' "$wanted" >.venv/made-from
fi
python=$PWD/.venv/bin/python
export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH} TOKENIZERS_PARALLELISM=false

# option NAME DEFAULT ARGS...: the value of the last --NAME=VALUE among ARGS, else DEFAULT.
option() {
  local name=$1 value=$2 argument
  shift 2
  for argument in "$@"; do
    [[ $argument == "--$name="* ]] && value=${argument#*=}
  done
  printf '%s' "$value"
}

# launch MODULE ARGS...: one process, or as many as the accelerate configuration in
# ACCELERATE_CONFIG says.
launch() {
  if [[ -n ${ACCELERATE_CONFIG:-} ]]; then
    [[ -f $ACCELERATE_CONFIG ]] || fail "ACCELERATE_CONFIG=$ACCELERATE_CONFIG: no such file"
    "$python" -m accelerate.commands.launch --config_file "$ACCELERATE_CONFIG" -m "$@"
  else
    "$python" -m "$@"
  fi
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
    [[ $file == start.yaml ]] || known+=" ${file%.yaml}"
  done
  [[ -f $config ]] || fail "scale $scale: must be one of$known"
}
