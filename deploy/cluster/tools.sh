#!/usr/bin/env bash
# Builds the pinned programs of a real Kubernetes (and CoreDNS, metrics-server) from Go modules into a cache outside the tree, once, and prints that folder.
# Cold: about a quarter of an hour on two cores and 10 GB on disk while it runs; what stays are 0.7 GB of programs. Usage: deploy/cluster/tools.sh
set -euo pipefail

readonly kubernetes=1.36.3
readonly etcd=3.6.16
readonly coredns=1.12.4
readonly metrics_server=0.9.0

cache=${FIRSTCOME_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/firstcome}/cluster
bin=$cache/bin
work=$cache/build
mkdir -p "$bin"

# A stamp per tool names what it was made from: another pin makes it again.
is_current() { [[ -f $bin/$1.stamp && $(<"$bin/$1.stamp") == "$2" ]]; }
stamp() { printf '%s' "$2" >"$bin/$1.stamp"; }

export GOPATH=$work/go GOMODCACHE=$work/modules GOCACHE=$work/objects GOBIN=$bin CGO_ENABLED=0 GOWORK=off
export GOFLAGS="-buildvcs=false -mod=mod -p=2"

if ! is_current kubernetes "$kubernetes"; then
    echo "building Kubernetes $kubernetes (the longest part)" >&2
    mkdir -p "$work"
    nice -n 19 go mod download "k8s.io/kubernetes@v$kubernetes" >&2
    rm -rf "$work/kubernetes"
    cp -r "$GOMODCACHE/k8s.io/kubernetes@v$kubernetes" "$work/kubernetes"
    chmod -R u+w "$work/kubernetes"
    # The staging modules are not part of the module's archive; they are published beside it as v0.
    sed -i -E "s#^\t(k8s.io/[a-z-]+) => ./staging/src/k8s.io/.*#\t\1 => \1 v0.${kubernetes#1.}#" "$work/kubernetes/go.mod"
    version=k8s.io/component-base/version
    minor=${kubernetes#1.}
    (cd "$work/kubernetes" && nice -n 19 go build -trimpath \
        -ldflags "-s -w -X $version.gitMajor=1 -X $version.gitMinor=${minor%%.*} -X $version.gitVersion=v$kubernetes" -o "$bin/" \
        ./cmd/kube-apiserver ./cmd/kube-controller-manager ./cmd/kube-scheduler ./cmd/kubelet ./cmd/kube-proxy ./cmd/kubectl >&2)
    stamp kubernetes "$kubernetes"
fi

if ! is_current etcd "$etcd"; then
    echo "building etcd $etcd" >&2
    mkdir -p "$work/etcd"
    printf 'module firstcome/etcd\n\ngo 1.26\n\nrequire go.etcd.io/etcd/server/v3 v%s\n' "$etcd" >"$work/etcd/go.mod"
    cat >"$work/etcd/main.go" <<'GO'
package main

import (
	"os"

	"go.etcd.io/etcd/server/v3/etcdmain"
)

func main() { etcdmain.Main(os.Args) }
GO
    (cd "$work/etcd" && nice -n 19 go mod tidy >&2 && nice -n 19 go build -trimpath -ldflags "-s -w" -o "$bin/etcd" . >&2)
    stamp etcd "$etcd"
fi

# The sandbox's own process: waits to be told to go, and reaps what is left to it.
if ! is_current pause 1; then
    echo "building pause" >&2
    mkdir -p "$work/pause"
    printf 'module firstcome/pause\n\ngo 1.26\n' >"$work/pause/go.mod"
    cat >"$work/pause/main.go" <<'GO'
package main

import (
	"os"
	"os/signal"
	"syscall"
)

func main() {
	signals := make(chan os.Signal, 64)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT, syscall.SIGCHLD)
	for received := range signals {
		if received != syscall.SIGCHLD {
			return
		}
		for reaped := 1; reaped > 0; {
			reaped, _ = syscall.Wait4(-1, nil, syscall.WNOHANG, nil)
		}
	}
}
GO
    (cd "$work/pause" && nice -n 19 go build -trimpath -ldflags "-s -w" -o "$bin/pause" . >&2)
    stamp pause 1
fi

install_program() { # name version package
    if is_current "$1" "$2"; then return; fi
    echo "building $1 $2" >&2
    (cd "$cache" && GOFLAGS="-buildvcs=false -p=2" nice -n 19 go install -trimpath -ldflags "-s -w" "$3@v$2" >&2)
    stamp "$1" "$2"
}
install_program coredns "$coredns" github.com/coredns/coredns
install_program metrics-server "$metrics_server" sigs.k8s.io/metrics-server/cmd/metrics-server

# Modules are read-only; 9 GB of them and of objects are of no use any more.
if [[ -d $work ]]; then
    chmod -R u+w "$work"
    rm -rf "$work"
fi
echo "$bin"
