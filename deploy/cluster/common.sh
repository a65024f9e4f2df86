# What the cluster's scripts share: where things are, and what they are called. Sourced, not run.
# shellcheck shell=bash disable=SC2034

cache=${FIRSTCOME_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/firstcome}/cluster
# Everything of a running cluster; removed by down.sh.
state=$cache/state
bin=$cache/bin

# A node's network namespace, and its place among the machine's cgroups.
node_name() { echo "firstcome-$1"; }
# Addresses: a link between host and node 0, another between the nodes, pods of node i in 10.244.i.0/24.
readonly host_link=firstcome-host
readonly host_address=10.244.255.1 control_plane=10.244.255.2
readonly nodes_link=10.244.254.0/30 node_link_near=10.244.254.1 second_node=10.244.254.2
readonly pods=10.244.0.0/23 services=10.96.0.0/24 dns=10.96.0.10

node_address() { if (($1 == 0)); then echo "$control_plane"; else echo "$second_node"; fi; }
# Hierarchies of cgroup v1, or the one of v2.
cgroup_roots() { if [[ -f /sys/fs/cgroup/cgroup.controllers ]]; then echo /sys/fs/cgroup; else printf '%s\n' /sys/fs/cgroup/*/; fi; }
