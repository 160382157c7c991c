#!/bin/sh
# The reference harness's line, with its words in any order: ./run_local.sh onnxruntime resnet50 cpu --scenario Offline --time 60
root=$(cd "$(dirname "$0")" && pwd)
[ -x "$root/.venv/bin/drumfire" ] || { "${PYTHON:-python3}" -m venv "$root/.venv" && "$root/.venv/bin/pip" install --quiet --disable-pip-version-check --constraint "$root/constraints.txt" --editable "$root"; } || exit
exec "$root/.venv/bin/python" -P -m bench.run_local "$@" $EXTRA_OPS
