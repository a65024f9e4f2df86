#!/usr/bin/env bash
# Ends a cluster, also one whose starter was killed, and leaves nothing of it on the machine: processes, namespaces, link, routes, cgroups, folders. Says what is left
# where something is. Does nothing where there is none. Usage: deploy/cluster/down.sh; as root.
set -euo pipefail
# shellcheck source=deploy/cluster/common.sh
source "$(dirname "$0")/common.sh"

nodes=()
for node in 0 1; do
    if [[ -e /run/netns/$(node_name "$node") ]]; then nodes+=("$node"); fi
done

# Whoever lives in a node's network namespace is the node's: nobody else ever enters it. PID 1 is among them, and takes containers along, whose network is another.
for node in "${nodes[@]}"; do
    for ((look = 0; look < 100; look++)); do
        mapfile -t processes < <(ip netns pids "$(node_name "$node")")
        if ((${#processes[@]} == 0)); then break; fi
        kill -KILL "${processes[@]}" 2>/dev/null || true
        sleep 0.1
    done
done
ip link delete "$host_link" 2>/dev/null || true
for node in "${nodes[@]}"; do ip netns delete "$(node_name "$node")"; done

cgroups() { for root in $(cgroup_roots); do for node in 0 1; do if [[ -d $root/$(node_name "$node") ]]; then echo "$root/$(node_name "$node")"; fi; done; done; }
for ((look = 0; look < 100; look++)); do
    mapfile -t groups < <(cgroups)
    if ((${#groups[@]} == 0)); then break; fi
    # A cgroup goes once the last of its processes is buried.
    find "${groups[@]}" -depth -type d -exec rmdir {} \; 2>/dev/null || true
    sleep 0.1
done

if [[ -f $state/folders ]]; then
    while read -r folder; do rmdir "$folder" 2>/dev/null || true; done <"$state/folders"
fi
rm -rf "$state"

left=$(
    cgroups
    for node in 0 1; do if [[ -e /run/netns/$(node_name "$node") ]]; then echo "/run/netns/$(node_name "$node")"; fi; done
    ip -brief link | grep "^$host_link" || true
    ip route | grep -F "$control_plane" || true
    grep -F "$state/" /proc/self/mounts || true
)
if [[ -n $left ]]; then
    printf 'left of the cluster:\n%s\n' "$left" >&2
    exit 1
fi
