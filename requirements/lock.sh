#!/bin/sh
# Write requirements/lock.txt: lock.sh PYTHON DATE
#
# The lock is a function of pyproject.toml, the files of this folder and DATE alone: uv (pinned) resolves for every platform
# and Python >= 3.11 at once, from metadata only, and looks at no package uploaded after DATE. What torch needs is resolved
# with torch's own bounds; torch itself is left out of the output.
set -eu
cd "$(dirname "$0")/.."
python=$1
date=$2
venv=.venv-lock
lock=requirements/lock.txt

trap 'rm -rf "$venv" "$lock.new"' EXIT
trap 'exit 130' INT TERM
"$python" -m venv --clear "$venv"
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check -r requirements/lock-tool.txt

UV_NO_CONFIG=1 "$venv/bin/uv" --quiet pip compile pyproject.toml requirements/lock.in --extra dev \
    --universal --python-version 3.11 --exclude-newer "$date" --no-build \
    --excludes requirements/lock-exclude.txt --no-emit-package torch \
    --no-header --output-file "$lock.new"

if grep -E -i '^(torch|torchvision|torchaudio|triton|cuda-|nvidia-)' "$lock.new"; then
    echo "lock: the packages above belong to the CUDA build of torch: add them to requirements/lock-exclude.txt" >&2
    exit 1
fi
{
    echo "# Written by \`make lock\` (packages as of $date): do not edit."
    cat "$lock.new"
} >"$lock"
