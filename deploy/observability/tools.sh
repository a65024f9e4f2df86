#!/usr/bin/env bash
# promtool, amtool, and a Python that reads YAML: what is there already, else from Debian's packages and PyPI into a cache outside the tree. Needs no root, starts
# nothing. Prints the folder to put before PATH. `tools.sh live` fetches what the live run needs besides: prometheus, libfaketime, a Kafka client and matplotlib.
set -euo pipefail

cache="${XDG_CACHE_HOME:-$HOME/.cache}/firstcome/observability"
bin="$cache/bin"
mkdir -p "$bin"

fetch() { # package, glob of a file in it
    local name="${2##*/}"
    if command -v "$name" >/dev/null || [ -e "$bin/$name" ]; then return; fi
    echo "fetching $name" >&2
    folder="$(mktemp -d)"
    download() { (cd "$folder" && apt-get download -qq "$1" 2>/dev/null); }
    # A fresh machine has no lists of packages yet.
    { download "$1" || { apt-get update -qq 2>/dev/null && download "$1"; }; } && (cd "$folder" && dpkg-deb -x "$1"_*.deb .) ||
        { echo "$name is missing, and Debian's package $1 cannot be fetched: run apt-get update, or install $1" >&2; exit 1; }
    # shellcheck disable=SC2086 # the folder between is named after the machine
    cp "$folder"/$2 "$bin/"
    rm -rf "$folder"
}

python() { if [ -x "$bin/python3" ]; then "$bin/python3" "$@"; else python3 "$@"; fi; }

need() { # modules, packages
    if python -c "import $1" 2>/dev/null; then return; fi
    echo "fetching ${*:2}" >&2
    [ -x "$bin/python3" ] || python3 -m venv "$cache"
    # What the system's Python had is not in this one.
    "$bin/python3" -m pip install --quiet PyYAML==6.0.2 "${@:2}"
}

fetch prometheus usr/bin/promtool
fetch prometheus-alertmanager usr/bin/amtool
need yaml PyYAML==6.0.2
if [ "${1:-}" = live ]; then
    fetch prometheus usr/bin/prometheus
    fetch libfaketime 'usr/lib/*/faketime/libfaketime.so.1'
    need matplotlib,confluent_kafka matplotlib==3.10.8 confluent-kafka==2.14.2
fi
echo "$bin"
