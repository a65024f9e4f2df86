#!/usr/bin/env bash
# promtool, amtool, and a Python that reads YAML: what is there already, else from Debian's packages and PyPI into a cache outside the tree. Needs no root, starts
# nothing. Prints the folder to put before PATH.
set -euo pipefail

cache="${XDG_CACHE_HOME:-$HOME/.cache}/firstcome/observability"
bin="$cache/bin"
mkdir -p "$bin"

fetch() { # package program
    if command -v "$2" >/dev/null || [ -x "$bin/$2" ]; then return; fi
    echo "fetching $2" >&2
    folder="$(mktemp -d)"
    (cd "$folder" && apt-get download -qq "$1" 2>/dev/null && dpkg-deb -x "$1"_*.deb .) ||
        { echo "$2 is missing, and Debian's package $1 cannot be fetched: run apt-get update, or install Prometheus" >&2; exit 1; }
    cp "$folder/usr/bin/$2" "$bin/"
    rm -rf "$folder"
}

fetch prometheus promtool
fetch prometheus-alertmanager amtool
if ! python3 -c 'import yaml' 2>/dev/null && ! { [ -x "$bin/python3" ] && "$bin/python3" -c 'import yaml'; }; then
    echo "fetching PyYAML" >&2
    python3 -m venv "$cache"
    "$bin/python3" -m pip install --quiet PyYAML==6.0.2
fi
echo "$bin"
