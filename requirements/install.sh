#!/bin/sh
# Make or refresh the virtual environment: install.sh PYTHON VENV READY
#
# 1. torch with its dependencies, held to the lock; 2. everything else from the lock, without dependency resolution (so that
# SpikingJelly's unused torchvision and torchaudio stay out); 3. this project, editable. While a step runs, the file
# VENV-unfinished exists: if it is still there on the next run, that step was interrupted and the environment is made anew.
# At the end READY holds the folder that the environment belongs to (its scripts carry absolute paths).
set -eu
cd "$(dirname "$0")/.."
python=$1
venv=$2
ready=$3
here=$(pwd -P)
unfinished=$venv-unfinished
log=$venv-setup.log

if ! command -v "$python" >/dev/null 2>&1; then
    echo "set-up: '$python' not found. Install Python 3.11 or newer, or name one: make PYTHON=/path/to/python3.11" >&2
    exit 1
fi
if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
    echo "set-up: Python 3.11 or newer is needed, '$python' is $("$python" -V 2>&1). Name another: make PYTHON=python3.11" >&2
    exit 1
fi
if ! "$python" -c 'import venv, ensurepip' 2>/dev/null; then
    echo "set-up: '$python' has no venv module. Install it (Debian, Ubuntu: apt-get install python3-venv)" >&2
    exit 1
fi

step() { # step LABEL COMMAND...
    printf 'set-up: %-58s' "$1"
    shift
    started=$(date +%s)
    : >"$unfinished"
    status=0
    "$@" >"$log" 2>&1 </dev/null || status=$?
    if [ "$status" -ge 128 ]; then # ended by a signal
        printf 'interrupted\n'
        exit "$status"
    fi
    rm -f "$unfinished"
    if [ "$status" -ne 0 ]; then
        printf 'failed\n'
        tail -n 30 "$log" >&2
        exit "$status"
    fi
    printf '%4d s\n' $(($(date +%s) - started))
}
trap 'printf "interrupted\n"; exit 130' INT TERM HUP

pip_install() {
    "$venv/bin/python" -m pip install --quiet --no-input --disable-pip-version-check "$@"
}

if [ -e "$unfinished" ] || ! "$venv/bin/python" -m pip --version >/dev/null 2>&1 ||
    [ "$(cat "$ready" 2>/dev/null || echo "$here")" != "$here" ]; then
    step "virtual environment $venv ($("$python" -V))" "$python" -m venv --clear "$venv"
fi
step "$(grep '^torch==' requirements/torch.txt) and its dependencies" \
    pip_install -r requirements/torch.txt -c requirements/lock.txt
step "everything else, as locked" pip_install --no-deps -r requirements/lock.txt
step "this project, editable" pip_install --no-deps --no-build-isolation -e .
rm -f "$log"
echo "$here" >"$ready"
