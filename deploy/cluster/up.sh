#!/usr/bin/env bash
# Starts a Kubernetes of one or two nodes with real kubelets, and waits until they are ready. Each node lives in network, mount and PID namespaces of its own: of the
# host there is one link, a few routes, and a cgroup per node, all of which down.sh removes. Usage: deploy/cluster/up.sh [NODES]; as root.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=deploy/cluster/common.sh
source "$here/common.sh"

readonly nodes=${1:-2} ready_within_s=180
keys=$state/keys

[[ $nodes == [12] ]] || { echo "NODES must be 1 or 2" >&2; exit 2; }
((EUID == 0)) || { echo "a cluster needs root: its nodes are namespaces of this machine" >&2; exit 1; }
# What a killed run has left.
"$here/down.sh"
mkdir -p "$keys"

# Kubelets insist on these folders; the nodes hang their own in their place. Those that were not there go again with the cluster.
for folder in /var/lib/kubelet /var/lib/cni /var/log/pods /var/log/containers; do
    [[ -d $folder ]] || { mkdir -p "$folder" && echo "$folder" >>"$state/folders"; }
done

# One authority, and a certificate for everybody who talks to somebody.
cd "$keys"
openssl genrsa -out ca.key 2048 2>/dev/null
openssl req -x509 -new -key ca.key -subj /CN=firstcome-cluster -days 30 -out ca.crt
certificate() { # name subject extension
    openssl genrsa -out "$1.key" 2048 2>/dev/null
    openssl req -new -key "$1.key" -subj "$2" -out "$1.csr"
    openssl x509 -req -in "$1.csr" -CA ca.crt -CAkey ca.key -CAcreateserial -days 30 -out "$1.crt" -extfile <(echo "$3") 2>/dev/null
}
client() { certificate "$1" "$2" extendedKeyUsage=clientAuth; }
certificate apiserver /CN=kube-apiserver "subjectAltName=IP:127.0.0.1,IP:$control_plane,IP:10.96.0.1,DNS:localhost,DNS:kubernetes.default.svc"
client admin /O=system:masters/CN=admin
client controller-manager /CN=system:kube-controller-manager
client scheduler /CN=system:kube-scheduler
client proxy /CN=system:kube-proxy
client front-proxy /CN=front-proxy
openssl genrsa -out service-accounts.key 2048 2>/dev/null
openssl rsa -in service-accounts.key -pubout -out service-accounts.pub 2>/dev/null

kubeconfig() {
    cat >"$state/$1.kubeconfig" <<YAML
apiVersion: v1
kind: Config
clusters: [{name: firstcome, cluster: {server: "https://$control_plane:16443", certificate-authority: "$keys/ca.crt"}}]
users: [{name: $1, user: {client-certificate: "$keys/$1.crt", client-key: "$keys/$1.key"}}]
contexts: [{name: firstcome, context: {cluster: firstcome, user: $1}}]
current-context: firstcome
YAML
}
for user in admin controller-manager scheduler proxy; do kubeconfig "$user"; done
echo 'options ndots:5' >"$state/resolv.conf"

for ((node = 0; node < nodes; node++)); do
    name=$(node_name "$node") folder=$state/$node address=$(node_address "$node")
    mkdir -p "$folder"/{log,cni,kubelet,pod-logs,container-logs,containerd}
    client "kubelet-$node" "/O=system:nodes/CN=system:node:node-$node"
    certificate "serving-$node" "/CN=node-$node" "subjectAltName=IP:$address,DNS:node-$node"
    kubeconfig "kubelet-$node"
    # restrict_oom_score_adj: the machine may lack CAP_SYS_RESOURCE, and then no sandbox starts without it.
    cat >"$folder/containerd.toml" <<TOML
version = 2
root = "$folder/containerd"
state = "/run/containerd"
disabled_plugins = ["io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs", "io.containerd.tracing.processor.v1.otlp", "io.containerd.internal.v1.opt"]
[grpc]
  address = "/run/containerd/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "localhost/pause:dev"
  netns_mounts_under_state_dir = true
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "$folder/cni"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        SystemdCgroup = false
TOML
    cat >"$folder/cni/10-pods.conflist" <<JSON
{"cniVersion": "0.4.0", "name": "pods", "plugins": [
    {"type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": false, "hairpinMode": true,
     "ipam": {"type": "host-local", "dataDir": "/run/cni-ipam", "ranges": [[{"subnet": "10.244.$node.0/24"}]], "routes": [{"dst": "0.0.0.0/0"}]}},
    {"type": "portmap", "capabilities": {"portMappings": true}}]}
JSON
    # The machine's own memory and disk are what nodes share: eviction only where it really ends.
    cat >"$folder/kubelet.yaml" <<YAML
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
failCgroupV1: false
cgroupDriver: cgroupfs
cgroupRoot: /$name
containerRuntimeEndpoint: unix:///run/containerd/containerd.sock
clusterDNS: [$dns]
clusterDomain: cluster.local
resolvConf: $state/resolv.conf
authentication: {anonymous: {enabled: false}, webhook: {enabled: true}, x509: {clientCAFile: $keys/ca.crt}}
authorization: {mode: Webhook}
tlsCertFile: $keys/serving-$node.crt
tlsPrivateKeyFile: $keys/serving-$node.key
imageGCHighThresholdPercent: 100
imageGCLowThresholdPercent: 99
evictionHard: {memory.available: 100Mi, nodefs.available: "1%", imagefs.available: "1%", nodefs.inodesFree: "1%"}
nodeStatusUpdateFrequency: 5s
YAML
    # 0: conntrack's sysctls cannot be written in a namespace, and are not.
    cat >"$folder/proxy.yaml" <<YAML
apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
mode: nftables
clusterCIDR: $pods
hostnameOverride: node-$node
clientConnection: {kubeconfig: $state/proxy.kubeconfig}
conntrack: {maxPerCore: 0, min: 0, tcpEstablishedTimeout: 0s, tcpCloseWaitTimeout: 0s}
YAML
    for root in $(cgroup_roots); do
        mkdir -p "$root/$name"
        if [[ $root == /sys/fs/cgroup ]]; then
            for level in "$root" "$root/$name"; do echo "+cpu +cpuset +memory +pids" >"$level/cgroup.subtree_control"; done
        elif [[ -f $root/cpuset.cpus || -f $root/cpuset.mems ]]; then
            # Of cgroup v1's hierarchies this one starts empty.
            for file in cpuset.cpus cpuset.mems; do cat "$root/$file" >"$root/$name/$file"; done
        fi
    done
    ip netns add "$name"
    ip -n "$name" link set lo up
    ip netns exec "$name" sysctl -qw net.ipv4.ip_forward=1
done

# Host and node 0: one link; pods and services are reached through it. No firewall rule and no sysctl of the host is touched.
first=$(node_name 0) second=$(node_name 1)
ip link add "$host_link" type veth peer name uplink netns "$first"
ip address add "$host_address/30" dev "$host_link"
ip link set "$host_link" up
ip -n "$first" address add "$control_plane/30" dev uplink
ip -n "$first" link set uplink up
ip -n "$first" route add default via "$host_address"
ip route add "$pods" via "$control_plane" dev "$host_link"
ip route add "$services" via "$control_plane" dev "$host_link"
if ((nodes == 2)); then
    ip -n "$first" link add to-second type veth peer name uplink netns "$second"
    ip -n "$first" address add "$node_link_near/30" dev to-second
    ip -n "$first" link set to-second up
    ip -n "$first" route add 10.244.1.0/24 via "$second_node"
    ip -n "$second" address add "$second_node/30" dev uplink
    ip -n "$second" link set uplink up
    ip -n "$second" route add default via "$node_link_near"
    ip route add "$nodes_link" via "$control_plane" dev "$host_link"
fi

for ((node = 0; node < nodes; node++)); do
    setsid nsenter --net="/run/netns/$(node_name "$node")" unshare --mount --propagation private --pid --fork --mount-proc \
        bash "$here/node.sh" "$node" >"$state/$node/log/node.log" 2>&1 </dev/null &
    echo $! >"$state/$node/unshare.pid"
done

deadline=$((SECONDS + ready_within_s))
until [[ $("$bin/kubectl" --kubeconfig "$state/admin.kubeconfig" get nodes --no-headers 2>/dev/null | grep -c ' Ready') == "$nodes" ]]; do
    if ((SECONDS > deadline)); then
        echo "the nodes are not ready after $ready_within_s s: see $state/*/log" >&2
        exit 1
    fi
    sleep 0.2
done
