#!/usr/bin/env bash
# Evaluate with several processes on each node.
# Usage: tools/dist_test.sh CONFIG CHECKPOINT NUM_PROCESSES [flags of tools/test.py]
# Several nodes: set NNODES, NODE_RANK, MASTER_ADDR and PORT on each.
set -euo pipefail
usage="usage: tools/dist_test.sh CONFIG CHECKPOINT NUM_PROCESSES [flags of tools/test.py]"
config=${1:?$usage}
checkpoint=${2:?$usage}
processes=${3:?$usage}

exec python -m torch.distributed.run \
  --nnodes="${NNODES:-1}" --node_rank="${NODE_RANK:-0}" --nproc_per_node="$processes" \
  --master_addr="${MASTER_ADDR:-127.0.0.1}" --master_port="${PORT:-29500}" \
  "$(dirname "$0")/test.py" "$config" "$checkpoint" --launcher pytorch "${@:4}"
