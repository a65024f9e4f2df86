#!/usr/bin/env bash
# PID 1 of a node's namespaces: containerd, kubelet and kube-proxy, on node 0 the control plane as well. Ends when it is killed, and everything of the node with it.
# Started by up.sh. Usage: node.sh NODE
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=deploy/cluster/common.sh
source "$here/common.sh"

readonly node=$1
folder=$state/$node keys=$state/keys

mount --make-rshared /
mount -t tmpfs tmpfs /run
mkdir -p /run/containerd /run/lock
mount -t tmpfs tmpfs /var/lib/cni
mount --bind "$folder/kubelet" /var/lib/kubelet
mount --bind "$folder/pod-logs" /var/log/pods
mount --bind "$folder/container-logs" /var/log/containers
# A kubelet sets three sysctls of the whole machine where they are not as it likes: it is shown what it likes.
for setting in vm/overcommit_memory=1 kernel/panic=10 kernel/panic_on_oops=1; do
    file=/run/$(basename "${setting%=*}")
    echo "${setting#*=}" >"$file"
    mount --bind "$file" "/proc/sys/${setting%=*}"
done

background() { # name command…
    local name=$1
    shift
    "$@" >"$folder/log/$name.log" 2>&1 &
}
kubectl() { "$bin/kubectl" --kubeconfig "$state/admin.kubeconfig" "$@"; }
as() { printf '%s\n' "--kubeconfig=$state/$1.kubeconfig" "--authentication-kubeconfig=$state/$1.kubeconfig" "--authorization-kubeconfig=$state/$1.kubeconfig"; }

background containerd containerd --config "$folder/containerd.toml"
if ((node == 0)); then
    # A cluster that nobody keeps need not wait for the disk.
    background etcd "$bin/etcd" --data-dir "$state/etcd" --unsafe-no-fsync --log-level warn \
        --listen-client-urls http://127.0.0.1:23790 --advertise-client-urls http://127.0.0.1:23790 \
        --listen-peer-urls http://127.0.0.1:23800 --initial-advertise-peer-urls http://127.0.0.1:23800 \
        --initial-cluster default=http://127.0.0.1:23800
    background apiserver "$bin/kube-apiserver" --etcd-servers=http://127.0.0.1:23790 \
        --bind-address=0.0.0.0 --secure-port=16443 --advertise-address="$control_plane" --service-cluster-ip-range="$services" \
        --authorization-mode=Node,RBAC --enable-admission-plugins=NodeRestriction --allow-privileged=true \
        --client-ca-file="$keys/ca.crt" --tls-cert-file="$keys/apiserver.crt" --tls-private-key-file="$keys/apiserver.key" \
        --requestheader-client-ca-file="$keys/ca.crt" --requestheader-allowed-names=front-proxy \
        --requestheader-username-headers=X-Remote-User --requestheader-group-headers=X-Remote-Group \
        --requestheader-extra-headers-prefix=X-Remote-Extra- \
        --proxy-client-cert-file="$keys/front-proxy.crt" --proxy-client-key-file="$keys/front-proxy.key" \
        --kubelet-client-certificate="$keys/admin.crt" --kubelet-client-key="$keys/admin.key" \
        --kubelet-certificate-authority="$keys/ca.crt" --kubelet-preferred-address-types=InternalIP \
        --service-account-issuer=https://kubernetes.default.svc \
        --service-account-key-file="$keys/service-accounts.pub" --service-account-signing-key-file="$keys/service-accounts.key"
fi
until kubectl get --raw /readyz >/dev/null 2>&1; do sleep 0.2; done
if ((node == 0)); then
    mapfile -t controller_manager < <(as controller-manager)
    mapfile -t scheduler < <(as scheduler)
    background controller-manager "$bin/kube-controller-manager" "${controller_manager[@]}" --bind-address=127.0.0.1 --secure-port=16257 \
        --leader-elect=false --use-service-account-credentials=true --service-account-private-key-file="$keys/service-accounts.key" \
        --root-ca-file="$keys/ca.crt" --controllers='*,-nodeipam'
    background scheduler "$bin/kube-scheduler" "${scheduler[@]}" --bind-address=127.0.0.1 --secure-port=16259 --leader-elect=false
fi
until ctr version >/dev/null 2>&1; do sleep 0.2; done
for archive in "$cache"/images/*.tar; do ctr -n k8s.io images import "$archive"; done
background kubelet "$bin/kubelet" --config="$folder/kubelet.yaml" --kubeconfig="$state/kubelet-$node.kubeconfig" \
    --hostname-override="node-$node" --node-ip="$(node_address "$node")" --root-dir=/var/lib/kubelet
background proxy "$bin/kube-proxy" --config="$folder/proxy.yaml"
# Reaps what the containers' shims leave to it.
while :; do
    sleep 3600 &
    wait $! || true
done
