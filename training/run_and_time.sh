#!/usr/bin/env bash
# One timed run of maskrcnn, set by the environment variables of the reference's scripts.  LOG_INTERVAL has no effect,
# because every step is recorded.  LAUNCH_PARAMS are torchrun's own options, for several hosts; without them, the ranks of
# one host listen on its loopback interface only.
set -euo pipefail
: "${DGXNGPU:=1}"          # ranks on this host
: "${BATCHSIZE:=8}"        # images per step and rank
: "${EVALBATCHSIZE:=4}"    # images that a rank evaluates at a time
: "${NUMEPOCHS:=20}"
: "${DATASET_DIR:=runs/data/maskrcnn}"
: "${TORCH_HOME:=}"        # the folder of the backbone's weights, if not the data folder
: "${LOG_DIR:=runs/training/maskrcnn-$(date +%Y%m%d-%H%M%S)}"
: "${LAUNCH_PARAMS:=}"
: "${NNODES:=1}"
: "${EXTRA_PARAMS:=}"
: "${PYTHON:=python}"
[ -z "${DEBUG:-}" ] || set -x

cd "$(dirname "$0")/.."
[ -z "$TORCH_HOME" ] || EXTRA_PARAMS="--weights $TORCH_HOME/R-50.pkl $EXTRA_PARAMS"
launcher="drumfire.training.launch --ranks $DGXNGPU"
if [ -n "$LAUNCH_PARAMS" ] || [ "$NNODES" != 1 ]; then
    launcher="torch.distributed.run $LAUNCH_PARAMS --nnodes=$NNODES --nproc_per_node=$DGXNGPU -m drumfire.training"
fi
start=$(date +%s)
status=0
# Some variables hold several words, so they are not quoted.
# shellcheck disable=SC2086
"$PYTHON" -m $launcher maskrcnn --data-dir "$DATASET_DIR" --output "$LOG_DIR" \
    --batch-size "$((BATCHSIZE * DGXNGPU * NNODES))" --eval-batch-size "$EVALBATCHSIZE" --epochs "$NUMEPOCHS" $EXTRA_PARAMS || status=$?
end=$(date +%s)
# Scripts take this line for a finished run, so it comes only after one.
[ "$status" -ne 0 ] || echo "RESULT,OBJECT_DETECTION,,$((end - start)),drumfire,$(date -d "@$start" '+%Y-%m-%d %I:%M:%S %p')"
exit "$status"
