#!/bin/sh
# The reference harness's line, with its words in any order: ./run_local.sh onnxruntime resnet50 cpu --scenario Offline --time 60
root=$(cd "$(dirname "$0")" && pwd)
[ -x "$root/.venv/bin/drumfire" ] || make --silent -C "$root" .venv/.base || exit
exec "$root/.venv/bin/python" -P -m drumfire.bench.commands.run_local "$@" $EXTRA_OPS
