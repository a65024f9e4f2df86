#!/usr/bin/env bash
# Runs a command in a node: its network, mounts and processes. Usage: deploy/cluster/enter.sh NODE COMMAND…, for instance: enter.sh 0 ctr -n k8s.io images ls
set -euo pipefail
# shellcheck source=deploy/cluster/common.sh
source "$(dirname "$0")/common.sh"
node=$1
shift
exec nsenter --target "$(pgrep -P "$(<"$state/$node/unshare.pid")")" --net --mount --pid -- "$@"
