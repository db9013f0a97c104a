#!/usr/bin/env bash
# Train with several processes on each node.
# Usage: tools/dist_train.sh CONFIG NUM_PROCESSES [flags of tools/train.py]
# Several nodes: set NNODES, NODE_RANK, MASTER_ADDR and PORT on each.
# MAX_RESTARTS starts killed processes again, which go on by themselves; see docs/clusters.md.
set -euo pipefail
config=${1:?usage: tools/dist_train.sh CONFIG NUM_PROCESSES [flags of tools/train.py]}
processes=${2:?usage: tools/dist_train.sh CONFIG NUM_PROCESSES [flags of tools/train.py]}

exec python -m torch.distributed.run \
  --nnodes="${NNODES:-1}" --node_rank="${NODE_RANK:-0}" --nproc_per_node="$processes" \
  --max_restarts="${MAX_RESTARTS:-0}" \
  --master_addr="${MASTER_ADDR:-127.0.0.1}" --master_port="${PORT:-29500}" \
  "$(dirname "$0")/train.py" "$config" --launcher pytorch "${@:3}"
