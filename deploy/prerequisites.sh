#!/usr/bin/env bash
# What the build needs besides Rust: a C compiler, make, the headers of OpenSSL and zlib, pkg-config, Python. Installs what is missing as root
# on Debian; elsewhere it says what to install. Servers are local-stack's business, which installs them itself.
set -euo pipefail

packages=()
has() { command -v "$1" >/dev/null; }
has cc || packages+=(gcc libc6-dev)
has c++ || packages+=(g++)
has make || packages+=(make)
has pkg-config || packages+=(pkg-config)
{ has pkg-config && pkg-config --exists openssl; } || packages+=(libssl-dev)
{ has pkg-config && pkg-config --exists zlib; } || packages+=(zlib1g-dev)
has python3 || packages+=(python3)

if ((${#packages[@]})); then
    install=(apt-get install -y --no-install-recommends "${packages[@]}")
    if ((EUID != 0)) || ! has apt-get; then
        echo "missing: ${packages[*]}. Run: sudo ${install[*]}" >&2
        exit 1
    fi
    echo "installing ${packages[*]}"
    apt-get -q update >/dev/null
    DEBIAN_FRONTEND=noninteractive "${install[@]}" -q >/dev/null
fi
if ! has cargo; then
    echo "missing: cargo. Install Rust with rustup (rust-toolchain.toml names the version)." >&2
    exit 1
fi
