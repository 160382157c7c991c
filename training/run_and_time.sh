#!/usr/bin/env bash
# One run of maskrcnn, timed, by the names that the reference's scripts take from the environment.  LOG_INTERVAL has no use
# here: every step is recorded.  On several hosts, give torchrun's own options in LAUNCH_PARAMS.
set -euo pipefail
: "${DGXNGPU:=1}"          # ranks on this host
: "${BATCHSIZE:=8}"        # images of a step, a rank
: "${EVALBATCHSIZE:=4}"    # images that a rank evaluates at a time
: "${NUMEPOCHS:=20}"
: "${DATASET_DIR:=runs/data/maskrcnn}"
: "${TORCH_HOME:=}"        # the backbone's weights, if they are not with the data
: "${LOG_DIR:=runs/training/maskrcnn-$(date +%Y%m%d-%H%M%S)}"
: "${LAUNCH_PARAMS:=--standalone}"
: "${NNODES:=1}"
: "${EXTRA_PARAMS:=}"
: "${PYTHON:=python}"
[ -z "${DEBUG:-}" ] || set -x

cd "$(dirname "$0")/.."
[ -z "$TORCH_HOME" ] || EXTRA_PARAMS="--weights $TORCH_HOME/R-50.pkl $EXTRA_PARAMS"
start=$(date +%s)
status=0
# Several words each, so not quoted.
# shellcheck disable=SC2086
"$PYTHON" -m torch.distributed.run $LAUNCH_PARAMS --nnodes="$NNODES" --nproc_per_node="$DGXNGPU" -m drumfire.training maskrcnn \
    --data-dir "$DATASET_DIR" --output "$LOG_DIR" --batch-size "$((BATCHSIZE * DGXNGPU * NNODES))" \
    --eval-batch-size "$EVALBATCHSIZE" --epochs "$NUMEPOCHS" $EXTRA_PARAMS || status=$?
end=$(date +%s)
echo "RESULT,OBJECT_DETECTION,,$((end - start)),drumfire,$(date -d "@$start" '+%Y-%m-%d %I:%M:%S %p')"
exit "$status"
