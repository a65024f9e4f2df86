#!/usr/bin/env bash
# Builds the cluster's images without a registry and puts them, as archives, into a cache outside the tree: a Debian base from the machine's own mirror, the
# machine's own Rust as the builder, our image by deploy/Dockerfile on those two, nginx, and what Kubernetes itself runs.
# Usage: deploy/cluster/images.sh [IMAGE…]; without names all of them, in order. Needs root; deploy/cluster/tools.sh first.
set -euo pipefail
cd "$(dirname "$0")/../.."

cache=${FIRSTCOME_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/firstcome}/cluster
archives=$cache/images
contexts=$cache/contexts
mkdir -p "$archives" "$contexts"

build() { nice -n 19 buildah --root "$cache/store" --runroot "$cache/store-run" --storage-driver overlay "$@"; }
# A step's own output only matters where it fails.
image() { # name folder arguments…
    local name=$1 folder=$2
    shift 2
    echo "image $name" >&2
    build bud --isolation chroot --layers --tag "localhost/$name" "$@" "$folder" >"$cache/$name.log" 2>&1 || {
        tail -40 "$cache/$name.log" >&2
        return 1
    }
}
# What a node imports when it starts.
archive() {
    rm -f "$archives/$1.tar"
    build push --quiet "localhost/$1" "oci-archive:$archives/$1.tar:localhost/$1:dev" >/dev/null
}
is_there() { build inspect --type image "localhost/$1" >/dev/null 2>&1; }

# Debian as debootstrap makes it, on the mirror that this machine's apt uses.
make_debian() {
    if is_there debian; then return; fi
    local mirror suite folder=$contexts/debian
    # shellcheck disable=SC2016 # apt's own variable
    mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' | head -1)
    suite=$(. /etc/os-release && echo "$VERSION_CODENAME")
    rm -rf "$folder" && mkdir -p "$folder"
    nice -n 19 debootstrap --variant=minbase "$suite" "$folder/root" "$mirror" >"$cache/debootstrap.log"
    tar -C "$folder/root" --numeric-owner --exclude='./var/cache/apt/archives/*.deb' --exclude='./var/lib/apt/lists/*' --exclude='./dev/*' -cf "$folder/root.tar" .
    printf 'FROM scratch\nADD root.tar /\nCMD ["bash"]\n' >"$folder/Dockerfile"
    image debian "$folder"
    rm -rf "$folder"
}

# What distroless/cc has of Debian besides glibc, and our image therefore need not bring.
make_runtime() {
    if is_there runtime; then return; fi
    local folder=$contexts/runtime
    mkdir -p "$folder"
    printf '%s\n' 'FROM localhost/debian' \
        'RUN apt-get update && apt-get install -y --no-install-recommends ca-certificates libgcc-s1 libssl3 libstdc++6 && rm -rf /var/lib/apt/lists/*' >"$folder/Dockerfile"
    image runtime "$folder"
    rm -rf "$folder"
}

# The compiler of this machine: cargo, rustc and the standard library. Dockerfile installs the C compiler itself.
make_rust() {
    local toolchain folder=$contexts/rust
    toolchain=$(rustc --print sysroot)
    if is_there "rust" && [[ $(<"$cache/rust.stamp") == "$(rustc --version)" ]]; then return; fi
    rm -rf "$folder" && mkdir -p "$folder/bin" "$folder/lib/rustlib"
    cp -a "$toolchain"/bin/{cargo,rustc} "$folder/bin/"
    cp -a "$toolchain"/lib/*.so* "$folder/lib/"
    cp -a "$toolchain/lib/rustlib/$(rustc -vV | sed -n 's/^host: //p')" "$folder/lib/rustlib/"
    printf '%s\n' 'FROM localhost/debian' \
        'RUN apt-get update && apt-get install -y --no-install-recommends ca-certificates && rm -rf /var/lib/apt/lists/*' \
        'ENV PATH=/usr/local/cargo/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin CARGO_HOME=/usr/local/cargo' \
        'COPY bin /usr/local/bin' 'COPY lib /usr/local/lib' >"$folder/Dockerfile"
    image rust "$folder"
    rm -rf "$folder"
    rustc --version >"$cache/rust.stamp"
}

# Ours, as everybody builds it: only the two bases are others. Whom the machine trusts, cargo trusts in there.
make_firstcome() {
    local options=(--build-arg BUILDER_IMAGE=localhost/rust --build-arg RUNTIME_IMAGE=localhost/runtime --volume /etc/ssl/certs:/etc/ssl/certs:ro)
    image firstcome . --file deploy/Dockerfile "${options[@]}"
    archive firstcome
    # The crowd and the operator's tools, for the host: the very programs of that image.
    image firstcome-load . --file deploy/Dockerfile --target load "${options[@]}"
    local container root
    container=$(build from localhost/firstcome-load)
    root=$(build mount "$container")
    mkdir -p "$cache/programs"
    cp --remove-destination "$root"/usr/local/bin/{loadgen,couponctl} "$cache/programs/"
    build umount "$container" >/dev/null
    build rm "$container" >/dev/null
}

make_nginx() {
    if is_there nginx && [[ -f $archives/nginx.tar ]]; then return; fi
    local folder=$contexts/nginx
    mkdir -p "$folder"
    printf '%s\n' 'FROM localhost/debian' \
        'RUN apt-get update && apt-get install -y --no-install-recommends nginx-light && rm -rf /var/lib/apt/lists/*' \
        'CMD ["nginx", "-g", "daemon off;"]' >"$folder/Dockerfile"
    image nginx "$folder"
    rm -rf "$folder"
    archive nginx
}

make_program() { # name: one static program, nothing else
    if [[ $archives/$1.tar -nt $cache/bin/$1 ]]; then return; fi
    local folder=$contexts/$1
    mkdir -p "$folder"
    cp "$cache/bin/$1" "$folder/"
    printf 'FROM scratch\nCOPY %s /%s\nUSER 65532:65532\nENTRYPOINT ["/%s"]\n' "$1" "$1" "$1" >"$folder/Dockerfile"
    image "$1" "$folder"
    rm -rf "$folder"
    archive "$1"
}
make_pause() { make_program pause; }
make_coredns() { make_program coredns; }
make_metrics-server() { make_program metrics-server; }

if (($# == 0)); then set -- debian rust runtime firstcome nginx pause coredns metrics-server; fi
for name; do "make_$name"; done
