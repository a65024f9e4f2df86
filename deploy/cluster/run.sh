#!/usr/bin/env bash
# `make cluster-test`: the chart on a real Kubernetes of two nodes, on this machine alone. Makes what is missing (tools, images), starts everything, checks it, and leaves
# nothing running. Usage: deploy/cluster/run.sh BIN [STEP…]; BIN holds local-stack. BUILT=1 takes tools and images as they are. KEEP=1 leaves everything up, to look at it;
# then single steps can be run again by the beginnings of their names (BUILT=1), and a run without steps or down.sh ends it.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=deploy/cluster/common.sh
source "$here/common.sh"

local_stack=$(cd "$1" && pwd)/local-stack
shift
mkdir -p "$cache"
# One cluster on a machine: names and addresses are fixed.
exec 9>"$cache/lock"
flock --nonblock 9 || { echo "another cluster-test runs on this machine" >&2; exit 1; }

if [[ -z ${BUILT:-} ]]; then
    "$here/packages.sh"
    "$here/tools.sh" >/dev/null
    "$here/images.sh"
fi
helm=$("$here/../../helm/tests/tools.sh")/bin/helm4

finish() {
    "$local_stack" down --dir "$cache/stores" >/dev/null || true
    "$here/down.sh"
}
# A run that was killed has left its servers; its cluster is up.sh's business.
if (($# == 0)); then "$local_stack" down --dir "$cache/stores" >/dev/null; fi
if [[ -z ${KEEP:-} ]]; then trap finish EXIT; fi
PYTHONDONTWRITEBYTECODE=1 python3 "$here/check.py" "$cache" "$local_stack" "$helm" "$cache/run.txt" "$@" 9>&-
