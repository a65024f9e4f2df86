#!/usr/bin/env bash
# What a cluster without Docker needs of Debian: a container runtime, its network plugins, a builder of images. Installs what is missing, as root; starts nothing.
set -euo pipefail

wanted=(containerd runc containernetworking-plugins iptables nftables conntrack buildah debootstrap openssl iproute2 procps curl)
missing=()
for package in "${wanted[@]}"; do
    if [[ $(dpkg-query --show --showformat '${db:Status-Status}' "$package" 2>/dev/null) != installed ]]; then missing+=("$package"); fi
done
if ((${#missing[@]})); then
    echo "installing ${missing[*]}" >&2
    apt-get -q update >/dev/null
    DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends "${missing[@]}" >/dev/null
fi
if ! command -v go >/dev/null || ! command -v rustc >/dev/null; then
    echo "missing: Go (1.26 or later) or Rust: the cluster's programs and our image are built here" >&2
    exit 1
fi
