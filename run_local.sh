#!/bin/sh
# The reference harness's line, with its words in any order: ./run_local.sh onnxruntime resnet50 cpu --scenario Offline --time 60
root=$(cd "$(dirname "$0")" && pwd)
python=${PYTHON:-python3}
case $python in /*) ;; */*) python=$PWD/$python ;; esac
[ -x "$root/.venv/bin/drumfire" ] || make --silent -C "$root" .venv/.base PYTHON="$python" || exit
exec "$root/.venv/bin/python" -P -m drumfire.bench.commands.run_local "$@" $EXTRA_OPS
